"""Megatron's indexed dataset: all tokens of a corpus in `prefix.bin`, where documents begin in `prefix.idx`.

The format is that of `megatron.core.datasets.indexed_dataset`: a header (magic, version 1, dtype code, N sequences, D
entries of document index), N int32 sequence lengths, N int64 byte pointers, D int64 document indices (numbers of
sequences, from 0 to N), and N int8 modes in multimodal stores only. A document is a run of sequences.

Opening costs the same for any size: the index is mapped, the tokens are read with `pread`.
"""

import hashlib
import os
import weakref
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import accumulate, chain
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from dist_plm.data.files import atomic_writer, copy_into
from dist_plm.data.store_index import (
    CODES,
    HEADER,
    MAGIC,
    VERSION,
    Index,
    bisect_documents,
    bisect_from,
    bisect_near,
    counting,
    open_index,
)
from dist_plm.errors import DataError

_BLOCK = 2**20  # index entries in memory at a time
_PROBE_BYTES = 2**20  # of tokens, at either end, that a fingerprint reads


class TokenStore:
    """A corpus of tokens on disk, read by token position. Make one with `open`; it can be pickled and sent to workers.

    Attributes:
        prefix: the path without `.bin` and `.idx`.
        dtype: how tokens are stored.
        num_tokens, num_sequences, num_documents: how much it holds.
    """

    def __init__(self, prefix: str, index: Index, descriptor: int) -> None:
        self.prefix = prefix
        self.dtype = index.dtype
        self.num_sequences = len(index.lengths)
        self.num_documents = len(index.documents) - 1
        self.num_tokens = index.num_bytes // index.dtype.itemsize
        self._index = index
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)

    @classmethod
    def open(cls, prefix: str | Path) -> "TokenStore":
        """Opens the pair `prefix.bin`, `prefix.idx` and verifies header and sizes.

        Raises:
            DataError: a file is missing, is not in this format, or their sizes do not fit together.
        """
        prefix = str(prefix)
        index = open_index(prefix + ".idx")
        try:
            descriptor = os.open(prefix + ".bin", os.O_RDONLY)
        except OSError as error:
            raise DataError(f"cannot open {prefix}.bin: {error.strerror}") from error
        size = os.fstat(descriptor).st_size
        if size != index.num_bytes:
            os.close(descriptor)
            raise DataError(
                f"{prefix}.bin holds {size:,} bytes where {prefix}.idx speaks of {index.num_bytes:,}: one of them is "
                "truncated or they do not belong together; copy or prepare them again"
            )
        return cls(prefix, index, descriptor)

    def __reduce__(self):
        return TokenStore.open, (self.prefix,)

    def read(self, start: int, length: int) -> NDArray[np.int64]:
        """Tokens [start, start + length), as int64."""
        return self.read_many(np.array([start]), np.array([length]))

    def read_many(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens [starts[i], starts[i] + lengths[i]) of all i, one run after another, as int64."""
        assert len(starts) == 0 or (starts.min() >= 0 and lengths.min() >= 0), "runs begin before the store or its end"
        assert len(starts) == 0 or (starts + lengths).max() <= self.num_tokens, f"runs end after {self.num_tokens}"
        size = self.dtype.itemsize
        tokens = np.empty(int(lengths.sum()), dtype=self.dtype)
        view, first = tokens.data.cast("B"), 0
        descriptor = self._descriptor
        for offset, length in zip((starts * size).tolist(), (lengths * size).tolist(), strict=True):
            part = view[first : first + length]
            if os.preadv(descriptor, (part,), offset) != length:
                self._read_rest(part, offset)
            first += length
        return tokens.astype(np.int64)

    def _read_rest(self, view: memoryview, offset: int) -> None:
        """Fills `view` from byte `offset`, where one call did not: it gives no more than 2 GiB."""
        while view:
            count = os.preadv(self._descriptor, (view,), offset)
            if count == 0:
                raise DataError(f"{self.prefix}.bin ended at byte {offset:,}: it was truncated after it was opened")
            view, offset = view[count:], offset + count

    def document_start(self, document: int) -> int:
        """Position of the first token of a document; `num_documents` gives the end of the store."""
        return int(self.positions_of_documents(np.array([document]))[0])

    def positions_of_documents(self, documents: NDArray[np.int64]) -> NDArray[np.int64]:
        """`document_start` of each of an array of documents."""
        return self.positions_of_sequences(self._index.documents[documents])

    def positions_of_sequences(self, sequences: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of the first tokens of sequences; `num_sequences` gives the end of the store."""
        if self.num_sequences == 0:
            return np.zeros_like(sequences)
        positions = self._index.pointers[np.minimum(sequences, self.num_sequences - 1)] // self.dtype.itemsize
        return np.where(sequences == self.num_sequences, self.num_tokens, positions)

    def sequences_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the sequences that the tokens at `positions` [B] belong to."""
        # Not np.searchsorted: the arrays lie unaligned in the file, and it would copy them whole.
        pointers, size = self._index.pointer_view, self.dtype.itemsize
        found = [bisect_from(pointers, p * size + 1, self._guess(p)) for p in positions.tolist()]
        return np.array(found, dtype=np.int64) - 1

    def sequences_near(self, positions: NDArray[np.int64], near: NDArray[np.int64], reach: int) -> NDArray[np.int64]:
        """`sequences_at`, faster where the sequences are at most `reach` above `near` [B], or below where it is negative."""
        around = (near + min(reach, 0))[:, None] + np.arange(abs(reach) + 2)  # one more, whose beginning ends the last
        known = np.minimum(np.maximum(around, 0), self.num_sequences)
        begun = self.positions_of_sequences(known) <= positions[:, None]
        count = np.count_nonzero(begun, axis=1)
        found = around[:, 0] + count - 1
        farther = (count == 0) | (count == begun.shape[1])
        if farther.any():
            found[farther] = self.sequences_at(positions[farther])
        return found

    def _guess(self, position: int) -> int:
        """About where in the index a position is: pages of an index of gigabytes cost memory as soon as they are seen."""
        return position * self.num_sequences // max(self.num_tokens, 1)

    def documents_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the documents that the tokens at `positions` [B] belong to."""
        return self.documents_of_sequences(self.sequences_at(positions))

    def documents_of_sequences(self, sequences: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the documents that `sequences` [B] belong to."""
        documents = self._index.document_view
        return np.array([bisect_right(documents, sequence) for sequence in sequences.tolist()], dtype=np.int64) - 1

    def document_starts(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
        """Where documents begin in each of the ranges [starts[i], stops[i]) of tokens.

        Returns:
            The number i of a range and a position, each [M], in ascending order. Documents without tokens repeat one.
        """
        pointers, documents, size = self._index.pointer_view, self._index.document_view, self.dtype.itemsize
        first, last = [], []
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            low = bisect_from(pointers, start * size, self._guess(start))
            high = bisect_near(pointers, stop * size, low, stop - start)
            first.append(document := bisect_documents(documents, low))
            last.append(bisect_near(documents, high, document, stop - start))
        begins, ends = np.array(first, dtype=np.int64), np.array(last, dtype=np.int64)
        counts = np.minimum(ends, self.num_documents) - begins
        return np.repeat(np.arange(len(begins)), counts), self.positions_of_documents(counting(begins, counts))

    def sequence_starts(self, start: int, stop: int) -> NDArray[np.int64]:
        """Positions in [start, stop) where sequences begin, ascending. Sequences without tokens repeat a position."""
        pointers, size = self._index.pointer_view, self.dtype.itemsize
        first = bisect_left(pointers, start * size)
        return self._index.pointers[first : bisect_near(pointers, stop * size, first, stop - start)] // size

    @property
    def document_offsets(self) -> NDArray[np.int64]:
        """Position of the first token of every document, [num_documents]. Reads the whole index: O(documents)."""
        bounds = np.append(self._index.pointers, self._index.num_bytes)
        return bounds[self._index.documents[:-1]] // self.dtype.itemsize

    def sequence_lengths(self) -> NDArray[np.int32]:
        """Tokens of every sequence, [num_sequences], mapped from the file."""
        return self._index.lengths

    def document_indices(self) -> NDArray[np.int64]:
        """Number of the first sequence of every document and, last, of sequences, [num_documents + 1], mapped."""
        return self._index.documents

    def fingerprint(self) -> str:
        """A hash of sizes, dtype, and the first and last MiB of tokens: tells stores apart at a glance."""
        digest = hashlib.sha256(f"{self.dtype.str} {self.num_tokens} {self.num_documents}".encode())
        probe = min(self.num_tokens, _PROBE_BYTES // self.dtype.itemsize)
        digest.update(self.read(0, probe).tobytes())
        digest.update(self.read(self.num_tokens - probe, probe).tobytes())
        return digest.hexdigest()


def dtype_for(vocab_size: int) -> np.dtype:
    """The smallest of the two types Megatron stores tokens in (its rule: uint16 for fewer than 65,500)."""
    return np.dtype(np.uint16 if vocab_size < 65500 else np.int32)


class TokenStoreWriter:
    """Writes `prefix.bin` and `prefix.idx`; they appear, whole, when the `with` block ends without an exception.

    The index comes last, so a pair with an index is complete. Memory: 4 bytes a sequence and 8 a document.
    """

    def __init__(self, prefix: str | Path, dtype: np.dtype) -> None:
        self.prefix = str(prefix)
        self.dtype = np.dtype(dtype)
        self.num_tokens = 0
        self._limits = np.iinfo(self.dtype)
        self._lengths = array("i")
        self._documents = array("q", [0])
        self._stack = ExitStack()

    @property
    def num_documents(self) -> int:
        return len(self._documents) - 1

    def __enter__(self) -> Self:
        self._file = self._stack.enter_context(atomic_writer(Path(self.prefix + ".bin")))
        return self

    def add_document(self, tokens: Sequence[int] | NDArray, lengths: Sequence[int] | None = None) -> None:
        """Appends a document: `tokens`, cut into sequences of `lengths` tokens (one sequence when None)."""
        values = np.asarray(tokens, dtype=np.int64)
        lengths = [values.size] if lengths is None else lengths
        assert sum(lengths) == values.size, f"sequences of {sum(lengths)} tokens in a document of {values.size}"
        self._write(values)
        self._lengths.extend(lengths)
        self._documents.append(len(self._lengths))

    def add_documents(self, sequences: Sequence[Sequence[int]], counts: Sequence[int] | None = None) -> None:
        """Appends many documents at once: the first `counts[0]` sequences, the next `counts[1]`, …; one each when None."""
        lengths = [len(sequence) for sequence in sequences]
        counts = [1] * len(sequences) if counts is None else counts
        assert sum(counts) == len(sequences), f"documents of {sum(counts)} sequences where there are {len(sequences)}"
        self._write(np.fromiter(chain.from_iterable(sequences), np.int32, sum(lengths)))
        first = len(self._lengths)
        self._lengths.extend(lengths)
        self._documents.extend(first + end for end in accumulate(counts))

    def _write(self, values: NDArray[np.signedinteger]) -> None:
        if values.size:
            low, high = int(values.min()), int(values.max())
            assert self._limits.min <= low <= high <= self._limits.max, f"token {low} or {high} in {self.dtype}"
        self._file.write(values.astype(self.dtype).tobytes())
        self.num_tokens += values.size

    def append(self, store: TokenStore) -> None:
        """Appends all documents of another store of the same dtype."""
        assert store.dtype == self.dtype, f"{store.prefix} is {store.dtype}, not {self.dtype}"
        copy_into(Path(store.prefix + ".bin"), self._file)
        self.num_tokens += store.num_tokens
        first = len(self._lengths)
        self._lengths.frombytes(store.sequence_lengths().tobytes())
        self._documents.frombytes((store.document_indices()[1:] + first).tobytes())

    def __exit__(self, *exception) -> None:
        index = Path(self.prefix + ".idx")
        if exception[0] is None:
            index.unlink(missing_ok=True)  # an old index must never stand beside the new tokens
        self._stack.__exit__(*exception)
        if exception[0] is None:
            self._write_index(index)

    def _write_index(self, path: Path) -> None:
        lengths = np.frombuffer(self._lengths, dtype=np.int32)
        with atomic_writer(path) as file:
            file.write(HEADER.pack(MAGIC, VERSION, CODES[self.dtype], len(lengths), len(self._documents)))
            file.write(lengths.tobytes())
            position = 0
            for start in range(0, len(lengths), _BLOCK):
                block = lengths[start : start + _BLOCK].astype(np.int64)
                ends = position + np.cumsum(block)
                file.write(((ends - block) * self.dtype.itemsize).tobytes())
                position = int(ends[-1])
            file.write(self._documents.tobytes())
