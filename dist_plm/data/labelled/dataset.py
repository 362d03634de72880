"""Examples by the number of their sample: every example once an epoch, in an order of its own (core/permutation.py)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.errors import count_of
from dist_plm.core.randomness.permutation import mix, windows_of
from dist_plm.data.labelled.table import Ragged, Table, fingerprint, num_examples, rows_of

#: Columns of a decoder beside an encoder.
WRITTEN = ("decoder_tokens", "labels")


@dataclass(frozen=True, slots=True)
class Examples:
    """Some rows of a table, as samples of these numbers."""

    table: Table
    rows: NDArray[np.int64]
    samples: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LabelledDataset:
    """A table of examples. Sample n is example n of the table or, shuffled by `seed`, of the order of its epoch.

    Args:
        name: what people call it.
        told: more of it that people want to know.
    """

    table: Table
    seed: int | None
    name: str
    told: str = ""

    @property
    def num_windows(self) -> int:
        return num_examples(self.table)

    def read(self, samples: NDArray[np.int64]) -> Examples:
        count = self.num_windows
        rows = samples % count if self.seed is None else windows_of(samples, count, self.seed)
        return Examples(self.table, rows, samples)

    def num_tokens(self, first: int, stop: int) -> int:
        """Counts the tokens of samples `first` to `stop`, without padding."""
        return int(self._lengths(np.arange(first, stop)).sum())

    def longest_first(self, count: int) -> NDArray[np.int64]:
        """Sorts the first `count` samples by the tokens of their longest row."""
        longest = self._lengths(np.arange(count)).max(axis=1)
        return np.argsort(-longest, kind="stable")

    def _lengths(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Counts the tokens of the rows of samples [B], of which each has as many: [B, rows]."""
        tokens = self.table["tokens"]
        assert isinstance(tokens, Ragged)
        each = len(tokens) // self.num_windows
        return tokens.lengths_of(rows_of(self.read(samples).rows, tokens, self.num_windows)).reshape(-1, each)

    def identity(self) -> str:
        return f"{fingerprint(self.table)[:32]}-{mix(self.seed or 0):x}"

    def describe(self) -> str:
        tokens = self.table["tokens"]
        assert isinstance(tokens, Ragged)
        mean, each = len(tokens.values) / max(len(tokens), 1), len(tokens) // max(self.num_windows, 1)
        rows = f"{each} rows of {mean:.1f} tokens each" if each > 1 else f"{mean:.1f} tokens each"
        return f"{count_of(self.num_windows, 'example', ',')} of {self.name}, {rows}{self.told}"


@dataclass(frozen=True, slots=True)
class Collation:
    """Makes the arrays of a microbatch of examples, rows padded to `length`.

    Args:
        fills: what rows of each padded column are filled up with; 0 where it is not named.
        written: what a decoder beside an encoder writes is padded to this; None without one.
        left_out: columns that are no part of a microbatch.
        soft: by column of labels, a matrix [L, L] of how much each class is learned where a label stands.
    """

    length: int
    fills: Mapping[str, int]
    written: int | None = None
    left_out: Sequence[str] = ()
    soft: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def __call__(self, examples: Examples) -> dict[str, NDArray]:
        table, count = examples.table, num_examples(examples.table)
        batch: dict[str, NDArray] = {}
        for name, column in table.items():
            if name in self.left_out:
                continue
            rows = rows_of(examples.rows, column, count)
            if isinstance(column, Ragged):
                length = self.written if self.written is not None and name in WRITTEN else self.length
                batch[name] = column.padded(rows, length, self.fills.get(name, 0))
            else:
                batch[name] = column[rows]
        for name, matrix in self.soft.items():
            batch[f"{name}_soft"] = matrix[batch[name]]  # of what is not counted something, which is not counted
        tokens = table["tokens"]
        assert isinstance(tokens, Ragged)
        rows, samples = (rows_of(numbers, tokens, count) for numbers in (examples.rows, examples.samples))
        lengths = tokens.lengths_of(rows)
        if "seen_from" in batch:  # nothing sees padding before its own place
            is_padding = np.arange(self.length) >= lengths[:, None]
            batch["seen_from"] = np.where(is_padding, np.arange(self.length), batch["seen_from"])
        return {**batch, "lengths": lengths, "samples": samples}


@dataclass(frozen=True, slots=True)
class Trim:
    """Cuts padding off that all rows of a microbatch have, down to a multiple of `multiple` tokens.

    Args:
        names: of the arrays that are as long as the rows.
        length: of rows before.
        written: length of what a decoder beside an encoder writes, likewise; None without one.
    """

    names: tuple[str, ...]
    length: int
    multiple: int
    written: int | None = None

    def __call__(self, batch: dict[str, NDArray]) -> dict[str, NDArray]:
        lengths = dict.fromkeys(self.names, self._rounded(int(batch["lengths"].max()), self.length))
        if self.written is not None:
            labelled = np.flatnonzero((batch["labels"] >= 0).any(axis=0))
            longest = self._rounded(int(labelled[-1]) + 1 if len(labelled) else 1, self.written)
            lengths |= dict.fromkeys(WRITTEN, longest)
        return {name: array[:, : lengths[name]] if name in lengths else array for name, array in batch.items()}

    def _rounded(self, longest: int, most: int) -> int:
        return min(-(-longest // self.multiple) * self.multiple, most)
