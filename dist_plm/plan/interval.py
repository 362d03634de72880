"""Holds a number that is known between two bounds."""

from collections.abc import Iterable
from typing import NamedTuple

GIB = 2**30


class Interval(NamedTuple):
    """Holds a number from `low` to `high`, in bytes unless said."""

    low: float
    high: float

    @classmethod
    def exact(cls, value: float) -> "Interval":
        return cls(value, value)

    @classmethod
    def total(cls, parts: "Iterable[Interval]") -> "Interval":
        """The sum, whose bounds are those of all parts at once."""
        found = list(parts)
        return cls(sum(part.low for part in found), sum(part.high for part in found))

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2

    def scaled(self, low: float, high: float) -> "Interval":
        """Both bounds times a factor of their own."""
        return Interval(self.low * low, self.high * high)

    def or_more(self, other: "Interval") -> "Interval":
        """The larger of two numbers."""
        return Interval(max(self.low, other.low), max(self.high, other.high))

    def in_gib(self) -> str:
        """Writes it as a person reads it: "12.3" or "12.3-14.0"."""
        low, high = f"{self.low / GIB:.1f}", f"{self.high / GIB:.1f}"
        return low if low == high else f"{low}-{high}"
