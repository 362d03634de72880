"""Words of text that is written without spaces: for masking whole Chinese words (Cui et al. 2019, arXiv 1906.08101, section
3.1), whose characters WordPiece makes tokens of their own.

Segmentation is a pure function of the tokens, done when a batch is made: a store serves with and without it.
"""

import logging
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_plm.data.text_patterns import HAN

#: CJK unified ideographs with their extensions and compatibility forms: what BERT's tokenizer sets apart.
_HAN = re.compile(rf"[{HAN}\U00020000-\U0002a6df\U0002a700-\U0002ebef\U0002f800-\U0002fa1f]+")
#: How vocabularies mark continuations and beginnings of words.
_MARKS = re.compile("^(##|\u2581)")


@dataclass(frozen=True, slots=True, eq=False)
class WordSegmenter:
    """Numbers the words of rows of tokens: jieba's within Chinese text, those that the vocabulary marks elsewhere.

    Args:
        texts: [V], the text of each token that is Chinese through and through, "" for others.
        continues: [V], which tokens continue a word where they are not Chinese.
    """

    texts: Sequence[str]
    is_chinese: NDArray[np.bool_]
    continues: NDArray[np.bool_]

    @classmethod
    def of(cls, pieces: Sequence[str], continues: NDArray[np.bool_]) -> "WordSegmenter":
        """Builds the segmenter of a vocabulary [V], WordPiece's or SentencePiece's, in the order of its numbers."""
        bare = [_MARKS.sub("", piece) for piece in pieces]
        texts = [text if _HAN.fullmatch(text) else "" for text in bare]
        return cls(texts, np.array([bool(text) for text in texts], dtype=bool), continues)

    def __call__(self, tokens: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of each token's word, [N], ascending.

        Args:
            tokens: [N], rows one after another.
            ends: where each row ends, ascending, N the last. No word reaches across.
        """
        begins = ~self.continues.take(tokens)
        chinese = self.is_chinese.take(tokens)
        opens = np.zeros(len(tokens) + 1, dtype=bool)
        opens[0] = True
        opens[ends] = True
        begins |= opens[:-1]
        follows = np.zeros(len(tokens) + 1, dtype=bool)
        follows[1:-1] = chinese[:-1] & chinese[1:] & ~opens[1:-1]
        starts = np.flatnonzero(chinese & ~follows[:-1])
        stops = np.flatnonzero(chinese & ~follows[1:]) + 1
        numbers = tokens.tolist()
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            begins[start:stop] = _begin_words(tuple(self.texts[token] for token in numbers[start:stop]))
        return np.cumsum(begins, dtype=np.int64)


@lru_cache(maxsize=2**16)
def _begin_words(texts: tuple[str, ...]) -> list[bool]:
    """Finds the tokens of a stretch of Chinese that begin a word; one that holds the end of a word and the beginning of the
    next belongs to the first."""
    boundaries, place = {0}, 0
    for word in _jieba().cut("".join(texts)):
        place += len(word)
        boundaries.add(place)
    begins, place = [], 0
    for text in texts:
        begins.append(place in boundaries)
        place += len(text)
    return begins


@cache
def _jieba() -> Any:
    """With a dictionary of its own, whatever the process does with jieba's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the way it looks for its files
        import jieba
    logging.getLogger("jieba").setLevel(logging.WARNING)  # it tells of every load
    return jieba.Tokenizer()
