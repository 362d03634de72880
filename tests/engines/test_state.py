"""What the engine gives to a checkpoint is whole, in fp32, and puts another engine into the same state to the bit."""

import sys
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Literal

import pytest
import torch

from dist_plm.core.errors import ConfigError
from dist_plm.distributed.groups import build_groups
from dist_plm.engines.base import Engine
from dist_plm.models.sharding import ShardSpec
from dist_plm.objectives.build import build_objective
from dist_plm.spec.optimizers import OptimConfig
from tests import parts
from tests.ranks.pool import World
from tests.ranks.selection import covering
from tests.ranks.times import LONG
from tests.ranks.training import configure, grid_of, learning_rates, rank_batches

pytestmark = pytest.mark.ranks

CASES = {
    "one_rank": (1, {}),
    "whole_states": (2, {"engine__zero_stage": 0}),
    "sharded": (2, {"engine__zero_stage": 1}),
    "sharded_4": (4, {"engine__zero_stage": 1}),
    "sharded_bf16": (2, {"engine__zero_stage": 1, "precision__name": "bf16"}),
    "whole_bf16": (1, {"engine__zero_stage": 0, "precision__name": "bf16"}),
    "fp16": (2, {"engine__zero_stage": 1, "precision__name": "fp16"}),
    "overlap": (
        2,
        {"engine__zero_stage": 1, "engine__overlap_param_gather": True, "engine__overlap_grad_reduce": True},
    ),
    "grid": (4, {"parallel__tensor": 2, "parallel__pipeline": 2, "engine__zero_stage": 1}),
    "adafactor": (2, {"engine__zero_stage": 1, "optim__name": "adafactor"}),
    "deepspeed": (2, {"engine__name": "deepspeed", "engine__zero_stage": 2}),
    "deepspeed_adafactor": (2, {"engine__name": "deepspeed", "engine__zero_stage": 3, "optim__name": "adafactor"}),
    "chunks": (4, {"parallel__pipeline": 2, "parallel__virtual_pipeline": 2, "engine__zero_stage": 1}),
}


#: What another of them shows too.
SLOW = {"whole_states", "sharded", "sharded_4", "whole_bf16", "adafactor"}


def whole_states(engine: Engine) -> list[dict[str, torch.Tensor]]:
    return [{name: t.clone() for name, t in state.tensors.items()} for state in engine.parameter_states()]


def save_and_load(world: World, config) -> None:
    groups = build_groups(
        grid_of(config), world.device, virtual_pipeline=config.parallel.virtual_pipeline, timeout=LONG
    )
    rates = learning_rates(config)

    def engine_of(changed: int) -> Engine:
        model, shard_specs = parts.model_of(config, groups, world.device.torch_device)
        with torch.no_grad():
            for shard_spec in shard_specs:
                shard_spec.parameter.mul_(1 + changed)
        return parts.engine_of(
            config, groups, world.device.torch_device, model, build_objective(config.objective).losses
        )

    first, second = engine_of(0), engine_of(1)
    for step in range(2):
        first.train_step(rank_batches(config, groups, step), rates[step])
    scalars = first.scalars()
    saved = whole_states(first)
    assert scalars["optimizer_steps"] <= 2
    assert ("loss_scale" in scalars) == (config.precision.name == "fp16")
    of_matrices = {"weight"} if config.optim.name == "adafactor" else {"weight", "exp_avg", "exp_avg_sq"}
    assert set(saved[0]) == of_matrices
    for tensors in saved:
        assert all(tensor.dtype == torch.float32 for tensor in tensors.values())
    held = {
        (shard.name, name): (shard.start, shard.local(saved[i][name]))
        for i, state in enumerate(first.parameter_states())
        for name in state.tensors
        for shard in state.shard_spec.shards
    }

    def read(shard_spec: ShardSpec, name: str) -> torch.Tensor:
        values = torch.zeros(shard_spec.shape)
        for shard in shard_spec.shards:
            start, whole = held[shard.name, name]
            first_row = shard.start[0] - start[0]
            shard.local(values).copy_(whole[first_row : first_row + shard.size[0]])
        return values

    second.load_parameter_states(read)
    second.load_scalars(scalars)
    assert second.scalars() == scalars
    for mine, theirs in zip(whole_states(second), saved, strict=True):
        for name, tensor in theirs.items():
            assert torch.equal(mine[name], tensor), name
    kept = [values.clone() for values in second.own_values()]
    second.train_step(rank_batches(config, groups, 3), rates[3])
    for target, values in zip(second.own_values(), kept, strict=True):
        target.copy_(values)
    second.load_scalars(scalars)
    second.spread_weights()
    for step in range(2, 4):
        batches = rank_batches(config, groups, step)
        assert second.train_step(batches, rates[step]) == first.train_step(batches, rates[step])


