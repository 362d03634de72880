"""Where each number of a rank's parameters stands in the whole model.

A parameter as the engine holds it may be a slice (tensor parallel), a fusion (query, key and value in one matrix), padded
(vocabulary) or a copy (tied embeddings on the last pipeline stage). Its shard spec says so as shards of logical tensors with
canonical names, which know nothing of the process grid. Initialisation, checkpoints, conversion and layer-wise optimizers
all read this one description.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Part:
    """One of the tensors fused along dim 0 of a parameter. `name` replaces the module's; `padding` are rows at its end
    that stand for nothing."""

    name: str
    rows: int
    padding: int = 0


@dataclass(frozen=True, slots=True)
class Shard:
    """A box of a logical tensor that a rank holds.

    Args:
        name: canonical name of the logical tensor, the same on every grid.
        shape: of the logical tensor, without padding.
        start: where the box begins in the logical tensor.
        local_start: where it begins in the rank's parameter.
        size: of the box; some dim may be 0 where a rank holds padding alone.
    """

    name: str
    shape: tuple[int, ...]
    start: tuple[int, ...]
    local_start: tuple[int, ...]
    size: tuple[int, ...]

    def local(self, tensor: Tensor) -> Tensor:
        """The view of the rank's parameter (or of anything shaped like it) that is this box."""
        return tensor[_box(self.local_start, self.size)]

    def whole(self, tensor: Tensor) -> Tensor:
        """The view of the logical tensor that is this box."""
        return tensor[_box(self.start, self.size)]

    def rows(self, first: int, stop: int) -> "Shard":
        """Describes what lies in rows `first` to `stop` of the rank's parameter, of which it makes a parameter of its own."""
        held = self.size[0]
        before, end = (min(max(row - self.local_start[0], 0), held) for row in (first, stop))
        return replace(
            self,
            start=(self.start[0] + before, *self.start[1:]),
            local_start=(max(self.local_start[0] + before - first, 0), *self.local_start[1:]),
            size=(end - before, *self.size[1:]),
        )

    @property
    def numel(self) -> int:
        return math.prod(self.size)


@dataclass(frozen=True, slots=True)
class ShardSpec:
    """One parameter of a rank.

    Args:
        split_dim: dim cut over tensor ranks, None where every tensor rank holds the same values.
        copy: True for the second copy of a tied weight, whose first copy another pipeline stage owns.
    """

    parameter: nn.Parameter
    shards: tuple[Shard, ...]
    split_dim: int | None
    copy: bool

    @property
    def shape(self) -> torch.Size:
        """Gives the shape of the whole parameter, also while DeepSpeed's ZeRO-3 has taken it apart over data ranks and
        left it empty."""
        return getattr(self.parameter, "ds_shape", self.parameter.shape)

    def rows(self, first: int, stop: int) -> "ShardSpec":
        """Describes rows `first` to `stop` of the parameter as one of their own, which has no memory. It has all the shards,
        some of them perhaps empty."""
        values = torch.empty((stop - first, *self.shape[1:]), device="meta")
        shards = tuple(shard.rows(first, stop) for shard in self.shards)
        return replace(self, parameter=nn.Parameter(values, requires_grad=False), shards=shards)


def split_over_tensor_ranks(parameter: nn.Parameter, dim: int, parts: Sequence[Part] = ()) -> None:
    """Notes on a parameter that each tensor rank holds its share of `dim`, and which parts are fused along dim 0.

    The attributes but for `parts` are Megatron-core's: its gradient norm counts a parameter without them once over the
    tensor group. Its own layers set them only where they also initialise, which ours do not.
    """
    notes = {"tensor_model_parallel": True, "partition_dim": dim, "partition_stride": 1, "parts": tuple(parts)}
    for name, value in notes.items():
        setattr(parameter, name, value)


def describe(chunks: Iterable[nn.Module], tensor_rank: int, tensor_size: int) -> list[ShardSpec]:
    """The shard specs of all parameters of a rank's model chunks, in the order of `named_parameters`."""
    return [shard_spec for chunk in chunks for shard_spec in _of_module(chunk, tensor_rank, tensor_size)]


def _of_module(chunk: nn.Module, rank: int, size: int) -> Iterator[ShardSpec]:
    for name, parameter in chunk.named_parameters():
        split = bool(getattr(parameter, "tensor_model_parallel", False))
        dim = getattr(parameter, "partition_dim", None) if split else None
        name = getattr(parameter, "canonical_name", name)
        shards = tuple(_shards(name, parameter, dim, rank, size))
        yield ShardSpec(parameter, shards, dim, bool(getattr(parameter, "shared", False)))


def _shards(name: str, parameter: nn.Parameter, dim: int | None, rank: int, size: int) -> Iterator[Shard]:
    rest = tuple(parameter.shape[1:])
    parts: Sequence[Part] = getattr(parameter, "parts", ())
    if dim is None:
        rank, size = 0, 1
    if not parts:
        shape = tuple(n * size if i == dim else n for i, n in enumerate(parameter.shape))
        start = tuple(n * rank if i == dim else 0 for i, n in enumerate(parameter.shape))
        yield Shard(name, shape, start, (0,) * len(shape), tuple(parameter.shape))
        return
    offset = 0
    for part in parts:
        held = part.rows // size
        real = part.rows - part.padding
        rows = max(0, min(real - rank * held, held))
        first = min(rank * held, real)
        zeros = (0,) * len(rest)
        yield Shard(_renamed(name, part), (real, *rest), (first, *zeros), (offset, *zeros), (rows, *rest))
        offset += held


def _renamed(name: str, part: Part) -> str:
    """`layers.0.attention.qkv.weight` with part `query` is `layers.0.attention.query.weight`."""
    *path, _, kind = name.split(".")
    return ".".join([*path, part.name, kind])


def _box(start: tuple[int, ...], size: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(first, first + length) for first, length in zip(start, size, strict=True))
