"""Estimates how long an optimizer step takes, part by part, and the run."""

from collections.abc import Mapping
from dataclasses import dataclass

from dist_plm.distributed.grid import Grid
from dist_plm.plan.activations import Pass
from dist_plm.plan.rank_tensors import Stage, stages_of
from dist_plm.plan.timing.kernel_costs import Cost, Machine, layer_cost, linear_cost
from dist_plm.plan.timing.network import Network
from dist_plm.spec.batch_sizes import BatchSizes
from dist_plm.spec.derived import num_microbatches
from dist_plm.spec.gpus import Gpu
from dist_plm.spec.schema import TrainingConfig

#: Share of a backward pass behind which the reduction of gradients can hide.
_HIDDEN = 0.8
#: Bytes/s from a GPU to its host, which a checkpoint in the background waits for; and to storage, for one that does not.
_TO_HOST, _TO_STORAGE = 10e9, 1e9


@dataclass(frozen=True, slots=True)
class StepTime:
    """Holds the seconds of an optimizer step by part."""

    parts: Mapping[str, float]

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class _StageCost:
    """Holds the seconds of one microbatch on a stage."""

    kernels: Cost
    again: float
    tensor: float

    @property
    def seconds(self) -> float:
        return self.kernels.forward + self.kernels.backward + self.again + self.tensor


def step_time(config: TrainingConfig, gpu: Gpu, *, fused_attention: bool = True, batch: int | None = None) -> StepTime:
    """Estimates a step of a finalised configuration whose vocabulary is known.

    Args:
        batch: samples of the step, train.global_batch if None.
    """
    parallel = config.parallel
    assert parallel.data is not None
    grid = Grid(data=parallel.data, tensor=parallel.tensor, pipeline=parallel.pipeline, context=parallel.context)
    network = Network.of(grid, gpu, config.cluster)
    machine = Machine.of(gpu, config.precision, fused_attention=fused_attention)
    one, stages = Pass.of(config), stages_of(config.model, parallel)
    costs = [_stage_cost(config, machine, network, stage, one) for stage in stages]
    slowest = max(costs, key=lambda cost: cost.seconds)
    count = num_microbatches(config.train, parallel, batch)
    mean = sum(cost.seconds for cost in costs) / len(costs)
    backward = slowest.kernels.backward
    return StepTime(
        {
            "compute": count * (slowest.kernels.forward + slowest.kernels.backward),
            "recompute": count * slowest.again,
            "tensor": count * slowest.tensor,
            "pipeline": _messages(config, network, one, count),
            "bubble": (parallel.pipeline - 1) / parallel.virtual_pipeline * mean,
            "data": max(_reduction(config, network, stage, backward) for stage in stages),
            "update": max(_update(config, machine, stage) for stage in stages),
            "checkpoint": _checkpoint(config, stages),
        }
    )


def run_seconds(config: TrainingConfig, gpu: Gpu) -> float:
    """Estimates the whole run without evaluation, a batch that grows included."""
    train = config.train
    steps = train.stop_at or train.steps
    runs = BatchSizes.of(train).runs(0, steps)
    return sum(count * step_time(config, gpu, batch=batch).seconds for count, batch in runs)


def _stage_cost(config: TrainingConfig, machine: Machine, network: Network, stage: Stage, one: Pass) -> _StageCost:
    model, recompute = config.model, config.model.recompute
    causal = not model.is_encoder
    kernels, again, tensor = Cost(), 0.0, 0.0
    in_layers = set[str]()
    for stack in model.stacks():
        count = sum(map(len, stage.layers)) if stage.stages > 1 else stack.layers
        first = next(iter(stage.layers[0])) if stage.stages > 1 else 0
        prefix = f"{stack.prefix}layers.{first}."
        own = [held for held in stage.tensors if held.spec.name.startswith(prefix)]
        in_layers |= {held.spec.name for held in stage.tensors if held.spec.name.startswith(f"{stack.prefix}layers.")}
        layer = layer_cost(machine, stack, own, one, causal=causal)
        again_of_layer = {"none": 0.0, "selective": layer.attention, "full": layer.forward}[recompute]
        sent = _tensor_seconds(config, network, one.tokens(stack) * stack.network.hidden * one.element)
        kernels += Cost(count * layer.forward, count * layer.backward)
        again += count * (again_of_layer + (sent / 2 if recompute == "full" else 0.0))
        tensor += count * sent
    rest = [held for held in stage.tensors if held.spec.name not in in_layers]
    return _StageCost(kernels + _ends(machine, stage, rest, one), again, tensor)


