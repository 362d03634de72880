"""Decides when to step, evaluate, save and stop. Every rank runs it; rank 0 alone has a metrics logger."""

import logging
import time
from collections.abc import Sequence

from dist_plm.checkpoint.train_state import TrainState
from dist_plm.core.errors import Diverged, ReplicasDifferError, SaveFailedError
from dist_plm.data.loader.batch import Batch
from dist_plm.spec.batch_sizes import BatchSizes
from dist_plm.spec.derived import is_due, num_microbatches
from dist_plm.train.divergence import diverged
from dist_plm.train.healing.alarms import AlarmError
from dist_plm.train.parts import Parts
from dist_plm.train.prefetcher import Interruptible, Prefetcher
from dist_plm.train.startup.run_position import Position
from dist_plm.train.stopping import StopRequestedError

log = logging.getLogger(__name__)

#: How long a rank waits for data before it asks the others whether to stop.
POLL_SECONDS = 0.5


def train(parts: Parts, position: Position) -> bool:
    """Runs from `position` to train.stop_at (or train.steps). False where a signal ended it before; then it is saved.

    After a signal at most one microbatch of evaluation, POLL_SECONDS of waiting for data, and of training one microbatch
    in long steps, else one step (always one step under pipelining) pass before the run is saved.

    Raises:
        SaveFailedError: the run's end, or with on_failure "stop" any checkpoint, could not be written.
        Diverged: the last loss is not finite, or no update was possible for train.max_skipped steps.
        ReplicasDifferError: ranks do not agree to the bit, and train.observe ends the run for that, or going back from it was
            done as often as it may be.
    """
    health = parts.health
    began_with, began_at = position.saved_step, position.step
    health.begin(began_with)
    parts.observer.begin_at(began_at)
    stop = parts.train.stop_at or parts.train.steps
    finished = True
    try:
        if position.step < stop or position.evaluation_due:
            try:
                _run_healing(parts, position, stop)
            except StopRequestedError:
                finished = False
        if health.is_broken and (finished or health.newest == began_with):
            raise Diverged(f"after step {position.step} the loss is {health.loss:g}")
        # Perhaps with a loss scale that still falls.
        goes_on = not finished or position.step == stop < parts.train.steps
        if not goes_on and began_at == 0 and position.step > 0 and health.last_update is None:
            raise Diverged(f"none of its {position.step} updates could be made, as no gradient was finite")
        _save_end(parts, position, finished=finished)
        parts.watchdog.progress("waiting until the last checkpoint is written", patient=True)
        newest = None if health.newest == began_with else health.newest
        parts.checkpoints.wait(proven=newest if health.may_save else health.good)
    except Diverged as error:
        _withdraw(parts, began_with)
        raise diverged(str(error), health, parts.checkpoints.where) from None
    except ReplicasDifferError:
        parts.checkpoints.wait(proven=health.good)
        raise
    return finished


def _save_end(parts: Parts, position: Position, *, finished: bool) -> None:
    if (parts.checkpoint.at_end or not finished) and not position.is_saved:
        if parts.health.is_broken:
            log.warning("the loss is not finite: step %d is not saved, an earlier checkpoint counts", position.step)
            return
        try:
            parts.observer.check_weights(position.step)
        except ReplicasDifferError as error:
            if not parts.goes_back_for_weights:
                raise
            log.warning("%s; step %d is not saved, an earlier checkpoint counts", error.reason, position.step)
            return
        _save(parts, position)


def _withdraw(parts: Parts, began_with: int | None) -> None:
    """Takes back the newest checkpoint of a run that diverged where no good step was made from it, so that the run goes on
    from the good one before. One that it began with stays: nothing of this start tells what came before."""
    health, good, newest = parts.health, parts.health.good, parts.health.newest
    parts.watchdog.progress("waiting until the last checkpoint is written", patient=True)
    try:
        parts.checkpoints.wait(proven=None)
        if health.is_broken and newest is not None and good is not None and newest not in (good, began_with):
            parts.checkpoints.withdraw(newest, latest=good)
    except (SaveFailedError, Diverged) as error:
        log.error("%s", error)


