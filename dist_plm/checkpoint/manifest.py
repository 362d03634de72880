"""checkpoint.json: what a checkpoint holds beside tensors, and the checksums by which damage to any of its files is seen.

It is written last, so a directory without a valid one is not a complete checkpoint.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import xxhash

from dist_plm.core.errors import CheckpointError

NAME = "checkpoint.json"
FORMAT = "dist_plm checkpoint"
VERSION = 1
_BLANK = "0" * 32
_CHECKSUM = re.compile(r'"checksum": "([0-9a-f]{32})"')


class FileRecord(NamedTuple):
    """`checksum` is the XXH3 128-bit hash in hexadecimal: against damage, not against malice."""

    bytes: int
    checksum: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Holds what a run needs to go on, apart from tensors.

    Args:
        step: updates made.
        samples_seen: samples of the stream used up.
        engine: the engine's scalars.
        stream: what decides the order and content of samples, by name; a run continues only where all are equal.
        history: changes of the stream that were allowed on the way here.
        evaluation: held-out measures at this step; empty where it was not evaluated.
        loop: what the training loop keeps.
        files: of every other file of the checkpoint.
    """

    step: int
    samples_seen: int
    engine: Mapping[str, Any]
    stream: Mapping[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)
    evaluation: Mapping[str, float] = field(default_factory=dict)
    loop: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)


def checksum(data: bytes | memoryview) -> str:
    return xxhash.xxh3_128_hexdigest(data)


def encode(manifest: Manifest) -> bytes:
    """The file's content, with a checksum of itself (taken while its own place is blank)."""
    content = {"format": FORMAT, "version": VERSION, "checksum": _BLANK, **asdict(manifest)}
    content["files"] = {name: {"bytes": r[0], "checksum": r[1]} for name, r in sorted(manifest.files.items())}
    blank = json.dumps(content, indent=1, ensure_ascii=False)
    return blank.replace(_BLANK, checksum(blank.encode()), 1).encode() + b"\n"


def decode(data: bytes, where: str) -> Manifest:
    """The manifest whose file `where` holds `data`.

    Raises:
        CheckpointError: it is damaged, or of another format or version.
    """
    try:
        text = data.decode()
        noted = _CHECKSUM.search(text)
        content: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{where} is damaged: {error}") from None
    blank = text.removesuffix("\n").replace(noted[1], _BLANK, 1) if noted else ""
    if noted is None or not text.endswith("\n") or checksum(blank.encode()) != noted[1]:
        raise CheckpointError(f"{where} is damaged: its content does not fit its checksum")
    kind, version = content.pop("format", None), content.pop("version", None)
    if kind != FORMAT or version != VERSION:
        raise CheckpointError(f"{where} is a {kind!r} of version {version}; this program reads {FORMAT!r} of {VERSION}")
    content.pop("checksum")
    content["files"] = {name: FileRecord(**record) for name, record in content["files"].items()}
    return Manifest(**content)