@pytest.mark.parametrize("name", covering(CASES, set(CASES) - SLOW))
def test_a_loaded_engine_goes_on_to_the_bit(ranks, name):
    world_size, changes = CASES[name]
    ranks.run(world_size, save_and_load, configure(world_size, **changes))


@dataclass(frozen=True, slots=True, kw_only=True)
class ByShape(OptimConfig):
    """Remembers of matrices another moment than of vectors; `row` is a moment of rows."""

    name: Literal["own"] = "own"
    row: bool = False

    def moments(self, name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        of_rows = {"of_row": shape[:1]} if self.row and len(shape) == 2 else {}
        return {"of_matrix" if len(shape) == 2 else "of_vector": shape, **of_rows}


class Own(torch.optim.Optimizer):
    """Adds up gradients by names of moments; `kept` is what it keeps beside, or None, of which it keeps nothing at all."""

    kept: tuple[str, ...] | None = ()

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                if not state:
                    names = () if self.kept is None else ("of_matrix" if weight.dim() == 2 else "of_vector", *self.kept)
                    state |= {"step": torch.zeros(())} | {name: torch.zeros_like(weight) for name in names}
                state["step"] += 1
                for name in set(state) - {"step"}:
                    state[name] += weight.grad
                    weight -= group["lr"] * state[name]


def with_own_optimizer(world: World, config, kept: tuple[str, ...] | None, section: ByShape) -> list[str] | None:
    """Trains, saves and loads with an optimizer of one's own; returns why it was refused."""
    own = type("Own", (Own,), {"kept": kept})
    sys.modules["dist_plm.optim.own"] = ModuleType("dist_plm.optim.own")
    sys.modules["dist_plm.optim.own"].build = lambda optim, groups: own(groups, {"lr": optim.lr})  # pyright: ignore[reportAttributeAccessIssue]
    groups, config = build_groups(grid_of(config), world.device, timeout=LONG), replace(config, optim=section)
    losses = build_objective(config.objective).losses

    def engine_of() -> Engine:
        model, _ = parts.model_of(config, groups, world.device.torch_device)
        return parts.engine_of(config, groups, world.device.torch_device, model, losses)

    try:
        first, second = engine_of(), engine_of()
        first.train_step(rank_batches(config, groups, 0), 1e-3)
        saved = whole_states(first)
    except ConfigError as error:
        return error.problems
    finally:
        del sys.modules["dist_plm.optim.own"]
    assert [set(tensors) - {"weight"} for tensors in saved] == [
        {"of_matrix" if state.shard_spec.parameter.dim() == 2 else "of_vector"} for state in first.parameter_states()
    ]
    places = {(s.shard_spec.shards, name): i for i, s in enumerate(first.parameter_states()) for name in s.tensors}
    second.load_parameter_states(lambda shard_spec, name: saved[places[shard_spec.shards, name]][name])
    second.load_scalars(first.scalars())
    for step in range(1, 3):
        batches = rank_batches(config, groups, step)
        assert second.train_step(batches, 1e-3) == first.train_step(batches, 1e-3)
    return None


def test_moments_may_differ_from_tensor_to_tensor(ranks):
    assert ranks.run(1, with_own_optimizer, configure(1), (), ByShape(lr=1e-3)) == [None]


SECTION = "the section is ByShape in tests/engines/test_state.py"


@pytest.mark.parametrize(
    ("kept", "section", "told"),
    [
        (("mine",), ByShape(lr=1.0), "keeps mine, which the section's moments lack: checkpoints would lose it"),
        (None, ByShape(lr=1.0), "keeps no of_matrix, which the section's moments have: checkpoints would lack it"),
        (
            (),
            ByShape(lr=1.0, row=True),
            "gives no of_row of embedding.word.weight, which the section's moments have and which is no "
            "number an element: have its shared_moments give it",
        ),
    ],
    ids=["undeclared", "not_kept", "not_given"],
)
def test_moments_that_no_checkpoint_would_have_are_refused(ranks, kept, section, told):
    ((problem,),) = ranks.run(1, with_own_optimizer, configure(1), kept, section)
    assert problem.startswith(f"optim.name = 'own': dist_plm/optim/own.py {told}; {SECTION}")
