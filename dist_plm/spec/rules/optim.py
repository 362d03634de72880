"""Checks that the settings of the optimizer act, and agree with each other."""

from collections.abc import Callable, Iterator

from dist_plm.spec.rules.sections import no_effect
from dist_plm.spec.schema import PretrainConfig


def _own(config: PretrainConfig) -> Iterator[str]:
    yield from config.optim.problems(config)
    if config.optim.lr_batch is None:
        yield from no_effect(
            config.optim, "optim", ("lr_scaling",), "optim.lr_batch = null, the batch that it scales from"
        )


def _layer_decay(config: PretrainConfig) -> Iterator[str]:
    optim = config.optim
    if optim.layer_decay < 1.0 and not config.engine.keeps_empty_groups and config.parallel.pipeline > 1:
        yield (
            f"optim.layer_decay = {optim.layer_decay:g} makes parameter groups that some pipeline stages leave empty, "
            f"which engine={config.engine.name} drops: set engine=megatron, or parallel.pipeline=1"
        )


OPTIM_RULES: tuple[Callable[[PretrainConfig], Iterator[str]], ...] = (_own, _layer_decay)
