"""Examples in memory: columns of numbers, one row for each example."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows of different lengths: `values` of all, one after another, and `ends` [N] where each ends."""

    values: NDArray
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], dtype: type = np.int32) -> "Ragged":
        """Joins rows."""
        lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
        values = np.fromiter((value for row in rows for value in row), dtype, int(lengths.sum()))
        return cls(values, np.cumsum(lengths))

    @classmethod
    def joined(cls, parts: Sequence["Ragged"]) -> "Ragged":
        """The rows of all parts."""
        starts = np.cumsum([0, *(len(part.values) for part in parts)])
        ends = [part.ends + start for part, start in zip(parts, starts[:-1], strict=True)]
        return cls(np.concatenate([part.values for part in parts]), np.concatenate(ends))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> NDArray:
        return self.values[self.ends[row - 1] if row else 0 : self.ends[row]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Counts the values of each row, [N]."""
        return np.diff(self.ends, prepend=0)

    def lengths_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Counts the values of rows [B], of which there may be far fewer than of all."""
        return self.ends[rows] - np.where(rows > 0, self.ends[rows - 1], 0)

    def padded(self, rows: NDArray[np.int64], length: int, fill: int) -> NDArray[np.int64]:
        """Rows [B] filled up to `length`, [B, length]."""
        result = np.full((len(rows), length), fill, dtype=np.int64)
        for i, row in enumerate(rows.tolist()):
            values = self[row]
            result[i, : len(values)] = values
        return result


ColumnValues = Ragged | NDArray
#: By the names that the arrays of a batch have (objectives/base.py).
Table = Mapping[str, ColumnValues]


def num_examples(table: Table) -> int:
    """Counts the examples of a table: there may be columns with several rows for each, as of the choices of a question."""
    return min(map(len, table.values()))


def rows_of(examples: NDArray[np.int64], column: ColumnValues, count: int) -> NDArray[np.int64]:
    """The rows of a column that belong to examples [B] out of `count`, those of one after another."""
    each = len(column) // count
    return (examples[:, None] * each + np.arange(each)).ravel()


def joined(parts: Sequence[Table]) -> dict[str, ColumnValues]:
    """The rows of all parts, which have the same columns."""
    result: dict[str, ColumnValues] = {}
    for name in parts[0]:
        columns = [part[name] for part in parts]
        if isinstance(columns[0], Ragged):
            result[name] = Ragged.joined([column for column in columns if isinstance(column, Ragged)])
        else:
            result[name] = np.concatenate([column for column in columns if isinstance(column, np.ndarray)])
    return result


def fingerprint(table: Table) -> str:
    """A hash of all that a table holds."""
    digest = hashlib.sha256()
    for name, column in table.items():
        arrays = (column.values, column.ends) if isinstance(column, Ragged) else (column,)
        digest.update(name.encode())
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
