"""Estimates how long the kernels of a layer take on a GPU: a roofline with the efficiencies of real libraries.

A product takes its FLOPs at the share of the peak that large ones sustain, less where tiles do not fill the GPU in whole waves
or sums are short; or the time its operands take to be read and written. All else takes the time of its bytes.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dist_plm.plan.activations import Pass
from dist_plm.plan.rank_tensors import HeldTensor
from dist_plm.spec.families.base import StackSpec, known
from dist_plm.spec.gpus import Gpu
from dist_plm.spec.schema import PrecisionConfig

#: A tile of the result that one multiprocessor computes at a time (cuBLAS and CUTLASS choose up to 256 x 128).
_TILE = 128
#: Terms of a sum after which half of the full rate is reached.
_HALF_SUM = 128
#: Shares of the peak that fused attention reaches (Dao 2023, arXiv 2307.08691, figure 5: up to 0.72 of an A100's forward, 0.6
#: backward with all of it), and that of the memory's bandwidth which element-wise kernels reach.
_ATTENTION = 0.5
_BANDWIDTH = 0.8
#: Backward attention does 5 products where the forward pass does 2.
_ATTENTION_BACKWARD = 2.5
#: Seconds until a kernel that is launched by the host begins, and kernels of a layer's forward and backward pass.
_LAUNCH = 4e-6
_LAUNCHES = (15, 19)
#: Products in 8 bits beside the same in 16: twice the peak, less what casting costs.
_FP8 = 1.6


@dataclass(frozen=True, slots=True)
class Cost:
    """Holds seconds of a part of a microbatch.

    Args:
        forward, backward: of kernels.
        attention: of the forward pass, what selective recomputation does again.
    """

    forward: float = 0.0
    backward: float = 0.0
    attention: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.forward + other.forward, self.backward + other.backward, self.attention + other.attention)


@dataclass(frozen=True, slots=True)
class Machine:
    """Describes a GPU as one precision meets it.

    Args:
        peak: FLOP/s of the products of linear layers.
        wide: of those of attention, which is never in 8 bits.
    """

    gpu: Gpu
    peak: float
    wide: float
    element: int
    fused_attention: bool = True

    @classmethod
    def of(cls, gpu: Gpu, precision: PrecisionConfig, *, fused_attention: bool = True) -> "Machine":
        peaks = gpu.peaks
        half = peaks.bf16 or peaks.fp32  # a chip without bf16 computes it in fp32
        rates = {"fp32": peaks.fp32, "fp16": peaks.fp16, "bf16": half, "fp8": half}
        wide = rates[precision.name] * 1e12
        peak = wide * (_FP8 if precision.name == "fp8" else 1.0)
        return cls(gpu, peak, wide, precision.weight_bytes, fused_attention)

    def moving(self, num_bytes: float) -> float:
        """Seconds that element-wise kernels take for so many bytes read and written."""
        return num_bytes / (self.gpu.memory_gb * 1e9 * _BANDWIDTH)

    def product(self, rows: int, columns: int, terms: int) -> float:
        """Seconds of the product of [rows, terms] and [terms, columns]."""
        if not rows * columns * terms:
            return 0.0
        tiles = math.ceil(rows / _TILE) * math.ceil(columns / _TILE)
        filled = tiles / (math.ceil(tiles / self.gpu.units) * self.gpu.units)
        inside = rows * columns / (math.ceil(rows / _TILE) * math.ceil(columns / _TILE) * _TILE**2)
        share = self.gpu.sustained * filled**0.5 * inside * terms / (terms + _HALF_SUM)
        moved = self.element * (rows * columns + rows * terms + columns * terms)
        return max(2 * rows * columns * terms / (self.peak * share), self.moving(moved))


def layer_cost(machine: Machine, stack: StackSpec, tensors: Iterable[HeldTensor], one: Pass, *, causal: bool) -> Cost:
    """Estimates one layer of a stack, whose tensors are given."""
    products = sum((_linear(machine, *shape) for shape in products_of(tensors, one)), Cost())
    small = machine.moving(_touched(stack, one))
    attention = _attention(machine, stack, one, causal=causal)
    cost = products + attention + Cost(small, 1.8 * small)
    forward, backward = (launches * _LAUNCH for launches in _LAUNCHES)
    return Cost(max(cost.forward, forward), max(cost.backward, backward), cost.attention)


def products_of(tensors: Iterable[HeldTensor], one: Pass) -> Iterator[tuple[int, int, int]]:
    """Yields rows, columns and terms of each product of a microbatch; matrices of one input are one product."""
    vectors = {"read": one.read, "written": one.written, "predicted": one.predicted, "sample": one.samples}
    fused: dict[tuple[str, str, int | None], list[HeldTensor]] = {}
    for tensor in tensors:
        spec = tensor.spec
        if spec.multiplies is not None:
            parent = spec.name.rsplit(".", 2)[0]
            fused.setdefault((parent, spec.multiplies, spec.split), []).append(tensor)
    for (_, multiplies, _), held in fused.items():
        yield vectors[multiplies], sum(one.shape[0] for one in held), held[0].shape[1]


def linear_cost(machine: Machine, tensors: Iterable[HeldTensor], one: Pass) -> Cost:
    """Estimates products alone."""
    return sum((_linear(machine, *shape) for shape in products_of(tensors, one)), Cost())


def _linear(machine: Machine, rows: int, columns: int, terms: int) -> Cost:
    forward = machine.product(rows, columns, terms)
    return Cost(forward, machine.product(rows, terms, columns) + machine.product(columns, terms, rows))


def _attention(machine: Machine, stack: StackSpec, one: Pass, *, causal: bool) -> Cost:
    model, tokens = stack.network, one.tokens(stack)
    width = model.heads * known(model.head_size, "head_size") // one.tensor
    seen = tokens // one.samples * (0.5 if causal and machine.fused_attention else 1.0)
    if model.window:
        seen = min(seen, 2 * model.window + 1)
    if stack.is_decoder:
        seen = seen / 2 + one.read // one.samples
    flops = 4 * tokens * seen * width
    if machine.fused_attention:
        forward = flops / (machine.wide * _ATTENTION)
        return Cost(forward, _ATTENTION_BACKWARD * forward, forward)
    # Scores are written, scaled, normalised, dropped and read again: 13 bytes each in 16 bits, half as many more backward.
    scores = machine.moving(6.5 * machine.element * tokens * seen * model.heads // one.tensor)
    forward = flops / (machine.wide * _ATTENTION) + scores
    return Cost(forward, 2 * forward, forward)


def _touched(stack: StackSpec, one: Pass) -> float:
    """Counts the bytes that norms, residual sums and activation functions of a layer's forward pass read and write."""
    model, tokens = stack.network, one.tokens(stack)
    halves = 3 if stack.is_decoder else 2
    hidden = 5 * halves * tokens / one.slices * model.hidden
    gated = 2 if model.activation in ("swiglu", "geglu") else 1
    turned = 4 * tokens * model.heads * known(model.head_size, "head_size") if model.position == "rotary" else 0
    return one.element * (hidden + ((gated + 1) * tokens * known(model.ffn, "ffn") + turned) / one.tensor)
