"""Declares tasks whose answers are texts, token by token, and how long these are at most."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dist_plm.config.types import Count
from dist_plm.spec.rules.sections import no_effect
from dist_plm.spec.tasks.base import TaskConfig

if TYPE_CHECKING:
    from dist_plm.spec.derived import Case


@dataclass(frozen=True, kw_only=True)
class TargetsConfig(TaskConfig):
    """A task of texts that a model writes, or says the likeliest of. They have at most `max_target_length` tokens, the one that
    ends them among them."""

    answer_bound: ClassVar[str] = "task.max_target_length"
    #: Tokens of a text at most that a decoder beside an encoder writes, where no setting says it; None: as many as are read.
    usual_target_length: ClassVar[int | None] = None

    max_target_length: Count | None = None

    def target_length(self, sequence_length: int) -> int | None:
        return self.max_target_length or min(sequence_length, self.usual_target_length or sequence_length)

    def room_for_target(self, sequence_length: int) -> int:
        """Returns how many tokens of a decoder's row are for the text, behind what it is about."""
        return self.max_target_length or sequence_length // 2

    def longest_answer(self, sequence_length: int, *, has_decoder: bool) -> int:
        return (self.target_length if has_decoder else self.room_for_target)(sequence_length) or sequence_length

    def problems(self, case: "Case") -> Iterator[str]:
        yield from super().problems(case)
        model, length = case.config.model, case.config.data.sequence_length
        if self.head_of(model) != "language_model":
            reason = f"model.family = {model.family!r}, which scores by a head"
            yield from no_effect(self, "task", ("max_target_length",), reason)
        elif model.has_decoder:
            written, limit = self.target_length(length), model.position_limit
            if limit and written and written > limit:
                yield (
                    f"task.max_target_length = {written} exceeds model.max_positions = {limit}, the length of its table of "
                    "positions: lower it, or raise model.max_positions"
                )
        elif self.room_for_target(length) > length - 2:
            yield (
                f"task.max_target_length = {self.max_target_length} leaves no room for what is read before it in "
                f"data.sequence_length = {length}, which holds both: lower the one, or raise the other"
            )
