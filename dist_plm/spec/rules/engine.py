"""Checks that the chosen engine can do what the configuration wants."""

from collections.abc import Callable, Iterator

from dist_plm.spec.schema import PretrainConfig


def _own(config: PretrainConfig) -> Iterator[str]:
    yield from config.engine.problems(config)


ENGINE_RULES: tuple[Callable[[PretrainConfig], Iterator[str]], ...] = (_own,)
