"""Types of settings that occur in many places, and how a setting is called."""

from typing import Annotated

from dist_plm.config.bounds import FRACTION, Bounds, at_least, between, more_than

Count = Annotated[int, at_least(1)]
Natural = Annotated[int, at_least(0)]
Fraction = Annotated[float, FRACTION]
Positive = Annotated[float, more_than(0)]
NonNegative = Annotated[float, at_least(0)]
#: Of a wait: no clock or library counts further than a year.
Minutes = Annotated[float, Bounds(low=0, high=525_600, low_open=True)]
Share = Annotated[float, between(0, 1)]
#: What people or models read and write, such as prompts: it may look like anything, a credential as well.
Prose = Annotated[str, "any text"]


def key_of(field: str) -> str:
    """The setting that a field of a configuration class is: `from_` is `from`, which Python keeps for itself."""
    return field.removesuffix("_")
