"""Loss, perplexity and accuracy on held-out samples: the same samples every time and on every grid."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dist_plm.config.schema import PretrainConfig
from dist_plm.data.dataset import WindowDataset
from dist_plm.data.loader import MicrobatchLoader
from dist_plm.engines.base import Engine, EvalSums
from dist_plm.objectives.base import IGNORED, Arrays, Objective, Windows
from dist_plm.parallel.groups import Groups


@dataclass(frozen=True, slots=True)
class FirstSamples:
    """Collates like the objective, and masks the labels of samples past the first `count`: they only fill the last
    round of microbatches, which differs between grids."""

    collate: Callable[[Windows], Arrays]
    count: int

    def __call__(self, windows: Windows) -> Arrays:
        batch = self.collate(windows)
        beyond = windows.samples >= self.count
        return {**batch, "labels": np.where(beyond[:, None], IGNORED, batch["labels"])}


@dataclass(frozen=True, slots=True)
class Evaluator:
    config: PretrainConfig
    groups: Groups
    dataset: WindowDataset
    objective: Objective

    def __call__(self, engine: Engine) -> dict[str, float]:
        """Collective over all ranks. Returns `loss` (mean over predicted tokens), `perplexity` and `accuracy`."""
        train, parallel = self.config.train, self.config.parallel
        count = min(train.eval_samples, self.dataset.num_windows)
        # One round keeps every pipeline stage busy with one microbatch, the least that interleaved schedules accept.
        a_round = train.micro_batch * self.groups.grid.data * parallel.pipeline
        loader = MicrobatchLoader(
            self.dataset,
            FirstSamples(self.objective.collate, count),
            micro_batch=train.micro_batch,
            global_batch=a_round,
            data_rank=self.groups.coordinates.data,
            data_size=self.groups.grid.data,
            start_step=0,
            stop_step=math.ceil(count / a_round),
            num_workers=0,
            prefetch=1,
            pin_memory=False,
        )
        sums = EvalSums()
        microbatches = iter(loader)
        while batch := list(itertools.islice(microbatches, parallel.pipeline)):
            sums = sums + engine.eval_step(batch)
        loss = sums.loss / max(sums.num_tokens, 1)
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),  # beyond, a float overflows
            "accuracy": sums.correct / max(sums.num_tokens, 1),
        }
