"""Fits the efficiencies of the model of time to published runs, with priors, so that whole sources can be left out.

Logarithms of seconds are nearly linear in the logarithms of efficiencies: one Jacobian about the priors serves every fit, which
is a ridge regression, n rows of one source and GPU weighing as many as their root, far-off rows little (Huber).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dist_plm.plan.timing.efficiency import Efficiency
from tools.published_runs import Published

#: Efficiency -> what one would say without these runs, and how far from it (as a logarithm) one would believe.
PRIORS = {
    "eight": (0.9, 0.07),  # cuBLASLt: 1,200 to 1,400 of an H100's 1,979 TFLOP/s, beside 690 of 989
    "attention": (0.55, 0.1),  # FlashAttention-2 on an A100, cuDNN on an H100
    "bandwidth": (0.8, 0.1),  # copies reach 0.9; norms and activation functions less
    "link": (0.75, 0.1),  # nccl-tests: 230 of 300 GB/s on an A100, 360 of 450 on an H100
    "network": (0.8, 0.1),  # 80 to 90 % of InfiniBand
    "hidden": (0.8, 0.1),  # collectives share multiprocessors and memory with the backward pass
    "spread": (0.01, 0.25),
}
#: GPU -> share of the peak that large products sustain: measured with cuBLAS on A100, V100 and H100; of others of a
#: generation as watts ** 0.8 of the board have it, power being what limits them.
SUSTAINED = {
    "a100": 0.85,
    "v100": 0.75,
    "h100": 0.7,
    "h100_hbm2e": 0.54,
    "h200": 0.7,
    "b200": 0.72,
    "b300": 0.77,
    "gb200": 0.75,
    "gb300": 0.83,
}
_TOLERANCE_OF_GPU = 0.06
#: Deviation of a row's logarithm that is believed to be chance.
_SCATTER = 0.06


@dataclass(frozen=True, slots=True)
class Fitted:
    """Holds efficiencies, and the share of the peak that each GPU sustains."""

    efficiency: Efficiency
    sustained: Mapping[str, float]

    def seconds(self, run: Published) -> float:
        """Predicts a step with them."""
        compute = self.sustained[run.gpu] / run.gpu_spec.sustained
        return run.step(replace(self.efficiency, compute=compute)).seconds


class Fit:
    """Knows how every run's seconds depend on every efficiency, about the priors."""

    def __init__(self, runs: Sequence[Published]) -> None:
        self.runs = [run for run in runs if run.seconds]
        self.gpus = sorted({run.gpu for run in self.runs})
        self.names = [*PRIORS, *self.gpus]
        self.tolerances = np.array([PRIORS[name][1] for name in PRIORS] + [_TOLERANCE_OF_GPU] * len(self.gpus))
        at_prior = self._logs(np.zeros(len(self.names)))
        self.residuals = np.log([run.seconds for run in self.runs]) - at_prior
        columns = []
        for position in range(len(PRIORS)):
            shifted = np.zeros(len(self.names))
            shifted[position] = 0.05
            columns.append((self._logs(shifted) - at_prior) / 0.05)
        shifted = np.array([0.0] * len(PRIORS) + [0.05] * len(self.gpus))
        faster = (self._logs(shifted) - at_prior) / 0.05
        columns += [faster * [run.gpu == gpu for run in self.runs] for gpu in self.gpus]
        self.jacobian = np.stack(columns, axis=1)

    def without(self, families: Iterable[str]) -> Fitted:
        """Fits to all runs but those of these sources."""
        left_out = set(families)
        kept = np.array([run.family not in left_out for run in self.runs])
        count = Counter(run.cluster for run in self.runs)
        weight = np.array([count[run.cluster] ** -0.5 for run in self.runs])[kept] / _SCATTER**2
        jacobian, residuals = self.jacobian[kept], self.residuals[kept]
        found = np.zeros(len(self.names))
        for _ in range(20):
            off = np.abs(residuals - jacobian @ found) / _SCATTER
            weighted = jacobian * (weight / np.maximum(1.0, off))[:, None]
            found = np.linalg.solve(weighted.T @ jacobian + np.diag(self.tolerances**-2), weighted.T @ residuals)
        return self._fitted(found)

    def priors(self) -> Fitted:
        """Returns what is believed before any of these runs."""
        return self._fitted(np.zeros(len(self.names)))

    def _fitted(self, shifts: np.ndarray) -> Fitted:
        factor = dict(zip(self.names, np.exp(shifts), strict=True))
        values = {name: float(prior * factor[name]) for name, (prior, _) in PRIORS.items()}
        values["hidden"] = min(values["hidden"], 0.95)
        sustained = {gpu: float(share * factor.get(gpu, 1.0)) for gpu, share in SUSTAINED.items()}
        return Fitted(Efficiency(**values), sustained)

    def _logs(self, shifts: np.ndarray) -> np.ndarray:
        fitted = self._fitted(shifts)
        return np.log([fitted.seconds(run) for run in self.runs])
