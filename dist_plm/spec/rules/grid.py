"""Does the work divide over the process grid? World size, heads, layers, sequence and batch against `parallel.*`."""

import math
from collections.abc import Callable, Iterator

from dist_plm.config.messages import show
from dist_plm.core.errors import count_of
from dist_plm.spec.batch_sizes import BatchSizes
from dist_plm.spec.derived import Case, model_ranks, num_microbatches
from dist_plm.spec.pipeline import spread_layers
from dist_plm.spec.schema import ParallelConfig

#: A cut over more is not written out.
_MOST_STAGES_SHOWN = 16


def _experts(case: Case) -> Iterator[str]:
    degree = case.config.parallel.expert
    if degree > 1:
        yield f"parallel.expert = {degree} has no experts to share out, as no model has any: set parallel.expert=1"


def _world_size(case: Case) -> Iterator[str]:
    yield from process_problems(case.config.parallel, case.world_size)


def process_problems(parallel: ParallelConfig, world: int) -> Iterator[str]:
    """Tells why so many processes make no grid. Stays silent where experts are asked for: its own sentence says what to do."""
    if parallel.expert > 1:
        return
    copy = model_ranks(parallel)
    axes = f"parallel.tensor = {parallel.tensor} x parallel.pipeline = {parallel.pipeline}"
    if parallel.context > 1:
        axes += f" x parallel.context = {parallel.context}"
    if world % copy:
        yield (
            f"{axes} needs a multiple of {copy} processes, but this run has {world}: "
            f"start {-(-world // copy) * copy} processes, or lower a degree"
        )
    elif parallel.data is not None and parallel.data * copy != world:
        yield (
            f"parallel.data = {parallel.data} x {axes} is {parallel.data * copy}, but this run has "
            f"{count_of(world, 'process')}: start {count_of(parallel.data * copy, 'process')}, or leave parallel.data out, "
            f"which makes it {world // copy}"
        )


def _tensor_divides(case: Case) -> Iterator[str]:
    model, tensor = case.config.model, case.config.parallel.tensor
    for key, size in (("heads", model.heads), ("kv_heads", model.kv_heads), ("ffn", model.ffn)):
        # kv_heads that were derived from heads would only say the same again.
        said_already = key == "kv_heads" and model.kv_heads == model.heads
        if size is not None and size % tensor and not said_already:
            yield (
                f"model.{key} = {size} is not a multiple of parallel.tensor = {tensor}, over which it is split: "
                f"choose parallel.tensor from {_divisors(size)}, or another model.{key}"
            )


def _context_divides(case: Case) -> Iterator[str]:
    """Ranks exchange slices of the sequence for heads, so both are split over them."""
    model, parallel, length = case.config.model, case.config.parallel, case.config.data.sequence_length
    tensor, context = parallel.tensor, parallel.context
    if context == 1:
        return
    if model.heads % tensor:
        return  # said already
    split, kv_heads = tensor * context, model.kv_heads or model.heads
    if model.heads % split:
        yield (
            f"model.heads = {model.heads} is not a multiple of parallel.tensor = {tensor} x parallel.context = {context}, over "
            f"which it is split: choose parallel.context from {_divisors(model.heads // tensor)}, or another parallel.tensor"
        )
    elif kv_heads % tensor == 0 and kv_heads // tensor % context and context % (kv_heads // tensor):
        yield (
            f"model.kv_heads = {kv_heads} over parallel.tensor = {tensor} are {kv_heads // tensor}, which parallel.context = "
            f"{context} neither divides nor is a multiple of: choose another parallel.context"
        )
    slices = context * (tensor if parallel.sequence_parallel else 1)
    if length % slices:
        sliced = f" x parallel.tensor = {tensor} (parallel.sequence_parallel)" if parallel.sequence_parallel else ""
        yield (
            f"data.sequence_length = {length} is not a multiple of parallel.context = {context}{sliced}, over which it is "
            f"split: choose {_multiples_near(length, slices)}, or another parallel.context"
        )


def _sequence_parallel(case: Case) -> Iterator[str]:
    parallel, length = case.config.parallel, case.config.data.sequence_length
    if not parallel.sequence_parallel:
        return
    if parallel.tensor == 1:
        yield (
            "parallel.sequence_parallel = true has no effect with parallel.tensor = 1, whose ranks it splits the "
            "sequence over: set parallel.sequence_parallel=false, or raise parallel.tensor"
        )
    if length % parallel.tensor and parallel.context == 1:
        yield (
            f"data.sequence_length = {length} is not a multiple of parallel.tensor = {parallel.tensor}, over which "
            f"sequence parallelism splits it: choose {_multiples_near(length, parallel.tensor)}, or "
            "parallel.sequence_parallel=false"
        )


def _layers(case: Case) -> Iterator[str]:
    layers, parallel = case.config.model.layers, case.config.parallel
    if parallel.virtual_pipeline > 1 and parallel.pipeline == 1:
        yield (
            f"parallel.virtual_pipeline = {parallel.virtual_pipeline} needs parallel.pipeline of 2 or more: it cuts "
            "what a pipeline rank holds into chunks that take turns; set parallel.virtual_pipeline=1"
        )
    stages = parallel.pipeline * parallel.virtual_pipeline
    if parallel.stage_layers is not None:
        yield from _stage_layers(layers, parallel)
    elif layers % stages:
        yield (
            f"model.layers = {layers} does not split evenly over parallel.pipeline = {parallel.pipeline} x "
            f"parallel.virtual_pipeline = {parallel.virtual_pipeline} = {stages} stages: choose "
            f"{_multiples_near(layers, stages)} layers, or stages from {_divisors(layers)}{_uneven(layers, stages)}"
        )


