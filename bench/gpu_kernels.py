"""The ceilings of a device, and our kernels beside PyTorch's own, forward and backward."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from gpu_timing import Notes, device_ms, peak_gib, seconds_of
from torch import Tensor
from torch.nn import functional

from dist_plm.models.kernels.linear_loss import VocabRange, linear_loss
from dist_plm.models.layers.dropout import attend_with_dropout, dropout_add
from dist_plm.models.layers.norms import RMSNorm
from dist_plm.models.masks import bias_of, ranges_of
from dist_plm.models.sequence_context import SequenceContext

Work = Callable[[], Any]


def ceilings(notes: Notes, device: torch.device, *, quick: bool, small: bool) -> None:
    """What the device copies and multiplies at most."""
    size, elements = (256, 2**20) if small else (8192, 2**28)
    budget = 0.2 if quick else 1.0
    source = torch.randn(elements, device=device)
    target = torch.empty_like(source)

    def copied() -> dict[str, Any]:
        seconds = seconds_of(lambda: target.copy_(source), device, warm=3, budget=budget)
        return {"ms": 1e3 * seconds, "gb_per_second": 8 * elements / seconds / 1e9}

    notes.attempt("ceilings", "copy", copied)
    for name, dtype, tf32 in (
        ("bf16", torch.bfloat16, False),
        ("fp32", torch.float32, False),
        ("tf32", torch.float32, True),
    ):
        if name == "tf32" and device.type != "cuda":
            continue
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

        def multiplied(a: Tensor = a, b: Tensor = b, tf32: bool = tf32) -> dict[str, Any]:
            torch.backends.cuda.matmul.allow_tf32 = tf32
            try:
                seconds = seconds_of(lambda: a @ b, device, warm=3, budget=budget)
            finally:
                torch.backends.cuda.matmul.allow_tf32 = False
            return {"ms": 1e3 * seconds, "tflops": 2 * size**3 / seconds / 1e12}

        notes.attempt("ceilings", f"product of {size}², {name}", multiplied)


def kernels(notes: Notes, device: torch.device, *, quick: bool, small: bool) -> None:
    """Each of our kernels and its peers, one row each."""
    for name, build in cases(device, small=small).items():
        notes.attempt("kernels", name, lambda build=build: timed(build(), device, quick=quick))


def timed(work: Work, device: torch.device, *, quick: bool) -> dict[str, Any]:
    seconds = seconds_of(work, device, warm=3, budget=0.1 if quick else 0.4)
    return {"ms": 1e3 * seconds, "device_ms": device_ms(work, device), "gib": peak_gib(work, device)}


def both_ways(forward: Callable[..., Tensor], *inputs: Tensor) -> Work:
    """Forward and backward; the gradient is there before."""
    wanted = [x for x in inputs if x.requires_grad]
    grad = torch.randn_like(forward(*inputs))
    return lambda: torch.autograd.grad(forward(*inputs), wanted, grad)


def cases(device: torch.device, *, small: bool) -> dict[str, Callable[[], Work]]:
    found: dict[str, Callable[[], Work]] = {}
    rows, length, hidden, vocab = (2, 32, 64, 320) if small else (32, 512, 1024, 50304)
    keys = torch.arange(rows, device=device) * 7919

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=torch.bfloat16).requires_grad_()

    def ours_dropped() -> Work:
        options = {"slice_index": 0, "num_slices": 1}
        return both_ways(
            lambda x, r: dropout_add(x, r, 0.1, keys, **options), *(random(length, rows, hidden) for _ in "xr")
        )

    def theirs_dropped() -> Work:
        return both_ways(lambda x, r: functional.dropout(x, 0.1) + r, *(random(length, rows, hidden) for _ in "xr"))

    found |= {"dropout + residual: ours": ours_dropped, "dropout + residual: torch": theirs_dropped}

    def attention(causal: bool, padded: bool, probability: float, *, ours: bool) -> Work:
        inputs = [random(rows, 2 if small else 16, length, 16 if small else 64) for _ in range(3)]
        bias = torch.zeros(rows, 1, 1, length, device=device, dtype=torch.bfloat16) if padded else None
        scale = inputs[0].shape[-1] ** -0.5

        def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if ours:
                drawn = {"scale": scale, "probability": probability, "first_head": 0, "first_row": 0}
                return attend_with_dropout(q, k, v, bias, keys, causal=causal, **drawn)
            return functional.scaled_dot_product_attention(q, k, v, bias, probability, causal)

        return both_ways(mix, *inputs)

    for causal, padded in ((False, False), (True, False), (False, True)):
        kind = "causal" if causal else "padded" if padded else "plain"
        for label, probability, ours in (("ours", 0.1, True), ("torch", 0.1, False), ("torch, no dropout", 0.0, False)):
            arguments = (causal, padded, probability)
            found[f"attention, {kind}: {label}"] = lambda a=arguments, o=ours: attention(*a, ours=o)
    found |= ranged(random, device, small=small)
    found |= losses(random, rows * length // 2, hidden, vocab, device)

    def normed(ours: bool) -> Work:
        norm = RMSNorm(hidden, 1e-6, torch.bfloat16, device, False)
        torch.nn.init.ones_(norm.weight)
        plain = lambda x: functional.rms_norm(x, (hidden,), norm.weight, 1e-6)  # noqa: E731
        return both_ways(norm if ours else plain, random(length, rows, hidden))

    return found | {"RMS norm: ours": lambda: normed(True), "RMS norm: torch": lambda: normed(False)}


def ranged(random: Callable[..., Tensor], device: torch.device, *, small: bool) -> dict[str, Callable[[], Work]]:
    """Attention whose queries see a range of keys each, beside the same with a mask as a bias."""
    unit, heads, size = (16, 2, 16) if small else (256, 16, 64)
    whole = torch.arange(8 * unit, device=device).expand(2 if small else 8, -1)
    half = torch.full((2 if small else 32,), unit, device=device)
    kinds = {
        "4 documents of 512": (*whole.shape, {"documents": whole // (2 * unit)}),
        "a window of 256 in 4096": (2 if small else 4, 16 * unit, {"window": unit}),
        "half of 512 padding": (len(half), 2 * unit, {"lengths": half}),
    }

    def attention(rows: int, length: int, masks: dict[str, Any], probability: float, *, ours: bool) -> Work:
        context, places = SequenceContext(causal=False, **masks), torch.arange(length, device=device)
        ranges = ranges_of(context, places)
        bias = bias_of(context, places[:1] if "lengths" in masks else places, places, torch.bfloat16)
        keys, scale = torch.arange(rows, device=device) * 7919, size**-0.5

        def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if ours:
                drawn = {"scale": scale, "probability": probability, "first_head": 0, "first_row": 0}
                return attend_with_dropout(q, k, v, None, keys, causal=False, ranges=ranges, **drawn)
            return functional.scaled_dot_product_attention(q, k, v, bias, probability)

        return both_ways(mix, *(random(rows, heads, length, size) for _ in range(3)))

    found = {}
    for (kind, about), probability in itertools.product(kinds.items(), (0.0, 0.1)):
        for label, ours in (("ours, ranges", True), ("torch, bias", False)):
            name = f"attention, {kind}, dropout {probability}: {label}"
            found[name] = lambda a=(*about, probability), o=ours: attention(*a, ours=o)
    return found


def losses(
    random: Callable[..., Tensor], tokens: int, hidden: int, vocab: int, device: torch.device
) -> dict[str, Callable[[], Work]]:
    labels = torch.randint(0, vocab, (tokens,), device=device)
    group = dist.group.WORLD
    assert group is not None

    def of(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], Work]:
        return lambda: both_ways(loss, random(tokens, hidden), random(vocab, hidden))

    def plain(x: Tensor, w: Tensor) -> Tensor:
        return functional.cross_entropy(functional.linear(x, w).float(), labels, reduction="sum")

    name = "product + loss over the vocabulary"
    found = {
        f"{name}: ours": of(lambda x, w: linear_loss(x, w, None, labels, VocabRange(group, 0, vocab, vocab))),
        f"{name}: torch": of(plain),
    }
    if hasattr(functional, "linear_cross_entropy"):
        theirs = functional.linear_cross_entropy  # pyright: ignore[reportAttributeAccessIssue]
        found[f"{name}: torch, fused"] = of(lambda x, w: theirs(x, w, labels, reduction="sum"))
    if device.type == "cuda":
        found[f"{name}: Liger"] = lambda: both_ways(liger(labels), random(tokens, hidden), random(vocab, hidden))
    return found


def liger(labels: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss  # pyright: ignore[reportMissingImports]

    loss = LigerFusedLinearCrossEntropyLoss(reduction="sum")
    return lambda x, w: loss(w, x, labels)
