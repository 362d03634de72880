"""Finds the logical tensors that the flat tensors of an optimizer are made of.

Engines hand an optimizer shards that cut through parameters, fuse them and pad them. An optimizer that treats each layer
as a whole (LAMB) needs sums over logical tensors, which may lie in several places of several ranks. Engines fill this
description from the shard specs of the model; optimizers know nothing else of the process grid.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from dist_plm.optim.square_sums import sum_squares


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of elements of a flat tensor that belong to one logical tensor.

    Args:
        slot: number of the logical tensor in `SegmentMap.slots`.
        first: where in the slot's box, flattened, the run begins.
    """

    start: int
    length: int
    slot: int
    first: int = 0


@dataclass(frozen=True, slots=True)
class Slot:
    """A logical tensor of which this rank may hold a part.

    Args:
        counted: False where another rank of the reductions counts the same elements.
        shape: of the logical tensor; with the next two, for optimizers that look at its rows and columns.
        box_start: where the box of it that this rank's parameters hold begins.
        box_size: of the box.
        trained: False of tensors that have no gradient.
    """

    name: str
    counted: bool = True
    shape: tuple[int, ...] = ()
    box_start: tuple[int, ...] = ()
    box_size: tuple[int, ...] = ()
    trained: bool = True


@dataclass(frozen=True, slots=True)
class Block:
    """A rectangle of a logical matrix that lies in one run of a flat tensor, row after row.

    Args:
        start: of the run, in the flat tensor.
        row: of the logical matrix, where the rectangle begins; so `column`.
    """

    slot: int
    start: int
    row: int
    column: int
    rows: int
    columns: int

    def of(self, flat: Tensor) -> Tensor:
        """The view of the flat tensor, or of one like it, [rows, columns]."""
        return flat[self.start : self.start + self.rows * self.columns].view(self.rows, self.columns)

    def within(self, whole: Tensor) -> Tensor:
        """The view of the logical matrix, [rows, columns]."""
        return whole[self.row : self.row + self.rows, self.column : self.column + self.columns]


@dataclass(frozen=True, slots=True)
class Reduction:
    """Sums that are added over the ranks of `group`: those of the given slots, or of all where None. Each rank of the
    group must list as many slots, in the same order."""

    group: dist.ProcessGroup
    slots: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class SumColumns:
    """Holds what `SegmentMap.add_over_ranks` needs to know of the columns of its sums, on their device.

    Args:
        counted: [M], 0 where another rank counts the same.
        chosen: for each reduction the columns it adds, None where all.
    """

    counted: Tensor
    chosen: tuple[Tensor | None, ...]


