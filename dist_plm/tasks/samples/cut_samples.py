"""Reads a few samples of a run for its page: cut, and with what is masked or asked."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dist_plm.core.errors import DataError
from dist_plm.core.panics import panics_as
from dist_plm.spec.families.base import Kind
from dist_plm.tasks.samples.marked_text import Decode, lines_of
from dist_plm.tasks.samples.show_samples import decoder_of, num_ranks, settings_of
from dist_plm.train.data import RunData, open_run

#: Characters of a sample, with what is asked of it.
MOST_CHARACTERS = 400


@dataclass(slots=True)
class CutSamples:
    """Opens the data of runs as they are asked for, each once."""

    _opened: dict[Path, tuple[RunData, Decode, Kind]] = field(default_factory=dict)

    def __call__(self, run_dir: Path, first: int, stop: int) -> list[str]:
        """Gives the samples with the numbers `first` to before `stop` as text.

        Raises:
            UserError: the run's settings or its data are not there, or not what they were.
        """
        with panics_as(DataError, f"the data of {run_dir} are damaged"):
            if run_dir not in self._opened:
                config = settings_of(run_dir)
                config, data = open_run(config, num_ranks(config))
                self._opened[run_dir] = data, decoder_of(config), config.model.kind
            opened = self._opened[run_dir]
            return [_cut(*opened, number) for number in range(first, stop)]


def _cut(data: RunData, decode: Decode, kind: Kind, number: int) -> str:
    arrays: Any = data.learned.collate(data.samples["train"].read(np.array([number], dtype=np.int64)))
    text = "\n".join(lines_of(arrays, decode, kind))
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"
