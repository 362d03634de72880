"""Declares how labelled texts are changed while they are learned."""

from collections.abc import Iterator
from dataclasses import dataclass

from dist_plm.config.types import Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """Shares of the words of each training text that are left out (`delete`), change places with each other (`swap`), or are
    masked (`mask`), anew each time that the text is learned. One word of a text stays."""

    delete: Fraction = 0.0
    swap: Fraction = 0.0
    mask: Fraction = 0.0

    def problems(self) -> Iterator[str]:
        """Yields what is wrong with it by itself."""
        if self.delete == self.swap == self.mask == 0.0:
            yield "data.augment changes nothing: give a share, as in data.augment='{delete: 0.1}', or leave it out"
