"""Collectives as exchanges of a `SharedSegment`, in pieces that fit its slots.

Tensors are flat and contiguous. Sums are in the order of ranks, so that every rank has the same bits.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dist_plm.distributed.shared_memory.calls import SharedCall, number_of, refuse_other
from dist_plm.distributed.shared_memory.segment import SLOT_BYTES, SharedSegment

#: From here on each rank reduces its own part of a piece, rather than the whole of it.
_SHARED_OUT_BYTES = 1 << 14
_HALF = (torch.bfloat16, torch.float16)


def all_reduce(segment: SharedSegment, call: SharedCall, values: Tensor) -> None:
    """Reduces `values` [n] in place."""
    for piece in _pieces(values):
        count = piece.numel()
        slots = _gathered(segment, call, piece)
        if segment.size == 2 or count * piece.itemsize <= _SHARED_OUT_BYTES:
            _reduce([slot[:count] for slot in slots], call.reduction, piece)
            continue
        parts = [slice(count * r // segment.size, count * (r + 1) // segment.size) for r in range(segment.size)]
        own = parts[segment.rank]
        # Nobody else reads this part of this rank's slot before it is shown again.
        _reduce([slot[own] for slot in slots], call.reduction, slots[segment.rank][own])
        segment.show_again()
        segment.await_all_again()
        for part, slot in zip(parts, slots, strict=True):
            piece[part].copy_(slot[part])


def all_gather(segment: SharedSegment, call: SharedCall, outputs: Sequence[Tensor], values: Tensor) -> None:
    """Copies `values` [n] of rank r to `outputs[r]` [n]."""
    begin = 0
    for piece in _pieces(values):
        end = begin + piece.numel()
        for output, slot in zip(outputs, _gathered(segment, call, piece), strict=True):
            output[begin:end].copy_(slot[: end - begin])
        begin = end


def reduce_scatter(segment: SharedSegment, call: SharedCall, output: Tensor, inputs: Sequence[Tensor]) -> None:
    """Reduces each rank's `inputs[r]` [n] into `output` [n] of rank r."""
    for begin, end, mine in _dealt(segment, call, inputs):
        _reduce(mine, call.reduction, output[begin:end])


def all_to_all(segment: SharedSegment, call: SharedCall, outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
    """Copies `inputs[r]` [n] of rank s to `outputs[s]` [n] of rank r."""
    for begin, end, mine in _dealt(segment, call, inputs):
        for output, part in zip(outputs, mine, strict=True):
            output[begin:end].copy_(part)


def broadcast(segment: SharedSegment, call: SharedCall, values: Tensor) -> None:
    """Copies `values` [n] of `call.root` to all."""
    for piece in _pieces(values):
        segment.begin()
        slot = segment.slots(values.dtype)[call.root][: piece.numel()]
        if segment.rank == call.root:
            slot.copy_(piece)
            segment.show(number_of(call))
            continue
        segment.show(number_of(call))
        segment.await_one(call.root)
        refuse_other(call, segment, [call.root])
        piece.copy_(slot)


def barrier(segment: SharedSegment, call: SharedCall) -> None:
    """Waits for all."""
    segment.begin()
    _meet(segment, call)


def _pieces(values: Tensor) -> Sequence[Tensor]:
    most = SLOT_BYTES // values.itemsize
    return (values,) if values.numel() <= most else values.split(most)


def _meet(segment: SharedSegment, call: SharedCall) -> None:
    """Shows this rank's slot, and waits until all others have shown theirs for the same."""
    segment.show(number_of(call))
    segment.await_all()
    refuse_other(call, segment, range(segment.size))


def _gathered(segment: SharedSegment, call: SharedCall, piece: Tensor) -> list[Tensor]:
    """The slots once each holds its rank's `piece`."""
    segment.begin()
    slots = segment.slots(piece.dtype)
    slots[segment.rank][: piece.numel()].copy_(piece)
    _meet(segment, call)
    return slots


def _dealt(
    segment: SharedSegment, call: SharedCall, inputs: Sequence[Tensor]
) -> Iterator[tuple[int, int, list[Tensor]]]:
    """From where to where, and what each rank has there for this one."""
    total, dtype = inputs[0].numel(), inputs[0].dtype
    most = SLOT_BYTES // dtype.itemsize // segment.size
    for begin in range(0, total, most):
        end = min(begin + most, total)
        count = end - begin
        segment.begin()
        slots = segment.slots(dtype)
        for place, values in enumerate(inputs):
            slots[segment.rank][place * count : (place + 1) * count].copy_(values[begin:end])
        _meet(segment, call)
        yield begin, end, [slot[segment.rank * count : (segment.rank + 1) * count] for slot in slots]


def _reduce(parts: list[Tensor], reduction: str, output: Tensor) -> None:
    """`output` may be one of the parts."""
    if reduction == "sum":
        total = parts[0].float() if parts[0].dtype in _HALF and len(parts) > 2 else parts[0]
        for part in parts[1:-1]:
            total = total + part
        torch.add(total, parts[-1], out=output) if total.dtype == output.dtype else output.copy_(total + parts[-1])
        return
    join = torch.maximum if reduction == "max" else torch.minimum
    total = parts[0]
    for part in parts[1:-1]:
        total = join(total, part)
    join(total, parts[-1], out=output)