def _run_healing(parts: Parts, position: Position, stop: int) -> None:
    """Runs to the end, going back from bad steps where train.heal says so."""
    while True:
        try:
            return _run(parts, position, stop)
        except AlarmError:
            parts.roll_back(parts, position)
        except Diverged as error:
            if not parts.alarms.rolls_back:
                raise
            parts.alarms.note_failure(position.step + 1, str(error))
            parts.roll_back(parts, position)
        except ReplicasDifferError as error:
            if not parts.goes_back_for_weights:
                raise
            parts.alarms.note_mismatch(error.step, error.reason, parts.observer.agreed)
            parts.roll_back(parts, position)


def _run(parts: Parts, position: Position, stop: int) -> None:
    stop = min(stop, position.last_step(parts.train))  # it may have gone back from a short step
    if position.evaluation_due:
        _evaluate_and_record(parts, position, last=position.step == stop)
        position.measured_since = True  # the checkpoint says that this is still to be done
        if position.step > 0 and position.evaluation and is_due(position.step, parts.checkpoint.every):
            _save(parts, position)  # it has no measures, and would not be kept as the best
    if position.step >= stop or _is_over(parts):
        return
    if parts.alarms.rolls_back and (position.saved_step is None or position.measured_since):
        _save(parts, position)  # there is always one to go back to
    runs = BatchSizes.of(parts.train).runs(position.samples, stop - position.step)
    counts = (num_microbatches(parts.train, parts.parallel, batch) for steps, batch in runs for _ in range(steps))
    prefetcher, due = Prefetcher(parts.batches(position), counts), False
    try:
        while position.step < stop:
            _make_step(parts, position, prefetcher)
            step = position.step
            position.evaluation = {}
            position.evaluation_due = True
            due |= is_due(step, parts.checkpoint.every)
            copied = parts.copies.is_due(step)
            if due or copied or step == stop or _is_evaluated(parts, step, last=False):
                _check_alarm(parts)  # else before the next step
                parts.observer.check_weights(step)
            _evaluate_and_record(parts, position, last=step == stop)
            if due and parts.health.may_save:
                _save(parts, position)
                due = False
            if copied and parts.health.may_save:
                parts.copies.take(_state(parts, position))
            if position.evaluation and _is_over(parts):
                break
    finally:
        prefetcher.close()
        parts.observer.profile.close()


def _check_alarm(parts: Parts) -> None:
    if parts.alarms.rolls_back and parts.control.any_rank(parts.alarms.raised is not None):
        raise AlarmError


def _is_over(parts: Parts) -> bool:
    """Whether evaluations no longer get better, as any rank finds. Collective."""
    patience = parts.patience
    if patience is None or not parts.control.any_rank(patience.is_over):
        return False
    if patience.best is None:
        log.info("stopped early: %s was no number in %d evaluations", patience.settings.metric, patience.waited)
        return True
    threshold = patience.settings.threshold
    log.info(
        "stopped early: %s was best at step %d (%.4g), and not better%s in the last %d evaluations",
        patience.settings.metric,
        patience.best_step,
        patience.best,
        f" by more than {threshold:g}" if threshold else "",
        patience.waited,
    )
    return True


def _make_step(parts: Parts, position: Position, prefetcher: Prefetcher) -> None:
    metrics_logger, observer, step = parts.metrics_logger, parts.observer, position.step + 1
    if metrics_logger is not None:
        metrics_logger.begin_step()
    began = time.perf_counter()
    parts.watchdog.progress(f"waiting for the data of step {step}")
    drawn = _next_microbatches(parts, prefetcher, step)
    microbatches: Sequence[Batch] = drawn
    if parts.control.steps_are_long and parts.parallel.pipeline == 1:
        microbatches = Interruptible(drawn, parts.control.check)
    started = time.perf_counter()
    parts.watchdog.progress(f"in step {step}")
    lr = parts.learning_rate(step - 1, position.history)
    with observer.step(step):
        result = parts.engine.train_step(microbatches, lr, parts.trained_from(step - 1))
    ended = time.perf_counter()
    parts.control.note_step(ended - started)
    parts.watchdog.note_step(ended - began)
    parts.alarms.note_step(step, result, position.samples)
    parts.health.note_step(step, result, is_bad=parts.alarms.raised is not None)
    batch = BatchSizes.of(parts.train).taken(position.samples)
    position.step, position.samples = step, position.samples + batch
    if metrics_logger is not None:
        metrics_logger.note_alarms(parts.alarms.take_told())
        metrics_logger.end_step(step, result, lr, batch=batch, samples_seen=position.samples)
    observed = observer.look(step, drawn)
    if metrics_logger is not None:
        metrics_logger.note_observed(observed)


