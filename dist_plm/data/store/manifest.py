"""manifest.json: what a prepared store holds and what it was made from. A directory with a manifest is complete."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dist_plm.config.decode import decode, encode
from dist_plm.core.errors import ConfigError, DataError, reason_of
from dist_plm.core.files import atomic_writer
from dist_plm.core.parsing import load_json, read_text

NAME = "manifest.json"
FORMAT = "dist_plm token store"
VERSION = 2
_OWN_HASH = "manifest_sha256"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRecord:
    """One .bin/.idx pair; `prefix` is relative to the store. `text_bytes` counts UTF-8 before tokenization."""

    prefix: str
    documents: int
    tokens: int
    text_bytes: int
    bin_sha256: str
    idx_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRecords:
    train: SplitRecord
    validation: SplitRecord
    test: SplitRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerRecord:
    """`file` is relative to the store; `vocab_size` is the largest token id + 1.

    `beside` gives the SHA-256 of the files that make its directory one of Transformers', by name."""

    file: str
    sha256: str
    vocab_size: int
    end_of_document: str
    end_of_document_id: int
    beside: dict[str, str] = field(default_factory=dict)

    @property
    def numbers(self) -> tuple[str, int, int]:
        """Gives what decides the meaning of a token's number."""
        return self.sha256, self.vocab_size, self.end_of_document_id


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcesRecord:
    """The files read. `fingerprint` hashes their names, sizes and times of change."""

    files: int
    bytes: int
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Records that came in: documents, their UTF-8 bytes, and the broken ones by reason, which rejected.jsonl lists."""

    documents: int
    text_bytes: int
    rejected: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """Counts what one rule or stage took away, and how many of the documents it left it changed."""

    name: str
    removed: int
    removed_bytes: int
    changed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    dist_plm: str
    numpy: str
    tokenizers: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """See the module. `dtype` is numpy's name of the type that tokens are stored in."""

    dtype: str
    splits: SplitRecords
    tokenizer: TokenizerRecord
    counts: Counts
    stages: tuple[StageRecord, ...]
    sources: SourcesRecord
    versions: Versions

    def split(self, name: str) -> SplitRecord:
        """The record of "train", "validation" or "test"."""
        assert name in SPLITS, f"{name!r} is not one of {SPLITS}"
        return getattr(self.splits, name)

    def identity(self, name: str) -> str:
        """A hash of the tokens of a split and of the tokenizer that gives them their meaning."""
        record = self.split(name)
        parts = (record.bin_sha256, record.idx_sha256, self.tokenizer.sha256)
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def write_manifest(store: Path, manifest: Manifest, configuration: dict[str, Any]) -> None:
    """Writes `store`/manifest.json, atomically. `configuration` is what `read_configuration` gives back."""
    content = {"format": FORMAT, "version": VERSION, **encode(manifest), "configuration": configuration}
    content[_OWN_HASH] = _hash(content)
    with atomic_writer(store / NAME) as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n")


def read_manifest(store: str | Path) -> Manifest:
    """The manifest of a prepared store.

    Raises:
        DataError: there is none, it cannot be read, or it is of another format or version.
    """
    content = _read(Path(store))
    for key in ("format", "version", "configuration", _OWN_HASH):
        content.pop(key, None)
    try:
        return decode(Manifest, content)
    except ConfigError as error:
        problems = "; ".join(error.problems)
        raise DataError(f"{Path(store) / NAME} is damaged: {problems}; prepare the data again") from error


def read_configuration(store: str | Path) -> dict[str, Any]:
    """Reads what `write_manifest` was given as configuration; raises like `read_manifest`."""
    return _read(Path(store)).get("configuration", {})


def _read(store: Path) -> dict[str, Any]:
    path = store / NAME
    try:
        content = load_json(read_text(path))
    except FileNotFoundError as error:
        raise DataError(f"{store} has no {NAME}: it is not a store, or prepare_data did not finish it") from error
    except (OSError, ValueError) as error:
        remedy = "" if isinstance(error, PermissionError) else "; prepare the data again"
        raise DataError(f"{path} cannot be read: {reason_of(error, path)}{remedy}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} does not describe a store of this program (its format is not {FORMAT!r})")
    if content.get("version") != VERSION:
        raise DataError(
            f"{path} has version {content.get('version')}; this program reads version {VERSION}: prepare the data "
            "again with it, or read it with the version that wrote it"
        )
    if _OWN_HASH in content and content[_OWN_HASH] != _hash(content):  # those of older stores have none
        raise DataError(f"{path} was changed after it was written: copy it again, or prepare the data again")
    return content


def _hash(content: dict[str, Any]) -> str:
    """The SHA-256 of what a manifest says, but for this hash, however it is laid out."""
    rest = {key: value for key, value in content.items() if key != _OWN_HASH}
    return hashlib.sha256(json.dumps(json.loads(json.dumps(rest)), sort_keys=True).encode()).hexdigest()
