"""Holds what software and hardware reach of their peaks: the few numbers of the model of time, each with its reason."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """Holds shares of peaks and fixed costs, in seconds.

    Args:
        slowness: seconds of a step over those foretold, as a run of one's own has shown them; 1 unless calibrated.
        compute: of what spec/gpus.py says that large products sustain.
        tile: until a tile of a product begins and after it ends, in which tensor cores wait.
        eight: of twice the rate of 16 bits, which products in 8 bits sustain: they draw more power and scale their results.
        attention: of the peak, by the two products of fused attention.
        older: of that, by kernels with Ampere's instructions on what came after it (Shah et al. 2024, arXiv 2407.08608).
        bandwidth: of the memory's, by element-wise kernels.
        launch: from one kernel to the next where the host launches them.
        link, network: of the bandwidth inside and between nodes, by large messages.
        hop, start: of a step of a ring, and of a collective.
        hidden: of the backward pass, behind which gradients are reduced.
        step: of a step besides: reading the loss, clipping, logs, the next batch.
        spread: deviation of GPUs' speeds from each other, whose slowest all wait for (Sinha et al. 2022, arXiv 2208.11035).
    """

    slowness: float = 1.0
    compute: float = 1.0
    tile: float = 1.5e-6
    eight: float = 0.98
    attention: float = 0.49
    older: float = 0.6
    bandwidth: float = 0.8
    launch: float = 4e-6
    link: float = 0.74
    network: float = 0.78
    hop: float = 2e-6
    start: float = 15e-6
    hidden: float = 0.79
    step: float = 5e-3
    spread: float = 0.011

    def waiting(self, ranks: int) -> float:
        """Share of a step that ranks wait for the slowest: the most of so many normal numbers, about."""
        return self.spread * math.sqrt(2 * math.log(ranks))


#: Without calibration.
DEFAULT = Efficiency()
