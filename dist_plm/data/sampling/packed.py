"""Rows packed with whole documents or whole sentences, without a walk over the corpus at start-up.

The text is divided into blocks of nearly equal size, each of which is packed, when it is first asked for, into the same
number of rows. So which row sample n is, and where its tokens lie, follows from n alone. How much text goes into a block
is settled by packing a few probes of it when the dataset is opened: a little less than its rows can hold, so that in
most blocks nothing has to be cut to fit.

Packing whole corpora at once, as published, would need an index of every row. With rows of 128 to a block the loss is
small: the bench and the tests state it.
"""

import hashlib
import math
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.errors import DataError, count_of
from dist_plm.core.randomness.permutation import grouped
from dist_plm.data.samples import Windows
from dist_plm.data.sampling.packers import PackedRow, best_fit, exactly, in_order, joined, pieces_between
from dist_plm.data.sampling.pairs import PairDataset
from dist_plm.data.store.splits import StoreSplit

Ints = NDArray[np.int64]

#: Rows of a block.
ROWS = 128
#: Blocks whose rows are shuffled together: consecutive samples come from this many places of the corpus.
GROUP = 64
_PROBES = 8
_SPARE = 0.75  # rows of a block that are left for differences between blocks
_CACHED = 4 * GROUP  # packed blocks in memory, some 10 KB each


