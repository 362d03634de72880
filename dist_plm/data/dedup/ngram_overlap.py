"""Finds which texts of a set stand, in part, in other texts: by runs of n words, as GPT-3's authors looked for what evaluation
sets share with training data (Brown et al. 2020, arXiv 2005.14165, appendix C)."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

#: Words are runs of letters and digits, in lower case: white space and punctuation do not count.
_WORD = re.compile(r"[^\W_]+")
#: Weighs the hashes of the words of a run; any large odd number does.
_FACTOR = np.uint64(0x9E3779B97F4A7C15)

Hashes = NDArray[np.uint64]


def ngram_hashes(text: str, size: int) -> Hashes:
    """Gives a number for each run of `size` words of a text, [W - size + 1]; none of a shorter one."""
    words = [word.encode() for word in _WORD.findall(text.lower())]  # of letters, so that nothing is no UTF-8
    numbers = np.fromiter(map(xxhash.xxh3_64_intdigest, words), dtype=np.uint64, count=len(words))
    count = len(words) - size + 1
    if count < 1:
        return np.empty(0, dtype=np.uint64)
    total, factor = np.zeros(count, dtype=np.uint64), np.uint64(1)
    with np.errstate(over="ignore"):  # modulo 2**64
        for place in range(size):
            total += numbers[place : place + count] * factor
            factor *= _FACTOR
    return total


class NgramOverlap:
    """Holds the runs of words of a set of texts, 17 bytes each, and marks those that stand in others.

    Two different runs have the same number once in 2**64.
    """

    def __init__(self, texts: Iterable[str], size: int) -> None:
        self._size = size
        found = [ngram_hashes(text, size) for text in texts]
        #: Runs of each text; 0 of one that is too short to have any.
        self.counts = np.array([len(one) for one in found], dtype=np.int64)
        every = np.concatenate(found) if found else np.empty(0, dtype=np.uint64)
        self._known, self._place = np.unique(every, return_inverse=True)
        self.marks: NDArray[np.bool_] = np.zeros(len(self._known), dtype=bool)

    def look_at(self, text: str) -> None:
        """Marks the runs that stand in a text too."""
        hashes = ngram_hashes(text, self._size)
        if len(hashes) and len(self._known):
            at = np.minimum(np.searchsorted(self._known, hashes), len(self._known) - 1)
            self.marks[at[self._known[at] == hashes]] = True

    def shares(self) -> Sequence[float]:
        """Tells of each text the share of its words that are in a marked run; 0 of one that is too short."""
        marked, ends = self.marks[self._place], np.cumsum(self.counts)
        told = []
        for start, end in zip(ends - self.counts, ends, strict=True):
            starts = np.flatnonzero(marked[start:end])
            words = np.zeros(end - start + self._size, dtype=np.int64)
            words[starts] += 1
            words[starts + self._size] -= 1
            covered = int((np.cumsum(words)[:-1] > 0).sum())
            told.append(covered / int(end - start + self._size - 1) if end > start else 0.0)
        return told
