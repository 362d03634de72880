"""Says where in a step a rank is."""

from typing import Any

import torch
from torch import nn


class Moment:
    """Says where in the step a rank is: "step 1, forward 3", "step 1, backward 2", "step 1, update"."""

    def __init__(self) -> None:
        self.part = "start"
        self.forwards = self.backwards = 0
        self._in_forward, self._in_backward = False, False

    def begin(self, part: str) -> None:
        """Begins a part of the rehearsal, as "step 1"."""
        self.part, self.forwards, self.backwards = part, 0, 0

    def watch(self, chunk: nn.Module) -> None:
        """Counts the forward passes of a model chunk."""
        chunk.register_forward_pre_hook(self._enter)
        chunk.register_forward_hook(self._leave)

    def look(self) -> None:
        """Takes note of whether a backward pass runs, before each operation."""
        running = torch._C._current_graph_task_id() != -1
        if running and not self._in_backward:
            self.backwards += 1
        self._in_backward = running

    @property
    def is_step(self) -> bool:
        """Whether it is a step, rather than what comes before or after."""
        return self.part.startswith("step")

    @property
    def phase(self) -> str:
        """Names the kind of work: forward, backward or what is between."""
        return "forward" if self._in_forward else "backward" if self._in_backward else "update"

    def __str__(self) -> str:
        if self._in_forward:
            return f"{self.part}, forward {self.forwards}"
        return self.at_backward(self.backwards) if self._in_backward else self.part

    def at_backward(self, number: int) -> str:
        """Names a backward pass of this part."""
        return f"{self.part}, backward {number}"

    def _enter(self, *_: Any) -> None:
        self._in_forward, self._in_backward, self.forwards = True, False, self.forwards + 1

    def _leave(self, *_: Any) -> None:
        self._in_forward = False
