"""Draws a plan as one file of HTML: memory by term and stage, the pipeline's timeline, a step by part."""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from dist_plm.config.read_files import check_not_read
from dist_plm.core.errors import UserError, count_of, reason_of
from dist_plm.core.files import check_output, output_writer
from dist_plm.plan.interval import GIB
from dist_plm.plan.render import time_line, verdict_line
from dist_plm.plan.timeline import timeline
from dist_plm.plan.timing.step_time import stage_passes
from dist_plm.plan.verdict import Plan
from dist_plm.spec.derived import num_microbatches
from dist_plm.spec.schema import PlanConfig

_WIDTH, _LABEL, _BAR, _GAP = 960, 90, 22, 8
#: Okabe and Ito's colours, which are told apart by most eyes, and lighter ones of the same hues.
_COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#B8A800",
    "#7F7F7F",
    "#4C6A92",
    "#A0785A",
)
#: Stages and microbatches that a picture can show and still be read.
_MOST_STAGES, _MOST_MICROBATCHES = 32, 3

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1000px; margin: 2rem auto; padding: 0 1rem }
body { color: #1b1b1b; background: #fff }
h1 { font-size: 1.35rem } h2 { font-size: 1.05rem; margin: 1.8rem 0 .4rem }
svg { width: 100%; height: auto } text { font: 12px system-ui, sans-serif; fill: currentColor }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } td { padding: .1rem .9rem .1rem 0 }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em }
.keys span.name { margin-right: 1.1em; white-space: nowrap } .note { color: #555 }
@media (prefers-color-scheme: dark) { body { color: #e8e8e8; background: #17191c } .note { color: #aaa } }
"""


def check_picture(path: str, config: PlanConfig) -> None:
    """Sees to it, before anything is planned, that nothing but a file is replaced, and none that another setting names.

    Raises:
        UserError: what is there is no file, or the file of another setting.
    """
    try:
        check_output(Path(path))
    except (OSError, ValueError) as error:
        raise UserError(f"picture = {path} cannot be written: {reason_of(error, path)}") from None
    check_not_read("picture", path, config)


def write_picture(plan: Plan, path: str) -> None:
    """Writes the picture whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with output_writer(target) as file:
            file.write(picture(plan).encode(errors="replace"))
    except (OSError, ValueError) as error:
        raise UserError(f"picture = {path} cannot be written: {reason_of(error, path)}") from None


def picture(plan: Plan) -> str:
    """Draws the plan."""
    name = escape(plan.config.run.name)
    grid = plan.config.parallel
    context = f" × context {grid.context}" if grid.context > 1 else ""
    degrees = (
        f"data {grid.data} × tensor {grid.tensor} × pipeline {grid.pipeline}{context} = "
        f"{count_of(plan.world_size, 'GPU')}"
    )
    body = [
        f"<h1>Plan of {name}</h1>",
        f"<p>{escape(verdict_line(plan))}<br>{escape(time_line(plan))}<br>{degrees}</p>",
        "<h2>Memory of a rank by stage, GiB</h2>",
        *_memory(plan),
        "<h2>When stages run</h2>",
        *_pipeline(plan),
        "<h2>A step by part, seconds</h2>",
        *_parts(plan),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Plan of {name}</title>'
    return (
        f"<!doctype html><html lang=en><head>{head}<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _memory(plan: Plan) -> Iterator[str]:
    stages = plan.stages
    shown = stages if len(stages) <= _MOST_STAGES else [*stages[: _MOST_STAGES - 1], stages[-1]]
    names = list(dict.fromkeys(name for stage in shown for name in stage.terms))
    names = [
        name for name in names if any(stage.terms[name].high >= GIB / 100 for stage in shown if name in stage.terms)
    ]
    most = 1.05 * max(plan.gpu.gib, *(stage.total.high / GIB for stage in shown))
    scale = (_WIDTH - _LABEL - 60) / most
    height = len(shown) * (_BAR + _GAP) + 30
    yield f'<svg id="memory" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="memory by stage">'
    for row, stage in enumerate(shown):
        top, left = row * (_BAR + _GAP), float(_LABEL)
        yield _text(0, top + 15, f"stage {stage.stage}")
        for name in names:
            term = stage.terms.get(name)
            if term is None or term.high <= 0:
                continue
            width = term.middle / GIB * scale
            tip = f"stage {stage.stage}, {name}: {term.in_gib()} GiB"
            yield _box(left, top, width, _BAR, _COLOURS[names.index(name) % len(_COLOURS)], tip)
            left += width
        when = f", building {stage.building.in_gib()}" if stage.is_built_in_more else ""
        yield _text(left + 5, top + 15, stage.step.in_gib() + when)
    limit = _LABEL + plan.gpu.gib * scale
    yield f'<line x1="{limit:.1f}" x2="{limit:.1f}" y1="0" y2="{height - 24}" stroke="#D00" stroke-dasharray="4 3"/>'
    yield _text(limit, height - 8, f"{plan.gpu.gib:g} GiB of the GPU", anchor="end") + "</svg>"
    yield _keys(names)


def _pipeline(plan: Plan) -> Iterator[str]:
    config, parallel = plan.config, plan.config.parallel
    count, stages = num_microbatches(config.train, parallel), parallel.pipeline
    if stages == 1:
        told = f"{count} microbatches follow each other" if count > 1 else "A step has 1 microbatch"
        yield f'<p class="note" id="pipeline">One stage: nothing waits. {told}.</p>'
        return
    shown = min(count, _MOST_MICROBATCHES * stages)
    if parallel.virtual_pipeline > 1:
        shown = max(stages, shown // stages * stages)
    passes = timeline(stage_passes(config, plan.gpu, plan.efficiency), shown, parallel.virtual_pipeline)
    rows = min(stages, _MOST_STAGES)
    end = max(one.stop for one in passes)
    scale, height = (_WIDTH - _LABEL) / end, rows * (_BAR + 4) + 24
    yield f'<svg id="pipeline" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="timeline of the pipeline">'
    for one in passes:
        if one.stage >= rows:
            continue
        left, top, width = _LABEL + one.start * scale, one.stage * (_BAR + 4), (one.stop - one.start) * scale
        colour = (_COLOURS[0], _COLOURS[4])[one.chunk % 2] if one.forward else (_COLOURS[1], "#F0C870")[one.chunk % 2]
        kind = "forward" if one.forward else "backward"
        took = f"{1000 * (one.stop - one.start):.1f} ms"
        tip = f"stage {one.stage}, microbatch {one.microbatch}, chunk {one.chunk}, {kind}: {took}"
        yield _box(left, top, max(width - 0.5, 0.2), _BAR, colour, tip)
        if width > 14:
            fill = "#fff" if one.forward and one.chunk % 2 == 0 else "#000"
            yield _text(left + width / 2, top + 15, str(one.microbatch), anchor="middle", fill=fill)
    for stage in range(rows):
        yield _text(0, stage * (_BAR + 4) + 15, f"stage {stage}")
    yield _text(_LABEL, height - 6, "0") + _text(_WIDTH, height - 6, f"{end:.3g} s", anchor="end") + "</svg>"
    keys = [("forward", _COLOURS[0]), ("backward, with what is computed again", _COLOURS[1])]
    yield "".join(("<p class=keys>", *(_key(name, colour) for name, colour in keys), "</p>"))
    chunks = ", and light passes those of a stage's other chunks" if parallel.virtual_pipeline > 1 else ""
    part = f"the {count_of(count, 'microbatch')} of a step"
    part = f"{shown} of {part}" if shown < count else part
    yield f'<p class="note">{part}; gaps are waiting{chunks}.</p>'


def _parts(plan: Plan) -> Iterator[str]:
    whole = plan.step.seconds
    parts = [(name, part) for name, part in plan.step.parts.items() if part > whole / 1000]
    yield f'<svg id="parts" viewBox="0 0 {_WIDTH} {_BAR + 4}" role="img" aria-label="a step by part">'
    left = 0.0
    for number, (name, part) in enumerate(parts):
        width = part / whole * _WIDTH
        yield _box(left, 0, width, _BAR, _COLOURS[number % len(_COLOURS)], f"{name}: {part:.4g} s")
        left += width
    yield "</svg><table>"
    for number, (name, part) in enumerate(parts):
        key = f'<span class="key" style="background:{_COLOURS[number % len(_COLOURS)]}"></span>'
        yield f"<tr><td>{key}{escape(name)}</td><td>{part:.4g} s</td><td>{part / whole:.1%}</td></tr>"
    yield "</table>"


def _keys(names: Sequence[str]) -> str:
    keys = (_key(name, _COLOURS[number % len(_COLOURS)]) for number, name in enumerate(names))
    return "".join(("<p class=keys>", *keys, "</p>"))


def _key(name: str, colour: str) -> str:
    return f'<span class="name"><span class="key" style="background:{colour}"></span>{escape(name)}</span>'


def _box(left: float, top: float, width: float, height: float, colour: str, tip: str) -> str:
    place = f'x="{left:.2f}" y="{top:.1f}" width="{width:.2f}" height="{height}"'
    return f'<rect {place} fill="{colour}"><title>{escape(tip)}</title></rect>'


def _text(left: float, top: float, text: str, *, anchor: str = "start", fill: str = "") -> str:
    colour = f' style="fill:{fill}"' if fill else ""
    return f'<text x="{left:.1f}" y="{top:.1f}" text-anchor="{anchor}"{colour}>{escape(text)}</text>'
