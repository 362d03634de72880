"""Reads the documents that a model is measured on: those of a store, or of text files."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from dist_plm.core.errors import DataError
from dist_plm.data.reach import MOST_UNKNOWN, check_reach
from dist_plm.data.sources.records import Rejected
from dist_plm.data.sources.sources import FORMATS, find_sources, read_in_order
from dist_plm.data.store.manifest import read_manifest
from dist_plm.data.store.splits import StoreSplit, find_split, refuse_shares
from dist_plm.spec.inference.evaluations import EvaluationDataConfig
from dist_plm.spec.prepare.schema import SourceConfig
from dist_plm.tasks.evaluate.sliding_windows import Tokens
from dist_plm.tasks.inference.vocabulary import Vocabulary

#: Documents whose beginnings are looked at before a model is measured on them.
_LOOKED_AT, _LOOKED_AT_CHARS = 100, 4096


@dataclass(frozen=True, slots=True)
class Passage:
    """Holds a document: its tokens, without the one that ends it.

    Args:
        name: how reports call it.
        num_bytes, num_words: of its text, in UTF-8 and between white space; None where the text is not known.
    """

    name: str
    tokens: Tokens
    num_bytes: int | None
    num_words: int | None

    @classmethod
    def of(cls, name: str, tokens: Tokens, text: str | None) -> "Passage":
        """Counts bytes and words, the latter as lm-evaluation-harness does for WikiText."""
        if text is None:
            return cls(name, tokens, None, None)
        return cls(name, tokens, len(text.encode(errors="surrogatepass")), len(re.split(r"\s+", text)))


class Passages(Protocol):
    """Gives documents by turns to several readers.

    Attributes:
        where: how messages call them.
        num_bytes: of all texts together, where that is known without reading them.
    """

    where: str
    num_bytes: int | None

    def read(self, first: int, step: int, limit: int) -> Iterator[tuple[int, Passage]]:
        """Yields documents first, first + step, … with their numbers, of the first `limit` (0: of all)."""
        ...


def open_passages(data: EvaluationDataConfig, vocabulary: Vocabulary, vocab_size: int) -> Passages:
    """Opens what is to be read.

    Raises:
        DataError: it is not there, holds nothing, or is of another vocabulary.
    """
    if data.text is not None:
        return TextPassages(data, vocabulary)
    assert data.path is not None
    refuse_shares(data, "shares", [data.path])
    found = find_split(data.path, data.split, data.shares, vocab_size=vocab_size)
    if found.num_tokens == 0:
        raise DataError(f"{found.name} is empty: choose another data.split, or prepare more text")
    if Path(data.path).is_dir():
        check_tokens(data.path, vocabulary)
    return StorePassages(found, data, vocabulary)


def check_tokens(store: str, vocabulary: Vocabulary) -> None:
    """Sees to it that the same numbers mean the same tokens to a prepared store and to the model.

    Raises:
        DataError: they do not.
    """
    ours, record = vocabulary.tokenizer, read_manifest(store).tokenizer
    theirs = type(ours).load(Path(store) / record.file, record.end_of_document).pieces()
    for number, (our, their) in enumerate(zip(ours.pieces(), theirs, strict=False)):
        if our != their and our and their:
            raise DataError(
                f"{store} was prepared with another tokenizer than the model's, {vocabulary.where}: token {number} is "
                f"{their!r} there and {our!r} here; prepare it with tokenizer=file and the model's, or give data.text"
            )


class StorePassages:
    """Reads one split of a store."""

    def __init__(self, split: StoreSplit, data: EvaluationDataConfig, vocabulary: Vocabulary) -> None:
        self.where, self._split, self._vocabulary = split.name, split, vocabulary
        self._end = split.end_of_document
        # A vocabulary of bytes gives texts back as they were; others lose spaces, capitals and more.
        self._gives_text = vocabulary.special.pieces_style == "byte_level"
        self.num_bytes: int | None = None
        if data.path is not None and Path(data.path).is_dir():
            self.num_bytes = read_manifest(data.path).split(data.split).text_bytes

    def read(self, first: int, step: int, limit: int) -> Iterator[tuple[int, Passage]]:
        split = self._split
        count = min(split.num_documents, limit or split.num_documents)
        for number in range(first, count, step):
            start, stop = (split.store.document_start(split.first + number + more) for more in (0, 1))
            tokens = split.store.read(start, stop - start)
            if len(tokens) and tokens[-1] == self._end:
                tokens = tokens[:-1]
            text = self._vocabulary.decode(tokens.tolist()) if self._gives_text else None
            yield number, Passage.of(f"document {number}", tokens, text)


class TextPassages:
    """Reads text files, and tokenizes what it gives."""

    def __init__(self, data: EvaluationDataConfig, vocabulary: Vocabulary) -> None:
        assert data.text is not None
        self.num_bytes: int | None = None
        self._data = data
        self.where, self._vocabulary = data.text, vocabulary
        first = [text[:_LOOKED_AT_CHARS] for _, text in islice(self._texts(), _LOOKED_AT)]
        if not first:
            raise DataError(f"data.text = {data.text} holds no text")
        check_reach(
            vocabulary.tokenizer, first, MOST_UNKNOWN, f"of {data.text}", ": the model was trained on other text"
        )

    def _texts(self) -> Iterator[tuple[str, str]]:
        return texts_of_files(self._data)

    def read(self, first: int, step: int, limit: int) -> Iterator[tuple[int, Passage]]:
        for number, (name, text) in enumerate(islice(self._texts(), limit or None)):
            if number % step == first:
                tokens = np.array(self._vocabulary.encode(text), dtype=np.int64)
                yield number, Passage.of(name, tokens, text)


def texts_of_files(data: EvaluationDataConfig) -> Iterator[tuple[str, str]]:
    """Yields the texts of files, each with its place.

    Raises:
        DataError: there are no such files, or one cannot be read.
    """
    assert data.text is not None
    known = any(suffix in FORMATS for suffix in Path(data.text).suffixes)
    source = SourceConfig(path=data.text, text=data.column, document=data.document, format=None if known else "text")
    for part, record in read_in_order(find_sources([source])):
        if isinstance(record, Rejected):
            if record.reason == "empty text":
                continue
            raise DataError(f"{part.path}, line {record.line}: {record.reason}: {record.detail}")
        yield f"{part.path}:{record.line}", record.text
