"""Estimates how long the kernels of a layer take on a GPU: a roofline with the efficiencies of real libraries.

A product is cut into tiles, dealt to the GPU's units in waves; a tile takes its FLOPs at the rate that large products sustain,
and a fixed time to begin and end, or the product the time that its operands take to be read and written. Fused attention
takes its products and exponentials. All else takes the time of its bytes.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from dist_plm.plan.activations import Pass
from dist_plm.plan.rank_tensors import HeldTensor, LayerKind
from dist_plm.plan.timing.efficiency import DEFAULT, Efficiency
from dist_plm.plan.timing.software import OURS, Software
from dist_plm.spec.families.base import StackSpec, known
from dist_plm.spec.gpus import Gpu
from dist_plm.spec.schema import PrecisionConfig

#: Tiles of a result that one multiprocessor computes at a time (cuBLAS and CUTLASS choose among these), and the share of the
#: full rate that their traffic to and from shared memory leaves.
_TILES = ((256, 128, 1.0), (128, 128, 0.95), (128, 64, 0.8), (64, 64, 0.6))
#: Into how many pieces the sum may be cut, for results of few tiles (split-K).
_SPLITS = (1, 2, 4, 8)
#: Clocks in a second, about, and the share of exponentials that hides behind products.
_CLOCK, _HIDDEN_EXPONENTIALS = 1.6e9, 0.5
#: Scores for which a multiprocessor hashes dropout's masks in a second, as this program measured on an H100 (docs/gpu.md).
_MASKS = 7 * _CLOCK
#: Share of the peak that large products reach where tensor cores have no part in them (cuBLAS's SGEMM).
_WITHOUT_TENSOR_CORES = 0.92
#: Backward attention does 5 products where the forward pass does 2, at less of the peak (Dao 2023, arXiv 2307.08691, figure 5).
_ATTENTION_BACKWARD = 2.5 * 1.15
#: Kernels of a layer's forward and backward pass, as bench/launches.py counts them.
_LAUNCHES = (15, 19)


@dataclass(frozen=True, slots=True)
class Cost:
    """Holds seconds of a part of a microbatch.

    Args:
        forward, backward: of kernels.
        attention: of the forward pass, what selective recomputation does again.
        linear: of the forward pass, products alone.
    """

    forward: float = 0.0
    backward: float = 0.0
    attention: float = 0.0
    linear: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.forward + other.forward,
            self.backward + other.backward,
            self.attention + other.attention,
            self.linear + other.linear,
        )

    def times(self, count: int) -> "Cost":
        """The same so many times."""
        return Cost(self.forward * count, self.backward * count, self.attention * count, self.linear * count)


@dataclass(frozen=True, slots=True)
class Machine:
    """Describes a GPU as one precision meets it.

    Args:
        peak: FLOP/s of the products of linear layers, as large ones sustain them.
        wide: peak of those of attention, which is never in 8 bits.
    """

    gpu: Gpu
    peak: float
    wide: float
    element: int
    eight: bool = False
    software: Software = OURS
    efficiency: Efficiency = DEFAULT

    @classmethod
    def of(
        cls, gpu: Gpu, precision: PrecisionConfig, *, software: Software = OURS, efficiency: Efficiency = DEFAULT
    ) -> "Machine":
        peaks = gpu.peaks
        # A chip without bf16 computes it in fp32.
        wide = (peaks.of(precision.weights, tf32=precision.tf32) or peaks.fp32) * 1e12
        eight = precision.in_8_bits
        sustained = _WITHOUT_TENSOR_CORES if wide == peaks.fp32 * 1e12 else gpu.sustained
        peak = wide * sustained * efficiency.compute * (2 * efficiency.eight if eight else 1.0)
        return cls(gpu, peak, wide, precision.weight_bytes, eight, software, efficiency)

    def moving(self, num_bytes: float) -> float:
        """Seconds that element-wise kernels take for so many bytes read and written."""
        return num_bytes / (self.gpu.memory_gb * 1e9 * self.efficiency.bandwidth)

    def product(self, rows: int, columns: int, terms: int, *, result: int | None = None) -> float:
        """Seconds of the product of [rows, terms] and [terms, columns].

        Args:
            result: bytes of an element of the result, where it is another than those of the operands.
        """
        if not rows * columns * terms:
            return 0.0
        operand, out = 1 if self.eight else self.element, result or self.element
        moved = out * rows * columns + operand * (rows * terms + columns * terms)
        unit = _Unit(
            self.gpu.units, self.peak / self.gpu.units, self.moving(out) * self.gpu.units, self.efficiency.tile
        )
        return max(_tiled(unit, rows, columns, terms), self.moving(moved))

    def casting(self, elements: float) -> float:
        """Seconds to write 16-bit numbers in 8 bits, as they lie and transposed; half of it within the kernels before."""
        return self.moving(2 * elements) if self.eight else 0.0


class _Unit(NamedTuple):
    """Describes one of a GPU's multiprocessors: its FLOP/s, seconds to write an element, and to begin and end a tile."""

    count: int
    rate: float
    writing: float
    fixed: float


