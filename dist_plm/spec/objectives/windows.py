"""Declares what objectives over rows of running text have in common."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dist_plm.spec.objectives.base import ObjectiveConfig

if TYPE_CHECKING:
    from dist_plm.spec.derived import Case


@dataclass(frozen=True, kw_only=True)
class WindowsConfig(ObjectiveConfig):
    """An objective over windows of text.

    `document_mask`: no attention across document ends; `reset_positions`: position numbers start again at each document.
    """

    learns_from_rows: ClassVar[bool] = True

    document_mask: bool = False
    reset_positions: bool = False

    @property
    def isolates_documents(self) -> bool:
        return self.document_mask

    def problems(self, case: "Case") -> Iterator[str]:
        if self.reset_positions and not self.document_mask:
            yield (
                "objective.reset_positions = true needs objective.document_mask=true: without the mask a token attends "
                "to the documents before its own, whose positions would then carry the same numbers"
            )
        if self.reset_positions and case.config.model.position == "none":
            yield "objective.reset_positions = true has no effect with model.position = 'none': set it to false"
