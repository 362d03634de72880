"""Writes a plan as a person reads it."""

from collections.abc import Sequence

from dist_plm.plan.interval import GIB, Interval
from dist_plm.plan.verdict import Plan
from dist_plm.spec.flops import step_flops, utilisation
from dist_plm.spec.freezing import frozen_tensors


def verdict_line(plan: Plan) -> str:
    """Says in a line whether the run fits."""
    worst = plan.worst
    where = f" on stage {worst.stage} of {len(plan.stages)}" if len(plan.stages) > 1 else ""
    when = ", while the engine is built" if worst.is_built_in_more else ""
    return f"{plan.verdict}: {worst.total.in_gib()} GiB{where} of {plan.gpu.gib:g} GiB of each {plan.gpu.device}{when}"


def time_line(plan: Plan) -> str:
    """Says in a line how long the run takes."""
    hours = plan.run_seconds / 3600
    used = hours * plan.world_size
    price = plan.config.cluster.gpu_hour_price
    cost = f", {used * price:,.0f} at {price:g} an hour" if price is not None else ""
    return (
        f"{plan.step.seconds:.3g} s a step, {plan.tokens_per_second / plan.world_size:,.0f} tokens/s a GPU, "
        f"{hours:,.1f} hours = {used:,.0f} GPU hours{cost}"
    )


def gpus_text(plans: Sequence[Plan]) -> str:
    """Writes a line for each GPU that a run is planned for."""
    lines = ["cluster.gpu names no GPU; on each of the table, and with cluster.gpu=NAME in full:"]
    lines.append(
        f"  {'cluster.gpu=':12}  {'GiB of a rank':>13}  {'of':>5}  {'':12}  {'s a step':>8}  {'hours':>9}  GPU hours"
    )
    for plan in plans:
        hours = plan.run_seconds / 3600
        lines.append(
            f"  {plan.config.cluster.gpu:12}  {plan.worst.total.in_gib():>13}  {plan.gpu.gib:5g}  {plan.verdict:12}  "
            f"{plan.step.seconds:8.3g}  {hours:9,.1f}  {hours * plan.world_size:9,.0f}"
        )
    return "\n".join(lines)


def refusal(plan: Plan, remedies: Sequence[str]) -> str:
    """Says in a sentence that the run cannot fit, and what would."""
    worst = plan.worst
    when = " while the engine is built" if worst.is_built_in_more else ""
    instead = f"set {', or '.join(remedies)}" if remedies else "take more GPUs"
    return (
        f"a rank of stage {worst.stage} needs {worst.total.in_gib()} GiB{when}, and cluster.gpu = "
        f"{plan.config.cluster.gpu!r} has {plan.gpu.gib:g}: {instead}"
    )


def plan_text(plan: Plan, remedies: Sequence[str]) -> str:
    """Writes verdict, memory by term and stage, and time by part."""
    lines = [verdict_line(plan)]
    if plan.verdict != "fits":
        lines += [f"  would fit with  {remedy}" for remedy in remedies] or [
            "  nothing that was tried fits: take more GPUs"
        ]
    lines += ["", "Memory of a rank in GiB:", *_memory(plan), "", time_line(plan), *_parts(plan), _utilisation(plan)]
    return "\n".join(lines)


def _memory(plan: Plan) -> list[str]:
    shown = plan.stages if len(plan.stages) <= 4 else [plan.stages[0], plan.stages[1], plan.stages[-1]]
    names = list(dict.fromkeys(name for stage in shown for name in stage.terms))
    rows = [["", *(f"stage {stage.stage}" if len(plan.stages) > 1 else "each" for stage in shown)]]
    for name in names:
        terms = [stage.terms.get(name, Interval.exact(0.0)) for stage in shown]
        if any(term.high >= GIB / 20 for term in terms):
            rows.append([name, *(term.in_gib() for term in terms)])
    if any(stage.is_built_in_more for stage in shown):
        rows.append(["in a step", *(stage.step.in_gib() for stage in shown)])
        rows.append(["at building", *(stage.building.in_gib() for stage in shown)])
    rows.append(["total", *(stage.total.in_gib() for stage in shown)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  "
        + row[0].ljust(widths[0])
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]


def _parts(plan: Plan) -> list[str]:
    whole = plan.step.seconds
    shown = {name: part for name, part in plan.step.parts.items() if part >= whole / 1000}
    width = max(map(len, shown))
    return [f"  {name:{width}}  {part:8.3f} s  {part / whole:4.0%}" for name, part in shown.items()]


def _utilisation(plan: Plan) -> str:
    config = plan.config
    frozen = frozen_tensors(config.model, config.train.freeze)
    flops = step_flops(config.model, config.objective, config.data.sequence_length, config.train.global_batch, frozen)
    peak, of = _peak_tflops(plan)
    share = utilisation(flops, plan.step.seconds, peak * plan.world_size)
    without = ", no gradients of what is frozen" if frozen else ""
    return f"  model FLOPs utilisation {share:.0%} of the peak {of} (PaLM's count, all pairs of attention{without})"


def _peak_tflops(plan: Plan) -> tuple[float, str]:
    """Finds the peak of a GPU that the run's own MFU is of, and its name; of fp8, where a run tells none, that in 16 bits."""
    precision, peaks, known = plan.config.precision, plan.gpu.peaks, plan.config.cluster.peak_tflops
    if known is not None:
        return known, "of cluster.peak_tflops"
    peak = peaks.of(precision.weights, tf32=precision.tf32)
    if peak is None:
        return peaks.fp32, "in fp32, as this GPU multiplies no bf16"
    if precision.weights != "fp32":
        return peak, "in 16 bits"
    return peak, "in fp32" if peak == peaks.fp32 else "in TF32"
