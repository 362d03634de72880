"""Goes back to before a bad step, to a checkpoint or a copy in memory, and skips the samples that led to it.

What counts is on disk before anything is loaded: `latest` names the checkpoint gone back to, and then its history holds the
act. A run that is killed before that goes on as if nothing had been noticed, and notices it again; one that is killed after it
goes on healed. That is so as well where a copy is gone back to, which is of no earlier step than that checkpoint: the steps
between the two come before the samples that are skipped, and are the same when they are taken again.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dist_plm.core.errors import DataError, Diverged
from dist_plm.spec.batch_sizes import BatchSizes
from dist_plm.train.healing import acts
from dist_plm.train.healing.alarms import Alarm
from dist_plm.train.parts import Parts
from dist_plm.train.startup.run_position import Position

log = logging.getLogger(__name__)

#: Loads the checkpoint of a step into the engine: where the run is then, and what else the loop kept. Collective.
Restore = Callable[[int], tuple[Position, Mapping[str, Any]]]
Ranges = Sequence[tuple[int, int]]


def roll_back(parts: Parts, position: Position, restore: Restore, skip: Ranges) -> None:
    """Brings a run back, changing `position` in place. Collective.

    Args:
        skip: ranges of samples that the run was told to leave out.
    Raises:
        Diverged: that was done as often as it may be, there is nothing to go back to, or no sample to go on with.
    """
    settings = parts.train.heal
    alarm = parts.control.first_told(parts.alarms.raised)
    parts.watchdog.progress(f"going back from step {alarm.step}", patient=True)
    parts.checkpoints.settle()
    step, first = _where_to(parts, alarm)
    copied = parts.copies.newest(step, before=first)
    reached = step if copied is None else copied
    history = list(position.history)
    is_over = acts.recent(history, settings, alarm.step) >= settings.most
    if not is_over:
        skipped = _samples(parts, position, skip, step, first, alarm.step)
        numbers = {"step": step, "reached": reached, "noticed": alarm.step, "first": first}
        act = acts.entry(alarm.reason, settings, **numbers, skipped=skipped)
        history.append(act)
        _check_samples(parts, alarm, Position(step=step, samples=parts.checkpoints.samples_at(step), history=history))
        log.warning("healing: %s", act["changes"][0])
    parts.checkpoints.rewind(step, history)
    parts.health.rewind(step, reached)
    parts.copies.forget(reached)
    if is_over:
        raise Diverged(_exhausted(parts, position, alarm))
    if copied is None:
        restored, loop = restore(step)
    else:
        train_state = parts.copies.restore(copied)
        restored, loop = Position.of(train_state, history), train_state.loop
    position.go_to(restored, saved_step=step)
    parts.alarms.load(loop.get("heal", {}))
    if parts.patience is not None:
        parts.patience.load(position.patience)
    if parts.recorder is not None:
        left_out = acts.skipped_samples(skip, history)
        parts.recorder.rewind(reached, loop.get("recorder", {}), left_out, acts.noted(history, step, reached))


def _where_to(parts: Parts, alarm: Alarm) -> tuple[int, int]:
    """Chooses the checkpoint to go back to, by its step, and the first whose samples are skipped.

    Raises:
        Diverged: there is no checkpoint.
    """
    there = parts.checkpoints.steps(parts.health.is_own)
    wanted = alarm.step - parts.train.heal.before
    if before := [step for step in there if step < wanted]:
        return before[-1], wanted
    later = [step for step in there if step < alarm.step]  # it may be damaged already: the number of acts is bounded
    if not later:
        raise Diverged(f"step {alarm.step}: {alarm.reason}, and there is no checkpoint from before to go back to")
    return later[0], later[0] + 1


def _samples(
    parts: Parts, position: Position, skip: Ranges, step: int, first: int, noticed: int
) -> list[tuple[int, int]]:
    """Lists the numbers of the samples of steps `first` to `noticed`, counted on from the checkpoint of `step`."""
    sizes, samples = BatchSizes.of(parts.train), parts.checkpoints.samples_at(step)
    start, stop = (
        samples + sum(n * batch for n, batch in sizes.runs(samples, to - step)) for to in (first - 1, noticed)
    )
    total = parts.train.num_samples
    return acts.skipped_samples(skip, position.history).runs(start, stop if total is None else min(stop, total))


def _check_samples(parts: Parts, alarm: Alarm, position: Position) -> None:
    """Looks before anything is written whether the run can go on from there."""
    try:
        parts.batches(position)
    except DataError as error:
        raise Diverged(
            f"step {alarm.step}: {alarm.reason}, and no other samples are there to go on with: {error}"
        ) from None


def _exhausted(parts: Parts, position: Position, alarm: Alarm) -> str:
    settings = parts.train.heal
    lines = [f"step {alarm.step}: {alarm.reason}, after {settings.most} rollbacks within {settings.within} steps"]
    lines.append("(train.heal.most, train.heal.within). What was done:")
    lines += [f"\n  - {entry['changes'][0]}" for entry in position.history if "heal" in entry]
    return " ".join(lines)
