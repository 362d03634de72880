"""Shows the first example that a fine-tuning run learns from, with what is predicted of it in colour."""

import sys

import numpy as np

from dist_plm.core.streams import tell, visible
from dist_plm.spec.schema import TrainingConfig
from dist_plm.tasks.samples.marked_text import lines_of
from dist_plm.tasks.samples.show_samples import decoder_of
from dist_plm.train.data import RunData

#: Characters of a line that are shown.
_MOST = 2000
_GREEN, _PLAIN = "\x1b[32m", "\x1b[0m"


def tell_first_example(config: TrainingConfig, data: RunData) -> None:
    """Prints sample 0 of a run that is about to learn, on stderr."""
    tell(first_example(config, data, coloured=sys.stderr.isatty()), sys.stderr)


def first_example(config: TrainingConfig, data: RunData, *, coloured: bool) -> str:
    """Writes sample 0 out; what is predicted of its text is green, or in <<…>>."""
    sample = data.learned.collate(data.samples["train"].read(np.array([0], dtype=np.int64)))
    decode, pair = decoder_of(config), (_GREEN, _PLAIN) if coloured else ("<<", ">>")
    lines = lines_of(sample, lambda ids: visible(decode(ids)), config.model.kind, pair)
    how = "in green" if coloured else "in <<…>>"
    shown = [line if len(line) <= _MOST else f"{line[:_MOST]}{_PLAIN if coloured else ''} …" for line in lines]
    return "\n".join([f"the first example, with what alone is predicted of it {how}:", *shown])
