"""Bounds what a number in the schema may be. Attached with `Annotated`, read by `decode`, printed in refusals."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """An interval; an end that is None is open to infinity, `*_open` excludes the end itself."""

    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False

    def admits(self, value: float) -> bool:
        if self.low is not None and (value < self.low or (self.low_open and value == self.low)):
            return False
        return not (self.high is not None and (value > self.high or (self.high_open and value == self.high)))

    def __str__(self) -> str:
        parts = []
        if self.low is not None:
            parts.append(f"{'more than' if self.low_open else 'at least'} {_exact(self.low)}")
        if self.high is not None:
            parts.append(f"{'less than' if self.high_open else 'at most'} {_exact(self.high)}")
        return " and ".join(parts)


def _exact(end: float) -> str:
    return str(end) if isinstance(end, int) else f"{end:g}"


def at_least(low: float) -> Bounds:
    return Bounds(low=low)


def more_than(low: float) -> Bounds:
    return Bounds(low=low, low_open=True)


def between(low: float, high: float) -> Bounds:
    return Bounds(low=low, high=high)


#: A dropout probability or momentum: zero is allowed, one is not.
FRACTION = Bounds(low=0.0, high=1.0, high_open=True)