def _ends(machine: Machine, stage: Stage, tensors: list, one: Pass) -> Cost:
    """Estimates embedding and heads. A tied matrix multiplies on the last stage alone."""
    if not stage.is_last:
        tensors = [held for held in tensors if held.spec.name != "embedding.word.weight"]
    found = linear_cost(machine, tensors, one)
    width = sum(held.shape[0] for held in tensors if held.spec.multiplies == "predicted" and held.spec.split == 0)
    loss = machine.moving(one.predicted * width * (3 * one.element + 8))
    return found + Cost(loss / 2, loss / 2)


def _tensor_seconds(config: TrainingConfig, network: Network, num_bytes: int) -> float:
    """Estimates the sums over tensor ranks of one layer: two forward, two backward, of which half hides behind the gradient of
    the weights; with sequence parallelism a gather more backward."""
    if config.parallel.tensor == 1:
        return 0.0
    forward = 2 * network.all_reduce(num_bytes, "tensor")
    more = network.gather(num_bytes, "tensor") if config.parallel.sequence_parallel else 0.0
    return 1.5 * forward + more


def _messages(config: TrainingConfig, network: Network, one: Pass, count: int) -> float:
    parallel = config.parallel
    if parallel.pipeline == 1:
        return 0.0
    hidden = one.read // one.slices * config.model.hidden * one.element
    return 2 * parallel.virtual_pipeline * (count + parallel.pipeline - 1) * network.send(hidden)


def _reduction(config: TrainingConfig, network: Network, stage: Stage, backward: float) -> float:
    """Estimates what the reduction of gradients and the gather of weights add to a step."""
    parallel = config.parallel
    assert parallel.data is not None
    holding = config.engine.holding(config.precision, parallel.data * parallel.context)
    gradients = network.gather(stage.numel * holding.gradients, "data", "context")
    weights = network.gather(stage.numel * holding.weights, "data", "context")
    if holding.gathers:
        count = num_microbatches(config.train, parallel)
        each = 2 * weights + gradients
        return count * max(0.1 * each, each - _HIDDEN * 1.5 * backward)
    total = gradients + (weights if holding.masters_over > 1 else gradients)
    return max(0.1 * total, total - _HIDDEN * backward) if config.engine.overlaps() else total


def _update(config: TrainingConfig, machine: Machine, stage: Stage) -> float:
    """Estimates the optimizer: gradient, master and moments are read, master, moments and weights written."""
    parallel = config.parallel
    assert parallel.data is not None
    holding = config.engine.holding(config.precision, parallel.data * parallel.context)
    moments = 8 * max(len(config.optim.element_moments(held.spec.name, held.spec.shape)) for held in stage.tensors)
    each = holding.gradients + 8 + moments + holding.weights + (12 if config.optim.whole_tensors else 0)
    return machine.moving(stage.numel / holding.masters_over * each)


def _checkpoint(config: TrainingConfig, stages: list[Stage]) -> float:
    """Estimates what a step waits for checkpoints, on average."""
    checkpoint, parallel = config.checkpoint, config.parallel
    if not checkpoint.every:
        return 0.0
    assert parallel.data is not None
    held = 12 * max(stage.numel for stage in stages) / parallel.data
    return held / (_TO_HOST if checkpoint.background else _TO_STORAGE) / checkpoint.every
