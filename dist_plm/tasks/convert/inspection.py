"""A checkpoint described for a person, without PyTorch: importing that takes longer than looking."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dist_plm.checkpoint.io.outline import Box, Outline
from dist_plm.checkpoint.lookup import REMEDY, FoundCheckpoint, best_checkpoint, look_up, reason_of_named
from dist_plm.core.errors import CheckpointError, count_of, with_remedy
from dist_plm.core.installed import typed, typed_setting
from dist_plm.interop.kinds import refuse_foreign


def inspect(path: str) -> tuple[str, bool]:
    """A description of the checkpoint at `path`, or of the newest one of the run there, and whether it is sound.

    Raises:
        CheckpointError: there is none, or nothing can be read of it.
    """
    with with_remedy(
        f"make a checkpoint of it with {typed('convert')} {typed_setting('from', path)} to=DIR, and inspect that"
    ):
        refuse_foreign(path)
    with with_remedy("name another checkpoint or run with inspect="):
        found, problems = look_up(path)
    lines = [*_facts(found), ""]
    if problems:
        return "\n".join([*lines, "damaged:", *(f"  {problem}" for problem in problems)]), False
    outline = found.outline()
    lines += [f"every one of its {len(found.train_state.files)} files fits its checksum", "", *_tensors(outline)]
    if broken := _broken(found, outline):
        lines += ["", "not finite, so nothing goes on from it:", *(f"  {line}" for line in broken)]
    return "\n".join(lines), not broken


def _facts(found: FoundCheckpoint) -> list[str]:
    train_state = found.train_state
    facts: dict[str, Any] = {
        "checkpoint": found.where,
        "step": f"{train_state.step:,}",
        "samples seen": f"{train_state.samples_seen:,}",
        "size": f"{sum(record.bytes for record in train_state.files.values()) / 1e6:,.1f} MB",
        **{name.replace("_", " "): value for name, value in train_state.engine.items()},
        **train_state.stream,
        **{f"held-out {name}": f"{value:.4g}" for name, value in train_state.evaluation.items()},
    }
    if (best := best_checkpoint(found.storage)) is not None:
        measures = ", ".join(f"{name} {value:.4g}" for name, value in best.train_state.evaluation.items())
        facts["best of the run"] = f"{best.name}: {measures}"
    # No names of their own: a run may go back to one checkpoint several times.
    changes = [(f"changed at step {change['step']}", "; ".join(change["changes"])) for change in train_state.history]
    told = [*facts.items(), *changes]
    width = max(len(name) for name, _ in told)
    return [f"{name:<{width}}  {value}" for name, value in told]


def _broken(found: FoundCheckpoint, outline: Outline) -> list[str]:
    """The tensors that hold numbers which are not finite, and how many."""
    counts = {name: _num_broken(found, boxes) for name, boxes in sorted(outline.boxes.items())}
    return [f"{name}: {count:,} of its numbers" for name, count in counts.items() if count]


def _num_broken(found: FoundCheckpoint, boxes: Sequence[Box]) -> int:
    count = 0
    for box in boxes:
        try:
            with found.storage.open(found.name, box.file) as stream:
                values = np.frombuffer(box.values(stream), np.float32)
        except OSError as error:
            raise CheckpointError(f"{found.where} cannot be read: {reason_of_named(error)}", REMEDY) from None
        count += values.size - int(np.count_nonzero(np.isfinite(values)))
    return count


def _tensors(outline: Outline) -> list[str]:
    """Weights with their shapes; of the optimizer's tensors, which have the same, the names of its states."""
    shapes = outline.shapes
    weights = {name.removeprefix("model."): shape for name, shape in shapes.items() if name.startswith("model.")}
    states = sorted({name.split(".")[1] for name in shapes if name.startswith("optimizer.")})
    total = sum(math.prod(shape) for shape in weights.values())
    width = max(map(len, weights), default=0)
    return [
        f"{count_of(total, 'weight', ',')} in {count_of(len(weights), 'tensor')}, fp32; for each the optimizer's "
        f"{', '.join(states) or 'nothing'}",
        *(f"  {name:<{width}}  {list(shape)}" for name, shape in sorted(weights.items())),
    ]
