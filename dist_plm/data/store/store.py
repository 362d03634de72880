"""Megatron's indexed dataset: all tokens of a corpus in `prefix.bin`, where documents begin in `prefix.idx`.

The format is that of `megatron.core.datasets.indexed_dataset`: a header (magic, version 1, dtype code, N sequences, D
entries of document index), N int32 sequence lengths, N int64 byte pointers, D int64 document indices (numbers of
sequences, from 0 to N), and N int8 modes in multimodal stores only. A document is a run of sequences.

Opening costs the same time and memory for any size: tokens are read with `pread`, and so is a large index.
"""

import hashlib
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from itertools import accumulate, chain
from pathlib import Path
from typing import NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.errors import DataError, reason_of
from dist_plm.core.files import atomic_writer, copy_into
from dist_plm.data.store.index import (
    CODES,
    HEADER,
    MAGIC,
    VERSION,
    Index,
    counting,
    open_index,
)
from dist_plm.data.store.open_file import OpenFile

_BLOCK = 2**20  # index entries in memory at a time
_PROBE_BYTES = 2**20  # of tokens, at either end, that a fingerprint reads


class TokenStore:
    """A corpus of tokens on disk, read by token position. Make one with `open`; it can be pickled and sent to workers.

    Attributes:
        prefix: the path without `.bin` and `.idx`.
        dtype: how tokens are stored.
        num_tokens, num_sequences, num_documents: how much it holds.
        vocab_size: what all tokens are below, where it is known; each that is read is looked at.
    """

    def __init__(self, prefix: str, index: Index, tokens: OpenFile, vocab_size: int | None = None) -> None:
        self.prefix = prefix
        self.vocab_size = vocab_size
        self.dtype = index.dtype
        self.num_sequences = len(index.lengths)
        self.num_documents = len(index.documents) - 1
        self.num_tokens = index.num_bytes // index.dtype.itemsize
        self._index, self._tokens = index, tokens

    @classmethod
    def open(cls, prefix: str | Path, *, vocab_size: int | None = None) -> "TokenStore":
        """Opens the pair `prefix.bin`, `prefix.idx` and verifies header and sizes.

        Raises:
            DataError: a file is missing, is not in this format, or their sizes do not fit together.
        """
        prefix = str(prefix)
        index = open_index(prefix + ".idx")
        try:
            tokens = OpenFile(prefix + ".bin")
        except OSError as error:
            raise DataError(f"cannot open {prefix}.bin: {reason_of(error, f'{prefix}.bin')}") from error
        if tokens.size != index.num_bytes:
            raise DataError(
                f"{prefix}.bin holds {tokens.size:,} bytes where {prefix}.idx speaks of {index.num_bytes:,}: one of them is "
                "truncated or they do not belong together; copy or prepare them again"
            )
        return cls(prefix, index, tokens, vocab_size)

    def __reduce__(self):
        return partial(TokenStore.open, vocab_size=self.vocab_size), (self.prefix,)

    def read(self, start: int, length: int) -> NDArray[np.int64]:
        """Tokens [start, start + length), as int64."""
        return self.read_many(np.array([start]), np.array([length]))

    def read_many(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens [starts[i], starts[i] + lengths[i]) of all i, one run after another, as int64.

        Raises:
            DataError: runs are not in the store, the file became shorter, or a token is beyond the vocabulary.
        """
        if len(starts) and not (min(starts.min(), lengths.min()) >= 0 and (starts + lengths).max() <= self.num_tokens):
            raise DataError(
                f"{self.prefix}.idx is damaged: it speaks of runs outside of the {self.num_tokens:,} tokens of "
                f"{self.prefix}.bin; prepare or copy it again"
            )
        size = self.dtype.itemsize
        tokens = np.frombuffer(self._tokens.read(starts * size, lengths * size), self.dtype).astype(np.int64)
        if self.vocab_size is not None and len(tokens) and not 0 <= tokens.min() <= tokens.max() < self.vocab_size:
            self._refuse(tokens, starts, lengths)
        return tokens

    def _refuse(self, tokens: NDArray[np.int64], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NoReturn:
        first = int(np.flatnonzero((tokens < 0) | (tokens >= (self.vocab_size or 0)))[0])
        ends = np.cumsum(lengths)
        run = int(np.searchsorted(ends, first, side="right"))
        position = int(starts[run] + first - (ends[run] - lengths[run]))
        raise DataError(
            f"{self.prefix}.bin holds {tokens[first]:,} as its token number {position:,}, where the vocabulary has "
            f"{self.vocab_size:,} tokens, from 0: the file is damaged, or was made with another tokenizer than the run's; "
            "prepare or copy it again, or set model.vocab_size for the pair's"
        )

    def document_start(self, document: int) -> int:
        """Position of the first token of a document; `num_documents` gives the end of the store."""
        return int(self.positions_of_documents(np.array([document]))[0])

    def positions_of_documents(self, documents: NDArray[np.int64]) -> NDArray[np.int64]:
        """`document_start` of each of an array of documents."""
        return self.positions_of_sequences(self._index.firsts.take(documents))

    def positions_of_sequences(self, sequences: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of the first tokens of sequences [B]; `num_sequences` gives the end of the store."""
        return self._index.positions.take(sequences)

    def sequences_at(self, positions: NDArray[np.int64], near: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Numbers of the sequences that the tokens at `positions` [B] belong to; `near` are numbers close to them, where
        such are known."""
        return self._index.positions.search(positions + 1, near) - 1

    def documents_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the documents that the tokens at `positions` [B] belong to."""
        return self.documents_of_sequences(self.sequences_at(positions))

    def documents_of_sequences(self, sequences: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the documents that `sequences` [B] belong to."""
        return self._index.firsts.search(sequences + 1) - 1

    def document_starts(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
        """Where documents begin in each of the ranges [starts[i], stops[i]) of tokens.

        Returns:
            The number i of a range and a position, each [M], in ascending order. Documents without tokens repeat one.
        """
        positions, firsts = self._index.positions, self._index.firsts
        first = positions.search(starts)
        begins = firsts.search(first)
        ends = firsts.search(positions.search(stops, near=first), near=begins)
        counts = np.minimum(ends, self.num_documents) - begins
        return np.repeat(np.arange(len(begins)), counts), self.positions_of_documents(counting(begins, counts))

    def sequence_starts(self, start: int, stop: int) -> NDArray[np.int64]:
        """Positions in [start, stop) where sequences begin, ascending. Sequences without tokens repeat a position."""
        first, last = self._index.positions.search(np.array([start, stop])).tolist()
        return self.positions_of_sequences(np.arange(first, last))

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
