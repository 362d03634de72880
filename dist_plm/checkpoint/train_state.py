"""checkpoint.json: what a checkpoint holds beside tensors, and the checksums by which damage to any of its files is seen.

It is written last, so a directory without a valid one is not a complete checkpoint.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import xxhash

from dist_plm.core.errors import CheckpointError
from dist_plm.core.parsing import is_number, load_json

NAME = "checkpoint.json"
FORMAT = "dist_plm checkpoint"
VERSION = 1
#: Holds all settings of the run that saved a checkpoint; one that was imported has none.
RUN_FILE = "run.yaml"
#: The fact of a stream that says by which rule dropout draws its masks; checkpoints without it are of the first.
MASKS = "dropout.stream"
_BLANK = "0" * 32
_CHECKSUM = re.compile(r'"checksum": "([0-9a-f]{32})"')


class FileRecord(NamedTuple):
    """`checksum` is the XXH3 128-bit hash in hexadecimal: against damage, not against malice."""

    bytes: int
    checksum: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainState:
    """Holds what a run needs to go on, apart from tensors.

    Args:
        step: updates made.
        samples_seen: samples of the stream used up.
        engine: the engine's scalars.
        stream: what decides the order and content of samples, by name; a run continues only where all are equal.
        history: changes of the stream that were allowed on the way here, and samples that were skipped since (train.healing).
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


def encode(train_state: TrainState) -> bytes:
    """The file's content, with a checksum of itself (taken while its own place is blank)."""
    content = {"format": FORMAT, "version": VERSION, "checksum": _BLANK, **asdict(train_state)}
    content["files"] = {name: {"bytes": r[0], "checksum": r[1]} for name, r in sorted(train_state.files.items())}
    blank = json.dumps(content, indent=1, ensure_ascii=False)
    return blank.replace(_BLANK, checksum(blank.encode()), 1).encode() + b"\n"


def decode(data: bytes, where: str) -> TrainState:
    """The train state whose file `where` holds `data`.

    Raises:
        CheckpointError: it is damaged, or of another format or version.
    """
    try:
        text = data.decode()
        noted = _CHECKSUM.search(text)
        content = load_json(text)
    except ValueError as error:
        raise CheckpointError(f"{where} is damaged: {error}") from None
    blank = text.removesuffix("\n").replace(noted[1], _BLANK, 1) if noted else ""
    if noted is None or not text.endswith("\n") or checksum(blank.encode()) != noted[1]:
        raise CheckpointError(f"{where} is damaged: its content does not fit its checksum")
    if not isinstance(content, dict):
        raise CheckpointError(f"{where} is no manifest of a checkpoint: it holds a {type(content).__name__}")
    kind, version = content.pop("format", None), content.pop("version", None)
    if kind != FORMAT or version != VERSION:
        raise CheckpointError(f"{where} is a {kind!r} of version {version}; this program reads {FORMAT!r} of {VERSION}")
    content.pop("checksum", None)
    if problems := [f"`{name}` {problem}" for name, problem in _problems(content)]:
        raise CheckpointError(f"{where} is not what this program writes: {'; '.join(problems)}")
    content["files"] = {name: FileRecord(**record) for name, record in content["files"].items()}
    return TrainState(**content)


def _problems(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Finds what is wrong with a train state of which only the checksum is known to fit."""
    for name in sorted(content.keys() ^ _FITS.keys()):
        yield name, "is missing" if name in _FITS else "has no meaning"
    for name, (fits, meant) in _FITS.items():
        if name in content and not fits(content[name]):
            yield name, f"is not {meant}"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_mapping(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(fits(part) for part in value.values())


def _is_change(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and {"step", "changes"} <= value.keys() <= {"step", "changes", "skipped", "heal"}
        and isinstance(skipped := value.get("skipped", []), list)
        and all(map(_is_range, skipped))
        and _is_mapping(value.get("heal", {}), is_number)
        and _is_count(value["step"])
        and isinstance(value["changes"], list)
        and all(isinstance(change, str) for change in value["changes"])
    )


def _is_range(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_count, value)) and value[0] < value[1]


def _are_files(value: Any) -> bool:
    return _is_mapping(value, _is_record) and all(name not in ("", ".", "..") and "/" not in name for name in value)


def _is_record(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"bytes", "checksum"}
        and _is_count(value["bytes"])
        and isinstance(value["checksum"], str)
        and re.fullmatch("[0-9a-f]{32}", value["checksum"]) is not None
    )


def _is_engine(value: Any) -> bool:
    """A checkpoint of weights alone has no engine's scalars; any other tells how many updates the optimizer made."""
    return _is_mapping(value, is_number) and (not value or _is_count(value.get("optimizer_steps")))


#: For each field whether a value is one, and what it is.
_FITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "step": (_is_count, "a number of updates"),
    "samples_seen": (_is_count, "a number of samples"),
    "engine": (_is_engine, "the scalars of an engine"),
    "stream": (lambda value: isinstance(value, dict), "a mapping of what decides the samples"),
    "history": (lambda value: isinstance(value, list) and all(map(_is_change, value)), "a list of changes"),
    "evaluation": (lambda value: _is_mapping(value, is_number), "a mapping of numbers"),
    "loop": (lambda value: isinstance(value, dict), "a mapping"),
    "files": (_are_files, "a mapping of files with their sizes and checksums"),
}
