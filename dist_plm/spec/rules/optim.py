"""Do the settings of the optimizer act, and do they agree with each other?"""

from collections.abc import Callable, Iterator

from dist_plm.spec.rules.training import no_effect
from dist_plm.spec.schema import OptimConfig, PretrainConfig

#: Fields that some optimizers alone read.
READERS: dict[str, tuple[str, ...]] = {
    "betas": ("adamw", "adam", "lamb"),
    "eps": ("adamw", "adam", "lamb", "adafactor"),
    "adapt_norms_and_biases": ("lamb",),
    "bias_correction": ("lamb",),
    "trust_min": ("lamb",),
    "trust_max": ("lamb",),
    "pre_normalize": ("lamb",),
    "momentum": ("sgd",),
    "nesterov": ("sgd",),
    "scale_parameter": ("adafactor",),
    "min_scale": ("adafactor",),
    "beta2_decay": ("adafactor",),
    "update_clip": ("adafactor",),
}


def _readers(config: PretrainConfig) -> Iterator[str]:
    optim = config.optim
    unread = [field for field, names in READERS.items() if optim.name not in names]
    yield from no_effect(optim, "optim", unread, f"optim.name = {optim.name!r}")
    if optim.lr_batch is None:
        yield from no_effect(optim, "optim", ("lr_scaling",), "optim.lr_batch = null, the batch that it scales from")


def _agreement(config: PretrainConfig) -> Iterator[str]:
    optim = config.optim
    if optim.trust_max is not None and optim.trust_min > optim.trust_max:
        yield (
            f"optim.trust_min = {optim.trust_min:g} exceeds optim.trust_max = {optim.trust_max:g}: the trust ratio lies "
            "between them; lower the one or raise the other"
        )
    if optim.pre_normalize and optim.clip_norm:
        yield (
            f"optim.clip_norm = {optim.clip_norm:g} does twice what optim.pre_normalize = true does, which divides the "
            "gradient by its norm where that exceeds 1: set optim.clip_norm=0"
        )
    if not optim.scale_parameter:
        yield from no_effect(optim, "optim", ("min_scale",), "optim.scale_parameter = false")
    if optim.nesterov and not optim.momentum:
        yield "optim.nesterov = true looks ahead along optim.momentum = 0.0: raise the momentum, or set it to false"


def _layer_decay(config: PretrainConfig) -> Iterator[str]:
    optim: OptimConfig = config.optim
    if optim.layer_decay < 1.0 and config.engine.name == "deepspeed" and config.parallel.pipeline > 1:
        yield (
            f"optim.layer_decay = {optim.layer_decay:g} makes parameter groups that some pipeline stages leave empty, "
            "which DeepSpeed drops: set engine=megatron, or parallel.pipeline=1"
        )


OPTIM_RULES: tuple[Callable[[PretrainConfig], Iterator[str]], ...] = (_readers, _agreement, _layer_decay)
