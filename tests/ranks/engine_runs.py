"""A few steps of an engine, and what they made beside what one rank makes."""

import functools
from collections.abc import Callable
from pathlib import Path

import torch

from dist_plm.engines.base import Engine
from tests.ranks.pool import RankPool, World
from tests.ranks.training import Outcome, build, configure, few_steps, learning_rates, rank_batches, trained, whole


def pieces_of(engine: Engine) -> dict[str, list]:
    held: dict[str, list] = {}
    for state in engine.parameter_states():
        for shard in state.shard_spec.shards if "weight" in state.tensors else ():
            values = shard.local(state.tensors["weight"]).to("cpu", copy=True)
            held.setdefault(shard.name, []).append((shard.start, shard.shape, values))
    return held


def train_case(world: World, config) -> Outcome:
    engine, groups = build(world, config)
    return trained(engine, groups, config, lambda: pieces_of(engine))


def losses_case(world: World, config) -> list[float]:
    """Losses of the first three steps, none of which may be skipped. Here, as the matrix that it is for takes ranks seconds
    to import."""
    if config.engine.name == "deepspeed" and config.precision.name == "fp16":
        from deepspeed.accelerator import get_accelerator

        get_accelerator().is_fp16_supported = lambda: True
    engine, groups = build(world, config)
    steps = list(enumerate(learning_rates(config)))[:3]
    results = [engine.train_step(rank_batches(config, groups, step), lr) for step, lr in steps]
    assert not any(result.skipped for result in results)
    return [result.loss for result in results]


def trainer(ranks: RankPool, runs: Path, *, short: bool = False) -> Callable[..., list[Outcome]]:
    """`train(world_size, **changes)` gives the outcome of each rank, and trains what it has trained before no more.

    Args:
        short: few steps, unless the changes say how many.
    """

    @functools.cache
    def run(world_size: int, items: tuple) -> list[Outcome]:
        changes = few_steps(world_size, dict(items)) if short else dict(items)
        return ranks.run(world_size, train_case, configure(world_size, run__root=str(runs), **changes))

    return lambda world_size, **changes: run(world_size, tuple(sorted(changes.items())))


def agree(outcomes, reference, tolerance=1e-5, weights=1e-5):
    for outcome in outcomes:
        torch.testing.assert_close(
            torch.tensor(outcome.losses), torch.tensor(reference[0].losses), rtol=tolerance, atol=0
        )
        torch.testing.assert_close(
            torch.tensor(outcome.norms), torch.tensor(reference[0].norms), rtol=tolerance, atol=0
        )
        assert outcome.evaluation.keys() == reference[0].evaluation.keys()
        for name, (loss, _, count) in reference[0].evaluation.items():
            assert abs(outcome.evaluation[name][0] / loss - 1) < tolerance
            assert outcome.evaluation[name][2] == count
    initial = whole(outcomes, "initial")
    for name, tensor in whole(reference, "initial").items():
        assert torch.equal(initial[name], tensor), name
    actual, expected = whole(outcomes, "final"), whole(reference, "final")
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        # The gradient of a key bias is rounding noise, which no relative tolerance admits; LAMB's model has none.
        scale = float(tensor.norm()) if weights < 1e-5 else 1.0
        error = float((actual[name] - tensor).norm() / scale)
        assert error < weights, f"{name}: {error}"
