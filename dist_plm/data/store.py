"""Megatron's indexed dataset: all tokens of a corpus in `prefix.bin`, where documents begin in `prefix.idx`.

The format is that of `megatron.core.datasets.indexed_dataset`: a header (magic, version 1, dtype code, N sequences, D
entries of document index), N int32 sequence lengths, N int64 byte pointers, D int64 document indices (numbers of
sequences, from 0 to N), and N int8 modes in multimodal stores only. A document is a run of sequences.

Opening costs the same for any size: the index is mapped, the tokens are read with `pread`.
"""

import hashlib
import mmap
import os
import struct
import weakref
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from dist_plm.data.files import atomic_writer, copy_into
from dist_plm.errors import DataError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
#: Megatron's dtype codes. 6 and 7 are floats, which hold no tokens.
DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
_CODES = {np.dtype(dtype): code for code, dtype in DTYPES.items()}
_BLOCK = 2**20  # index entries in memory at a time
_PROBE_BYTES = 2**20  # of tokens, at either end, that a fingerprint reads
_PROBE_SEQUENCES = 1024  # index entries checked on opening


class TokenStore:
    """A corpus of tokens on disk, read by token position. Make one with `open`; it can be pickled and sent to workers.

    Attributes:
        prefix: the path without `.bin` and `.idx`.
        dtype: how tokens are stored.
        num_tokens, num_sequences, num_documents: how much it holds.
    """

    def __init__(self, prefix: str, index: "_Index", descriptor: int) -> None:
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
        index = _open_index(prefix + ".idx")
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
        found = [bisect_right(pointers, position * size) for position in positions.tolist()]
        return np.array(found, dtype=np.int64) - 1

    def documents_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the documents that the tokens at `positions` [B] belong to."""
        documents = self._index.document_view
        found = [bisect_right(documents, sequence) for sequence in self.sequences_at(positions).tolist()]
        return np.array(found, dtype=np.int64) - 1

    def document_starts(self, start: int, stop: int) -> NDArray[np.int64]:
        """Positions in [start, stop) where documents begin, ascending. Documents without tokens repeat a position."""
        size, index = self.dtype.itemsize, self._index
        first = bisect_left(index.document_view, bisect_left(index.pointer_view, start * size))
        last = bisect_left(index.document_view, bisect_left(index.pointer_view, stop * size))
        last = min(last, self.num_documents)
        return index.pointers[index.documents[first:last]] // size

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
        if values.size:
            low, high = int(values.min()), int(values.max())
            assert self._limits.min <= low <= high <= self._limits.max, f"token {low} or {high} in {self.dtype}"
        self._file.write(values.astype(self.dtype).tobytes())
        self.num_tokens += values.size
        self._lengths.extend(lengths)
        self._documents.append(len(self._lengths))

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
            file.write(HEADER.pack(MAGIC, VERSION, _CODES[self.dtype], len(lengths), len(self._documents)))
            file.write(lengths.tobytes())
            position = 0
            for start in range(0, len(lengths), _BLOCK):
                block = lengths[start : start + _BLOCK].astype(np.int64)
                ends = position + np.cumsum(block)
                file.write(((ends - block) * self.dtype.itemsize).tobytes())
                position = int(ends[-1])
            file.write(self._documents.tobytes())


class _Index(NamedTuple):
    dtype: np.dtype
    lengths: NDArray[np.int32]
    pointers: NDArray[np.int64]
    documents: NDArray[np.int64]
    num_bytes: int  # of the .bin file
    # The same numbers for searching one by one: a fifth of the time of an array's elements.
    pointer_view: memoryview
    document_view: memoryview


def _open_index(path: str) -> _Index:
    try:
        with open(path, "rb") as file:
            head = file.read(HEADER.size)
            size = os.fstat(file.fileno()).st_size
            if len(head) < HEADER.size or not head.startswith(MAGIC):
                raise DataError(f"{path} is not the index of a Megatron token store (no {MAGIC[:7].decode()} header)")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise DataError(f"cannot open {path}: {error.strerror}; is it the prefix of a .bin/.idx pair?") from error
    _, version, code, num_sequences, num_indices = HEADER.unpack(head)
    if version != VERSION:
        raise DataError(f"{path} has format version {version}; this program reads version {VERSION}")
    if code not in DTYPES:
        raise DataError(f"{path} has dtype code {code}, which is not an integer type; known are {sorted(DTYPES)}")
    expected = HEADER.size + 12 * num_sequences + 8 * num_indices
    if size not in (expected, expected + num_sequences):
        raise DataError(
            f"{path} holds {size:,} bytes where its header asks for {expected:,}: it is truncated or damaged; "
            "copy or prepare it again"
        )
    pointers_at = HEADER.size + 4 * num_sequences
    lengths = np.frombuffer(mapped, np.dtype("<i4"), num_sequences, HEADER.size)
    pointers = np.frombuffer(mapped, np.dtype("<i8"), num_sequences, pointers_at)
    documents = np.frombuffer(mapped, np.dtype("<i8"), num_indices, pointers_at + 8 * num_sequences)
    dtype = np.dtype(DTYPES[code])
    num_bytes = int(pointers[-1]) + int(lengths[-1]) * dtype.itemsize if num_sequences else 0
    ends = np.cumsum(lengths[:_PROBE_SEQUENCES], dtype=np.int64) * dtype.itemsize
    starts = pointers[: _PROBE_SEQUENCES + 1]
    covered = num_indices and documents[0] == 0 and documents[-1] == num_sequences
    joined = num_sequences == 0 or (starts[0] == 0 and np.array_equal(starts[1:], ends[: len(starts) - 1]))
    if not (covered and joined):
        raise DataError(f"{path} is damaged: documents and sequences do not cover each other; prepare it again")
    view, documents_at = memoryview(mapped), pointers_at + 8 * num_sequences
    pointer_view = view[pointers_at:documents_at].cast("q")
    document_view = view[documents_at:expected].cast("q")
    return _Index(dtype, lengths, pointers, documents, num_bytes, pointer_view, document_view)
