"""Goes back to before a bad step, to a checkpoint or a copy in memory, and skips the samples that led to it. Where ranks hold
other weights than their replicas, no samples are to blame: then it goes back to what was the same on all, and skips none.

What counts is on disk before anything is loaded: `latest` names the checkpoint gone back to, and then its history holds the
act. A run that is killed before that goes on as if nothing had been noticed, and notices it again; one that is killed after it
goes on healed. That is so as well where a copy is gone back to, which is of no earlier step than that checkpoint: the steps
between the two come before the samples that are skipped, and are the same when they are taken again.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dist_plm.core.errors import DataError, Diverged, ReplicasDifferError, UserError, count_of
from dist_plm.core.installed import typed, typed_setting
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
        ReplicasDifferError: the first two, where replicas of weights are not the same.
    """
    settings = parts.train.heal
    alarm = _cause(parts, position, parts.control.first_told(parts.alarms.raised))
    parts.watchdog.progress(f"going back from step {alarm.step}", patient=True)
    parts.checkpoints.settle()
    step, first, copied = _where_to(parts, alarm)
    reached = step if copied is None else copied
    history = list(position.history)
    is_over = acts.recent(history, settings, alarm.step) >= settings.most
    if not is_over:
        skipped = _samples(parts, position, skip, step, first, alarm.step) if alarm.agreed is None else []
        numbers = {"step": step, "reached": reached, "noticed": alarm.step, "first": first}
        act = acts.entry(alarm.reason, settings, **numbers, skipped=skipped, worst=_worst(parts, position, skip, alarm))
        history.append(act)
        _check_samples(parts, alarm, Position(step=step, samples=parts.checkpoints.samples_at(step), history=history))
        log.warning("healing: %s", act["changes"][0])
    parts.checkpoints.rewind(step, history)
    parts.health.rewind(step, reached)
    parts.copies.forget(reached)
    if is_over:
        raise _ended(alarm, *_exhausted(parts, position))
    if copied is None:
        restored, loop = restore(step)
    else:
        train_state = parts.copies.restore(copied)
        restored, loop = Position.of(train_state, history), train_state.loop
    position.go_to(restored, saved_step=step)
    parts.observer.begin_at(position.step)
    parts.alarms.load(loop.get("heal", {}))
    if parts.patience is not None:
        parts.patience.load(position.patience)
    if parts.metrics_logger is not None:
        left_out = acts.skipped_samples(skip, history)
        parts.metrics_logger.rewind(reached, loop.get("recorder", {}), left_out, acts.noted(history, step, reached))


def _cause(parts: Parts, position: Position, alarm: Alarm) -> Alarm:
    """Finds whether what is bad about a step comes of weights that are not the same on all ranks. Collective.

    Raises:
        ReplicasDifferError: it does, and train.observe.on_mismatch is "stop".
    """
    if alarm.agreed is not None:
        return alarm
    try:
        parts.observer.check_weights(position.step)
    except ReplicasDifferError as error:
        if not parts.goes_back_for_weights:
            raise
        return Alarm(alarm.step, f"{alarm.reason}, and {error.reason}", parts.observer.agreed)
    return alarm


def _where_to(parts: Parts, alarm: Alarm) -> tuple[int, int, int | None]:
    """Chooses the checkpoint to go back to, by its step, the first step that is to be taken in another way, and the copy in
    memory from between the two, if there is one. A checkpoint that is damaged is passed over. Collective.

    Raises:
        Diverged, ReplicasDifferError: there is no checkpoint.
    """
    there = parts.checkpoints.steps(parts.health.is_own)
    wanted = alarm.step - parts.train.heal.before if alarm.agreed is None else alarm.agreed + 1
    choices = [(step, wanted) for step in reversed(there) if step < wanted]
    if alarm.agreed is None:  # what is later may be bad already: the number of acts is bounded
        choices += [(step, step + 1) for step in there if wanted <= step < alarm.step]
    for step, first in choices:
        copied = parts.copies.newest(step, before=first)
        if parts.checkpoints.is_whole(step, verify=copied is None and parts.checkpoint.verify):
            return step, first, copied
    raise _ended(alarm, "and there is no checkpoint from before to go back to")


def _ended(alarm: Alarm, why: str, done: str = "") -> UserError:
    """Builds what a run ends with that cannot go back.

    Args:
        why: it cannot.
        done: what was done so far.
    """
    if alarm.agreed is None:
        return Diverged(f"step {alarm.step}: {alarm.reason}, {why}{done}")
    remedy = f"Replicas agreed last after step {alarm.agreed}; leave that machine out, and start the run again{done}"
    return ReplicasDifferError(alarm.step, f"{alarm.reason}, {why}", remedy)


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


def _worst(parts: Parts, position: Position, skip: Ranges, alarm: Alarm) -> acts.Worst | None:
    """Finds the samples of the bad step's worst microbatch; None where that is unknown, or they are not to blame."""
    if alarm.worst is None or alarm.agreed is not None:
        return None
    (number, loss), size = alarm.worst, parts.train.micro_batch
    taken = BatchSizes.of(parts.train).taken(alarm.samples)  # a last step may be short, and its last microbatch as well
    count = min(size, taken - number * size)
    first, last = acts.skipped_samples(skip, position.history).span(alarm.samples + number * size, count)
    run = typed_setting("run", str(parts.observer.run_dir))
    return acts.Worst(loss, first, last, f"{typed('samples')} {run} samples='[{first}, {last + 1}]'")


def _check_samples(parts: Parts, alarm: Alarm, position: Position) -> None:
    """Looks before anything is written whether the run can go on from there."""
    try:
        parts.batches(position)
    except DataError as error:
        raise Diverged(
            f"step {alarm.step}: {alarm.reason}, and no other samples are there to go on with: {error}"
        ) from None


def _exhausted(parts: Parts, position: Position) -> tuple[str, str]:
    """Says why a run that has gone back as often as it may does not again, and lists what was done."""
    settings = parts.train.heal
    why = (
        f"after {count_of(settings.most, 'rollback')} within {count_of(settings.within, 'step')} (train.heal.most, "
        "train.heal.within)"
    )
    done = "".join(f"\n  - {entry['changes'][0]}" for entry in position.history if "heal" in entry)
    return why, f". What was done:{done}"
