"""Notices bad steps, as every rank does of the same numbers."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dist_plm.engines.base import StepResult
from dist_plm.train.healing.spikes import SpikeWatch

log = logging.getLogger(__name__)


class Alarm(NamedTuple):
    """A bad step, and what is bad about it.

    Args:
        agreed: the last step after which all ranks held the same weights, where they do not after this one; None where the
            step is bad in itself.
        samples: seen before the step.
        worst: its microbatch of the largest loss, see StepResult; None where unknown.
    """

    step: int
    reason: str
    agreed: int | None = None
    samples: int = 0
    worst: tuple[int, float] | None = None


class AlarmError(Exception):
    """All ranks have agreed that a step was bad."""


@dataclass(slots=True)
class Alarms:
    """Judges steps by train.heal, and holds the alarm of one that was bad until the run has gone back.

    Args:
        num_told: bad steps since the last record, that the run goes on from.
    """

    watch: SpikeWatch
    raised: Alarm | None = None
    num_told: int = 0

    @property
    def rolls_back(self) -> bool:
        """Tells whether alarms are raised rather than told."""
        return self.watch.settings.rolls_back

    def note_step(self, step: int, result: StepResult, samples: int) -> None:
        """Judges a step, before which so many `samples` were seen.

        Under dynamic loss scaling an update that overflows is skipped as a matter of course.
        """
        if self.watch.settings.mode == "off":
            return
        norm, reason = result.grad_norm, None
        if not math.isfinite(result.loss):
            reason = f"the loss is {result.loss:g}"  # train.divergence tells of it
        elif norm is None and result.loss_scale is None:
            reason = "the gradient is not finite"
        else:
            reason = self.watch.judge(result.loss, norm)
        if reason is not None:
            alarm = Alarm(step, reason, samples=samples, worst=result.worst)
            self._note(alarm, quietly=not math.isfinite(result.loss))
        if self.raised is None and math.isfinite(result.loss):
            self.watch.take(result.loss, norm)

    def note_evaluation(self, step: int, measures: Mapping[str, float]) -> None:
        """Judges the weights after a step by their held-out loss."""
        if not math.isfinite(loss := measures.get("loss", 0.0)) and self.watch.settings.mode != "off":
            self._note(Alarm(step, f"the held-out loss is {loss:g}"))

    def note_failure(self, step: int, reason: str) -> None:
        """Takes note of what would have ended the run in a step."""
        if self.raised is None:
            self.raised = Alarm(step, reason)

    def note_mismatch(self, step: int, reason: str, agreed: int) -> None:
        """Takes note of weights that are not the same on all ranks, which whatever else is bad about a step may come of."""
        self.raised = Alarm(step, reason, agreed)

    def _note(self, alarm: Alarm, *, quietly: bool = False) -> None:
        if self.rolls_back:
            self.raised = alarm
        else:
            self.num_told += 1
            if not quietly:
                log.warning(
                    "step %d: %s; train.heal.mode=on would go back and skip its samples", alarm.step, alarm.reason
                )

    def take_told(self) -> int:
        """Counts the bad steps since it was asked last."""
        count, self.num_told = self.num_told, 0
        return count

    def state(self) -> dict[str, Any]:
        """Gives what a checkpoint keeps."""
        return self.watch.state()

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.watch.load(state)
        self.raised = None
