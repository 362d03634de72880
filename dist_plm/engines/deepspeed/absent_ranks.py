"""Rehearsals of ZeRO-3, where the ranks that DeepSpeed compares numbers with are not there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from dist_plm.engines.deepspeed.bindings import zero_utils


@contextmanager
def absent_ranks() -> Iterator[None]:
    """Has DeepSpeed ask rank 0 for its numbers as ever, and take them for its own: what comes has no value."""
    changed: Any = zero_utils
    lengths, numbers = changed.assert_lst_len_same_as_other_ranks, changed.get_lst_from_rank0
    changed.assert_lst_len_same_as_other_ranks = _asked(lengths)
    changed.get_lst_from_rank0 = _asked(numbers)
    try:
        yield
    finally:
        changed.assert_lst_len_same_as_other_ranks, changed.get_lst_from_rank0 = lengths, numbers


def _asked(ask: Callable[[list[int]], Any]) -> Callable[[list[int]], list[int]]:
    def own(numbers: list[int]) -> list[int]:
        with suppress(RuntimeError):  # of the comparison
            ask(numbers)
        return numbers

    return own
