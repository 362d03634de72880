"""Trains a tiny model for a few steps on the ranks of a test case, over batches that are a function of the sample number."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dist_plm.config.decode import decode
from dist_plm.data.loader.batch_plan import microbatch_samples
from dist_plm.data.samples import Windows
from dist_plm.data.special_tokens import SpecialTokens
from dist_plm.distributed.grid import Grid
from dist_plm.distributed.groups import Groups, build_groups
from dist_plm.engines.base import Engine
from dist_plm.models.sharding import ShardSpec
from dist_plm.objectives.base import LossTerm
from dist_plm.objectives.build import build_objective
from dist_plm.optim.schedules import learning_rate
from dist_plm.spec.optimizers import OPTIMIZERS
from dist_plm.spec.rules.finalize import finalize, num_microbatches
from dist_plm.spec.schema import PretrainConfig
from tests.parts import engine_of, model_of
from tests.ranks.corrupted import LOSSES, corrupted_batch
from tests.ranks.pool import World
from tests.ranks.times import LONG

#: Where the pieces of each weight that a rank holds begin, their shapes, and their values.
Pieces = dict[str, list[tuple[tuple[int, ...], tuple[int, ...], Tensor]]]

VOCAB = 211  # prime: every padding and every split is uneven
LENGTH = 32
#: Objectives whose own batches the models are trained on.
AS_TRAINED = ("causal", "prefix_lm", "ul2")
SPECIAL = SpecialTokens(
    vocab_size=VOCAB,
    ids=(*range(5), *range(VOCAB - 10, VOCAB)),
    pad=0,
    eos=1,
    sentinels=tuple(range(VOCAB - 1, VOCAB - 11, -1)),
    named={"[NLU]": 2, "[S2S]": 3, "[NLG]": 4},
)

TINY: dict[str, Any] = {
    "run": {"name": "test"},
    "model": {"family": "gpt", "layers": 4, "hidden": 64, "heads": 4, "vocab_multiple": 8, "init_std": 0.1},
    "objective": {"name": "causal"},
    "data": {"path": "unused", "sequence_length": LENGTH},
    # The gradient of a key bias is zero but for rounding (softmax ignores a shift); with Adam's usual epsilon that noise would
    # be scaled up to a full step in a random direction.
    "optim": {"name": "adamw", "lr": 1e-3, "eps": 1e-5},
    "schedule": {"name": "cosine", "warmup_steps": 2},
    "engine": {"name": "megatron", "zero_stage": 0},
    "precision": {"name": "fp32"},
    "train": {"steps": 5, "global_batch": 8, "micro_batch": 1},
    "cluster": {"device": "cpu"},
}


def configure(world_size: int, **overrides: Any) -> PretrainConfig:
    """The tiny configuration with `section__key=value` changes, finalised."""
    values = {section: dict(content) for section, content in TINY.items()}
    for path, value in overrides.items():
        section, key = path.split("__")
        values.setdefault(section, {})[key] = value
    if "optim__eps" not in overrides and "eps" not in fields_of(OPTIMIZERS[values["optim"]["name"]]):
        del values["optim"]["eps"]
    return finalize(decode(PretrainConfig, values), world_size=world_size, vocab_size=VOCAB)


def few_steps(world_size: int, changes: Mapping[str, Any]) -> dict[str, Any]:
    """`changes` with three steps, of few microbatches.

    Half the time of the tiny configuration's five steps, for what is compared with steps of ours. The rate stays at its peak:
    updates after the first are of moments that have a past.
    """
    return few_microbatches(world_size, {"train__steps": 3, **changes})


def few_microbatches(world_size: int, changes: Mapping[str, Any]) -> dict[str, Any]:
    """`changes` with microbatches of two samples where they leave two to each stage of a pipeline: half as many passes."""
    stages = changes.get("parallel__pipeline", 1)
    data = world_size // (stages * changes.get("parallel__tensor", 1) * changes.get("parallel__context", 1))
    micro_batch = 2 if TINY["train"]["global_batch"] >= 2 * data * 2 * stages else 1
    return {"train__micro_batch": micro_batch, **changes}


def fields_of(section: type) -> set[str]:
    return {field.name for field in fields(section)}


def windows_of(samples: np.ndarray, vocab: int = VOCAB, length: int = LENGTH) -> Windows:
    """Windows of random tokens and documents that depend on the sample numbers alone."""
    tokens, documents = [], []
    for sample in samples:
        draw = np.random.default_rng(int(sample))
        tokens.append(draw.integers(0, vocab, length + 1))
        documents.append(np.cumsum(draw.random(length + 1) < 0.15))
    return Windows(np.stack(tokens), np.stack(documents).astype(np.int32), np.asarray(samples, dtype=np.int64))


def losses_of(config: PretrainConfig) -> Mapping[str, LossTerm]:
    """The parts of the objective's loss."""
    return LOSSES.get(config.objective.name) or build_objective(config.objective).losses


