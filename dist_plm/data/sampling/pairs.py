"""Samples for pairs of segments: two runs of sentences each, from which the objective cuts `[CLS] A [SEP] B [SEP]`.

A store has sentences where its documents are made of several sequences, as Megatron's BERT data has them. The cut, the
share of negatives and of short pairs are the objective's; here is decided where a sample begins.

An epoch has one place for each document, which is where it begins, and one for every `window_length` tokens: so short
documents are read whole, once or twice, and long ones evenly. Megatron-core (`build_mapping` of its helpers) walks all
documents at start-up instead, to begin each sample where the one before ended.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.errors import DataError, count_of
from dist_plm.core.randomness.permutation import mix_many, windows_of
from dist_plm.data.samples import Ints, Pairs, Sentences
from dist_plm.data.store.splits import StoreSplit, find_split
from dist_plm.data.store.store import counting

# Each separates what is drawn for one purpose from every other use of the same seed.
_SHIFT_KEY = 0x7368696674
_OTHER_KEY = 0x6F74686572


class PairDataset:
    """Runs of sentences, each going on until it holds `window_length` tokens or its document ends.

    Sample n begins at the place that `window_of(n, num_windows, seed)` names: at the beginning of a document, or
    at the sentence of a token that many windows into the split (shifted, anew in each epoch), or as much earlier as it
    takes to fill the run. The second run begins at the sentence of a random token of another document. A sentence
    longer than `window_length` counts as several of at most that many tokens, so a run has less than
    2 * `window_length`.

    It can be sent to workers. Opening and reading take the same time for any number of documents.
    """

    def __init__(self, split: StoreSplit, *, window_length: int, seed: int, with_second: bool = True) -> None:
        """Takes documents and the size of the pairs to cut from them.

        Args:
            window_length: tokens of text in a sample.
            with_second: whether there are second runs, which next-sentence prediction needs.
        Raises:
            DataError: the store has no sentences, or no text, or second runs are wanted of a single document.
        """
        assert window_length >= 1, window_length
        self.split, self.window_length, self.seed, self.with_second = split, window_length, seed, with_second
        self.store, self.start, self.stop = split.store, split.start, split.stop
        _check(split, with_second=with_second)
        self.num_windows = split.num_documents + split.num_tokens // window_length

    def read(self, samples: NDArray[np.int64]) -> Pairs:
        """The runs of samples [B]."""
        samples = np.asarray(samples, dtype=np.int64)
        position = self._places(samples)
        sequence, begin, end = self._documents_at(position)
        # A place near a document's end moves back, so that the run is full.
        position = np.maximum(np.minimum(position, end - self.window_length), begin)
        places = position, sequence, begin, end
        if not self.with_second:
            return Pairs(self._runs(*places), None, samples)
        # Both at once, as small batches spend most of their time on calls.
        runs = self._runs(*map(np.concatenate, zip(places, self._elsewhere(samples, begin, end), strict=True)))
        return Pairs(*runs.split(len(samples)), samples)

    def identity(self) -> str:
        """A hash of all that decides which tokens sample n holds; equal identities mean equal samples."""
        parts = ("pairs", *self.split.identity(), self.window_length, self.seed)
        return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()

    def describe(self) -> str:
        """Describes what is read, in a line for people."""
        return f"{self.split.name}, {count_of(self.num_windows, 'pair', ',')} of up to {self.window_length:,} tokens"

    def _places(self, samples: Ints) -> Ints:
        """Positions [B] of the tokens whose sentences samples begin with."""
        places = windows_of(samples, self.num_windows, self.seed)
        num_tokens = self.stop - self.start
        shift = _draw(_SHIFT_KEY, self.seed, samples // self.num_windows, below=self.window_length)
        windows = places - self.split.num_documents
        positions = self.start + (windows * self.window_length + shift) % num_tokens
        is_document = windows < 0
        positions[is_document] = self.store.positions_of_documents(self.split.first + places[is_document])
        return np.minimum(positions, self.stop - 1)  # a document without tokens may lie at the very end

    def _documents_at(self, positions: Ints) -> tuple[Ints, Ints, Ints]:
        """Sequences of the tokens at `positions` [B], and where their documents begin and end."""
        sequences = self.store.sequences_at(positions)
        documents = self.store.documents_of_sequences(sequences)
        begin, end = (self.store.positions_of_documents(bound) for bound in (documents, documents + 1))
        return sequences, begin, end

    def _elsewhere(self, samples: Ints, begin: Ints, end: Ints) -> tuple[Ints, Ints, Ints, Ints]:
        """Positions [B] of random tokens outside the documents [begin, end); their sequences; where their documents begin
        and end."""
        outside = (self.stop - self.start) - (end - begin)
        if not outside.all():
            raise DataError(
                f"{self.split.name} has text in one document alone, so that no second segment can come from another: "
                "prepare more documents, or train with objective=mlm_sop"
            )
        position = self.start + _draw(_OTHER_KEY, self.seed, samples, below=outside)
        position = np.where(position >= begin, position + (end - begin), position)
        return position, *self._documents_at(position)

    def _runs(self, position: Ints, near: Ints, document_begin: Ints, end: Ints) -> Sentences:
        """Runs from the sentences of the tokens at `position` [B], near the sequences `near`, in the documents
        [document_begin, end)."""
        most, store = self.window_length, self.store
        if self.split.end_of_document is not None:
            # So that no run begins with the token that closes a document, should that make a sentence of its own.
            position = np.maximum(np.minimum(position, end - 2), document_begin)
        first = store.sequences_at(position, near)
        begin = store.positions_of_sequences(first)
        begin += (position - begin) // most * most
        last = store.sequences_at(np.minimum(begin + most, end) - 1, first)
        counts = last + 1 - first
        sentences = counting(first, counts)
        lower = np.maximum(store.positions_of_sequences(sentences), np.repeat(begin, counts))
        upper = store.positions_of_sequences(sentences + 1)
        finals = np.cumsum(counts) - 1
        upper[finals] = np.minimum(upper[finals], lower[finals] + most)  # its first piece fills the run
        return self._read(begin, lower, upper, counts, end)

    def _read(self, begin: Ints, lower: Ints, upper: Ints, counts: Ints, end: Ints) -> Sentences:
        """Sentences [lower, upper) [M], `counts` [B] of them a run, cut into pieces of at most `window_length`."""
        finals = np.cumsum(counts) - 1
        stop, ends, per_run = upper[finals], upper, counts
        pieces = -(-(upper - lower) // self.window_length)
        if (pieces != 1).any():
            index = counting(np.zeros_like(pieces), pieces)
            ends = np.minimum(np.repeat(lower, pieces) + (index + 1) * self.window_length, np.repeat(upper, pieces))
            per_run = np.add.reduceat(pieces, finals - counts + 1)
        tokens = self.store.read_many(begin, stop - begin)
        # Ends count from the first token read.
        offset = np.cumsum(stop - begin) - (stop - begin) - begin
        sentences = Sentences(tokens, ends + np.repeat(offset, per_run), np.concatenate([[0], np.cumsum(per_run)]))
        closing = self.split.end_of_document
        return sentences if closing is None else _without_last(sentences, stop == end, closing)


def open_pairs(
    path: str | Path,
    split: str,
    fractions: Sequence[float],
    *,
    window_length: int,
    seed: int,
    with_second: bool = True,
) -> PairDataset:
    """Pairs of sentences of "train", "validation" or "test"; arguments as of find_split and PairDataset.

    Raises:
        DataError: nothing usable lies at `path`, or it has no sentence boundaries, or too little text.
    """
    found = find_split(path, split, fractions)
    return PairDataset(found, window_length=window_length, seed=seed, with_second=with_second)


def _check(split: StoreSplit, *, with_second: bool) -> None:
    if split.num_tokens == 0:
        raise DataError(
            f"{split.name} holds no tokens: prepare more text, or give this split a larger share in data.split"
        )
    split.require_sentences("a pair of segments")
    if with_second and split.num_documents < 2:
        raise DataError(
            f"{split.name} has one document alone, so that no second segment can come from another: prepare more "
            "documents, or train with objective=mlm_sop"
        )


def _without_last(sentences: Sentences, complete: NDArray[np.bool_], closing: int) -> Sentences:
    """Without the token `closing` that ends runs where `complete` [B] holds, unless it is all there is of a run."""
    finals = sentences.runs[1:] - 1
    stops = sentences.ends[finals]
    lengths = np.diff(stops, prepend=0)
    dropped = complete & (sentences.tokens[stops - 1] == closing) & (lengths > 1)
    if not dropped.any():
        return sentences
    keep = np.ones(len(sentences.tokens), dtype=bool)
    keep[stops[dropped] - 1] = False
    ends = np.cumsum(keep)[sentences.ends - 1]
    emptied = np.diff(ends, prepend=0) == 0
    runs = sentences.runs - np.concatenate([[0], np.cumsum(emptied)])[sentences.runs]
    return Sentences(sentences.tokens[keep], ends[~emptied], runs)


def _draw(key: int, seed: int, counters: Ints, *, below: int | Ints) -> Ints:
    """Integers in [0, below), one a counter. The bias of the modulo is below 2^-20 for 2^43 tokens."""
    return (mix_many(key, seed, counters) % np.asarray(below).astype(np.uint64)).astype(np.int64)
