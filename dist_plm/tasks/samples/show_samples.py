"""Shows samples of a run as text."""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from dist_plm.config import runfile
from dist_plm.config.stored_paths import located
from dist_plm.core.errors import UserError, reason_of
from dist_plm.core.parsing import load_yaml, read_text
from dist_plm.data.sampling.build_dataset import tokenizer_store
from dist_plm.data.store.verify import tokenizer_of_store
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.spec.families.base import Kind
from dist_plm.spec.samples_shown.schema import SamplesShownConfig
from dist_plm.spec.schema import TrainingConfig
from dist_plm.spec.schema_finetune import FinetuneConfig, kind_of
from dist_plm.tasks.samples.marked_text import Decode, lines_of
from dist_plm.tasks.samples.numbers_of_step import history_of, places_of
from dist_plm.train.data import RunData, open_run
from dist_plm.train.healing.acts import skipped_samples


def show_samples(asked: SamplesShownConfig) -> str:
    """Builds the text.

    Raises:
        UserError: the run, its data or the step are not there.
    """
    run_dir = Path(asked.run or "")
    config = settings_of(run_dir)
    history = history_of(config.checkpoint.dir or f"{run_dir}/checkpoints")
    skipped = skipped_samples(config.data.skip_samples, history)
    if asked.step is not None:
        ranges = skipped.runs(*places_of(asked.step, config.train, run_dir, history))
    else:
        assert asked.samples is not None
        ranges = [asked.samples]
    config, data = open_run(config, num_ranks(config))
    numbers = list(islice(chain.from_iterable(range(first, stop) for first, stop in ranges), asked.limit))
    lines = [_heading(asked, ranges, len(numbers))]
    if skipped.ranges:
        lines.append(f"skipped by the run: samples {_told(list(skipped.ranges))}")
    return "\n".join([*lines, *_samples(data, numbers, decoder_of(config), config.model.kind)])


def settings_of(run_dir: Path) -> TrainingConfig:
    """Reads the settings of a run, of whatever kind of training it is.

    Raises:
        UserError: there are none.
    """
    path = run_dir / "run.yaml"
    try:
        mapping = load_yaml(read_text(path), str(path))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({reason_of(error, path)}): name the directory of a run, as in run=runs/quickstart"
        ) from None
    return runfile.decoded(located(mapping, run_dir=run_dir), path, kind_of(mapping))


def num_ranks(config: TrainingConfig) -> int:
    """Counts the ranks that the settings of a run are for."""
    parallel = config.parallel
    return (parallel.data or 1) * parallel.tensor * parallel.pipeline * parallel.context


def decoder_of(config: TrainingConfig) -> Decode:
    """Builds what turns ids into text; of a store without a tokenizer, into their numbers."""
    if isinstance(config, FinetuneConfig):
        assert config.data.tokenizer is not None
        return Tokenizer.load(config.data.tokenizer).decode
    store = tokenizer_store(config.data)
    if store is None or not Path(store).is_dir():
        return lambda ids: " ".join(map(str, ids))
    return tokenizer_of_store(store).decode


def _samples(data: RunData, numbers: list[int], decode: Decode, kind: Kind) -> Iterator[str]:
    dataset = data.samples["train"]
    for number in numbers:
        arrays: Any = data.learned.collate(dataset.read(np.array([number], dtype=np.int64)))
        yield f"\n--- sample {number}"
        yield from lines_of(arrays, decode, kind)


def _heading(asked: SamplesShownConfig, ranges: list[tuple[int, int]], shown: int) -> str:
    total = sum(stop - first for first, stop in ranges)
    what = f"step {asked.step} learned from" if asked.step is not None else "these are"
    more = f"; the first {shown} are shown (limit={asked.limit})" if shown < total else ""
    return f"{what} samples {_told(ranges)}{more}"


def _told(ranges: list[tuple[int, int]]) -> str:
    return ", ".join(f"{first:,} to {stop - 1:,}" for first, stop in ranges)
