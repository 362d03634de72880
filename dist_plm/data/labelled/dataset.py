"""Examples by the number of their sample: every example once an epoch, in an order of its own (core/permutation.py)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.permutation import mix, windows_of
from dist_plm.data.labelled.table import Ragged, Table, fingerprint


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
        return len(next(iter(self.table.values())))

    def read(self, samples: NDArray[np.int64]) -> Examples:
        count = self.num_windows
        rows = samples % count if self.seed is None else windows_of(samples, count, self.seed)
        return Examples(self.table, rows, samples)

    def identity(self) -> str:
        return f"{fingerprint(self.table)[:32]}-{mix(self.seed or 0):x}"

    def describe(self) -> str:
        tokens = self.table["tokens"]
        assert isinstance(tokens, Ragged)
        mean = len(tokens.values) / max(self.num_windows, 1)
        return f"{self.num_windows:,} examples of {self.name}, {mean:.1f} tokens each{self.told}"


@dataclass(frozen=True, slots=True)
class Collation:
    """Makes the arrays of a microbatch of examples, rows padded to `length`.

    Args:
        fills: what rows of each padded column are filled up with; 0 where it is not named.
    """

    length: int
    fills: Mapping[str, int]

    def __call__(self, examples: Examples) -> dict[str, NDArray]:
        rows, table = examples.rows, examples.table
        batch: dict[str, NDArray] = {}
        for name, column in table.items():
            if isinstance(column, Ragged):
                batch[name] = column.padded(rows, self.length, self.fills.get(name, 0))
            else:
                batch[name] = column[rows]
        tokens = table["tokens"]
        assert isinstance(tokens, Ragged)
        return {**batch, "lengths": tokens.lengths[rows], "samples": examples.samples}


@dataclass(frozen=True, slots=True)
class Trim:
    """Cuts padding off that all rows of a microbatch have, down to a multiple of `multiple` tokens.

    Args:
        names: of the arrays that are as long as the rows.
        length: of rows before.
    """

    names: tuple[str, ...]
    length: int
    multiple: int

    def __call__(self, batch: dict[str, NDArray]) -> dict[str, NDArray]:
        longest = int(batch["lengths"].max())
        length = min(-(-longest // self.multiple) * self.multiple, self.length)
        return {name: array[:, :length] if name in self.names else array for name, array in batch.items()}
