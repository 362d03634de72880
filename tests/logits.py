"""Whole logits of a model whose losses come with the product over the vocabulary, in pieces."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional


def record_logits(output: nn.Module, record: Callable[[Tensor], object]) -> Callable[[], None]:
    """Hands `record` the logits of each call of a model's output layer, [N, V / P] where it computes a loss. Returns what
    ends that."""

    def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        inner = kwargs.get("loss")
        if inner is None:
            return None

        def loss(tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            record(functional.linear(tokens, weight, bias).detach())
            return inner(tokens, weight, bias)

        return args, {**kwargs, "loss": loss}

    def take(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        if kwargs.get("loss") is None:
            record(result[0].detach())

    hooks = (
        output.register_forward_pre_hook(watch, with_kwargs=True),
        output.register_forward_hook(take, with_kwargs=True),
    )

    def end() -> None:
        for hook in hooks:
            hook.remove()

    return end
