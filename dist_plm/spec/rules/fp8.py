"""Computing in 8 bits: what it needs of a GPU, and of a configuration."""

from collections.abc import Callable, Iterator

from dist_plm.spec.schema import TrainingConfig

#: Of the first GPUs with 8-bit tensor cores: Ada; Hopper has 9.0.
CAPABILITY = (8, 9)
#: Tensor cores multiply 8-bit numbers in runs of 16.
UNIT = 16


def fp8_problem(capability: tuple[int, int]) -> str | None:
    """Gives the sentence that refuses precision=fp8 on a GPU of this compute capability; None where it can be."""
    if capability >= CAPABILITY:
        return None
    return (
        f"precision.name = 'fp8' needs an NVIDIA GPU of compute capability {_dotted(CAPABILITY)} or higher, and this one has "
        f"{_dotted(capability)}: set precision=bf16"
    )


def _dotted(pair: tuple[int, int]) -> str:
    return f"{pair[0]}.{pair[1]}"


def _rules(config: TrainingConfig) -> Iterator[str]:
    if not config.precision.in_8_bits:
        return
    tensor = config.parallel.tensor
    for stack in config.model.stacks():
        model = stack.network
        assert model.kv_heads is not None
        assert model.head_size is not None
        assert model.ffn is not None
        sizes = {
            "hidden": model.hidden,
            "ffn / parallel.tensor": model.ffn // tensor,
            "heads x head_size / parallel.tensor": model.heads * model.head_size // tensor,
            "kv_heads x head_size / parallel.tensor": model.kv_heads * model.head_size // tensor,
        }
        for key, size in sizes.items():
            if size % UNIT:
                yield (
                    f"model.{key} = {size}{_of(stack.prefix)} is not a multiple of {UNIT}, as precision.name = 'fp8' needs it: "
                    "set precision=bf16"
                )


def _of(prefix: str) -> str:
    return f" of the {prefix.rstrip('.')}" if prefix else ""


FP8_RULES: tuple[Callable[[TrainingConfig], Iterator[str]], ...] = (_rules,)
