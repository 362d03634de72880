"""Checks that a path is one that there can be, and that what is at a URL can be read or written."""

import unicodedata
from collections.abc import Iterator
from typing import Literal

from dist_plm.config.decode import show

Access = Literal["none", "read", "write"]

#: Of a name and of a path on Linux; what is made gets a longer name while it is made, and holds files.
NAME_BYTES, PATH_BYTES = 255, 4095
_MADE_NAME_BYTES, _MADE_PATH_BYTES = 220, 3900
#: Control characters and line breaks, which would come out in scripts and logs.
UNWRITABLE = ("Cc", "Zl", "Zp")
#: Protocols of fsspec that offer no writing.
_READ_ONLY = {
    "http",
    "https",
    "data",
    "git",
    "github",
    "gist",
    "zip",
    "tar",
    "libarchive",
    "reference",
    "jlab",
    "generic",
}


def path_problems(key: str, path: str | None, *, url: Access = "none", made: bool = False) -> Iterator[str]:
    """A path that would not be what it looks like, or cannot be.

    Args:
        url: what is done at it, where it may be a URL of fsspec.
        made: the directory is made where there is none.
    """
    if path is None:
        return
    if not path.strip():
        yield f"{key} = {show(path)} is empty: give a path"
    elif path.startswith("~"):
        yield f"{key} = {show(path)} begins with ~, which only a shell replaces: write $HOME{path[1:]}"
    elif any(unicodedata.category(character) in UNWRITABLE for character in path):
        yield f"{key} = {show(path)} holds a line break or another control character: use a path without"
    elif "://" in path:
        yield from _url_problems(key, path, url)
    else:
        yield from _length_problems(key, path, made=made)


def name_problems(key: str, name: str) -> Iterator[str]:
    """A name that no directory can have."""
    if not name.strip() or "/" in name or name in (".", "..") or not name.isprintable():
        yield (
            f"{key} = {show(name)} cannot name a directory: use letters, digits, dots and dashes; "
            "the directory above it is run.root"
        )
    elif len(name.encode()) > _MADE_NAME_BYTES:
        yield f"{key} = {show(name)} is longer than a directory's name may be: use {_MADE_NAME_BYTES} bytes at most"


def _length_problems(key: str, path: str, *, made: bool) -> Iterator[str]:
    name_bytes, path_bytes = (_MADE_NAME_BYTES, _MADE_PATH_BYTES) if made else (NAME_BYTES, PATH_BYTES)
    if len(path.encode()) > path_bytes:
        yield f"{key} = {show(path)} is longer than a path may be: use {path_bytes:,} bytes at most"
    elif max(len(part.encode()) for part in path.split("/")) > name_bytes:
        yield f"{key} = {show(path)} holds a name longer than there can be: use {name_bytes} bytes at most for each"


def _url_problems(key: str, url: str, access: Access) -> Iterator[str]:
    if access == "none":
        yield f"{key} = {show(url)} is a URL, and what is here is read from and written to file systems: give a path"
        return
    # Brings asyncio and more, which paths do without.
    from fsspec.registry import get_filesystem_class

    for protocol in (part.partition("://")[0] for part in url.split("::")):
        try:
            get_filesystem_class(protocol)
        except ImportError as error:
            yield f"{key} = {show(url)} needs what is not installed here: {error}"
        except ValueError:
            yield (
                f"{key} = {show(url)} is of no protocol that fsspec knows: give a path, or a URL such as s3://BUCKET/PATH or "
                "gs://BUCKET/PATH"
            )
        else:
            if access == "write" and protocol in _READ_ONLY:
                yield f"{key} = {show(url)} can be read alone: give a place to write to, a path or one such as s3://BUCKET/PATH"
