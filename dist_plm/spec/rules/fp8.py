"""Computing in 8 bits: what it needs of a machine, and of a configuration."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dist_plm.spec.families import FAMILIES
from dist_plm.spec.schema import TrainingConfig

#: The first Transformer Engine that scales by the tensor at hand, so that a resumed run has no history to lose.
TRANSFORMER_ENGINE = (2, 2)
#: Of the first GPUs with 8-bit tensor cores: Ada; Hopper has 9.0.
CAPABILITY = (8, 9)
#: Tensor cores multiply 8-bit numbers in runs of 16, and Transformer Engine takes no other matrices.
UNIT = 16


@dataclass(frozen=True, slots=True)
class Fp8Facts:
    """Holds what a rank has for FP8.

    Args:
        transformer_engine: version of the package; None where it cannot be imported.
        why_not: it cannot be.
        capability: compute capability of the CUDA device that it computes on; None where that is a CPU.
    """

    transformer_engine: str | None
    capability: tuple[int, int] | None
    why_not: str = "it is not installed"


def fp8_problem(facts: Fp8Facts) -> str | None:
    """The sentence that refuses precision=fp8 and says what is missing; None where nothing is."""
    missing = []
    if facts.transformer_engine is None:
        missing.append(f"Transformer Engine cannot be imported ({facts.why_not})")
    elif _version(facts.transformer_engine) < TRANSFORMER_ENGINE:
        missing.append(f"Transformer Engine is {facts.transformer_engine}")
    if facts.capability is None:
        missing.append("there is no CUDA device")
    elif facts.capability < CAPABILITY:
        missing.append(f"the GPU has compute capability {_dotted(facts.capability)}")
    if not missing:
        return None
    return (
        f"precision.name = 'fp8' needs Transformer Engine {_dotted(TRANSFORMER_ENGINE)} or later and a GPU of compute "
        f"capability {_dotted(CAPABILITY)} or higher, but {', and '.join(missing)}: set precision=bf16"
    )


def _version(text: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _dotted(pair: tuple[int, int]) -> str:
    return f"{pair[0]}.{pair[1]}"


def _parts(config: TrainingConfig) -> Iterator[str]:
    if not config.engine.supports_fp8:
        yield (
            f"precision.name = 'fp8' is not supported by engine.name = {config.engine.name!r}: set engine=megatron, or "
            "precision=bf16"
        )
    if config.cluster.device == "cpu":
        yield "precision.name = 'fp8' needs a GPU, and cluster.device = 'cpu': set precision=bf16"
    if not config.model.computes_in_8_bits:
        yield (
            f"precision.name = 'fp8' is not supported with model.family = {config.model.family!r}, only with "
            f"{', '.join(name for name, one in FAMILIES.items() if one.computes_in_8_bits)}: set precision=bf16"
        )


def _sizes(config: TrainingConfig) -> Iterator[str]:
    model, parallel = config.model, config.parallel
    assert model.kv_heads is not None
    assert model.head_size is not None
    assert model.ffn is not None
    slices = parallel.tensor if parallel.sequence_parallel else 1
    sizes = {
        "model.hidden": model.hidden,
        "model.ffn / parallel.tensor": model.ffn // parallel.tensor,
        "model.heads x model.head_size / parallel.tensor": model.heads * model.head_size // parallel.tensor,
        "model.kv_heads x model.head_size / parallel.tensor": model.kv_heads * model.head_size // parallel.tensor,
        "train.micro_batch x the tokens of a sequence that a rank holds": config.train.micro_batch
        * (config.data.sequence_length // slices),
    }
    for key, size in sizes.items():
        if size % UNIT:
            yield f"{key} = {size} is not a multiple of {UNIT}, as precision.name = 'fp8' needs it: set precision=bf16"


def _rules(config: TrainingConfig) -> Iterator[str]:
    if config.precision.in_8_bits:
        yield from _parts(config)
        yield from _sizes(config)


FP8_RULES: tuple[Callable[[TrainingConfig], Iterator[str]], ...] = (_rules,)
