"""Estimates how long an optimizer step takes, part by part, and the run."""

from collections.abc import Mapping
from dataclasses import dataclass

from dist_plm.distributed.grid import Grid
from dist_plm.plan.activations import Pass, exchanged_bytes
from dist_plm.plan.rank_tensors import Stage, unlike_stages
from dist_plm.plan.timing.efficiency import DEFAULT, Efficiency
from dist_plm.plan.timing.kernel_costs import Cost, Machine, layer_cost, linear_cost
from dist_plm.plan.timing.network import Network
from dist_plm.plan.timing.software import OURS, Software
from dist_plm.spec.batch_sizes import BatchSizes
from dist_plm.spec.derived import num_microbatches
from dist_plm.spec.families.base import StackSpec, known
from dist_plm.spec.gpus import Gpu
from dist_plm.spec.schema import TrainingConfig

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
    context: float

    @property
    def seconds(self) -> float:
        return self.kernels.forward + self.kernels.backward + self.again + self.tensor + self.context


@dataclass(frozen=True, slots=True)
class _Estimator:
    """Knows what all parts of a step depend on."""

    config: TrainingConfig
    machine: Machine
    network: Network
    one: Pass
    count: int

    @classmethod
    def of(
        cls, config: TrainingConfig, gpu: Gpu, batch: int | None, software: Software, efficiency: Efficiency
    ) -> "_Estimator":
        parallel = config.parallel
        assert parallel.data is not None
        grid = Grid(data=parallel.data, tensor=parallel.tensor, pipeline=parallel.pipeline, context=parallel.context)
        network = Network.of(grid, gpu, config.cluster, efficiency)
        machine = Machine.of(gpu, config.precision, software=software, efficiency=efficiency)
        one = Pass.of(config, exchanges=software.exchanges_heads)
        return cls(config, machine, network, one, num_microbatches(config.train, parallel, batch))

    @property
    def software(self) -> Software:
        return self.machine.software

    @property
    def data(self) -> int:
        """Ranks that share what ZeRO divides."""
        parallel = self.config.parallel
        assert parallel.data is not None
        return parallel.data * parallel.context


def step_time(
    config: TrainingConfig,
    gpu: Gpu,
    *,
    batch: int | None = None,
    software: Software = OURS,
    efficiency: Efficiency = DEFAULT,
) -> StepTime:
    """Estimates a step of a finalised configuration whose vocabulary is known.

    Args:
        batch: samples of the step, train.global_batch if None.
        software: of the program that runs it.
    """
    parallel = config.parallel
    job = _Estimator.of(config, gpu, batch, software, efficiency)
    count, network = job.count, job.network
    stages = unlike_stages(config.model, parallel, config.train.freeze)
    costs = [_stage_cost(job, stage) for stage in stages]
    slowest = max(costs, key=lambda cost: cost.seconds)
    # Stages between the first and the last are alike.
    middle = costs[min(1, len(costs) - 1)].seconds
    others = sum(cost.seconds for cost in costs) + (parallel.pipeline - len(costs)) * middle - slowest.seconds
    parts = {
        "compute": count * (slowest.kernels.forward + slowest.kernels.backward),
        "recompute": count * slowest.again,
        "tensor": count * slowest.tensor,
        "context": count * slowest.context,
        "pipeline": _messages(job),
        "bubble": others / parallel.virtual_pipeline,
        "data": max(_reduction(job, stage, cost) for stage, cost in zip(stages, costs, strict=True)),
        "update": max(_update(job, stage) for stage in stages),
        "checkpoint": _checkpoint(config, stages),
        "host": efficiency.step,
    }
    parts["waiting"] = sum(parts.values()) * efficiency.waiting(network.grid.size)
    return StepTime({name: efficiency.slowness * seconds for name, seconds in parts.items()})


