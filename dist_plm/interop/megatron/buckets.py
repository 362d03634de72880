"""The optimizer's tensors as Megatron-core's distributed optimizer holds them: `dp_reshardable`, Megatron-LM's default.

Each bucket of its buffers is one flat tensor, in which the parameters of a tensor and pipeline rank lie in the order that the
module which was trained had; the checkpoint says where pieces begin and end, not whose they are. But the fp32 masters lie there
too, and rounded to the model's type they are the weights: a parameter is found where its values are.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dist_plm.checkpoint.planner import TensorReader
from dist_plm.core.errors import CheckpointError
from dist_plm.interop.megatron.names import meaning_of
from dist_plm.models.sharding import Shard

_BUCKET = re.compile(r"(optimizer\.distributed\.dp_group_idx_\d+\.gbuf_idx_\d+\.dtype_.*\.bucket_idx_\d+)\.(\w+)")
BUCKETS = "optimizer.distributed."
_MASTER = "param"
#: Of a parameter's beginning, by which it is looked for before all of it is compared.
_SIGN = 64


@dataclass(frozen=True, slots=True)
class _BucketRange:
    bucket: str
    start: int
    shape: tuple[int, ...]


class Buckets:
    """Finds tensors in the flat buckets of Megatron's distributed optimizer.

    Args:
        shapes: of the model's weights, by name, layers numbered.
        weight: reads one of them, in the model's type.
        tensor_ranks: that the model was split over.

    Raises:
        CheckpointError: some weight is not in any bucket, or two cannot be told apart.
    """

    def __init__(
        self,
        where: str,
        reader: TensorReader,
        shapes: Mapping[str, tuple[int, ...]],
        weight: Callable[[str], Tensor],
        tensor_ranks: int,
    ) -> None:
        self._where, self._reader, self._shapes, self._ranks = where, reader, shapes, tensor_ranks
        self._weight = weight
        found = [match for name in reader.tensors if (match := _BUCKET.fullmatch(name))]
        self.states = tuple(sorted({match[2] for match in found} - {_MASTER}))
        self._signs: dict[tuple[int, bytes], list[tuple[str, int]]] = {}
        for name in shapes:
            for rank, part in enumerate(self._split(name, weight(name))):
                self._signs.setdefault(_sign(part.flatten()), []).append((name, rank))
        self._places: dict[tuple[str, int], _BucketRange] = {}
        for bucket in sorted({match[1] for match in found}):
            self._search(bucket)
        missing = [
            name for name in shapes for rank in range(len(self._split_ranks(name))) if (name, rank) not in self._places
        ]
        if missing:
            raise CheckpointError(f"{where} holds no optimizer state for {missing[0]} that fits its weights")

    def read(self, state: str, name: str) -> Tensor:
        """fp32 values of a state of the whole parameter; of "weight", its master."""
        parts = []
        for rank in self._split_ranks(name):
            place = self._places[name, rank]
            stored = f"{place.bucket}.{_MASTER if state == 'weight' else state}"
            parts.append(self._flat(stored, place.start, torch.Size(place.shape).numel()).view(place.shape))
        return self._join(name, parts)

    def _search(self, bucket: str) -> None:
        stored = f"{bucket}.{_MASTER}"
        masters = self._flat(stored, 0, self._reader.tensors[stored].size[0])
        chunks = [
            (chunk.offsets[0], chunk.offsets[0] + chunk.sizes[0]) for chunk in self._reader.tensors[stored].chunks
        ]
        ends = {end for _, end in chunks}
        dtype = self._weight(next(iter(self._shapes))).dtype
        free = 0
        for start, _ in sorted(chunks):
            if start < free:
                continue
            for numel in sorted({numel for numel, _ in self._signs}, reverse=True):
                if start + numel not in ends:
                    continue
                values = masters[start : start + numel].to(dtype)
                if name := self._whose(values, f"{stored} from {start}"):
                    free = start + numel
                    self._places.setdefault(name[:2], _BucketRange(bucket, start, name[2]))
                    break

    def _whose(self, values: Tensor, where: str) -> tuple[str, int, tuple[int, ...]] | None:
        fitting = []
        for name, rank in self._signs.get(_sign(values), ()):
            part = self._split(name, self._weight(name))[rank]
            if torch.equal(part.flatten(), values):
                fitting.append((name, rank, tuple(part.shape)))
        # Padding between parameters may be anything, most likely one value over and over.
        if len({name for name, _, _ in fitting}) > 1 or (fitting and bool((values == values[0]).all())):
            names = " and ".join(sorted({name for name, _, _ in fitting}))
            raise CheckpointError(
                f"{self._where}: {names} holds values that are elsewhere too, so whose optimizer state is in {where} cannot be "
                "told: save it with --dist-ckpt-optim-fully-reshardable, or convert the weights alone with weights_only=true"
            )
        return fitting[0] if fitting else None

    def _flat(self, stored: str, start: int, numel: int) -> Tensor:
        total = tuple(self._reader.tensors[stored].size)
        values = torch.zeros(numel)
        self._reader.read_shards([(stored, Shard(stored, total, (start,), (0,), (numel,)), values)])
        return values

    def _split_ranks(self, name: str) -> range:
        meaning = meaning_of(name)
        return range(self._ranks if meaning is not None and meaning.split_dim is not None else 1)

    def _split(self, name: str, whole: Tensor) -> list[Tensor]:
        """Splits a weight into what each tensor rank holds."""
        meaning, ranks = meaning_of(name), len(self._split_ranks(name))
        if meaning is None or meaning.split_dim is None:
            return [whole]
        if not self._is_gated(name):
            return list(whole.chunk(ranks, dim=meaning.split_dim))
        gate, up = whole.chunk(2)
        return [torch.cat(pair) for pair in zip(gate.chunk(ranks), up.chunk(ranks), strict=True)]

    def _join(self, name: str, parts: list[Tensor]) -> Tensor:
        meaning = meaning_of(name)
        if meaning is None or meaning.split_dim is None:
            return parts[0]
        if not self._is_gated(name):
            return torch.cat(parts, dim=meaning.split_dim)
        gates, ups = zip(*(part.chunk(2) for part in parts), strict=True)
        return torch.cat([*gates, *ups])

    def _is_gated(self, name: str) -> bool:
        down = self._shapes.get(
            name.replace("linear_fc1.bias", "linear_fc1.weight").replace("linear_fc1", "linear_fc2")
        )
        return "mlp.linear_fc1." in name and down is not None and self._shapes[name][0] == 2 * down[1]


def _sign(flat: Tensor) -> tuple[int, bytes]:
    return flat.numel(), flat[:_SIGN].contiguous().view(torch.uint8).numpy().tobytes()
