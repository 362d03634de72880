"""Adds up the memory of a rank of each pipeline stage, term by term.

What parameters take is exact but for padding; activations are counted from what the operations keep; what the framework
takes for itself is known between bounds, which are given.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dist_plm.plan import activations
from dist_plm.plan.activations import Kept, Pass
from dist_plm.plan.interval import GIB, Interval
from dist_plm.plan.rank_tensors import LayerKind, Stage, stages_of, unlike_stages
from dist_plm.plan.timing.software import OURS, Software
from dist_plm.spec.derived import num_microbatches
from dist_plm.spec.engines.base import Holding
from dist_plm.spec.families.base import StackSpec
from dist_plm.spec.optimizers import OptimConfig
from dist_plm.spec.schema import ParallelConfig, TrainingConfig

#: CUDA's context with the kernels of PyTorch, cuBLAS and cuDNN, as nvidia-smi shows it for an idle process.
_CONTEXT = Interval(0.5 * GIB, 1.0 * GIB)
#: NCCL's buffers for a communicator: 2 to 32 channels, each with buffers of NCCL_BUFFSIZE (4 MiB) for its peers.
_COMMUNICATOR = Interval(0.1 * GIB, 0.4 * GIB)
#: Share of what comes and goes that PyTorch's allocator cannot give away again.
_FRAGMENTATION = Interval(0.0, 0.08)
#: DeepSpeed's ZeRO-3 keeps so many elements together at most (stage3_max_live_parameters).
_MAX_LIVE = 10**9
#: It receives so many ahead in one tensor (stage3_prefetch_bucket_size), which stays until the last of them is taken out of it.
_RECEIVED = 5 * 10**7


@dataclass(frozen=True, slots=True)
class StageMemory:
    """Holds the memory of a rank of one stage, in bytes.

    Args:
        terms: of a step, by name, in the order that they come into being.
        in_flight: microbatches whose activations it holds at once; each chunk of the stage counts as its share.
        building: what there is at once while the engine is built, before any step.
    """

    stage: int
    terms: Mapping[str, Interval]
    in_flight: float
    building: Interval

    @property
    def step(self) -> Interval:
        return Interval.total(self.terms.values())

    @property
    def total(self) -> Interval:
        """The most that there is at once."""
        return self.step.or_more(self.building)

    @property
    def is_built_in_more(self) -> bool:
        """Whether building the engine may take more than a step."""
        return self.building.high > self.step.high


def memory_by_stage(config: TrainingConfig, software: Software = OURS) -> list[StageMemory]:
    """The memory of a rank of each stage of a finalised configuration whose vocabulary is known."""
    one = Pass.of(config, exchanges=software.exchanges_heads)
    stages = stages_of(config.model, config.parallel, config.train.freeze)
    return [_stage_memory(config, stage, one, software) for stage in stages]


def worst_memory(config: TrainingConfig) -> StageMemory:
    """The memory of a rank of the stage that needs most, without looking at all that lie between the first and the last:
    the earliest of these holds the most microbatches."""
    one = Pass.of(config)
    stages = unlike_stages(config.model, config.parallel, config.train.freeze)
    return worst_of([_stage_memory(config, stage, one) for stage in stages])


def worst_of(stages: list[StageMemory]) -> StageMemory:
    """The stage whose ranks need most."""
    return max(stages, key=lambda stage: stage.total.high)


def _stage_memory(config: TrainingConfig, stage: Stage, one: Pass, software: Software = OURS) -> StageMemory:
    assert config.parallel.data is not None
    holding = config.engine.holding(config.precision, config.parallel.data * config.parallel.context)
    terms = states(config.optim, holding, stage)
    terms["buffers"] = _buffers(config, holding, stage, one)
    flying = in_flight(config.parallel, stage.number, num_microbatches(config.train, config.parallel))
    passing = _passing(config, stage, one, flying, software)
    terms |= passing
    moving = Interval.total(passing.values())
    terms["update"] = Interval.exact(max(0.0, _update(config.optim, holding, stage) - moving.low))
    terms["fragmentation"] = moving.scaled(_FRAGMENTATION.low, _FRAGMENTATION.high)
    terms["context"] = _context(config.parallel)
    # Other programs build otherwise.
    building = _building(config.parallel, holding, stage) if software is OURS else Interval.exact(0.0)
    return StageMemory(stage.number, terms, flying, building)


def states(optim: OptimConfig, holding: Holding, stage: Stage) -> dict[str, Interval]:
    """Tells what a rank keeps of its parameters between steps, and of their gradients, without padding."""
    elements, on_device = stage.trained_numel, not holding.states_on_host
    divided, whole = _moments(optim, stage)
    moments = holding.moments * (divided / holding.masters_over + whole)
    weights = math.ceil(stage.numel / holding.weights_over) * holding.weights * (not holding.weights_on_host)
    sizes = {
        "masters": math.ceil(elements / holding.masters_over) * holding.masters * on_device,
        "moments": math.ceil(moments) * on_device,
    }
    exact = {name: Interval.exact(size) for name, size in sizes.items()}
    return {"weights": Interval.exact(weights), "gradients": _gradients(holding, stage), **exact}


def _building(parallel: ParallelConfig, holding: Holding, stage: Stage) -> Interval:
    """Counts the weights, which are whole until an engine divides them, and what is made before the first ones go: chunk by
    chunk, so that of several the last copy is smaller than all weights."""
    made = stage.numel * holding.weights
    copied = stage.trained_numel * holding.weights if holding.moves_weights else 0
    made += stage.trained_numel * holding.gradients if holding.moves_weights else 0
    least = made + (copied if parallel.virtual_pipeline == 1 else 0)
    return Interval.total([Interval(least, made + copied), _context(parallel)])


def _gradients(holding: Holding, stage: Stage) -> Interval:
    """Counts sums of gradients. Where those at both ends of a rank's share stay whole, they are no larger than their layers."""
    elements = stage.trained_numel
    share = math.ceil(elements / holding.gradients_over)
    if not holding.whole_gradients or share == elements:
        return Interval.exact(share * holding.gradients)
    most = min(elements, share + 2 * max(_numel_by_depth(stage).values()))
    return Interval(share * holding.gradients, most * holding.gradients)


