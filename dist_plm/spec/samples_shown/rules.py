"""Checks that launch/samples.py knows which samples to show."""

from collections.abc import Callable, Iterator

from dist_plm.spec.rules.paths import path_problems
from dist_plm.spec.samples_shown.schema import SamplesShownConfig


def _asked(config: SamplesShownConfig) -> Iterator[str]:
    if config.run is None or not config.run.strip():
        yield "run is missing: name the directory of a run, as in run=runs/quickstart"
    if config.step is None and config.samples is None:
        yield "step is missing: name an update of the run, as in step=100, or numbers of samples, as in samples='[64, 80]'"
    elif config.step is not None and config.samples is not None:
        yield "step and samples are both given: keep one"
    elif config.samples is not None and config.samples[1] <= config.samples[0]:
        first, stop = config.samples
        yield f"samples = [{first}, {stop}] holds no sample: give the first number, and the one after the last"


def _path(config: SamplesShownConfig) -> Iterator[str]:
    if config.run is not None and config.run.strip():
        yield from path_problems("run", config.run)


SAMPLES_SHOWN_RULES: tuple[Callable[[SamplesShownConfig], Iterator[str]], ...] = (_asked, _path)