class SegmentMap:
    """How the tensors that an optimizer updates on this rank are made of logical tensors.

    Args:
        segments: of each tensor, in ascending order, without overlap. What no segment covers (padding) is never updated.
        reductions: one collective each, in the same order on all ranks.
        device: of the sums.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        segments: Mapping[Tensor, Sequence[Segment]],
        reductions: Sequence[Reduction] = (),
        device: torch.device | None = None,
    ) -> None:
        self.slots = tuple(slots)
        self.device = device or torch.device("cpu")
        self._reductions = tuple(reductions)
        self._segments = {tensor: tuple(found) for tensor, found in segments.items()}
        self._pieces = {tensor: _pieces(tensor.numel(), found) for tensor, found in segments.items()}
        self._columns = self.columns(range(len(self.slots)))
        self._indices: dict[tuple[int, ...], Tensor] = {}

    def views(self, owners: Sequence[Tensor], values: Sequence[Tensor]) -> list[Tensor]:
        """The segments, as views, of `values`, each of which has as many elements as its owner."""
        found = []
        for owner, value in zip(owners, values, strict=True):
            lengths, kept, _ = self._pieces_of(owner)
            pieces = value.view(-1).split_with_sizes(lengths)
            found.extend(pieces[index] for index in kept)
        return found

    def slots_of(self, owners: Iterable[Tensor]) -> list[int]:
        """The slot of each view that `views` gives for the same owners."""
        return [slot for owner in owners for slot in self._pieces_of(owner)[2]]

    def _pieces_of(self, owner: Tensor) -> tuple[list[int], list[int], list[int]]:
        """Tells the pieces of a tensor; one that is of no logical tensor is a gap."""
        return self._pieces.get(owner) or ([owner.numel()], [], [])

    def segments_of(self, owner: Tensor) -> tuple[Segment, ...]:
        """Lists what a tensor is made of, in ascending order; nothing where it is padding alone."""
        return self._segments.get(owner, ())

    def sum_squares(self, slots: Sequence[int], *values: Sequence[Tensor]) -> Tensor:
        """Adds up squares, on this rank and over ranks: one collective for each reduction.

        Every rank of a reduction calls it equally often, be it without segments.

        Args:
            slots: of N segments.
            values: K quantities, each the values of these segments.
        Returns:
            [K, N] fp64: for each segment the sum of squares of its whole logical tensor.
        """
        own = sum_squares([segment for segments in values for segment in segments]).view(len(values), -1)
        index = self.index(slots)
        sums = torch.zeros(len(values), len(self.slots), dtype=torch.float64, device=self.device)
        sums.index_add_(1, index, own.to(self.device))
        self.add_over_ranks(sums, self._columns)
        return sums[:, index]

    def columns(self, slots: Sequence[int]) -> SumColumns:
        """Tells of the columns of some sums, the slot of each of which is given; the same ones on all ranks of a reduction."""
        counted = torch.tensor([float(self.slots[slot].counted) for slot in slots], device=self.device)
        chosen = []
        for reduction in self._reductions:
            found = None
            if reduction.slots is not None:
                places = [place for place, slot in enumerate(slots) if slot in reduction.slots]
                found = torch.tensor(places, dtype=torch.long, device=self.device)
            chosen.append(found)
        return SumColumns(counted, tuple(chosen))

    def index(self, slots: Sequence[int]) -> Tensor:
        """Gives the numbers on the device, where they are sent once: that waits for all that the device has to do."""
        key = tuple(slots)
        if key not in self._indices:
            self._indices[key] = torch.tensor(key, dtype=torch.long, device=self.device)
        return self._indices[key]

    def add_over_ranks(self, sums: Tensor, columns: SumColumns) -> None:
        """Replaces the sums of each rank by those over all ranks, what several ranks hold alike counted once: one
        collective for each reduction.

        Args:
            sums: [K, M], equally shaped on every rank of a reduction.
        """
        sums *= columns.counted
        for reduction, chosen in zip(self._reductions, columns.chosen, strict=True):
            if chosen is None:
                dist.all_reduce(sums, group=reduction.group)
            else:
                part = sums[:, chosen]
                dist.all_reduce(part, group=reduction.group)
                sums[:, chosen] = part

    def touched(self, slots: Iterable[int]) -> list[int]:
        """Returns the slots that any rank names, ascending: engines may update group by group. Collective."""
        flags = torch.zeros(len(self.slots), device=self.device)
        flags[list(slots)] = 1.0
        for reduction in self._reductions:
            if reduction.slots is None:
                dist.all_reduce(flags, group=reduction.group)
        return flags.nonzero().view(-1).tolist()

    def whole(self, slot: int, parts: Iterable[tuple[Block, Tensor]]) -> Tensor:
        """Returns a logical matrix [M, N] put together from the rectangles of all ranks. Collective.

        Args:
            parts: of this rank, each with the flat tensor that it lies in.
        """
        matrix = torch.zeros(self.slots[slot].shape, device=self.device)
        if self.slots[slot].counted:
            for block, values in parts:
                block.within(matrix).copy_(block.of(values))
        for reduction in self._reductions:
            if reduction.slots is None:
                dist.all_reduce(matrix, group=reduction.group)
        return matrix


def factors_for(tensors: Sequence[Tensor], values: Tensor) -> list[Tensor]:
    """Gives one number for each tensor, as foreach functions take them: where the tensors are, since to read them, all that a
    device has to do would be waited for."""
    return list(values.to(tensors[0].device, tensors[0].dtype).unbind())


def blocks_of(segment: Segment, slot: Slot) -> Iterator[Block]:
    """Rectangles of a logical matrix that a run of its elements is made of: the rest of a row, whole rows, the beginning of
    a row."""
    (top, left), width = slot.box_start, slot.box_size[1]
    start, first, left_over = segment.start, segment.first, segment.length
    while left_over:
        row, column = divmod(first, width)
        rows = left_over // width if column == 0 else 0
        block = (rows, width) if rows else (1, min(width - column, left_over))
        yield Block(segment.slot, start, top + row, left + column, *block)
        taken = block[0] * block[1]
        start, first, left_over = start + taken, first + taken, left_over - taken


def _pieces(numel: int, segments: Sequence[Segment]) -> tuple[list[int], list[int], list[int]]:
    """Lengths that cut a flat tensor into segments and gaps, which of the pieces are segments, and their slots."""
    lengths: list[int] = []
    kept: list[int] = []
    end = 0
    for segment in segments:
        assert segment.length > 0, f"{segment} is empty"
        assert segment.start >= end, f"{segment} begins before {end}, the end of the one before"
        if segment.start > end:
            lengths.append(segment.start - end)
        kept.append(len(lengths))
        lengths.append(segment.length)
        end = segment.start + segment.length
    assert end <= numel, f"segments end at {end} in a tensor of {numel} elements"
    if end < numel:
        lengths.append(numel - end)
    return lengths, kept, [segment.slot for segment in segments]
