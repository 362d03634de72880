"""Puts one rank of a world that is not there into this process: fake process groups, and tensors without values.

Tensors of the model have sizes and no memory (PyTorch's FakeTensorMode). What a step reads of the host, the batch among
it, is real, and stays so through operations that touch nothing else: positions of labels, keys of dropout.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import FakeWork
from torch._subclasses.fake_tensor import (
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._pytree import tree_leaves

from dist_plm.distributed.world import leave
from dist_plm.optim.segment_map import SegmentMap
from dist_plm.plan.rehearsal.footprint import Footprint
from dist_plm.plan.rehearsal.moment import Moment
from dist_plm.plan.rehearsal.recorder import CallRecorder
from dist_plm.spec.optimizers.base import is_hidden_matrix

_aten = torch.ops.aten


@contextmanager
def fake_world(rank: int, world_size: int) -> Iterator[None]:
    """Makes this process rank `rank` of a world whose other ranks are not there."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    try:
        yield
    finally:
        leave()


@contextmanager
def without_values(moment: Moment, footprint: Footprint) -> Iterator["FakeRecorder"]:
    """Has tensors that are made within the block have no values, and records what is done to them."""
    moved, touched = nn.Module._apply, SegmentMap.touched
    nn.Module._apply, SegmentMap.touched = _moved_nowhere, _touched_by_all(touched)
    try:
        with (
            warnings.catch_warnings(),
            FakeTensorMode(allow_non_fake_inputs=True),
            FakeRecorder(moment, footprint) as one,
        ):
            warnings.simplefilter("ignore")  # of PyTorch's own deprecations, and of addresses that are looked at
            yield one
    finally:
        nn.Module._apply, SegmentMap.touched = moved, touched


def _moved_nowhere(self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """Stands for `Module.to` and its kind where everything has its type and place already: PyTorch would put new parameters
    in place of those without values, to which others refer."""
    for tensor in (*self.parameters(), *self.buffers()):
        changed = fn(tensor)
        assert (changed.dtype, changed.device) == (tensor.dtype, tensor.device), (
            "a module is changed after it was built"
        )
    return self


def _touched_by_all(ask: Callable[[SegmentMap, Iterable[int]], list[int]]) -> Callable[..., list[int]]:
    """Has a segment map ask ranks that are not there which matrices they update: together they update each, at once."""
    asked: set[int] = set()

    def touched(self: SegmentMap, slots: Iterable[int]) -> list[int]:
        try:
            return ask(self, slots)
        except DynamicOutputShapeException:
            # Parts of ZeRO-3 that are updated one after the other hold matrices that no rank knows of the others.
            if id(self) in asked:
                raise
            asked.add(id(self))
            trained = [(number, slot) for number, slot in enumerate(self.slots) if slot.trained]
            return [number for number, slot in trained if is_hidden_matrix(slot.name, slot.shape)]

    return touched


class FakeRecorder(CallRecorder):
    """Records as on real groups, and answers for the ranks that are not there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.moment.look()
        if func.namespace == "c10d":
            self.note(func, args)
            return answer_of(func, args)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if tensors and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            with unset_fake_temporarily():
                outputs = func(*args, **(kwargs or {}))
            self.footprint.note(func, outputs)
            return outputs
        if func is _aten._local_scalar_dense.default and args[0].constant is None:
            return 0.0 if args[0].dtype.is_floating_point else 0
        outputs = func(*args, **(kwargs or {}))
        self.footprint.note(func, outputs)
        return outputs


def answer_of(func: Any, args: Sequence[Any]) -> Any:
    """Says that a collective is done, with what it fills, as PyTorch takes it from a process group."""
    returns = len(func._schema.returns)
    work = FakeWork().boxed()
    return None if returns == 0 else work if returns == 1 else (args[0], work)