def _next_microbatches(parts: Parts, prefetcher: Prefetcher, step: int) -> list[Batch]:
    """Waits until every rank has data. Before it goes on, checkpoints that all ranks have written are reported."""
    while True:
        ready = parts.observer.waiting(lambda: prefetcher.wait(POLL_SECONDS))
        parts.watchdog.doing = f"waiting for {'the others before' if ready else 'the data of'} step {step}"
        bad = parts.alarms.raised is not None
        profiled = parts.observer.profile.take_request()
        agreed = parts.control.agree(waiting=not ready, saving=parts.checkpoints.is_saving, bad=bad, profiled=profiled)
        if agreed.bad:
            raise AlarmError
        if agreed.profiled:
            parts.observer.profile.ask(step, agreed.profiled)
        if agreed.saving:
            parts.checkpoints.watch()
        else:
            parts.checkpoints.report()
            parts.control.note("save", parts.checkpoints.last_seconds)
        if agreed.stop:
            raise StopRequestedError
        if not agreed.waiting:
            return prefetcher.take()


def _evaluate_and_record(parts: Parts, position: Position, *, last: bool) -> None:
    step, metrics_logger = position.step, parts.metrics_logger
    if _is_evaluated(parts, step, last=last):
        assert parts.evaluate is not None
        parts.watchdog.progress(doing := f"evaluating after step {step}", patient=True)

        parts.control.check(before="evaluation")
        began = time.perf_counter()

        def between() -> None:
            parts.control.check()
            parts.watchdog.progress(doing, patient=True)

        position.evaluation = parts.evaluate(parts.engine, between)
        named, due = {}, step == parts.train.steps or step % max(parts.named_sets_every, 1) == 0
        if parts.named_sets is not None and (last or due):
            named = parts.named_sets(parts.engine, between)
        position.evaluation |= named
        parts.health.note_evaluation(step, position.evaluation)
        parts.alarms.note_evaluation(step, position.evaluation)
        if step > 0:
            _check_alarm(parts)
        # A run that `stop_at` ends and one that goes on are to end alike.
        if (
            parts.patience is not None
            and step > 0
            and (is_due(step, parts.train.eval_every) or step == parts.train.steps)
        ):
            parts.patience.note(step, {k: v for k, v in position.evaluation.items() if due or k not in named})
            position.patience = parts.patience.state()
        parts.control.note("evaluation", time.perf_counter() - began)
        if metrics_logger is not None:
            metrics_logger.note_evaluation(step, position.evaluation)
    if metrics_logger is not None:
        metrics_logger.flush(force=last)
    position.evaluation_due = False


def _is_evaluated(parts: Parts, step: int, *, last: bool) -> bool:
    return parts.evaluate is not None and (step == 0 or last or is_due(step, parts.train.eval_every))


def _save(parts: Parts, position: Position) -> None:
    parts.watchdog.progress(f"saving after step {position.step}", patient=True)
    state = _state(parts, position)
    if position.saved_step != position.step or not parts.checkpoints.amend(state):
        parts.checkpoints.save(parts.engine.parameter_states(), state, proven=parts.health.good)
    position.note_saved(position.step)
    parts.health.note_saved(position.step)


def _state(parts: Parts, position: Position) -> TrainState:
    """Gives what a run goes on from, beside tensors. Collective."""
    return TrainState(
        step=position.step,
        samples_seen=position.samples,
        engine=parts.engine.scalars(),
        stream=parts.stream,
        history=position.history,
        evaluation=position.evaluation,
        loop={
            "evaluation_due": position.evaluation_due,
            "begun_as": position.begun_as,
            "patience": position.patience,
            "heal": parts.alarms.state(),
            "recorder": parts.metrics_logger.state() if parts.metrics_logger is not None else {},
        },
    )