def _uneven(layers: int, stages: int) -> str:
    if layers < stages - 1 or stages > _MOST_STAGES_SHOWN:
        return ""
    held = ",".join(map(str, spread_layers(layers, stages)))
    return f", or say how many each holds, as in parallel.stage_layers=[{held}]"


def _stage_layers(layers: int, parallel: ParallelConfig) -> Iterator[str]:
    told, stages = parallel.stage_layers or (), parallel.pipeline * parallel.virtual_pipeline
    written = f"parallel.stage_layers = {show(told)}"
    if parallel.pipeline == 1:
        yield f"{written} has no effect with parallel.pipeline = 1: leave it out"
    elif len(told) != stages or sum(told) != layers:
        virtual = f" x parallel.virtual_pipeline = {parallel.virtual_pipeline}" if parallel.virtual_pipeline > 1 else ""
        yield (
            f"{written} gives {sum(told)} layers to {len(told)} stages, but model.layers = {layers} are for "
            f"parallel.pipeline = {parallel.pipeline}{virtual} = {stages} stages: choose {stages} numbers that add up to "
            f"{layers}, or null for as many each"
        )
    elif 0 in told[1:-1]:
        yield (
            f"{written} gives no layer to a stage in the middle, which would hold nothing: only the first, which has the "
            "embeddings, and the last, which predicts, can do without"
        )


def _batch(case: Case) -> Iterator[str]:
    train, parallel = case.config.train, case.config.parallel
    assert parallel.data is not None
    if case.world_size % model_ranks(parallel):  # no number of data ranks to speak of
        return
    one_pass = train.micro_batch * parallel.data
    if train.global_batch % one_pass:
        share, left = divmod(train.global_batch, parallel.data)
        smaller = "" if left else f", or train.micro_batch={math.gcd(share, train.micro_batch)}"
        yield (
            f"train.global_batch = {train.global_batch} is not a multiple of train.micro_batch = {train.micro_batch} "
            f"x {parallel.data} data ranks = {one_pass}: choose "
            f"train.global_batch={_multiples_near(train.global_batch, one_pass)}{smaller}"
        )
    elif (
        parallel.virtual_pipeline > 1
        and parallel.pipeline > 1
        and (microbatches := num_microbatches(train, parallel)) % parallel.pipeline
    ):
        yield (
            f"parallel.virtual_pipeline = {parallel.virtual_pipeline} needs a number of microbatches that is a "
            f"multiple of parallel.pipeline = {parallel.pipeline}, but train.global_batch = {train.global_batch} / "
            f"{one_pass} is {microbatches}: choose "
            f"train.global_batch={_multiples_near(train.global_batch, one_pass * parallel.pipeline)}"
        )


def _rampup(case: Case) -> Iterator[str]:
    train, parallel = case.config.train, case.config.parallel
    ramp = train.batch_rampup
    assert parallel.data is not None
    if ramp is None or case.world_size % model_ranks(parallel):
        return
    unit = train.micro_batch * parallel.data
    units = f"train.micro_batch = {train.micro_batch} x {parallel.data} data ranks"
    if parallel.virtual_pipeline > 1 and parallel.pipeline > 1:
        unit, units = unit * parallel.pipeline, f"{units} x parallel.pipeline = {parallel.pipeline}"
    for name, size in (("start", ramp.start), ("increment", ramp.increment)):
        if size % unit:
            yield (
                f"train.batch_rampup.{name} = {size} is not a multiple of {units} = {unit}: choose "
                f"{_multiples_near(size, unit)}, or another train.micro_batch"
            )
    grows = train.global_batch - ramp.start
    if grows <= 0 or grows % ramp.increment:
        yield (
            f"train.batch_rampup.start = {ramp.start} does not reach train.global_batch = {train.global_batch} in whole steps "
            f"of train.batch_rampup.increment = {ramp.increment}: choose another start or increment"
        )
    elif (seen := BatchSizes.of(train).after(train.steps)) < ramp.samples:
        yield (
            f"train.batch_rampup.samples = {ramp.samples} are more than the {seen} that train.steps = {train.steps} take, so "
            "the whole batch is never reached: lower the one or raise the other"
        )


def _profiled_ranks(case: Case) -> Iterator[str]:
    ranks, world = case.config.train.profile.ranks, case.world_size
    if beyond := [rank for rank in ranks if rank >= world]:
        yield (
            f"train.profile.ranks names {beyond}, but the {count_of(world, 'rank')} of this run are numbered from 0: "
            "leave them out"
        )


GRID_RULES: tuple[Callable[[Case], Iterator[str]], ...] = (
    _profiled_ranks,
    _experts,
    _world_size,
    _tensor_divides,
    _context_divides,
    _sequence_parallel,
    _layers,
    _batch,
    _rampup,
)


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0) if n <= 256 else f"the divisors of {n}"


def _multiples_near(n: int, unit: int) -> str:
    """The multiples of `unit` on both sides of `n`: "8 or 12"."""
    below = n // unit * unit
    return f"{below} or {below + unit}" if below else str(unit)
