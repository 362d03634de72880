"""Chooses the documents of a store that are train, validation and test."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from dist_plm.config.credentials import mask
from dist_plm.core.errors import DataError
from dist_plm.data.store.manifest import SPLITS, read_manifest
from dist_plm.data.store.store import TokenStore
from dist_plm.spec.rules.sections import no_effect


@dataclass(frozen=True, slots=True)
class StoreSplit:
    """Documents [first, last) of a store.

    Attributes:
        name: what messages call it.
        content: a hash of the tokens and of the tokenizer that gives them meaning, where a manifest knows it.
        end_of_document: the token that closes every document; None where it is not known.
    """

    store: TokenStore
    first: int
    last: int
    name: str
    content: str | None = None
    end_of_document: int | None = None

    @property
    def start(self) -> int:
        """Position of the first token."""
        return self.store.document_start(self.first)

    @property
    def stop(self) -> int:
        """Position past the last token."""
        return self.store.document_start(self.last)

    @property
    def num_documents(self) -> int:
        return self.last - self.first

    @property
    def num_tokens(self) -> int:
        return self.stop - self.start

    def require_sentences(self, purpose: str) -> None:
        """Refuses a store in which every document is one sequence.

        Raises:
            DataError: it is such a store.
        """
        first, last = self.store.document_indices()[[self.first, self.last]]
        if last - first <= self.num_documents:
            raise DataError(
                f"{self.name} has no sentence boundaries ({last - first:,} sequences in {self.num_documents:,} "
                f"documents), which {purpose} needs: prepare the data with data.sentences=true; where it was, each of its "
                "documents is one sentence, and others are needed"
            )

    @classmethod
    def whole(cls, store: TokenStore, *, end_of_document: int | None = None) -> "StoreSplit":
        """All documents of a store."""
        return cls(store, 0, store.num_documents, store.prefix, end_of_document=end_of_document)

    def identity(self) -> tuple[str | int, ...]:
        """Gives what decides which tokens are here."""
        return self.content or self.store.fingerprint(), self.first, self.last


def refuse_shares(section: Any, name: str, paths: Sequence[str]) -> None:
    """Refuses shares of documents that are asked for of prepared stores alone, which have splits of their own.

    Args:
        section: the settings that `name` is a field of.
    Raises:
        DataError: they differ from the default, and nothing at `paths` is a bare pair.
    """
    if paths and all(Path(path).is_dir() for path in paths):
        reason = f"{' and '.join(paths)}, prepared with splits of its own (data.split of launch/prepare_data.py)"
        for problem in no_effect(section, "data", (name,), reason):
            raise DataError(problem)


def find_split(
    path: str | Path, split: str, fractions: Sequence[float], *, vocab_size: int | None = None
) -> StoreSplit:
    """The documents of "train", "validation" or "test".

    Args:
        path: a directory that prepare_data wrote, or the prefix of a Megatron .bin/.idx pair.
        fractions: of a bare pair's documents that go to train, validation and test, in this order; normalised to sum 1.
            A prepared store brings its own.
        vocab_size: of the model, for a bare pair; a prepared store knows its tokenizer's.
    Raises:
        DataError: nothing usable lies at `path`.
    """
    assert split in SPLITS, f"{split!r} is not one of {SPLITS}"
    path = Path(path)
    if path.is_dir():
        return _prepared(path, split)
    prefix = prefix_of_pair(path)
    store = TokenStore.open(prefix, vocab_size=vocab_size)
    first, last = share(store.num_documents, split, fractions)
    name = mask(f"the {split} split of {prefix} ({last - first:,} of {store.num_documents:,} documents)")
    return StoreSplit(store, first, last, name)


def prefix_of_pair(path: Path) -> Path:
    """Returns the path of a bare Megatron pair without its suffix.

    Raises:
        DataError: there is none.
    """
    prefix = path.with_suffix("") if path.suffix in (".bin", ".idx") else path
    if not Path(f"{prefix}.idx").exists():
        raise DataError(
            f"data.path = {str(path)!r}: there is neither such a directory nor {prefix}.idx; make a store with "
            "prepare_data, or give the prefix of a Megatron .bin/.idx pair"
        )
    return prefix


def _prepared(path: Path, split: str) -> StoreSplit:
    manifest = read_manifest(path)
    record = manifest.split(split)
    store = TokenStore.open(path / record.prefix, vocab_size=manifest.tokenizer.vocab_size)
    found = (store.num_tokens, store.num_documents, store.dtype.name)
    if found != (record.tokens, record.documents, manifest.dtype):
        raise DataError(
            f"{path / record.prefix}.bin holds {found[0]:,} tokens in {found[1]:,} documents as {found[2]} where the "
            f"manifest says {record.tokens:,} in {record.documents:,} as {manifest.dtype}: files of two stores are "
            "mixed; prepare the data again"
        )
    return StoreSplit(
        store,
        0,
        store.num_documents,
        name=mask(f"the {split} split of {path} ({record.documents:,} documents)"),
        content=manifest.identity(split),
        end_of_document=manifest.tokenizer.end_of_document_id,
    )


def share(count: int, split: str, fractions: Sequence[float]) -> tuple[int, int]:
    """The contiguous range of `count` documents that `split` gets."""
    total = sum(fractions)
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or total <= 0:
        raise DataError(f"data.split = {list(fractions)}: give three shares of documents, as in [0.98,0.01,0.01]")
    bounds = [0, *(round(count * fraction / total) for fraction in accumulate(fractions))]
    index = SPLITS.index(split)
    return bounds[index], bounds[index + 1]
