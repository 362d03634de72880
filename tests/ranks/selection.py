"""A covering part of a matrix for `make test`; the rest of it for `make test-slow`."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def covering(cells: Iterable[Any], quick: Iterable[Any], ids: Callable[[Any], str] | None = None) -> list[Any]:
    """The cells as parameters of a test, all but the quick ones marked `slow`.

    Args:
        cells: a value each, or a tuple of them.
        ids: the name of a cell; pytest's own where None.
    """
    cells, quick = list(cells), list(quick)
    assert all(cell in cells for cell in quick), "a quick cell is none of the matrix"
    return [
        pytest.param(
            *(cell if isinstance(cell, tuple) else (cell,)),
            id=ids(cell) if ids is not None else None,
            marks=() if cell in quick else pytest.mark.slow,
        )
        for cell in cells
    ]
