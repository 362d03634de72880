"""Writes what self-healing did into the history that checkpoints keep, and reads what follows from it for a step. Pure."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dist_plm.data.loader.skipped_samples import SkippedSamples
from dist_plm.spec.schema_run import HealConfig

#: Of an entry, which has also the `step` of the checkpoint that first held it and, as `changes`, words for people.
History = Sequence[Mapping[str, Any]]


def skipped_samples(asked: Sequence[Sequence[int]], history: History) -> SkippedSamples:
    """Joins what a run was told to leave out with what it has skipped since."""
    return SkippedSamples.of([*asked, *(one for entry in history for one in entry.get("skipped", ()))])


def rollbacks(history: History) -> list[Mapping[str, float]]:
    """Lists the numbers of each act: the step `noticed`, the first step `after` it with other samples, the factor `rate`
    of the learning rate, and the `last` step that has it."""
    return [entry["heal"] for entry in history if "heal" in entry]


def recent(history: History, settings: HealConfig, noticed: int) -> int:
    """Counts the acts of the last steps (`within`) before one that is noticed."""
    return sum(act["noticed"] > noticed - settings.within for act in rollbacks(history))


def rate_factor(history: History, step: int) -> float:
    """Gives the factor of the learning rate of an update, `step` from 1."""
    return min((act["rate"] for act in rollbacks(history) if act["after"] <= step <= act["last"]), default=1.0)


def noted(history: History, step: int, reached: int | None = None) -> dict[str, float]:
    """Gives what the first record after going back to the checkpoint of a step holds: how often the run has done so, from
    where to where (to `reached`, from a copy in memory), and how many samples are skipped in all. Nothing where the run did
    not go back to that step."""
    if not history or history[-1]["step"] != step or "heal" not in history[-1]:
        return {}
    ranges = skipped_samples((), history).ranges
    return {
        "rollbacks": len(rollbacks(history)),
        "noticed": history[-1]["heal"]["noticed"],
        "step": step if reached is None else reached,
        "skipped_samples": sum(stop - first for first, stop in ranges),
        **{name: value for name, value in history[-1]["heal"].items() if name.startswith("worst_")},
    }


class Worst(NamedTuple):
    """The microbatch of the largest loss of a bad step.

    Args:
        loss: infinite where it is not finite: then the first that is not.
        first, last: numbers of its samples.
        shown: the command that shows their text.
    """

    loss: float
    first: int
    last: int
    shown: str

    def told(self) -> str:
        """Says which it is."""
        if math.isfinite(self.loss):
            what = f"its largest loss of a microbatch, {self.loss:.4g}, was that"
        else:
            what = "its first microbatch whose loss is not finite is that"
        return f"{what} of samples {self.first:,} to {self.last:,} ({self.shown})"

    def numbers(self) -> dict[str, float]:
        """Gives what a history and a record hold of it."""
        loss = {"worst_loss": self.loss} if math.isfinite(self.loss) else {}
        return {**loss, "worst_first_sample": self.first, "worst_last_sample": self.last}


def entry(
    reason: str,
    settings: HealConfig,
    *,
    step: int,
    reached: int,
    noticed: int,
    first: int,
    skipped: Sequence[tuple[int, int]],
    worst: Worst | None = None,
) -> dict[str, Any]:
    """Builds the entry of an act.

    Args:
        step: of the checkpoint that holds it first.
        reached: the step that the run goes back to, which may be a later one.
        noticed: the bad step.
        first: the first step whose samples are skipped.
        skipped: ranges of these samples; none where they are not to blame: then they are learned from again as before.
        worst: of the bad step, where it is known.
    """
    words = f"step {noticed}: {reason}; went back to step {reached}"
    rate, last = settings.rate if skipped else 1.0, noticed
    if skipped:
        told = ", ".join(f"{start:,} to {stop - 1:,}" for start, stop in skipped)
        words += f", samples {told} of steps {first} to {noticed} are skipped"
    else:
        words += ", no samples are skipped"
    if rate < 1.0:
        last = first + settings.rate_steps - 1
        words += f", the learning rate is multiplied by {rate:g} from step {first} to {last}"
    numbers = {"noticed": noticed, "after": first, "rate": rate, "last": last}
    if worst is not None:
        words += f"; {worst.told()}"
        numbers |= worst.numbers()
    return {"step": step, "changes": [words], "skipped": [list(one) for one in skipped], "heal": numbers}
