"""When the job ends that a run is in, and what it can still do until then."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from dist_plm.core.parsing import whole_number

log = logging.getLogger(__name__)

#: Set by Slurm from 23.02 on, and by slurm/common.sh: seconds since 1970.
END_TIME = "SLURM_JOB_END_TIME"
#: The year 10,000, which no clock shows.
_NO_DATE = 253_402_300_800
#: For what is not measured: leaving process groups, the launcher, the batch script.
RESERVE_SECONDS = 15.0
#: A run that starts so long after the end of its job is not in that job: the variable was left over in a shell.
STALE_SECONDS = 900.0
#: What was measured may take so much longer the next time.
MARGIN = 1.5


@dataclass(slots=True)
class Deadline:
    """Keeps the deadline of one rank, which notes what its last step, save and evaluation took, in seconds.

    Args:
        end: of the job, in seconds since 1970; None where it is not known, or there is none.
    """

    end: float | None = None
    _took: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> "Deadline":
        end = whole_number(env.get(END_TIME)) or 0
        if 0 < end < time.time() - STALE_SECONDS:
            log.warning("%s = %d is long past, and of another job: this run has no known end", END_TIME, end)
            return cls()
        return cls(float(end) if 0 < end < _NO_DATE else None)

    def note(self, what: str, seconds: float) -> None:
        self._took[what] = seconds

    def allows(self, what: str) -> bool:
        """Whether `what` and a save after it would end in time. What was never done takes no time, as far as is known."""
        if self.end is None:
            return True
        needed = MARGIN * (self._took.get(what, 0.0) + self._took.get("save", 0.0)) + RESERVE_SECONDS
        return time.time() + needed < self.end

    def __str__(self) -> str:
        return "no known end" if self.end is None else f"{datetime.fromtimestamp(self.end):%F %T}"
