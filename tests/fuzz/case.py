"""What an area of the fuzzer makes: something broken, and the command that reads it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.fuzz.seeds import Seeds

#: Makes a case in an empty directory: what is to be run there, and a line that tells it from others.
Area = Callable[[Seeds, Random, Path], "Case"]


@dataclass(frozen=True, slots=True)
class Case:
    run: Callable[[], int]
    shown: str
