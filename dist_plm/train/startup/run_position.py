"""Holds where a run is."""

from dataclasses import dataclass, field, replace
from typing import Any

from dist_plm.checkpoint.train_state import TrainState
from dist_plm.core.errors import ConfigError
from dist_plm.spec.rules.training import stop_problems
from dist_plm.spec.schema_run import TrainConfig


@dataclass(slots=True, kw_only=True)
class Position:
    """Where a run is. A checkpoint keeps it.

    Args:
        step: updates made.
        samples: that they took, which is the number of the next one.
        evaluation_due: step `step` is still to be evaluated, or recorded.
        evaluation: held-out measures at this step; empty where it was not evaluated.
        saved_step: the step of the newest checkpoint written or begun.
        measured_since: that checkpoint lacks what was measured at its step.
        history: changes of the stream of samples that were allowed so far, and acts of healing (`healing.acts`).
        begun_as: how the run began (`opening.expected_position.begun_as`).
        patience: what `Patience.state` gave.
    """

    step: int = 0
    samples: int = 0
    evaluation_due: bool = True
    evaluation: dict[str, float] = field(default_factory=dict)
    saved_step: int | None = None
    measured_since: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)
    begun_as: str = ""
    patience: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, train_state: TrainState, history: list[dict[str, Any]]) -> "Position":
        """Gives the position that a train state was taken at, with a history that may have gone on since."""
        return cls(
            step=train_state.step,
            samples=train_state.samples_seen,
            evaluation_due=bool(train_state.loop.get("evaluation_due", False)),
            evaluation=dict(train_state.evaluation),
            history=history,
            patience=dict(train_state.loop.get("patience", {})),
        )

    def go_to(self, other: "Position", saved_step: int) -> None:
        """Becomes another position of the same run, whose newest checkpoint is that of `saved_step`."""
        for name in ("step", "samples", "evaluation_due", "evaluation", "history", "patience"):
            setattr(self, name, getattr(other, name))
        self.note_saved(saved_step)

    def note_saved(self, step: int) -> None:
        """Notes that the checkpoint of a step holds all that was known then."""
        self.saved_step, self.measured_since = step, False

    @property
    def is_saved(self) -> bool:
        """Whether the newest checkpoint is of this position."""
        return self.saved_step == self.step and not self.measured_since

    def last_step(self, train: TrainConfig) -> int:
        """Counts the step that a run ends with. One that ends with its samples may have taken other steps before than it takes
        now: the last of fewer epochs was short, or another batch was asked for."""
        if train.num_samples is None:
            return train.steps
        return self.step + max(0, -(-(train.num_samples - self.samples) // train.global_batch))

    def counted(self, train: TrainConfig) -> TrainConfig:
        """Gives the settings of a run that goes on from here, with the steps that it takes to its end.

        Raises:
            ConfigError: it is to stop after that.
        """
        train = replace(train, steps=self.last_step(train))
        if train.num_samples is not None and (problems := list(stop_problems(train, "train.epochs"))):
            raise ConfigError(problems)
        return train

    @property
    def first_unrecorded_step(self) -> int:
        return max(self.step, 1) if self.evaluation_due else self.step + 1