def stage_passes(config: TrainingConfig, gpu: Gpu, efficiency: Efficiency = DEFAULT) -> list[tuple[float, float]]:
    """Estimates the forward and backward pass of one microbatch, by stage; what is computed again counts backward."""
    job = _Estimator.of(config, gpu, None, OURS, efficiency)
    stages = unlike_stages(config.model, config.parallel, config.train.freeze)
    found = []
    for stage in stages:
        cost = _stage_cost(job, stage)
        sent = cost.tensor + cost.context
        passes = cost.kernels.forward + sent / 3, cost.kernels.backward + cost.again + 2 * sent / 3
        found.append((efficiency.slowness * passes[0], efficiency.slowness * passes[1]))
    between = config.parallel.pipeline - len(found)
    return found if between == 0 else [found[0], *[found[1]] * (between + 1), found[-1]]


def run_seconds(config: TrainingConfig, gpu: Gpu, efficiency: Efficiency = DEFAULT) -> float:
    """Estimates the whole run without evaluation, a batch that grows included."""
    train = config.train
    steps = train.stop_at or train.steps
    runs = BatchSizes.of(train).runs(0, steps)
    return sum(count * step_time(config, gpu, batch=batch, efficiency=efficiency).seconds for count, batch in runs)


def _stage_cost(job: _Estimator, stage: Stage) -> _StageCost:
    model, recompute = job.config.model, job.config.model.recompute
    kernels, again, tensor, context = Cost(), 0.0, 0.0, 0.0
    in_layers = set[str]()
    for stack in model.stacks():
        in_layers |= {held.spec.name for held in stage.tensors if held.spec.name.startswith(f"{stack.prefix}layers.")}
        sent = _tensor_seconds(job, job.one.tokens(stack) * stack.network.hidden * job.one.element)
        for kind in stage.layers_of(stack):
            layer = layer_cost(job.machine, stack, kind, job.one, causal=not model.is_encoder)
            again_of_layer = {"none": 0.0, "selective": layer.attention, "full": layer.forward}[recompute]
            if job.software.recomputes_half:
                again_of_layer = layer.forward - layer.attention - layer.linear / 2
            kernels += layer.times(kind.count)
            again += kind.count * (again_of_layer + (sent / 2 if recompute == "full" else 0.0)) * kind.runs_backward
            tensor += kind.count * sent * (1.0 if kind.runs_backward else 0.4)
            context += kind.count * _context_seconds(job, stack, layer, backward=kind.runs_backward)
    rest = [held for held in stage.tensors if held.spec.name not in in_layers]
    return _StageCost(kernels + _ends(job.machine, stage, rest, job.one), again, tensor, context)


def _ends(machine: Machine, stage: Stage, tensors: list, one: Pass) -> Cost:
    """Estimates embedding and heads. A tied matrix multiplies on the last stage alone."""
    if not stage.is_last:
        tensors = [held for held in tensors if held.spec.name != "embedding.word.weight"]
    found = linear_cost(machine, tensors, one)
    width = sum(held.shape[0] for held in tensors if held.spec.multiplies == "predicted" and held.spec.split == 0)
    # Logits are written, made fp32, normalised and turned into their gradient, or stay in a chunk.
    software = machine.software
    if software.fused_loss:
        touched = 3 * one.element + 8
    else:
        touched = 4 * one.element + 24 * software.passes
        width *= one.tensor if software.whole_logits else 1
    loss = machine.moving(one.predicted * width * touched)
    return found + Cost(loss / 2, loss / 2)


def _tensor_seconds(job: _Estimator, num_bytes: int) -> float:
    """Estimates the sums over tensor ranks of one layer: two forward, two backward, of which half hides behind the gradient of
    the weights; with sequence parallelism a gather more backward."""
    if job.config.parallel.tensor == 1:
        return 0.0
    forward = 2 * job.network.all_reduce(num_bytes, "tensor")
    more = job.network.gather(num_bytes, "tensor") if job.config.parallel.sequence_parallel else 0.0
    return (1.5 * forward + more) * (1 - job.software.overlaps_tensor)


