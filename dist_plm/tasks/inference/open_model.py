"""Opens a model to be run: on the process grid that a configuration asks for, whatever grid and engine it was saved on."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from dist_plm.checkpoint.finite import finite_alone
from dist_plm.config.decode import encode
from dist_plm.config.variants import Variants
from dist_plm.core.errors import CheckpointError, with_remedy
from dist_plm.distributed.device import Device, choose
from dist_plm.distributed.grid import Grid
from dist_plm.distributed.groups import Groups, build_groups
from dist_plm.distributed.launch_env import LaunchEnv, from_environment
from dist_plm.distributed.world import host_group, init_process_group, shutdown
from dist_plm.interop.hf.safetensors_files import listed
from dist_plm.models.build import build_chunk, model_context_of, whole_shard_specs
from dist_plm.models.sharding import ShardSpec, describe
from dist_plm.spec.engines import ENGINES
from dist_plm.spec.inference.schema import InferenceConfig
from dist_plm.spec.objectives import OBJECTIVES, objectives_of
from dist_plm.spec.optimizers import OPTIMIZERS
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schedules import ConstantConfig
from dist_plm.spec.schema import DataConfig, PretrainConfig, RunConfig
from dist_plm.spec.schema_run import TrainConfig
from dist_plm.spec.tasks import TaskConfig
from dist_plm.tasks.inference.runner import Runner
from dist_plm.tasks.inference.source import ModelSource, alike, find_source, with_task
from dist_plm.tasks.inference.vocabulary import Vocabulary, vocabulary_of
from dist_plm.train.startup.arithmetic import prepare_cpu, set_precision
from dist_plm.train.startup.load_weights import check_fit
from dist_plm.train.startup.start import agree_on

T = TypeVar("T")

#: Tokens of a pass, where nothing tells with how many the model was trained.
_LENGTH = 1024
#: Begin the names of weights without which no token is predicted.
NEEDED = ("transform.", "output.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundModel:
    """Holds what is known of a model that is to run on some grid.

    Args:
        config: as that of a run with this model on this grid, finalised.
    """

    source: ModelSource
    vocabulary: Vocabulary
    config: PretrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Session(FoundModel):
    """Holds what ranks that run a model together share, before any of it is built."""

    launch: LaunchEnv
    groups: Groups

    @property
    def is_first(self) -> bool:
        return self.launch.rank == 0


@contextmanager
def session_of(config: InferenceConfig, environ: Mapping[str, str]) -> Iterator[Session]:
    """Joins the ranks and finds the model. Every rank enters it.

    Raises:
        UserError: on every rank alike.
    """
    launch = from_environment(environ)
    device = choose(config.cluster.device, launch.local_rank)
    set_precision(config.precision, device)
    timeout = timedelta(minutes=config.cluster.timeout_minutes)
    init_process_group(launch, device, timeout)
    with with_remedy("give another with from="):
        session = find_model(config, launch, device, timeout)
        prepare_cpu(session.config.precision, session.groups, launch, environ)
        yield session
    shutdown()


def find_model(config: InferenceConfig, launch: LaunchEnv, device: Device, timeout: timedelta) -> Session:
    """Finds the model, once the ranks have joined. Collective over all of them.

    Raises:
        UserError: on every rank alike.
    """
    host = host_group(timeout)
    agree_on(encode(config), launch, host)
    found = _found(config, host, launch.world_size)
    groups = _groups(found.config, device, timeout)
    return Session(source=found.source, vocabulary=found.vocabulary, config=found.config, launch=launch, groups=groups)


def look_at_model(config: InferenceConfig, world_size: int) -> FoundModel:
    """Finds the model in one process, as so many ranks would, from what its files say of themselves: values are neither read
    nor verified.

    Raises:
        UserError: the ranks would refuse it.
    """
    with with_remedy("give another with from="):
        return _found(config, None, world_size, verify=False)


def _found(
    config: InferenceConfig, group: dist.ProcessGroup | None, world_size: int, *, verify: bool = True
) -> FoundModel:
    assert config.from_ is not None
    source = find_source(config.from_, group, verify=verify)
    if source.model.head != "language_model" and not config.asks_heads:
        raise CheckpointError(
            f"{source.where} was fine-tuned for a task and predicts no tokens any more: measure it by launch/evaluate.py "
            "on=task data.rows=FILE, or give the model that it began with"
        )
    if config.asks_task:
        source = alike(group, lambda: with_task(source, config.given_task))
    vocabulary = alike(group, lambda: vocabulary_of(source, config.tokenizer))
    as_run = run_with(source, config, world_size, vocabulary.template)
    return FoundModel(source=source, vocabulary=vocabulary, config=as_run)


def _groups(config: PretrainConfig, device: Device, timeout: timedelta) -> Groups:
    parallel = config.parallel
    assert parallel.data is not None
    grid = Grid(data=parallel.data, tensor=parallel.tensor, pipeline=parallel.pipeline, context=parallel.context)
    return build_groups(grid, device, timeout=timeout)


def run_with(
    source: ModelSource, config: InferenceConfig, world_size: int, template: str | None = None
) -> PretrainConfig:
    """Makes the configuration of a run with this model, by whose rules the grid is checked and sizes are derived.

    Args:
        template: of dialogues, which the tokenizer has.
    Raises:
        ConfigError: the model cannot be on this grid.
    """
    model = replace(source.model, hidden_dropout=0.0, attention_dropout=0.0, recompute="none", init_from=None)
    objective = source.objective or _named(OBJECTIVES, objectives_of(model)[0])
    if isinstance(objective, TaskConfig):
        objective = objective.with_template(template)
    # Files such as parallel=tensor8 set it for training; a model that writes reads one token at a time.
    parallel = replace(config.parallel, sequence_parallel=False)
    batch = parallel.data or max(1, world_size // (parallel.tensor * parallel.pipeline))
    length = config.row_length or source.sequence_length or model.max_positions or _LENGTH
    as_run = PretrainConfig(
        run=RunConfig(name="inference"),
        model=model,
        objective=objective,
        data=DataConfig(path="none", sequence_length=length, packing=source.packing),
        optim=_named(OPTIMIZERS, "sgd", lr=1.0),
        schedule=ConstantConfig(),
        parallel=parallel,
        engine=_named(ENGINES, "megatron"),
        precision=config.precision,
        train=TrainConfig(steps=1, global_batch=batch, micro_batch=1, seed=source.seed),
    )
    return finalize(as_run, world_size=world_size, vocab_size=model.vocab_size)


def _named(variants: Variants[T], name: str, **settings: Any) -> T:
    return variants[name](**{variants.tag: name}, **settings)


def check_heads(found: FoundModel, needed: tuple[str, ...] = NEEDED) -> None:
    """Sees to it, in one process that builds no model, that the weights are those of the model and predict what is asked.

    Args:
        needed: see `build_runner`.
    Raises:
        CheckpointError: they are not whole.
    """
    _check_whole(found, whole_shard_specs(found.config.model), None, needed)


def _check_whole(
    found: FoundModel, shard_specs: Sequence[ShardSpec], group: dist.ProcessGroup | None, needed: tuple[str, ...]
) -> None:
    weights = found.source.weights
    fresh, _ = check_fit(weights, found.config.model, None, shard_specs, group)
    if absent := [name for name in fresh if name.startswith(needed)]:
        raise CheckpointError(f"{weights.where} holds no head that predicts what is asked: it lacks {listed(absent)}")


def build_runner(session: Session, needed: tuple[str, ...] = NEEDED) -> Runner:
    """Builds this rank's part of the model, with its weights. Collective over all ranks.

    Args:
        needed: begin the names of weights that must be there; others that are not are never asked.
    Raises:
        CheckpointError: on every rank, where the weights are not whole.
    """
    config, groups, weights = session.config, session.groups, session.source.weights
    sections = config.model, config.parallel, config.precision
    shared = model_context_of(*sections, groups, groups.device.torch_device, seed=config.train.seed)
    chunk = build_chunk(shared, 0, 1)
    shard_specs = describe([chunk], groups.coordinates.tensor, groups.grid.tensor)
    _check_whole(session, shard_specs, groups.world, needed)
    with finite_alone(
        lambda shard_spec, _: weights.read(shard_spec), weights.where, groups.world, "they are broken"
    ) as read:
        for shard_spec in shard_specs:
            if all(shard.name in weights.shapes for shard in shard_spec.shards):
                shard_spec.parameter.data.copy_(read(shard_spec, "weight"))
            else:
                shard_spec.parameter.data.zero_()  # of a head that predicts something else
    return Runner([chunk.eval().requires_grad_(False)], groups, shared)
