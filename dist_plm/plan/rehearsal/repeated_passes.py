"""Goes through the microbatches in the middle of a long step without computing them again.

Of a chunk of the model the first passes are made, those after as many microbatches are in flight as ever will be, whose memory
is that of all that follow, and the last, with which gradients are summed. Those between whose batches have the same shapes are
alike: what the last of the first passes said and kept is said and kept again, when the schedule asks for it. Where too many
are unlike, as masked models predict another number of tokens in each, all are taken to be as large as the largest.
"""

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from dist_plm.data.loader.batch import Batch
from dist_plm.models.chunk import ModelChunk
from dist_plm.plan.rehearsal.ledger import Ledger
from dist_plm.plan.rehearsal.recorder import CallRecorder
from dist_plm.spec.schema import ParallelConfig

#: Passes that are made before any is repeated, of which the first fills caches, and beyond those in flight.
FIRST, _SPARE = 3, 2
#: Sizes of microbatches that are all gone through.
_MOST_SIZES = 16


def repeat_passes(
    chunks: Sequence[ModelChunk], recorder: CallRecorder, parallel: ParallelConfig, stage: int, passes: int
) -> None:
    """Has the chunks of a rank make the passes of a step that differ, and repeat them for those between.

    Args:
        passes: of each chunk in a step, the last of which is made.
    """
    flying = parallel.pipeline - stage if parallel.virtual_pipeline == 1 else 2 * parallel.pipeline
    made = {passes, *range(1, FIRST + 1), *range(flying + 1, flying + _SPARE + 1)}
    for chunk in chunks:
        chunk.forward = RepeatedPass(chunk, recorder, made)  # pyright: ignore[reportAttributeAccessIssue]


def alike(batches: Sequence[Batch]) -> list[Batch]:
    """Gives the microbatches of a step, where they have too many sizes the largest in place of each: the same on every rank
    that reads them."""
    sizes = [_size(batch) for batch in batches]
    if len(set(sizes)) <= _MOST_SIZES:
        return list(batches)
    return [batches[sizes.index(max(sizes))]] * len(batches)


def _size(batch: Batch) -> tuple[int, int]:
    """Counts bytes, and tokens that are predicted."""
    predicted = int((batch["labels"] >= 0).sum()) if "labels" in batch else 0
    return sum(values.nbytes for values in batch.values()), predicted


class PassOutput(NamedTuple):
    """Says what a tensor is like, and whether it has a gradient."""

    shape: torch.Size
    dtype: torch.dtype
    learns: bool

    @classmethod
    def of(cls, tensor: Tensor) -> "PassOutput":
        """Looks at a tensor."""
        return cls(tensor.shape, tensor.dtype, tensor.requires_grad)


class RepeatedPass:
    """Stands for a chunk's forward pass.

    Args:
        made: passes of a step that are made, from 1.
    """

    def __init__(self, chunk: ModelChunk, recorder: CallRecorder, made: Set[int]) -> None:
        self._chunk, self._forward, self._recorder = chunk, chunk.forward, recorder
        self._made, self._count, self._repeats = made, 0, True
        self._said: Ledger = []
        self._launches = self._backward = 0
        self._kept: Counter[str] = Counter()
        self._shapes: dict[str, torch.Size] = {}
        self._form: TreeSpec | None = None
        self._anchor: Tensor | None = None
        self.outputs: list[PassOutput | None] = []

    def __call__(self, batch: Batch) -> Any:
        self._count += 1
        shapes = {name: values.shape for name, values in batch.items()}
        if self._repeats and self._count not in self._made and shapes == self._shapes:
            return self._repeat()
        if self._count > FIRST:  # what is repeated stays what it is
            return self._forward(batch)
        self._shapes = shapes
        return self._make(batch)

    def _make(self, batch: Batch) -> Any:
        """Makes a pass, and writes down what it does."""
        recorder, footprint = self._recorder, self._recorder.footprint
        said, launched, live = len(recorder.ledger), footprint.launches["forward"], Counter(footprint.live)
        result = self._forward(batch)
        outputs, self._form = tree_flatten(result)
        self._said, self._launches = recorder.ledger[said:], footprint.launches["forward"] - launched
        self._kept = Counter(footprint.live)
        self._kept.subtract(live)
        for output in tensors_of(outputs):
            self._kept[footprint.label_of(output)] -= output.untyped_storage().nbytes()
        self.outputs = [PassOutput.of(one) if isinstance(one, Tensor) else None for one in outputs]
        learned = [one for one in tensors_of(outputs) if one.requires_grad]
        if learned:
            learned[0].register_hook(self._begin_backward)
        else:
            self._repeats = False  # there is no backward pass to repeat
        return result

    def _begin_backward(self, _: Tensor) -> None:
        self._recorder.moment.look()
        self._backward = self._recorder.moment.backwards

    def _repeat(self) -> Any:
        recorder, footprint = self._recorder, self._recorder.footprint
        when = str(recorder.moment)
        recorder.ledger += [replace(call, when=when) for call in self._said]
        footprint.launches["forward"] += self._launches
        footprint.hold(self._kept)
        if self._anchor is None:
            self._anchor = torch.empty((), requires_grad=True)
        outputs = _Repeat.apply(self, self._anchor, self._chunk._from_previous_stage)
        assert self._form is not None
        return tree_unflatten(list(outputs), self._form)

    def repeat_backward(self) -> None:
        """Says and counts again what the backward pass did of the pass that is repeated, and lets go what that kept."""
        recorder, footprint = self._recorder, self._recorder.footprint
        recorder.moment.look()
        now = str(recorder.moment)
        then = recorder.moment.at_backward(self._backward)
        recorder.ledger += [replace(call, when=now) for call in recorder.ledger if call.when == then]
        footprint.repeat_backward(self._backward)
        footprint.release(self._kept)


class _Repeat(torch.autograd.Function):
    """The graph of a pass: from what came from the stage before to what goes to the next."""

    @staticmethod
    def forward(ctx: Any, one: RepeatedPass, anchor: Tensor, received: Tensor | None) -> tuple[Any, ...]:
        ctx.one = one
        ctx.received = None if received is None else (received.shape, received.dtype)
        outputs = [form and torch.empty(form.shape, dtype=form.dtype) for form in one.outputs]
        fixed = [new for new, form in zip(outputs, one.outputs, strict=True) if form and not form.learns]
        ctx.mark_non_differentiable(*fixed)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[None, None, Tensor | None]:
        ctx.one.repeat_backward()
        if ctx.received is None:
            return None, None, None
        shape, dtype = ctx.received
        return None, None, torch.empty(shape, dtype=dtype)


def tensors_of(values: Sequence[Any]) -> list[Tensor]:
    """Picks the tensors."""
    return [one for one in values if isinstance(one, Tensor)]
