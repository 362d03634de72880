"""Rehearsals of ZeRO-3, where the ranks that DeepSpeed compares numbers with are not there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch.nn import functional

from dist_plm.engines.deepspeed.bindings import zero_utils


@contextmanager
def absent_ranks() -> Iterator[None]:
    """Has DeepSpeed ask rank 0 for its numbers as ever, and take them for its own: what comes has no value.

    Afterwards PyTorch is as before: for ZeRO-3 DeepSpeed puts another `linear` into it for as long as the process lives, which
    keeps outputs of frozen layers in all that is rehearsed later.
    """
    changed: Any = zero_utils
    linear = functional.linear
    lengths, numbers = changed.assert_lst_len_same_as_other_ranks, changed.get_lst_from_rank0
    changed.assert_lst_len_same_as_other_ranks = _asked(lengths)
    changed.get_lst_from_rank0 = _asked(numbers)
    try:
        yield
    finally:
        changed.assert_lst_len_same_as_other_ranks, changed.get_lst_from_rank0 = lengths, numbers
        functional.linear = linear


def _asked(ask: Callable[[list[int]], Any]) -> Callable[[list[int]], list[int]]:
    def own(numbers: list[int]) -> list[int]:
        with suppress(RuntimeError):  # of the comparison
            ask(numbers)
        return numbers

    return own
