"""Special tokens around text: `[CLS] … [SEP]` around a whole row, or around each document of a row."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_plm.data.samples import Windows
from dist_plm.data.special_tokens import SpecialTokens

#: The word of a token that belongs to none.
NO_WORD = -1


@dataclass(frozen=True, slots=True)
class Framed:
    """Rows of S tokens.

    Attributes:
        tokens, documents, words: [B, S]; special tokens are of the document that they frame, and of no word. `words` is None
            where they are not known.
        lengths: [B], tokens before the padding; None where rows are full.
    """

    tokens: NDArray[np.int64]
    documents: NDArray[np.int32]
    words: NDArray[np.int64] | None
    lengths: NDArray[np.int64] | None


@dataclass(frozen=True, slots=True)
class AddSpecialTokens:
    """As far as the tokenizer has the two tokens."""

    special: SpecialTokens

    @property
    def front(self) -> int:
        return int(self.special.cls is not None)

    @property
    def back(self) -> int:
        return int(self.special.sep is not None)

    @property
    def padding(self) -> int:
        # Any special token will do: it is neither attended to nor predicted.
        assert self.special.mask is not None
        return self.special.mask if self.special.pad is None else self.special.pad

    def __call__(self, windows: Windows, words: NDArray[np.int64] | None) -> Framed:
        """Puts the frame's tokens around the documents of each row.

        Args:
            words: [B, S'] as windows.tokens, where they are known.
        """
        if windows.frame:
            return self._each_document(windows, words)
        first, last = windows.documents[:, 0], windows.documents[:, -2]
        framed = Framed(
            self._row(windows.tokens, self.special.cls, self.special.sep),
            self._row(windows.documents, first, last),
            None if words is None else self._row(words, NO_WORD, NO_WORD),
            windows.lengths,
        )
        return framed if framed.lengths is None else self._ended(framed)

    def _row(self, numbers: NDArray, first: NDArray | int | None, last: NDArray | int | None) -> NDArray:
        """A window's numbers [B, window_length + 1] but for the last, between those of the frame: [B, S]."""
        inner = numbers.shape[1] - 1
        framed = np.empty((len(numbers), self.front + inner + self.back), dtype=numbers.dtype)
        framed[:, self.front : self.front + inner] = numbers[:, :-1]
        if self.front:
            framed[:, 0] = first
        if self.back:
            framed[:, -1] = last
        return framed

    def _ended(self, rows: Framed) -> Framed:
        """Rows that end where their text does, in place: `[CLS] … [SEP] [PAD] …`."""
        assert rows.lengths is not None
        tokens, documents, numbers = rows.tokens, rows.documents, np.arange(len(rows.tokens))
        lengths = rows.lengths + self.front + self.back
        tokens[np.arange(tokens.shape[1]) >= lengths[:, None]] = self.padding
        if self.special.sep is not None:
            tokens[numbers, lengths - 1] = self.special.sep
            documents[numbers, lengths - 1] = documents[numbers, lengths - 2]
        return Framed(tokens, documents, rows.words, lengths)

    def _each_document(self, windows: Windows, words: NDArray[np.int64] | None) -> Framed:
        """`[CLS] … [SEP] [CLS] … [SEP] [PAD] …`: documents that could as well be rows of their own."""
        source, both = windows.documents, self.front + self.back
        filled = windows.lengths
        assert filled is not None
        assert windows.frame == both
        rows, columns = np.nonzero(np.arange(source.shape[1]) < filled[:, None])
        of = source[rows, columns]
        to = columns + self.front + both * of
        count = source[np.arange(len(filled)), filled - 1] + 1
        lengths = filled + both * count
        shape = (len(filled), source.shape[1] - 1 + both)
        tokens = np.full(shape, self.padding, dtype=np.int64)
        documents = np.broadcast_to(count[:, None], shape).astype(source.dtype)
        tokens[rows, to], documents[rows, to] = windows.tokens[rows, columns], of
        changes = (np.diff(rows) != 0) | (np.diff(of) != 0)
        if self.special.cls is not None:
            begins = np.concatenate([[True], changes])
            tokens[rows[begins], to[begins] - 1] = self.special.cls
            documents[rows[begins], to[begins] - 1] = of[begins]
        if self.special.sep is not None:
            ends = np.concatenate([changes, [True]])
            tokens[rows[ends], to[ends] + 1] = self.special.sep
            documents[rows[ends], to[ends] + 1] = of[ends]
        if words is None:
            return Framed(tokens, documents, None, lengths)
        framed_words = np.full(shape, NO_WORD, dtype=np.int64)
        framed_words[rows, to] = words[rows, columns]
        return Framed(tokens, documents, framed_words, lengths)
