"""Numbers that are not finite have no place in a checkpoint: no run goes on from them."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from dist_plm.checkpoint.fragments import Fragment, names_held
from dist_plm.core.errors import CheckpointError
from dist_plm.distributed.collectives import gather
from dist_plm.models.sharding import ShardSpec

_MOST = 5


def is_finite(values: Tensor) -> bool:
    """Tells whether all numbers are; in one pass that makes no other tensor."""
    if values.numel() == 0:
        return True
    least, most = torch.aminmax(values)
    return math.isfinite(float(least)) and math.isfinite(float(most))


def are_finite(tensors: Iterable[Tensor]) -> bool:
    """Tells whether all numbers of all tensors are, having waited for a device once. None is empty."""
    bounds = [bound for values in tensors for bound in torch.aminmax(values)]
    return not bounds or bool(torch.isfinite(torch.stack(bounds)).all())


def not_finite(fragments: Sequence[Fragment]) -> list[str]:
    """Names of the tensors that hold others."""
    return sorted({fragment.name for fragment in fragments if not is_finite(fragment.values)})


def told(names: Sequence[str]) -> str:
    """Names of tensors for a message."""
    distinct = sorted(set(names))
    return ", ".join(distinct[:_MOST]) + (f" and {len(distinct) - _MOST} more" if len(distinct) > _MOST else "")


@contextmanager
def finite_alone(
    read: Callable[[ShardSpec, str], Tensor], where: str, group: dist.ProcessGroup, remedy: str
) -> Iterator[Callable[[ShardSpec, str], Tensor]]:
    """Gives a `read` whose values are looked at, and refuses them when the block has ended. Collective over `group`, all
    ranks: what one of them finds in the middle of its loading, the others learn at the end.

    Raises:
        CheckpointError: on every rank, where any read numbers that are not finite.
    """
    broken: list[str] = []

    def looked(shard_spec: ShardSpec, state: str) -> Tensor:
        values = read(shard_spec, state)
        if not is_finite(values):
            broken.extend(names_held([shard_spec], [state]))
        return values

    yield looked
    if names := [name for some in gather(group, broken) for name in some]:
        raise CheckpointError(f"{where} holds numbers that are not finite, in {told(names)}", remedy)
