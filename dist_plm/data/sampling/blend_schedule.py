"""Chooses the source of a blend that sample n comes from: arithmetic on n and a table of one period.

Weights are whole parts m_1, …, m_K of D = m_1 + … + m_K, so that exact proportions come round every D samples. Within a
period the j-th sample of source i (j = 0, 1, …) is taken no earlier than at position floor(j D / m_i) and before
ceil((j + 1) D / m_i), and of those that may be taken the one that has to be taken soonest. After any number n of samples
source i then has had floor(n m_i / D) or ceil(n m_i / D): less than one sample from the exact n m_i / D.

That this never fails: samples that have to lie within positions [a, b) number at most
sum_i max(0, floor(b m_i / D) - ceil(a m_i / D)) <= sum_i (b - a) m_i / D = b - a, which is Hall's condition for unit jobs
on one machine, and taking the earliest deadline first finds what exists (Horn 1974, "Some simple scheduling algorithms").
No position stays empty, as by position t at least sum_i ceil((t + 1) m_i / D) >= t + 1 samples may be taken.

The sequences are those of Tijdeman 1980, "The chairman assignment problem" (Discrete Mathematics 32), which shows that
no method does better than 1 - 1 / (2 K - 2); the windows are of Baruah et al. 1996, "Proportionate progress"
(Algorithmica 15), and of Steiner & Yeomans 1993, "Level schedules for mixed-model, just-in-time processes" (Management
Science 39).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, reduce
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

#: The longest period. Weights whose common denominator is larger are rounded to parts of this many.
MAX_PERIOD = 2**16


def parts_of(weights: Sequence[float]) -> tuple[int, ...]:
    """Weights as whole parts, one at least each: exact where their decimal fractions have a small enough common
    denominator, as 0.7 and 0.3 have; otherwise to about 1 in 65,536."""
    exact = [Fraction(repr(float(weight))) for weight in weights]
    assert exact, "no weights"
    assert min(exact) > 0, f"weights {weights}"
    unit = Fraction(1, reduce(math.lcm, (weight.denominator for weight in exact)))
    parts = [int(weight / unit) for weight in exact]
    divisor = math.gcd(*parts)
    if sum(parts) // divisor <= MAX_PERIOD:
        return tuple(part // divisor for part in parts)
    total = sum(exact)
    return tuple(max(1, round(weight * MAX_PERIOD / total)) for weight in exact)


@dataclass(frozen=True, slots=True)
class Period:
    """One period of a schedule.

    Attributes:
        source: [D], where each sample comes from.
        number: [D], how many samples of the period its source had before it.
    """

    source: NDArray[np.int16]
    number: NDArray[np.int32]

    @classmethod
    def of(cls, parts: Sequence[int]) -> "Period":
        length = sum(parts)
        source = np.empty(length, dtype=np.int16)
        number = np.empty(length, dtype=np.int32)
        taken = [0] * len(parts)
        waiting: list[list[int]] = [[] for _ in range(length + 1)]  # sources, by when their next sample may be taken
        waiting[0] = [i for i, part in enumerate(parts) if part]
        ready: list[tuple[int, int]] = []  # (deadline, source)
        for position in range(length):
            for i in waiting[position]:
                heappush(ready, (-(-(taken[i] + 1) * length // parts[i]), i))
            deadline, i = heappop(ready)
            assert position < deadline, f"position {position} of {parts}"
            source[position], number[position] = i, taken[i]
            taken[i] += 1
            waiting[max(position + 1, taken[i] * length // parts[i])].append(i)
        return cls(source, number)

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True)
class Phase:
    """Samples from `start` on, with `parts` of those sources that are left (0 for others), when each had `before`."""

    start: int
    parts: tuple[int, ...]
    before: tuple[int, ...]

    @cached_property
    def period(self) -> Period:
        return Period.of(self.parts)

    @cached_property
    def places(self) -> list[Ints]:
        """Positions of each source in the period."""
        return [np.flatnonzero(self.period.source == i) for i in range(len(self.parts))]

    def length(self, caps: Sequence[int | None]) -> int | None:
        """Samples until one of the sources has reached its cap; None if none ever does."""
        ends = [
            (left - 1) // part * len(self.period) + int(places[(left - 1) % part]) + 1
            for part, places, cap, before in zip(self.parts, self.places, caps, self.before, strict=True)
            if part and cap is not None and (left := cap - before) > 0
        ]
        return min(ends, default=None)

    def after(self, length: int) -> tuple[int, ...]:
        """Samples each source has had when the phase has gone on for `length`."""
        periods, rest = divmod(length, len(self.period))
        return tuple(
            before + periods * part + int(np.searchsorted(places, rest))
            for before, part, places in zip(self.before, self.parts, self.places, strict=True)
        )


class Schedule:
    """Sources of samples 0, 1, 2, …, where source i has `parts[i]` and ends after `caps[i]` samples (None: never).

    When a source has ended the others go on in their proportions to one another: in each such phase, of which there
    are K at most, proportions are exact to less than one sample from its beginning. Phases are worked out when they are
    first asked for.

    Attributes:
        limit: samples until all sources have ended; None if that never happens.
    """

    def __init__(self, parts: Sequence[int], caps: Sequence[int | None]) -> None:
        assert len(parts) == len(caps), f"{len(parts)} sources, {len(caps)} caps"
        assert min(parts) >= 1, parts
        assert min((cap for cap in caps if cap is not None), default=1) >= 1, caps
        self.parts, self.caps = tuple(parts), tuple(caps)
        self.limit = None if None in caps else sum(cap for cap in caps if cap is not None)
        self._phases = [Phase(0, self.parts, (0,) * len(parts))]

    def locate(self, samples: Ints) -> tuple[Ints, Ints]:
        """Where samples [B] come from: their sources [B], and which sample of its source each is [B]."""
        assert len(samples) == 0 or self.limit is None or samples.max() < self.limit, f"past {self.limit}"
        sources, numbers = np.empty_like(samples), np.empty_like(samples)
        phases = self._phases_until(int(samples.max(initial=0)))
        of_sample = np.searchsorted([phase.start for phase in phases], samples, side="right") - 1
        for index in np.unique(of_sample):
            chosen, phase = of_sample == index, phases[index]
            periods, places = np.divmod(samples[chosen] - phase.start, len(phase.period))
            sources[chosen] = found = phase.period.source[places].astype(np.int64)
            before, parts = np.array(phase.before), np.array(phase.parts)
            numbers[chosen] = before[found] + periods * parts[found] + phase.period.number[places]
        return sources, numbers

    def __reduce__(self):
        return Schedule, (self.parts, self.caps)

    def _phases_until(self, sample: int) -> list[Phase]:
        """The phases, as far as the one of `sample`."""
        while (length := self._phases[-1].length(self.caps)) is not None and self._phases[-1].start + length <= sample:
            last = self._phases[-1]
            before = last.after(length)
            left = [part if had != cap else 0 for part, had, cap in zip(last.parts, before, self.caps, strict=True)]
            divisor = math.gcd(*left)
            self._phases.append(Phase(last.start + length, tuple(part // divisor for part in left), before))
        return self._phases