def _moments(optim: OptimConfig, stage: Stage) -> tuple[int, int]:
    """Counts numbers of moments: those that there are for each element, which ranks divide, and those that every rank has
    whole."""
    if optim in stage.told:
        return stage.told[optim]
    divided = whole = 0
    for tensor in stage.tensors:
        if tensor.trained:
            name, shape = tensor.spec.name, tensor.spec.shape
            moments = optim.moments(name, shape).values()
            divided += tensor.numel * sum(of == shape for of in moments)
            whole += sum(math.prod(of) for of in moments if of != shape)
    stage.told[optim] = divided, whole
    return divided, whole


def _buffers(config: TrainingConfig, holding: Holding, stage: Stage, one: Pass) -> Interval:
    """Counts what collectives read from and write to: copies of gradients, buckets, gathered weights, hidden states."""
    fixed = stage.trained_numel / holding.masters_over * holding.copies
    fixed += holding.bucket if stage.trained_numel else 0
    hidden = one.read // one.slices * config.model.hidden * one.element
    fixed += 2 * hidden if stage.stages > 1 else 0
    if not holding.gathers:
        return Interval.exact(fixed)
    least = 2 * max(_numel_by_depth(stage).values())
    most = max(least, min(stage.numel, _MAX_LIVE) + min(stage.numel, _RECEIVED))
    return Interval(fixed + least * holding.weights, fixed + most * holding.weights)


def _numel_by_depth(stage: Stage) -> dict[int, int]:
    found: dict[int, int] = {}
    for tensor in stage.tensors:
        found[tensor.spec.depth] = found.get(tensor.spec.depth, 0) + tensor.numel
    return found


def _passing(config: TrainingConfig, stage: Stage, one: Pass, flying: float, software: Software) -> dict[str, Interval]:
    """Counts what a microbatch brings, and takes away again."""
    model, recompute = config.model, config.model.recompute
    stacks = model.stacks()
    kinds = [(kind.count, _kept(stack, one, kind, software)) for stack in stacks for kind in stage.layers_of(stack)]
    if software.recomputes_half:
        kept = flying * sum(stack.layers * activations.kept_half(stack, one) for stack in stacks)
    else:
        kept = flying * sum(count * layer.under(recompute) for count, layer in kinds)
    kept += _again([layer for _, layer in kinds], "full" if software.recomputes_half else recompute)
    kept += sum(activations.masks(model, one))
    if stage.is_first and stage.lowest == 0:
        kept += flying * activations.kept_by_embedding(model, one)
    working = max(activations.working_set(stack, one) for stack in stacks) if kinds else 0.0
    terms = {"activations": Interval.exact(kept), "working set": Interval(working / 2, working)}
    if stage.is_last:
        trained = any(held.trained for held in stage.tensors if held.spec.multiplies == "predicted")
        loss = activations.peak_of_loss(model, one, trained=trained)
        if not software.fused_loss:
            loss = activations.whole_logits(model, one, software.logits, gathered=software.whole_logits)
        terms["logits"] = Interval.exact(activations.kept_by_heads(config, one) + loss)
    return terms


def _kept(stack: StackSpec, one: Pass, kind: LayerKind, software: Software) -> Kept:
    kept = activations.kept_by_layer(stack, one, kind)
    if software.fused_attention or not kept.whole:
        return kept
    return replace(kept, cheap=kept.cheap + activations.kept_scores(stack, one))


def _again(layers: list[Kept], recompute: str) -> int:
    """Counts one layer's activations, computed again; none where a stage has no layer."""
    return max((layer.whole - layer.under(recompute) for layer in layers), default=0)


def in_flight(parallel: ParallelConfig, stage: int, microbatches: int) -> float:
    """Counts microbatches whose activations a stage holds at once, of one forward, one backward (Narayanan et al. 2021, arXiv
    2104.04473, section 2.2; Megatron-core's warm-up). A chunk of an interleaved stage counts as its share of it."""
    stages, chunks = parallel.pipeline, parallel.virtual_pipeline
    if stages == 1:
        return 1.0
    if chunks == 1:
        return float(min(microbatches, stages - stage))
    warm_up = 2 * (stages - stage - 1) + (chunks - 1) * stages
    return min(warm_up + 1, microbatches * chunks) / chunks


def _update(optim: OptimConfig, holding: Holding, stage: Stage) -> float:
    """Counts directions: optimizers that look at whole tensors hold all of them until they know how far to go."""
    if not optim.whole_tensors or holding.states_on_host:
        return 0.0
    one = max((optim.workspace(held.spec.name, held.spec.shape) for held in stage.tensors if held.trained), default=0)
    return activations.FP32 * (stage.trained_numel / holding.masters_over + one)


def _context(parallel: ParallelConfig) -> Interval:
    assert parallel.data is not None
    axes = (parallel.data, parallel.tensor, parallel.pipeline, parallel.context)
    communicators = sum(degree > 1 for degree in axes)
    return Interval.total([_CONTEXT, *[_COMMUNICATOR] * communicators])