class PackedDataset:
    """Rows of up to `capacity` tokens: whole documents where the unit is "documents", cut only where they are longer than
    a row (see packers.best_fit), or whole sentences in the order of the text (see packers.in_order).

    Every token is in one row. An epoch reads every row once: blocks in an order of its own, the rows of 64 blocks
    shuffled together. It can be sent to workers.

    Attributes:
        num_windows: rows.
        padding: share of the rows that no text, and no frame of a document, fills.
    """

    def __init__(
        self,
        split: StoreSplit,
        *,
        unit: Literal["documents", "sentences"],
        window_length: int,
        capacity: int,
        seed: int,
        frame: int = 0,
    ) -> None:
        """Takes documents and the rows to pack them into.

        Args:
            window_length: rows are handed out in `window_length` + 1 columns, as Windows are.
            capacity: of them, those that are filled; the others are padding.
            frame: tokens that are going to be put around each document of a row, beside its text. A row then has fewer
                tokens than `capacity` by as many for each document but the first.
        Raises:
            DataError: there is no text, or sentences are wanted of a store that has none.
        """
        assert 2 <= capacity <= window_length + 1, f"{capacity} of {window_length} + 1"
        assert frame == 0 or unit == "documents"
        if split.num_tokens == 0:
            raise DataError(f"{split.name} holds no tokens: prepare more text, or give it a larger share in data.split")
        if unit == "sentences":
            split.require_sentences("packing of whole sentences")
        self.split, self.unit, self.capacity, self.seed, self.frame = split, unit, capacity, seed, frame
        self.window_length = window_length
        self.start, self.stop = split.start, split.stop
        first, last = split.store.documents_at(np.array([self.start, self.stop - 1])).tolist()
        self._documents = range(first, last + 1)
        self._size = self.stop - self.start + frame * len(self._documents)
        self.num_blocks, self.rows = self._layout()
        if self.num_blocks > 1 and (self.stop - self.start) // self.num_blocks - capacity < self.rows:
            raise DataError(
                f"{split.name}: rows that hold {capacity} tokens of text beside {frame} around each document cannot be packed: "
                "raise data.sequence_length, or set data.packing=concat"
            )
        self.num_windows = self.num_blocks * self.rows
        self.padding = 1 - self._size / (self.num_windows * (capacity + frame))
        self._plans: OrderedDict[int, list[PackedRow]] = OrderedDict()

    def read(self, samples: NDArray[np.int64]) -> Windows:
        """The rows of samples [B]; `documents` counts on at every piece of text and once more at the padding."""
        samples = np.asarray(samples, dtype=np.int64)
        blocks, numbers = grouped(samples, self.num_blocks, self.rows, GROUP, self.seed)
        rows = [self._plan(block)[number] for block, number in zip(blocks.tolist(), numbers.tolist(), strict=True)]
        counts = np.array([len(row) for row in rows])
        starts, lengths = np.array([piece for row in rows for piece in row], dtype=np.int64).reshape(-1, 2).T
        tokens = self.split.store.read_many(starts, lengths)
        pieces, begins = self.split.store.document_starts(starts + 1, starts + lengths)
        first = np.cumsum(lengths) - lengths  # of each piece in `tokens`
        new = np.zeros(len(tokens), dtype=bool)
        new[first] = True
        new[first[pieces] + begins - starts[pieces]] = True
        filled = np.add.reduceat(lengths, np.cumsum(counts) - counts)
        windows = laid_out(tokens, new, filled, self.window_length + 1, samples)
        return replace(windows, frame=self.frame)

    def identity(self) -> str:
        """A hash of all that decides which tokens sample n holds; equal identities mean equal samples."""
        parts = ("packed", self.unit, *self.split.identity(), self.window_length, self.capacity, self.seed)
        parts += (self.frame,) if self.frame else ()
        return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()

    def describe(self) -> str:
        """Describes what is read, in a line for people."""
        return (
            f"{self.split.name}, whole {self.unit} packed into {count_of(self.num_windows, 'row', ',')} of "
            f"{self.capacity:,} tokens, "
            f"{self.padding:.2%} of them padding"
        )

    def __getstate__(self):
        return self.__dict__ | {"_plans": OrderedDict()}

    def _layout(self) -> tuple[int, int]:
        """Blocks, and rows of each."""
        size, room = self._size, self.capacity + self.frame
        span = min(ROWS * room, size)
        places = {(size - span) * i // max(_PROBES - 1, 1) for i in range(_PROBES)}
        rows = sum(len(self._pack(self._position(place), self._position(place + span))) for place in places)
        in_a_row = len(places) * span / rows
        if size <= (ROWS - 1) * in_a_row:
            return 1, -int(-size // in_a_row)
        # Blocks differ by a quarter of a row, as their edges move to where documents begin, and in each row a piece may be cut.
        spare = _SPARE + ROWS * self.frame / room
        num_blocks = -int(-size // ((ROWS - spare) * in_a_row))
        return num_blocks, math.ceil(size / (num_blocks * in_a_row) + spare)

    def _position(self, place: int) -> int:
        """Gives the position of the token that is at `place` where each document has its frame, the first of them at 0."""
        if self.frame == 0:
            return self.start + place
        store, first = self.split.store, self._documents[0]

        def place_of(document: int) -> int:
            return store.document_start(document) - self.start + self.frame * (document - first)

        document = first + max(bisect_right(self._documents, place, key=place_of) - 1, 0)
        begin, end = store.document_start(document), store.document_start(document + 1)
        return min(begin + place - place_of(document), end, self.stop)

    def _pack(self, start: int, stop: int) -> list[PackedRow]:
        store = self.split.store
        if self.unit == "sentences":
            begins = store.sequence_starts(start + 1, stop)
            return in_order(pieces_between([start, *begins.tolist(), stop]), self.capacity)
        _, begins = store.document_starts(np.array([start + 1]), np.array([stop]))
        return best_fit(pieces_between([start, *begins.tolist(), stop]), self.capacity, self.frame)

    def _plan(self, block: int) -> list[PackedRow]:
        if block not in self._plans:
            rows = self._pack(self._edge(block), self._edge(block + 1))
            self._plans[block] = [joined(row) for row in exactly(self.rows, rows, self.capacity, self.frame)]
            if len(self._plans) > _CACHED:
                self._plans.popitem(last=False)
        self._plans.move_to_end(block)
        return self._plans[block]

    def _edge(self, block: int) -> int:
        """Where a block begins: at a document or sentence, if one begins shortly before."""
        if block in (0, self.num_blocks):
            return self.stop if block else self.start
        edge = self._position(self._size * block // self.num_blocks)
        store, at = self.split.store, np.array([edge])
        if self.unit == "documents":
            begin = int(store.positions_of_documents(store.documents_at(at))[0])
        else:
            begin = int(store.positions_of_sequences(store.sequences_at(at))[0])
        return begin if edge - begin <= self.capacity // 4 else edge


class SentenceRows:
    """Rows of whole sentences of one document, as many as fit from where `pairs.PairDataset` lets sample n begin
    (DOC-SENTENCES of Liu et al. 2019, "RoBERTa", section 4.2). Rows of short documents are short."""

    def __init__(self, split: StoreSplit, *, window_length: int, capacity: int, seed: int) -> None:
        self._runs = PairDataset(split, window_length=capacity, seed=seed, with_second=False)
        self.num_windows, self.window_length = self._runs.num_windows, window_length

    def read(self, samples: NDArray[np.int64]) -> Windows:
        """The rows of samples [B]."""
        sentences, most = self._runs.read(samples).first, self._runs.window_length
        stops = sentences.ends[sentences.runs[1:] - 1]
        starts = np.concatenate([[0], stops[:-1]])
        within = sentences.ends - np.repeat(starts, np.diff(sentences.runs))
        filled = np.maximum.reduceat(np.where(within <= most, within, 0), sentences.runs[:-1])
        keep = np.arange(len(sentences.tokens)) < np.repeat(starts + filled, stops - starts)
        tokens = sentences.tokens[keep]
        return laid_out(tokens, np.zeros(len(tokens), dtype=bool), filled, self.window_length + 1, samples)

    def describe(self) -> str:
        """Describes what is read, in a line for people."""
        runs = self._runs
        return (
            f"{runs.split.name}, {count_of(self.num_windows, 'row', ',')} of up to {runs.window_length:,} tokens in "
            "whole sentences"
        )

    def identity(self) -> str:
        """See PackedDataset.identity."""
        parts = ("sentence rows", self._runs.identity(), self.window_length)
        return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()


def laid_out(
    tokens: Ints, new: NDArray[np.bool_], filled: Ints, columns: int, samples: Sequence[int] | Ints
) -> Windows:
    """Rows of `filled` [B] tokens each, out of `tokens` [N], in which documents begin where `new` [N] holds."""
    text = np.arange(columns) < filled[:, None]
    rows = np.zeros(text.shape, dtype=np.int64)
    rows[text] = tokens
    steps = np.zeros(text.shape, dtype=np.int32)
    steps[text] = new
    steps[:, 0] = 0
    short = np.flatnonzero(filled < columns)
    steps[short, filled[short]] = 1
    documents = np.cumsum(steps, axis=1, dtype=np.int32)
    return Windows(rows, documents, np.asarray(samples, dtype=np.int64), filled)
