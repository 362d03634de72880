"""How many samples each step takes: train.global_batch, or a batch that grows up to it. A function of the samples before it
alone, so that a run goes on anywhere knowing nothing but how many it has seen."""

from dataclasses import dataclass

from dist_plm.spec.schema_run import TrainConfig


@dataclass(frozen=True, slots=True)
class BatchSizes:
    """The rule of Megatron-LM's --rampup-batch-size (as GPT-3 was trained: Brown et al. 2020, arXiv 2005.14165, appendix B):
    the batch takes all sizes from the first to the whole one in equal steps, each for the same share of the ramp's samples.

    Args:
        whole: the batch from the end of the ramp on.
        first: the batch of the first step.
        increment: of which `whole` - `first` is a multiple.
        samples: that the ramp takes; 0 where there is none.
        total: samples that there are, where they may end within a step.
    """

    whole: int
    first: int = 0
    increment: int = 1
    samples: int = 0
    total: int | None = None

    @classmethod
    def of(cls, train: TrainConfig) -> "BatchSizes":
        ramp = train.batch_rampup
        if ramp is None:
            return cls(train.global_batch, total=train.num_samples)
        return cls(train.global_batch, ramp.start, ramp.increment, ramp.samples)

    def at(self, samples: int) -> int:
        """The batch of the step before which so many samples have been seen."""
        if samples >= self.samples:
            return self.whole
        return self.first + samples * self._increments // self.samples * self.increment

    def taken(self, samples: int) -> int:
        """Counts the samples of the step before which so many have been seen: the last one may be short."""
        batch = self.at(samples)
        return batch if self.total is None else min(batch, self.total - samples)

    def runs(self, samples: int, steps: int) -> list[tuple[int, int]]:
        """The next steps after so many samples, as numbers of steps and the batch that they take, in order."""
        found: list[tuple[int, int]] = []
        while steps:
            batch, here = self.at(samples), steps
            if samples < self.samples:
                level = (batch - self.first) // self.increment
                end = -(-(level + 1) * self.samples // self._increments)  # from here on the batch is larger
                here = min(steps, -((samples - end) // batch))
            found.append((here, batch))
            samples, steps = samples + here * batch, steps - here
        return found

    def after(self, steps: int) -> int:
        """Samples that so many steps take from the start."""
        return sum(count * batch for count, batch in self.runs(0, steps))

    @property
    def _increments(self) -> int:
        return (self.whole - self.first) // self.increment