@lru_cache(maxsize=1 << 16)
def _tiled(unit: _Unit, rows: int, columns: int, terms: int) -> float:
    """Seconds of a product with the best tile and cut, without the memory's limit. A tile's result is written when it ends."""
    best = math.inf
    for height, width, share in _TILES:
        tiles = math.ceil(rows / height) * math.ceil(columns / width)
        of_tile = 2 * height * width * terms / (unit.rate * share)
        ends = unit.fixed + height * width * unit.writing
        for splits in _SPLITS:
            if splits > 1 and terms < 512 * splits:
                break
            waves = math.ceil(tiles * splits / unit.count)
            best = min(best, waves * (of_tile / splits + ends * (1 if splits == 1 else 2)))
    return best


def layer_cost(machine: Machine, stack: StackSpec, layer: LayerKind, one: Pass, *, causal: bool) -> Cost:
    """Estimates one layer of a stack."""
    own = [held for held in layer.tensors if held.trained]
    products = linear_cost(machine, layer.tensors, one, flows=layer.flows)
    small = machine.moving(_touched(stack, one)) * machine.software.passes
    attention = attention_cost(machine, stack, one, causal=causal)
    sums = 0.0 if machine.software.fused_sums else machine.moving(10 * sum(held.numel for held in own))
    cost = products + attention + Cost(small, 1.8 * small + sums)
    if not layer.runs_backward:
        cost = Cost(cost.forward, 0.0, cost.attention, cost.linear)
    forward, backward = (launches * machine.efficiency.launch for launches in _LAUNCHES)
    return Cost(max(cost.forward, forward), max(cost.backward, backward), cost.attention, cost.linear)


def products_of(
    tensors: Iterable[HeldTensor], one: Pass, *, fused: bool = True
) -> Iterator[tuple[tuple[int, int, int], bool]]:
    """Yields rows, columns and terms of each product of a microbatch, and whether its matrix is trained; matrices of one input
    are one product if `fused`."""
    vectors = {
        "read": one.read,
        "written": one.written,
        "predicted": one.predicted,
        "sample": one.samples,
    }
    groups: dict[tuple[str, str, int | None], list[HeldTensor]] = {}
    for tensor in tensors:
        spec = tensor.spec
        if spec.multiplies is not None:
            parent = spec.name.rsplit(".", 2)[0] if fused else spec.name
            groups.setdefault((parent, spec.multiplies, spec.split), []).append(tensor)
    for (_, multiplies, _), held in groups.items():
        sizes = vectors[multiplies], sum(one.shape[0] for one in held), held[0].shape[1]
        yield sizes, any(one.trained for one in held)


def linear_cost(machine: Machine, tensors: Iterable[HeldTensor], one: Pass, *, flows: bool = True) -> Cost:
    """Estimates products alone.

    Args:
        flows: their inputs have gradients.
    """
    products = products_of(tensors, one, fused=machine.software.fused_projections)
    return sum((_linear(machine, *sizes, flows=flows, trained=trained) for sizes, trained in products), Cost())


def _linear(machine: Machine, rows: int, columns: int, terms: int, *, flows: bool, trained: bool) -> Cost:
    forward = machine.product(rows, columns, terms) + machine.casting(rows * terms)
    by_input = machine.product(rows, terms, columns) + machine.casting(rows * columns)
    # Gradients of weights are added to fp32 sums, which are read and written.
    by_weight = machine.product(columns, terms, rows, result=8)
    return Cost(forward, by_input * flows + by_weight * trained, linear=forward)


def attention_cost(machine: Machine, stack: StackSpec, one: Pass, *, causal: bool) -> Cost:
    """Estimates scores, softmax and weighted sums of one layer."""
    model, tokens, fused = stack.network, one.tokens(stack), machine.software.fused_attention
    heads, head_size = model.heads / one.tensor, known(model.head_size, "head_size")
    seen = tokens * one.context // one.rows(stack) * (0.5 if causal and fused else 1.0)
    if model.window:
        seen = min(seen, 2 * model.window + 1)
    if stack.is_decoder:
        seen = seen / 2 + one.read * one.context // one.samples
    scores = tokens * seen * heads
    older = machine.efficiency.older if fused and machine.gpu.is_new and not machine.software.new_attention else 1.0
    products = 4 * scores * head_size / (machine.wide * machine.efficiency.attention * older)
    units = machine.gpu.units
    if fused:
        masks = scores / (units * _MASKS) if model.attention_dropout else 0.0
        softmax = (1 - _HIDDEN_EXPONENTIALS) * scores / (units * machine.gpu.exponentials * _CLOCK)
        forward = products + softmax + masks
        return Cost(forward, _ATTENTION_BACKWARD * (forward - masks) + 2 * masks, forward)
    # Each score is written, masked, normalised, dropped and read again: 6.5 times forward, 9.5 times backward.
    small = machine.moving(machine.element * scores)
    return Cost(products + 6.5 * small, 2 * products + 9.5 * small, products + 6.5 * small)


def _touched(stack: StackSpec, one: Pass) -> float:
    """Counts bytes that norms, residual sums, dropout and activation functions read and write forward."""
    model, tokens = stack.network, one.tokens(stack)
    halves = 3 if stack.is_decoder else 2
    hidden = 5 * halves * tokens / one.slices * model.hidden
    gated = 2 if model.activation in ("swiglu", "geglu") else 1
    turned = 4 * tokens * model.heads * known(model.head_size, "head_size") if model.position == "rotary" else 0
    return one.element * (hidden + ((gated + 1) * tokens * known(model.ffn, "ffn") + turned) / one.tensor)
