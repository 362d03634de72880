"""Near-duplicates by MinHash and locality-sensitive hashing: Broder 1997; Leskovec et al., Mining of Massive Datasets, 3.4.

A signature holds P values; two documents agree in each with a probability that is their Jaccard similarity J. Cut into b
bands of r values, they agree in all of some band with probability 1 - (1 - J^r)^b.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from dist_plm.data.text_patterns import HAN, KANA

_IDEOGRAPHIC = KANA + HAN
#: A word, or one Han character or kana, which words of Chinese and Japanese are made of, or an operator: a formula or a
#: program with another one says something else.
_TOKEN = re.compile(rf"[{_IDEOGRAPHIC}]|[^\W{_IDEOGRAPHIC}]+|[-+*/=<>%&|^~\u00ac\u00b1\u00d7\u00f7\u2190-\u22ff]")
_SEED = 42
_BATCH = 512
_BATCH_SHINGLES = 2**20
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_MIXERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # splitmix64's
#: Signatures that are compared at a time, at least.
_COMPARED_ROWS = 2**14
_LONG_CHARS = 2**20
#: Tokens whose hashes are kept, some 100 bytes each.
_KNOWN_TOKENS = 2**18


def bands_and_rows(threshold: float, permutations: int, recall: float) -> tuple[int, int]:
    """Bands b and rows r: b = ⌊P / r⌋, with the largest r for which 1 - (1 - t^r)^b >= `recall`.

    More rows spare comparisons of what is not similar; fewer find more of what is."""
    fitting = [r for r in range(1, permutations + 1) if _found(threshold, permutations // r, r) >= recall]
    rows = max(fitting, default=1)
    return permutations // rows, rows


def _found(similarity: float, bands: int, rows: int) -> float:
    return 1 - (1 - similarity**rows) ** bands


class _TokenHashes(dict[str, int]):
    """Hashes of tokens, kept for those that come first: most words of a text are among few."""

    def __missing__(self, token: str) -> int:
        number = xxhash.xxh3_64_intdigest(token.encode())
        if len(self) < _KNOWN_TOKENS:
            self[token] = number
        return number


_token_hashes = _TokenHashes()


def shingle_hashes(text: str, size: int) -> NDArray[np.uint64]:
    """A 64-bit hash of each run of `size` tokens, in lower case; of all tokens where there are fewer. Never empty."""
    lower = text.lower()
    # A list of tokens takes ten times the text.
    tokens = _TOKEN.findall(lower) if len(lower) < _LONG_CHARS else (match[0] for match in _TOKEN.finditer(lower))
    hashes = np.fromiter(map(_token_hashes.__getitem__, tokens), np.uint64)
    if not len(hashes):
        hashes = np.array([xxhash.xxh3_64_intdigest(text.encode())], np.uint64)
    size = min(size, len(hashes))
    count = len(hashes) - size + 1
    combined = np.zeros(count, dtype=np.uint64)
    for i in range(size):
        combined = combined * _PRIME + hashes[i : i + count]
    return _mixed(combined)


def signatures(texts: Iterable[str], size: int, permutations: int) -> NDArray[np.uint32]:
    """MinHash signatures, [documents, permutations], by rensa's R-MinHash."""
    return np.concatenate(
        [np.empty((0, permutations), np.uint32), *signature_blocks(texts, size=size, permutations=permutations)]
    )


def signature_blocks(texts: Iterable[str], size: int, permutations: int) -> Iterator[NDArray[np.uint32]]:
    """`signatures`, some documents at a time."""
    batch: list[NDArray[np.uint64]] = []
    num_shingles = 0
    for text in texts:
        batch.append(shingle_hashes(text, size))
        num_shingles += len(batch[-1])
        if len(batch) == _BATCH or num_shingles >= _BATCH_SHINGLES:
            yield _digests(batch, permutations)
            batch, num_shingles = [], 0
    if batch:
        yield _digests(batch, permutations)


def _digests(batch: Sequence[NDArray[np.uint64]], permutations: int) -> NDArray[np.uint32]:
    from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]

    offsets = np.cumsum([0, *map(len, batch)]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(batch), offsets, permutations, _SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32)


