"""Compares what several ranks must hold, or compute, alike to the bit: a machine that makes mistakes shows in nothing else."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from dist_plm.data.loader.batch import Batch
from dist_plm.distributed.groups import Groups
from dist_plm.engines.base import Engine
from dist_plm.models.sharding import ShardSpec

#: Integers as wide as the elements, for their bits.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
#: Names shown of weights that differ.
_SHOWN = 3

#: What a rank holds otherwise than some other: the ranks that must hold it alike, a name, and what tells its values apart.
Odd = tuple[tuple[int, ...], str, int | float]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Ranks that do not agree.

    Args:
        what: they do not agree on.
        ranks: all of which ought to.
        odd: those that the others outvote; all where no value has more than half of the votes.
    """

    what: str
    ranks: tuple[int, ...]
    odd: tuple[int, ...]

    def told(self, nodes: Sequence[str]) -> str:
        """Says who does not agree with whom, by the node of each rank."""
        others = [rank for rank in self.ranks if rank not in self.odd]
        if not others:
            return f"{_ranks(self.odd, nodes)} do not agree on {self.what}"
        does = "does" if len(self.odd) == 1 else "do"
        return f"{_ranks(self.odd, nodes)} {does} not agree with {_ranks(others, nodes)} on {self.what}"


def _ranks(ranks: Sequence[int], nodes: Sequence[str]) -> str:
    many = "rank" if len(ranks) == 1 else "ranks"
    if len(ranks) > 4:
        return f"{many} {', '.join(map(str, ranks[:4]))} and {len(ranks) - 4} more"
    return f"{many} {', '.join(f'{rank} ({nodes[rank]})' for rank in ranks)}"


def fingerprint(values: Tensor) -> Tensor:
    """Adds up the bits of all elements as integers, [] int64, so that one that is flipped shows."""
    flat = values.detach().reshape(-1)
    return flat.view(_BITS[flat.element_size()]).sum(dtype=torch.int64)


class Replicas:
    """Compares weights that several ranks hold: all but those of ZeRO-3 over data and context ranks, what tensor ranks hold
    whole over these, and tied embeddings over the stages that hold them.

    Args:
        exact: tensor ranks compute the same bits from the same values, which a GPU does not always.
    """

    def __init__(self, shard_specs: Sequence[ShardSpec], groups: Groups, *, exact: bool) -> None:
        self._groups = groups
        self._compared = [
            (group, specs)
            for group, specs in (
                (groups.data_context, [one for one in shard_specs if not _taken_apart(one)]),
                (groups.tensor, [one for one in shard_specs if one.split_dim is None and exact]),
                (groups.embedding, [one for one in shard_specs if getattr(one.parameter, "shared_embedding", False)]),
            )
            if group is not None and group.size() > 1 and specs
        ]

    def odd(self, engine: Engine) -> list[Odd]:
        """Lists what this rank holds otherwise than another one. Collective."""
        with engine.lend():
            return [odd for group, specs in self._compared for odd in self._odd_in(group, specs)]

    def _odd_in(self, group: dist.ProcessGroup, specs: Sequence[ShardSpec]) -> list[Odd]:
        own = torch.stack([fingerprint(getattr(one.parameter, "ds_tensor", one.parameter)) for one in specs])
        extremes = torch.stack([own, ~own])  # the least is the inverse of the most of the inverse
        dist.all_reduce(extremes, op=dist.ReduceOp.MAX, group=group)
        differs = (extremes[0] != ~extremes[1]).tolist()
        ranks = tuple(dist.get_process_group_ranks(group))
        return [
            (ranks, ", ".join(shard.name for shard in one.shards), value)
            for one, is_odd, value in zip(specs, differs, own.tolist(), strict=True)
            if is_odd
        ]


def _taken_apart(shard_spec: ShardSpec) -> bool:
    return hasattr(shard_spec.parameter, "ds_tensor")


def odd_pass(engine: Engine, microbatch: Batch, groups: Groups) -> list[Odd]:
    """Has all data ranks compute the loss of the first one's microbatch; lists this rank's where they are not all the same.
    Collective."""
    if groups.grid.data == 1:
        return []
    sent = [microbatch]
    dist.broadcast_object_list(sent, group=groups.data, group_src=0)
    # Chunks of a pipeline that are interleaved ask for as many microbatches as there are stages.
    losses = engine.losses_by_data_rank(sent * (groups.grid.pipeline if groups.virtual_pipeline > 1 else 1))
    if len(set(losses)) == 1:
        return []
    return [(tuple(range(groups.grid.size)), "the loss of one microbatch", losses[groups.coordinates.data])]


def mismatches(told: Sequence[Sequence[Odd]]) -> list[Mismatch]:
    """Finds who does not agree, from what each rank has told. Weights that the same ranks disagree on are told together."""
    values: dict[tuple[tuple[int, ...], str], dict[int, int | float]] = {}
    for rank, odds in enumerate(told):
        for ranks, name, value in odds:
            values.setdefault((ranks, name), {})[rank] = value
    names: dict[tuple[tuple[int, ...], tuple[int, ...]], list[str]] = {}
    for (ranks, name), by_rank in values.items():
        names.setdefault((ranks, _outvoted(by_rank)), []).append(name)
    return [Mismatch(_listed(found), ranks, odd) for (ranks, odd), found in names.items()]


def _outvoted(by_rank: Mapping[int, int | float]) -> tuple[int, ...]:
    ((value, votes),) = Counter(by_rank.values()).most_common(1)
    if 2 * votes <= len(by_rank):
        return tuple(by_rank)
    return tuple(rank for rank, own in by_rank.items() if own != value)


def _listed(names: Sequence[str]) -> str:
    shown = "; ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
