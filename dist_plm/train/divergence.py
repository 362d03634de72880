"""Whether a run is still healthy, as its losses tell, and what is said where it ends because it is not.

A checkpoint's weights are judged by the loss of the step after it: an update by far too high a rate leaves numbers that are
finite, and no use. So what is newest is only counted on once a finite loss was made with it.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from dist_plm.checkpoint.storage import name_of
from dist_plm.core.errors import Diverged
from dist_plm.engines.base import StepResult

log = logging.getLogger(__name__)

_REMEDY = (
    "lower optim.lr, lengthen the warm-up (schedule.warmup_steps), under fp16 lower precision.initial_loss_scale, or look at "
    "the data from there on"
)


@dataclass(slots=True)
class Health:
    """Holds what the losses of one start of a run tell of its weights.

    Args:
        loss: the last one, of a step or of an evaluation; None before the first.
        num_skipped: updates skipped in a row until now.
        first_bad: the first step of the streak that is on.
        last_update: the last step at which an update was made from a finite loss.
        newest: the checkpoint that this run saved or went on from last, by its step.
        good: the newest checkpoint known to be good.
        proof: steps that have to go well after a checkpoint before it counts as good.
        saved: checkpoints that this start saved or went on from; saving the last one may have failed.
        began_with: the checkpoint that it went on from first.
    """

    loss: float | None = None
    num_skipped: int = 0
    first_bad: int | None = None
    last_update: int | None = None
    newest: int | None = None
    good: int | None = None
    proof: int = 1
    saved: list[int] = field(default_factory=list)
    began_with: int | None = None

    @property
    def is_broken(self) -> bool:
        """Tells whether the last loss is not finite."""
        return self.loss is not None and not math.isfinite(self.loss)

    @property
    def may_save(self) -> bool:
        """Tells whether the weights count as good: nothing is saved in a streak of skipped updates."""
        return self.num_skipped == 0 and not self.is_broken

    def note_step(self, step: int, result: StepResult, *, is_bad: bool = False) -> None:
        """Takes note of a step, which came after the newest checkpoint. One that is bad proves nothing of it."""
        self.loss = result.loss
        self.num_skipped = self.num_skipped + 1 if result.skipped else 0
        if not (self.is_broken or is_bad):
            self.good = next((saved for saved in reversed(self.saved) if saved <= step - self.proof), self.good)
        if self.may_save:
            self.last_update, self.first_bad = step, None
        elif self.first_bad is None:
            self.first_bad = step
            if self.is_broken:
                log.warning(
                    "step %d: the loss is %g, its update is skipped and nothing is saved meanwhile", step, self.loss
                )

    def begin(self, step: int | None) -> None:
        """Takes note of the checkpoint that the run goes on from, if there is one."""
        self.began_with = step
        if step is not None:
            self.note_saved(step)

    def note_saved(self, step: int) -> None:
        """Takes note of a checkpoint that was saved or begun."""
        self.newest = step
        self.saved.append(step)

    def is_own(self, step: int) -> bool:
        """Tells whether a checkpoint that is there led to where the run is: later ones than it went on from may be of a
        continuation that was given up."""
        return step in self.saved or (self.began_with is not None and step <= self.began_with)

    def rewind(self, step: int, reached: int) -> None:
        """Takes note that the run goes on from an earlier checkpoint, or from the step `reached` after it."""
        self.loss, self.num_skipped, self.first_bad = None, 0, None
        self.last_update = reached
        self.saved = [saved for saved in self.saved if saved < step]
        self.note_saved(step)
        self.good = step

    def note_evaluation(self, step: int, measures: Mapping[str, float]) -> None:
        """Takes note of the held-out loss after a step: one that is not finite is the weights' fault."""
        if not math.isfinite(loss := measures.get("loss", 0.0)):
            self.loss, self.first_bad = loss, self.first_bad or step


def diverged(reason: str, health: Health, where: str) -> Diverged:
    """Builds what a run ends with that has no use in going on.

    Args:
        reason: what was seen.
        where: its checkpoints lie.
    """
    last = "No update was made" if health.last_update is None else f"The last good step is {health.last_update}"
    if health.good is not None:
        place = f"the newest good checkpoint is {where}/{name_of(health.good)}, from which the run goes on"
    elif health.newest is not None:
        newest = f"{where}/{name_of(health.newest)}"
        place = f"{newest} itself led to it: name an earlier checkpoint with train.resume=PATH"
    else:
        place = "there is no checkpoint from before"
    return Diverged(f"the run diverged: {reason}. {last}; {place}. Before it is started again {_REMEDY}")