class Signatures:
    """Signatures of many documents, in parts, each mapped from its file only while it is looked at: mapped pages count as
    this process's memory."""

    def __init__(self, parts: Sequence[Callable[[], NDArray[np.uint32]]]) -> None:
        self._parts = parts
        shapes = [part().shape for part in parts]
        self._starts = np.cumsum([0, *(count for count, _ in shapes)])
        self.permutations = shapes[0][1] if shapes else 0

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, numbers: NDArray[np.int64]) -> NDArray[np.uint32]:
        """The signatures of these documents, [numbers, P]. Each part that holds some of them is opened once."""
        order = np.argsort(numbers)
        bounds = np.searchsorted(numbers, self._starts, sorter=order)
        rows = np.empty((len(numbers), self.permutations), np.uint32)
        for owner in np.flatnonzero(np.diff(bounds)).tolist():
            mine = order[bounds[owner] : bounds[owner + 1]]
            rows[mine] = self._parts[owner]()[numbers[mine] - self._starts[owner]]
        return rows

    def band(self, number: int, rows: int) -> NDArray[np.uint64]:
        """A hash of one band of every document, [documents]."""
        hashes = np.empty(len(self), np.uint64)
        for load, start in zip(self._parts, self._starts[:-1], strict=True):
            part = load()
            combined = np.zeros(len(part), np.uint64)
            for column in range(number * rows, (number + 1) * rows):
                combined = _mixed(combined * _PRIME + part[:, column])
            hashes[start : start + len(part)] = combined
        return hashes


def similar_pairs(signatures: Signatures, band: int, rows: int, threshold: float) -> NDArray[np.int64]:
    """Pairs (earlier, later) of documents that agree in a band and in a share `threshold` of all values, [pairs, 2].

    Of the documents that agree in the band, each is compared with the first, then each that is not similar to it with the
    first of those, and so on: linear in duplicates, whatever their number."""
    hashes = signatures.band(band, rows)
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    pairs = [np.empty((0, 2), np.int64)]
    while len(order) > 1:
        begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        leader = order[np.repeat(begins, np.diff(np.append(begins, len(order))))]
        follows = leader != order
        leader, order, ordered = leader[follows], order[follows], ordered[follows]
        similar = _agreement(signatures, leader, order) >= threshold
        pairs.append(np.stack([leader[similar], order[similar]], axis=1))
        order, ordered = order[~similar], ordered[~similar]
    return np.concatenate(pairs)


def _agreement(signatures: Signatures, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share of values in which documents agree, an estimate of their Jaccard similarity, [pairs]."""
    shares = np.empty(len(left))
    # Each batch may look into all files, of which large corpora have thousands: there are a few dozen batches, however many
    # documents there are, and one takes no more memory than their hashes, 8 bytes a document.
    size = max(_COMPARED_ROWS, len(signatures) * 8 // max(signatures.permutations * 4, 1))
    for start in range(0, len(left), size):
        part = slice(start, start + size)
        shares[part] = (signatures.rows(left[part]) == signatures.rows(right[part])).mean(axis=1)
    return shares


def components(count: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """The smallest number in the connected component of each of `count` documents, [count].

    Union-find, all pairs at once: the larger root is hung below the smaller, then paths are halved, until none moves."""
    roots = np.arange(count)
    left, right = pairs[:, 0], pairs[:, 1]
    while len(left):
        low, high = np.minimum(roots[left], roots[right]), np.maximum(roots[left], roots[right])
        np.minimum.at(roots, high, low)
        while not np.array_equal(halved := roots[roots], roots):
            roots = halved
        apart = roots[left] != roots[right]
        left, right = left[apart], right[apart]
    return roots


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spreads each bit over all (splitmix64, Steele et al. 2014)."""
    for shift, mixer in zip((30, 27), _MIXERS, strict=True):
        values = (values ^ (values >> np.uint64(shift))) * mixer
    return values ^ (values >> np.uint64(31))
