"""Says whether a run fits into its GPU, what to change where it does not, and how long it takes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from dist_plm.config.suggest import did_you_mean, near
from dist_plm.core.errors import ConfigError
from dist_plm.plan.interval import GIB, Interval
from dist_plm.plan.memory import StageMemory, memory_by_stage, worst_memory, worst_of
from dist_plm.plan.timing.efficiency import DEFAULT, Efficiency
from dist_plm.plan.timing.step_time import StepTime, run_seconds, step_time
from dist_plm.spec.families import ModelConfig
from dist_plm.spec.gpus import GPUS, Gpu
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema import Training, TrainingConfig
from dist_plm.spec.schema_finetune import FinetuneConfig

Verdict = Literal["fits", "tight", "does not fit"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Holds what is known of a run before it starts."""

    config: TrainingConfig
    world_size: int
    gpu: Gpu
    stages: list[StageMemory]
    step: StepTime
    run_seconds: float
    efficiency: Efficiency = DEFAULT

    @property
    def worst(self) -> StageMemory:
        return worst_of(self.stages)

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.worst.total, self.gpu)

    @property
    def tokens_per_second(self) -> float:
        return self.config.train.global_batch * self.config.data.sequence_length / self.step.seconds


def verdict_of(total: Interval, gpu: Gpu) -> Verdict:
    """Compares the bounds of a rank's memory with what the GPU has."""
    capacity = gpu.gib * GIB
    if total.high <= capacity:
        return "fits"
    return "tight" if total.low <= capacity else "does not fit"


def gpu_named(name: str | None) -> Gpu:
    """Looks a GPU up.

    Raises:
        ConfigError: it is not in the table, or none is named.
    """
    if name is None:
        raise ConfigError([f"cluster.gpu = null names no GPU to plan for: set cluster.gpu to one of {', '.join(GPUS)}"])
    if name not in GPUS:
        hint = did_you_mean(near(name, GPUS))
        raise ConfigError([f"cluster.gpu = {name!r} is not in the table of GPUs{hint}; known are {', '.join(GPUS)}"])
    return GPUS[name]


def gpu_for(config: TrainingConfig) -> Gpu:
    """Finds the GPU that a run is planned for.

    Raises:
        ConfigError: cluster.gpu names none of the table, or one that does not compute as the run does.
    """
    gpu = gpu_named(config.cluster.gpu)
    if config.cluster.gpu not in (able := able_gpus(config)):
        raise ConfigError(
            [
                f"precision.name = 'fp8' cannot be computed by cluster.gpu = {config.cluster.gpu!r}, which multiplies no "
                f"numbers of 8 bits: set precision=bf16, or cluster.gpu to one of {', '.join(able)}"
            ]
        )
    return gpu


def able_gpus(config: TrainingConfig) -> list[str]:
    """Names the GPUs of the table that compute as the run does."""
    return [name for name, gpu in GPUS.items() if gpu.has_8_bits or not config.precision.in_8_bits]


def require_vocabulary(model: ModelConfig) -> None:
    """Sizes follow from it.

    Raises:
        ConfigError: it is not known here.
    """
    if model.vocab_size is None:
        raise ConfigError(
            [
                "model.vocab_size = null, and the data that would tell it is not here: set it, as in model.vocab_size=50257"
            ]
        )


def make_plan(config: TrainingConfig, world_size: int, efficiency: Efficiency = DEFAULT) -> Plan:
    """Plans a finalised configuration.

    Raises:
        ConfigError: cluster.gpu names no GPU of the table, or one that cannot compute the run; or the vocabulary is not known.
    """
    gpu = gpu_for(config)
    require_vocabulary(config.model)
    step, whole = step_time(config, gpu, efficiency=efficiency), run_seconds(config, gpu, efficiency)
    return Plan(config, world_size, gpu, memory_by_stage(config), step, whole, efficiency)


def on_gpu(config: TrainingConfig, name: str) -> TrainingConfig:
    """The run on another GPU of the table."""
    return replace(config, cluster=replace(config.cluster, gpu=name))


#: Sections and values that save memory, the cheapest first.
_SAVERS: tuple[Mapping[str, Mapping[str, Any]], ...] = (
    *({"engine": {"zero_stage": stage}} for stage in (1, 2, 3)),
    {"model": {"recompute": "selective"}},
    {"train": {"micro_batch": 1}},
    {"model": {"recompute": "full"}},
    {"model": {"recompute": "full"}, "train": {"micro_batch": 1}},
    *({"parallel": {"tensor": tensor, "sequence_parallel": True}} for tensor in (2, 4, 8)),
    *({"parallel": {"context": ranks}} for ranks in (2, 4, 8)),
    *({"parallel": {"tensor": 8, "sequence_parallel": True, "context": ranks}} for ranks in (2, 4, 8)),
    *({"parallel": {"tensor": 8, "sequence_parallel": True, "pipeline": stages}} for stages in (2, 4, 8, 16)),
    {
        "parallel": {"tensor": 8, "sequence_parallel": True, "pipeline": 16},
        "model": {"recompute": "full"},
        "train": {"micro_batch": 1},
    },
    *(
        {
            "parallel": {"tensor": 8, "sequence_parallel": True, "context": ranks},
            "model": {"recompute": "full"},
            "train": {"micro_batch": 1},
        }
        for ranks in (2, 4, 8)
    ),
)
#: Tokens of a sequence that context ranks have at least where a plan proposes them: of shorter ones there are enough to share.
SLICE = 2048


def told_by_data(given: Training, complete: Training) -> Training:
    """The run as it was given, with what its data have told, taken from the same run `complete`."""
    told = replace(given, model=replace(given.model, vocab_size=complete.model.vocab_size))
    if isinstance(told, FinetuneConfig) and isinstance(complete, FinetuneConfig):
        told = replace(told, data=complete.data, task=complete.task, train=complete.train)
    return told


def remedies(given: TrainingConfig, world_size: int, gpu: Gpu, *, most: int = 3) -> list[str]:
    """Lists changes that make a run fit, as overrides, each alone.

    Args:
        given: as the user wrote it: what follows from the world size is still None.
    """
    found = []
    longest = max(1, given.data.sequence_length // SLICE)
    for changes in _SAVERS:
        if changes.get("parallel", {}).get("context", 1) > longest:
            continue
        if "pipeline" in changes.get("parallel", {}) and given.parallel.stage_layers is not None:
            changes = {**changes, "parallel": {**changes["parallel"], "stage_layers": None}}
        changed = changed_by(given, changes, world_size)
        if changed is not None and verdict_of(worst_memory(changed).total, gpu) == "fits":
            found.append(" ".join(as_overrides(changes)))
    return found[:most]


def with_changes(given: Training, changes: Mapping[str, Mapping[str, Any]]) -> Training:
    """Changes settings by section."""
    return replace(given, **{name: replace(getattr(given, name), **values) for name, values in changes.items()})


def changed_by(given: Training, changes: Mapping[str, Mapping[str, Any]], world_size: int) -> Training | None:
    """Changes settings by section and completes the configuration; None where rules refuse it."""
    try:
        return finalize(with_changes(given, changes), world_size=world_size, vocab_size=given.model.vocab_size)
    except ConfigError:
        return None


def as_overrides(changes: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Writes changes as they are typed."""
    for section, values in changes.items():
        for key, value in values.items():
            yield f"{section}.{key}={_typed(value)}"


def _typed(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(map(_typed, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
