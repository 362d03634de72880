"""Looks at the arrays that an objective or a task makes, which models take as they are: where a body of one's own makes others
than the table of objectives/base.py has, its message says so in place of a traceback out of a network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dist_plm.config.extending.bodies import place_of
from dist_plm.config.suggest import did_you_mean, near
from dist_plm.core.errors import ConfigError
from dist_plm.data.samples import Arrays
from dist_plm.objectives.base import LossTerm, Objective
from dist_plm.spec.objectives import ObjectiveConfig

#: Arrays shaped like `tokens`.
_OF_TOKENS = ("documents", "positions", "seen_from", "segments", "originals", "tags")
#: Arrays of the table that are float32.
_FLOATS = ("targets", "label_sets")
_KNOWN = (
    *("tokens", "labels", "samples", *_OF_TOKENS, "lengths", "pair_labels", "decoder_tokens", "class_labels"),
    *("choice_labels", *_FLOATS, "target_mask", "twins", "starts", "ends"),
)
_SOFT = "_soft"


@dataclass(frozen=True, slots=True)
class CheckedObjective:
    """Does what an objective does, and refuses arrays that no model can take.

    Args:
        told: names it, as sentences to people do, and its file.
        length: of the model's input.
    """

    of: Objective[Any]
    told: str
    length: int

    @property
    def source(self) -> Literal["windows", "pairs"]:
        return self.of.source

    @property
    def losses(self) -> Mapping[str, LossTerm]:
        return self.of.losses

    def window_length(self, sequence_length: int) -> int:
        return self.of.window_length(sequence_length)

    def collate(self, windows: Any, /) -> Arrays:
        """See Objective.collate.

        Raises:
            ConfigError: the arrays are not as objectives/base.py has them.
        """
        arrays = self.of.collate(windows)
        if problem := batch_problem(arrays, self.losses, len(windows.samples), self.length):
            raise ConfigError(
                [f"{self.told} makes microbatches that no model can take: {problem}; see objectives/base.py"]
            )
        return arrays


def checked(config: ObjectiveConfig, objective: Objective[Any], length: int) -> CheckedObjective:
    """Returns an objective that looks at what it makes.

    Args:
        config: what it was built from.
        length: of the model's input.
    """
    return CheckedObjective(objective, f"{config.told} ({place_of(config.body_module)})", length)


def batch_problem(arrays: Arrays, losses: Mapping[str, LossTerm], count: int, length: int) -> str | None:
    """Says what is wrong with the arrays of a microbatch of `count` samples, whose rows have `length` tokens."""
    needed = ["tokens", "samples", *(name for term in losses.values() for name in (term.over, term.mask) if name)]
    if missing := [name for name in dict.fromkeys(needed) if name not in arrays]:
        return f"{missing[0]} is missing"
    for name, array in arrays.items():
        known = name in _KNOWN or (name.endswith(_SOFT) and name.removesuffix(_SOFT) in arrays)
        if not known:
            return f"{name} is none of the arrays that there are{did_you_mean(near(name, _KNOWN))}"
        if not isinstance(array, np.ndarray):
            return f"{name} is no array of NumPy, but {type(array).__name__}"
        kind = "float32" if name in _FLOATS or name.endswith(_SOFT) else "int64"
        # Documents are compared alone, of whatever size their numbers are.
        if array.dtype != kind and not (name == "documents" and array.dtype.kind == "i"):
            return f"{name} is of {array.dtype}, where models read {kind}"
        if array.ndim == 0 or len(array) == 0 or len(array) % count:
            return f"{name} is of shape {list(array.shape)}, which has no row for each of {count} samples"
    return _shape_problem(arrays, length)


def _shape_problem(arrays: Arrays, length: int) -> str | None:
    tokens = arrays["tokens"].shape
    if len(tokens) != 2 or tokens[1] != length:
        return f"tokens is of shape {list(tokens)}, where rows have data.sequence_length = {length} tokens"
    alike = dict.fromkeys((name for name in _OF_TOKENS if name in arrays), "tokens")
    if "labels" in arrays:
        alike["labels"] = "decoder_tokens" if "decoder_tokens" in arrays else "tokens"
    for name, other in alike.items():
        if arrays[name].shape != arrays[other].shape:
            return f"{name} is of shape {list(arrays[name].shape)}, and {other} of {list(arrays[other].shape)}"
    return None
