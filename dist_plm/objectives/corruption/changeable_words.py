"""Finds the words of labelled texts that may be changed while they are learned, and says what goes with them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Marks = NDArray[np.bool_]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class WordTable:
    """Tells how a vocabulary writes words.

    Args:
        is_special, continues: [V], tokens that are no text, and those that go on a word.
    """

    is_special: Marks
    continues: Marks


@dataclass(frozen=True, slots=True, eq=False)
class Changeable:
    """Holds the words of rows of tokens [B, S] that may be changed. What is said of a word stands at its first token.

    Args:
        begins: [B, S], first tokens of words.
        text: [B, S], tokens of words: each belongs to the last word that began.
        side: [B, S], the text that a word is of, 0 or 1; one word of each text stays.
        part: [B, S], words change places with those of the same number.
        kept: [B, S], words that are never left out.
        samples: [B], by which is drawn what happens.
        beside: arrays [B, S, …] that go with the tokens, and what they are filled up with.
    """

    begins: Marks
    text: Marks
    side: Numbers
    part: Numbers
    kept: Marks
    samples: Numbers
    beside: Mapping[str, int] = field(default_factory=dict)


def words_of_texts(batch: Mapping[str, NDArray], table: WordTable, within: Marks | bool = True) -> Changeable:
    """Finds the words of a text or a pair of texts as the vocabulary writes them; special tokens are none.

    Args:
        batch: `tokens` [B, S], `lengths` and `samples` [B] and, of pairs, `segments` [B, S].
        within: [B, S], tokens that may be changed.
    """
    tokens, lengths = batch["tokens"], batch["lengths"]
    segments = batch.get("segments", np.zeros_like(tokens))
    text = (np.arange(tokens.shape[1]) < lengths[:, None]) & ~table.is_special[tokens] & within
    begins = text & ~table.continues[tokens]
    begins[:, 1:] |= text[:, 1:] & ~text[:, :-1]
    begins[:, 0] |= text[:, 0]
    beside = {"segments": 0} if "segments" in batch else {}
    # What begins a text may be written as if it went on a word: elsewhere it would be read as the end of the one before.
    part = np.where(begins & table.continues[tokens], 2 + np.arange(tokens.shape[1]), segments)
    return Changeable(begins, text, segments, part, np.zeros_like(text), batch["samples"], beside)