def batch_of(config: PretrainConfig, samples: np.ndarray) -> dict[str, Tensor]:
    """Tokens and labels of the samples with these numbers, in the form of the configuration's objective."""
    if config.objective.name not in AS_TRAINED:
        return corrupted_batch(config, samples)
    objective = build_objective(
        config.objective,
        SPECIAL,
        seed=config.train.seed,
        sequence_length=config.data.sequence_length,
        has_decoder=config.model.has_decoder,
    )
    length = objective.window_length(config.data.sequence_length)
    arrays = objective.collate(windows_of(samples, config.model.vocab_size or VOCAB, length))
    if config.train.seed % 2:  # labels differ in number between samples, so that a mean of means would be wrong
        keep = np.arange(LENGTH)[None, :] < 8 + 3 * (samples[:, None] % 7)
        arrays["labels"] = np.where(keep, arrays["labels"], -1)
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def learning_rates(config: PretrainConfig) -> list[float]:
    steps, peak = config.train.steps, config.optim.lr
    return [learning_rate(config.schedule, step=step, steps=steps, peak=peak) for step in range(steps)]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one rank. `initial` and `final` hold its pieces: name -> list of (start, whole shape, values)."""

    losses: list[float]
    terms: list[dict[str, float]]
    norms: list[float | None]
    evaluation: dict[str, tuple[float, int, int]]
    initial: Pieces
    final: Pieces


def grid_of(config: PretrainConfig) -> Grid:
    parallel = config.parallel
    assert parallel.data is not None
    return Grid(data=parallel.data, tensor=parallel.tensor, pipeline=parallel.pipeline, context=parallel.context)


def rank_batches(config: PretrainConfig, groups: Groups, step: int) -> list[dict[str, Tensor]]:
    train = config.train
    sizes = {"global_batch": train.global_batch, "micro_batch": train.micro_batch, "data_size": groups.grid.data}
    count = num_microbatches(config.train, config.parallel)
    return [batch_of(config, microbatch_samples(step, m, groups.coordinates.data, **sizes)) for m in range(count)]


def groups_of(world: World, config: PretrainConfig) -> Groups:
    return build_groups(grid_of(config), world.device, virtual_pipeline=config.parallel.virtual_pipeline, timeout=LONG)


def build_on(groups: Groups, config: PretrainConfig) -> Engine:
    device = groups.device.torch_device
    model, _ = model_of(config, groups, device)
    return engine_of(config, groups, device, model, losses_of(config))


def build(world: World, config) -> tuple[Engine, Groups]:
    """The engine of a configuration, and the groups it runs on."""
    groups = groups_of(world, config)
    return build_on(groups, config), groups


def train_case(world: World, config: PretrainConfig) -> Outcome:
    """Runs on every rank of a case of the pool."""
    device = world.device
    groups = build_groups(grid_of(config), device, virtual_pipeline=config.parallel.virtual_pipeline, timeout=LONG)
    model, shard_specs = model_of(config, groups, device.torch_device)
    engine = engine_of(config, groups, device.torch_device, model, losses_of(config))
    return trained(engine, groups, config, lambda: pieces_of(shard_specs))


def trained(engine: Engine, groups: Groups, config: PretrainConfig, pieces: Callable[[], Pieces]) -> Outcome:
    """All steps of a configuration and one evaluation; `pieces` gives the weights as they are."""
    initial = pieces()
    results = [engine.train_step(rank_batches(config, groups, s), lr) for s, lr in enumerate(learning_rates(config))]
    sums = engine.eval_step(rank_batches(config, groups, 0))
    return Outcome(
        losses=[r.loss for r in results],
        terms=[dict(r.terms) for r in results],
        norms=[r.grad_norm for r in results],
        evaluation={name: (term.loss, term.correct, term.count) for name, term in sums.items()},
        initial=initial,
        final=pieces(),
    )


def pieces_of(shard_specs: list[ShardSpec]) -> Pieces:
    held: dict[str, list] = {}
    for shard_spec in shard_specs:
        for shard in shard_spec.shards:
            values = shard.local(shard_spec.parameter.detach()).float().clone()
            held.setdefault(shard.name, []).append((shard.start, shard.shape, values))
    return held


def whole(outcomes: list[Outcome], which: str) -> dict[str, Tensor]:
    """Assembles the logical tensors from all ranks' pieces; copies that ranks share must be equal to the bit."""
    result: dict[str, Tensor] = {}
    for outcome in outcomes:
        for name, pieces in getattr(outcome, which).items():
            for start, shape, values in pieces:
                target = result.setdefault(name, torch.full(shape, torch.nan))
                box = target[tuple(slice(a, a + n) for a, n in zip(start, values.shape, strict=True))]
                held = ~box.isnan()
                assert torch.equal(box[held], values[held]), f"ranks disagree on {name}"
                box.copy_(values)
    assert not any(tensor.isnan().any() for tensor in result.values()), "a part of some tensor is held by no rank"
    return result