def _context_seconds(job: _Estimator, stack: StackSpec, layer: Cost, *, backward: bool) -> float:
    """Estimates what the ranks of a sequence send each other for one layer: tokens for heads, and back, which nothing hides; or
    keys and values, and their gradients, on their way round behind attention."""
    ranks = job.one.context
    if ranks == 1:
        return 0.0
    model = stack.network
    if job.software.exchanges_heads:
        # What is sent is put together, or what is received is.
        sizes = exchanged_bytes(stack, job.one)
        sent = sum(job.network.exchange(size, "context") + job.machine.moving(2 * size) for size in sizes)
        return (1 + backward * (2 if job.config.model.recompute == "full" else 1)) * sent
    width = 2 * known(model.kv_heads, "kv_heads") * known(model.head_size, "head_size") / job.one.tensor
    sent = 3 * job.network.gather(ranks * job.one.tokens(stack) * width * job.one.element, "context")
    return (1.0 if backward else 0.5) * max(0.2 * sent, sent - 2.5 * layer.attention)


def _messages(job: _Estimator) -> float:
    parallel, one = job.config.parallel, job.one
    if parallel.pipeline == 1:
        return 0.0
    hidden = one.read // one.slices * job.config.model.hidden * one.element
    if parallel.virtual_pipeline > 1:  # they hide behind the other chunks' passes, but for those of warm-up and end
        passes = 2 * parallel.pipeline
    else:
        passes = 2 * (job.count + parallel.pipeline - 1)
    gathered = 0.0
    if job.software.splits_messages and one.slices < one.tensor:
        gathered = job.network.gather(hidden, "tensor")
        hidden //= one.tensor
    return passes * (job.network.send(hidden) + gathered)


def _reduction(job: _Estimator, stage: Stage, cost: _StageCost) -> float:
    """Estimates what the reduction of gradients and the gather of weights add to a step."""
    holding = job.config.engine.holding(job.config.precision, job.data)
    gradients = job.network.gather(stage.trained_numel * holding.gradients, "data", "context")
    weights = job.network.gather(stage.numel * holding.weights, "data", "context")
    hidden = job.machine.efficiency.hidden
    if holding.gathers:
        each = 2 * weights + gradients
        return job.count * max(0.1 * each, each - hidden * cost.seconds)
    engine = job.config.engine
    updated = job.network.gather(stage.trained_numel * holding.weights, "data", "context")
    after = updated if holding.masters_over > 1 else gradients
    if engine.overlaps(on_gpus=True):
        gradients = max(0.1 * gradients, gradients - hidden * cost.kernels.backward)
    if engine.overlaps_gather(on_gpus=True):
        after = max(0.1 * after, after - hidden * cost.kernels.forward)
    return gradients + after


def _update(job: _Estimator, stage: Stage) -> float:
    """Estimates the optimizer: gradient, master and moments are read, master, moments and weights written."""
    optim, holding = job.config.optim, job.config.engine.holding(job.config.precision, job.data)
    trained = [held.spec for held in stage.tensors if held.trained]
    moments = 8 * max((len(optim.element_moments(one.name, one.shape)) for one in trained), default=0)
    each = holding.gradients + 8 + moments + holding.weights + (12 if optim.whole_tensors else 0)
    return job.machine.moving(stage.trained_numel / holding.masters_over * each)


def _checkpoint(config: TrainingConfig, stages: list[Stage]) -> float:
    """Estimates what a step waits for checkpoints, on average."""
    checkpoint, parallel = config.checkpoint, config.parallel
    if not checkpoint.every:
        return 0.0
    assert parallel.data is not None
    held = 12 * max(stage.trained_numel for stage in stages) / (parallel.data * parallel.context)
    return held / (_TO_HOST if checkpoint.background else _TO_STORAGE) / checkpoint.every
