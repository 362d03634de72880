"""Declares the tokens of a tokenizer that mean something to an objective, and finds those that continue a word."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

#: White space as byte-level BPE writes it: space, newline, tab, carriage return.
_BYTE_LEVEL_SPACE = ("\u0120", "\u010a", "\u0109", "\u010d")


PiecesStyle = Literal["wordpiece", "byte_level", "unigram"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokens:
    """Holds the numbers of a tokenizer's special tokens; None where it has no such token.

    Attributes:
        vocab_size: the largest token id + 1, before any padding of the model's table.
        ids: all special tokens, ascending, end of document and those that text never becomes ("[unused7]", holes of the
            numbering) included: never masked, never drawn as replacements.
        pieces_style: how the vocabulary writes word boundaries: "##" before continuations, byte-level BPE's "Ġ", or
            SentencePiece's "▁" before words; None where it does not.
        continues: [V] bool, true for a token that continues the word of the token before it (`with_vocabulary`).
        pieces: [V], the vocabulary as it is written, which a word segmenter reads; None where its tokens are not text.
        cls, sep: begin a sequence, and end a segment; `<s>` and `</s>` of RoBERTa.
        bos: begins a text that a decoder writes on; `<s>` of Llama.
        eos: ends a text, and inputs and targets of an encoder-decoder; `</s>` of T5.
        sentinels: stand for corrupted spans, in the order of use; `<extra_id_0>`, `<extra_id_1>`, … of T5.
        fim_prefix, fim_suffix, fim_middle: begin the three parts of a document that is filled in the middle.
        named: special tokens by how they are written, for objectives that have tokens of their own.
    """

    vocab_size: int
    ids: tuple[int, ...]
    pieces_style: PiecesStyle | None = None
    continues: NDArray[np.bool_] | None = field(default=None, compare=False)
    pieces: Sequence[str] | None = field(default=None, compare=False)
    cls: int | None = None
    sep: int | None = None
    mask: int | None = None
    pad: int | None = None
    bos: int | None = None
    eos: int | None = None
    sentinels: tuple[int, ...] = ()
    fim_prefix: int | None = None
    fim_suffix: int | None = None
    fim_middle: int | None = None
    named: Mapping[str, int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        assert all(0 <= i < self.vocab_size for i in self.ids), "a special token lies outside the vocabulary"
        assert self.continues is None or self.continues.shape == (self.vocab_size,), "continues is not [V]"
        assert self.pieces is None or len(self.pieces) == self.vocab_size, "pieces are not [V]"
        named = (self.cls, self.sep, self.mask, self.pad, self.bos, self.eos)
        named += (self.fim_prefix, self.fim_suffix, self.fim_middle)
        missing = {i for i in (*named, *self.sentinels, *self.named.values()) if i is not None} - set(self.ids)
        assert not missing, f"special tokens {sorted(missing)} are not among the ids"

    def with_vocabulary(self, pieces: Sequence[str]) -> "SpecialTokens":
        """The same with what the vocabulary [V], in the order of its numbers, tells of words."""
        if self.pieces_style is None:
            return self
        continues = word_continuations(pieces, self.pieces_style, self.ids)
        return replace(self, continues=continues, pieces=None if self.pieces_style == "byte_level" else pieces)

    def is_special(self) -> NDArray[np.bool_]:
        """Marks the special tokens in a vocabulary, [V]."""
        table = np.zeros(self.vocab_size, dtype=bool)
        table[list(self.ids)] = True
        return table


def word_continuations(pieces: Sequence[str], style: PiecesStyle, special: Iterable[int] = ()) -> NDArray[np.bool_]:
    """Finds the tokens that continue the word before them, [V], by how the vocabulary writes word boundaries.

    `wordpiece` marks continuations with ##; `byte_level` BPE begins words with white space (Ġ); `unigram`
    (SentencePiece) begins them with ▁.

    Args:
        pieces: [V], the vocabulary in the order of its numbers.
        special: tokens that belong to no word.
    """
    if style == "wordpiece":
        table = [piece.startswith("##") and piece != "##" for piece in pieces]
    else:
        begins = _BYTE_LEVEL_SPACE if style == "byte_level" else ("\u2581",)
        table = [not piece.startswith(begins) for piece in pieces]
    continues = np.array(table, dtype=bool)
    continues[list(special)] = False
    return continues
