"""Guards against losses and gradients that are not finite: the update is skipped, and too many in a row end the run."""

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from dist_plm.core.errors import Diverged, count_of
from dist_plm.distributed.groups import Groups
from dist_plm.models.kernels.row_sums import buffer_of
from dist_plm.models.sharding import ShardSpec


def poisoned_if_not_finite(loss: Tensor) -> Tensor:
    """The loss, with a gradient that is NaN where the loss is not finite itself, so that the update is skipped even where
    the network would pass finite gradients on (the derivative of an infinite cross-entropy is finite)."""
    return loss * torch.where(loss.detach().isfinite(), 1.0, math.nan)


class SkipWatch:
    """Counts skipped updates in a row, and while there are any watches for the first gradient that is not finite.

    Gradients are looked at as the backward pass makes them, before they are summed over ranks, where everybody's would
    be lost. That costs a pass over them, so a run without skipped updates does without.

    Args:
        limit: so many skipped updates in a row end the run.
    """

    def __init__(self, shard_specs: Sequence[ShardSpec], groups: Groups, limit: int) -> None:
        self._shard_specs, self._groups, self._limit = shard_specs, groups, limit
        self._in_a_row = 0
        self._seen: str | None = None
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        if limit == 1:
            self._watch()

    def note(self, *, skipped: bool, loss: float) -> None:
        """Takes note of a step, of which all ranks know alike whether it was skipped. Collective where the run ends.

        Raises:
            Diverged: the limit is reached.
        """
        if not skipped:
            if self._in_a_row and self._limit > 1:
                self._unwatch()
            self._in_a_row = 0
            return
        self._in_a_row += 1
        if self._in_a_row >= self._limit:
            raise Diverged(self._report(loss))
        if not self._hooks:
            self._watch()

    def _watch(self) -> None:
        for shard_spec in (shard_spec for shard_spec in self._shard_specs if shard_spec.parameter.requires_grad):
            names = ", ".join(shard.name for shard in shard_spec.shards)
            look = partial(self._look, names, shard_spec.parameter)
            self._hooks.append(shard_spec.parameter.register_hook(look))

    def _unwatch(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._seen = None

    def _look(self, names: str, parameter: Tensor, gradient: Tensor | None) -> None:
        if gradient is None:  # added up where it is kept, so that autograd has none
            gradient = buffer_of(parameter)
        if self._seen is None and gradient is not None and not bool(gradient.isfinite().all()):
            self._seen = names

    def _report(self, loss: float) -> str:
        seen: list[str | None] = [None] * self._groups.world.size()
        dist.all_gather_object(seen, self._seen, group=self._groups.world)
        found = [f"rank {rank}: {names}" for rank, names in enumerate(seen) if names is not None]
        where = "; ".join(found) or "no gradient by itself, but their norm over all ranks"
        return (
            f"{count_of(self._in_a_row, 'update')} in a row {'was' if self._in_a_row == 1 else 'were'} skipped "
            f"(train.max_skipped), the loss is {loss:g}. The first gradient "
            f"of a backward pass that was not finite, by rank: {where}"
        )
