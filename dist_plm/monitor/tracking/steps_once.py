"""Gives trackers each step once that keep every value that they were ever given."""

from collections.abc import Mapping

from dist_plm.monitor.metrics_file import HEAL_PREFIX


class StepsOnce:
    """Lets each step by once, whatever is taken again after a rollback or a kill; what a rollback was goes with the next step.

    Attributes:
        newest: the last step that was let by.
    """

    def __init__(self, newest: int) -> None:
        self.newest = newest
        self._healed: dict[str, float | int] = {}

    def values(self, step: int, values: Mapping[str, float | int | None]) -> dict[str, float | int] | None:
        """Gives what a tracker is to take of a step, without what is None; None where it has the step."""
        known = self._healed | {name: value for name, value in values.items() if value is not None}
        if step <= self.newest:
            self._healed |= {name: value for name, value in known.items() if name.startswith(HEAL_PREFIX)}
            return None
        self.newest, self._healed = step, {}
        return known
