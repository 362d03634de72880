"""Declares attention within a window, which models of one network have."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dist_plm.config.types import Natural
from dist_plm.spec.families.base import ModelConfig, StackSpec
from dist_plm.spec.rules.sections import no_effect

if TYPE_CHECKING:
    from dist_plm.spec.schema import TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowedConfig(ModelConfig):
    window: Natural = 0  # tokens on each side that one attends to; 0 is all
    global_tokens: Natural = 0  # with a window: the first tokens of a row, which attend to all and all attend to

    def stacks(self) -> tuple[StackSpec, ...]:
        return (StackSpec(prefix="", network=self, layers=self.layers),)

    def problems(self, config: "TrainingConfig") -> Iterator[str]:
        if self.window == 0:
            yield from no_effect(self, "model", ["global_tokens"], "model.window = 0")
