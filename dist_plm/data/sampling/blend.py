"""Several sources of samples as one: `schedule` says which source sample n comes from, and which of its samples it is."""

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.errors import DataError, count_of
from dist_plm.data.sampling.blend_schedule import Ints, Schedule


class Samples(Protocol):
    """Holds what a dataset reads: B rows."""

    @classmethod
    def joined(cls, parts: Sequence[Self], order: Ints, samples: Ints) -> Self:
        """The rows of all parts, in this order, as samples of these numbers."""
        ...


class Dataset(Protocol):
    """Samples by their number, decided by nothing but that number. It can be sent to worker processes."""

    @property
    def num_windows(self) -> int:
        """Samples of an epoch."""
        ...

    def read(self, samples: NDArray[np.int64]) -> Any:
        """Samples [B]: Windows or Pairs."""
        ...

    def identity(self) -> str:
        """A hash of all that decides what sample n is; equal identities mean equal samples."""
        ...

    def describe(self) -> str:
        """Describes what is read, in a line for people."""
        ...


class Blend:
    """A dataset whose sample n is the next of one of several datasets.

    Of any first n samples each source has less than one more or less than its exact share (see `schedule`). A source
    that has reached its cap is left out, and the others go on in their proportions to one another.
    """

    def __init__(
        self, sources: Sequence[Dataset], parts: Sequence[int], caps: Sequence[int | None], names: Sequence[str]
    ) -> None:
        """Takes the sources and what each may give.

        Args:
            parts: whole numbers in the proportion of the sources' weights.
            caps: samples that each source may give; None is any number.
            names: what messages call the sources.
        """
        self.sources, self.schedule, self.names = tuple(sources), Schedule(parts, caps), tuple(names)

    @property
    def num_windows(self) -> int:
        return self.schedule.limit or sum(source.num_windows for source in self.sources)

    def read(self, samples: NDArray[np.int64]) -> Any:
        """Samples [B] of what the sources read.

        Raises:
            DataError: all sources have ended before one of the samples.
        """
        samples = np.asarray(samples, dtype=np.int64)
        self.check(int(samples.max(initial=-1)) + 1)
        sources, numbers = self.schedule.locate(samples)
        present = np.unique(sources)
        parts = [self.sources[i].read(numbers[sources == i]) for i in present]
        rows = np.concatenate([np.flatnonzero(sources == i) for i in present])
        return type(parts[0]).joined(parts, np.argsort(rows), samples)

    def check(self, num_samples: int) -> None:
        """Refuses to give more samples than the caps of the sources allow.

        Raises:
            DataError: so many samples are not there.
        """
        limit = self.schedule.limit
        if limit is not None and num_samples > limit:
            caps = ", ".join(f"{name}: {cap:,}" for name, cap in zip(self.names, self.schedule.caps, strict=True))
            raise DataError(
                f"{count_of(num_samples, 'sample', ',')} {'is' if num_samples == 1 else 'are'} asked of a blend "
                f"whose sources end after {limit:,} ({caps}): raise or "
                "leave out max_epochs of a source in data.blend, or train for fewer steps"
            )

    def identity(self) -> str:
        """See Dataset.identity."""
        parts = ["blend", *self.schedule.parts, *self.schedule.caps, *(source.identity() for source in self.sources)]
        return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()

    def describe(self) -> str:
        """See Dataset.describe."""
        parts, caps = self.schedule.parts, self.schedule.caps
        lines = []
        for source, part, cap in zip(self.sources, parts, caps, strict=True):
            end = "" if cap is None else f", {count_of(cap, 'sample', ',')} at most"
            lines.append(f"{part / sum(parts):.2%} from {source.describe()}{end}")
        return "; ".join(lines)
