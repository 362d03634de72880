"""Says how much of what one run is off by another run of the same cluster will be off by."""

import math
from dataclasses import dataclass

from dist_plm.spec.flops import num_parameters
from dist_plm.spec.schema import TrainingConfig

#: Share of what a run is off by, as a logarithm, that all runs of its cluster are off by: clocks, network and versions of
#: libraries. The rest is its own, as the efficiency of products of its sizes. Found by regression of published runs on each
#: other; bench/planner.py prints it, and predicts each source with what the others say.
IN_COMMON = 0.23


@dataclass(frozen=True, slots=True)
class Traits:
    """Holds what decides which kernels and messages a step is made of.

    Args:
        doublings: binary logarithms of the sizes of model, grid and microbatch.
        kinds: precision and recomputation.
    """

    doublings: tuple[float, ...]
    kinds: tuple[str, ...]

    @classmethod
    def of(cls, config: TrainingConfig) -> "Traits":
        """Looks at a finalised configuration whose vocabulary is known."""
        parallel = config.parallel
        grid = parallel.tensor, parallel.pipeline, parallel.context
        sizes = num_parameters(config.model), *grid, config.train.micro_batch, config.data.sequence_length
        return cls(tuple(map(math.log2, sizes)), (config.precision.name, config.model.recompute))

    def distance(self, other: "Traits") -> float:
        """Counts doublings and other kinds from one run to another."""
        doublings = sum(abs(mine - theirs) for mine, theirs in zip(self.doublings, other.doublings, strict=True))
        return doublings + sum(mine != theirs for mine, theirs in zip(self.kinds, other.kinds, strict=True))


def carried(distance: float, in_common: float = IN_COMMON) -> float:
    """Gives the share, of a logarithm, that is carried from one run to another: all of it to the same run, of what is not
    in common a third as much after each doubling."""
    return in_common + (1 - in_common) * math.exp(-distance)
