"""Megatron-core's tensor-parallel linear layers, told which logical tensors their fused weights are made of.

Where no other rank takes part, they are one call that adds the bias as well.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from torch import Tensor, nn
from torch.nn import functional

from dist_plm.models.kernels.linear import by_another_way, linear
from dist_plm.models.kernels.linear_fp8 import fp8_linear
from dist_plm.models.layers.dropout import Site, dropout_add
from dist_plm.models.model_context import ModelContext
from dist_plm.models.sharding import Part, split_over_tensor_ranks
from dist_plm.spec.families.lora import LoraConfig

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def filled_later(_: Tensor) -> None:
    """Stands where Megatron-core wants an initialisation method."""
    raise AssertionError("weights are filled by models.init, not by the layer that allocates them")


class ColumnLinear(ColumnParallelLinear):
    """Y = X Aᵀ with the rows of A split over tensor ranks (Shoeybi et al. 2019, section 3).

    Several projections of one input may be fused: each rank then holds its share of the first part, then of the second,
    and so on. `parts` names them with their whole numbers of rows.

    Args:
        allocate: False where the weight is another layer's, given at each call.
        input_size: model.hidden if None.
        whole_input: the input is whole on every tensor rank even under sequence parallelism.
    """

    def __init__(
        self,
        shared: ModelContext,
        parts: Sequence[Part],
        *,
        bias: bool,
        allocate: bool = True,
        input_size: int | None = None,
        whole_input: bool = False,
    ) -> None:
        super().__init__(
            input_size or shared.model.hidden,
            sum(part.rows for part in parts),
            config=shared.unsliced if whole_input else shared.megatron,
            init_method=filled_later,
            bias=bias,
            gather_output=False,
            skip_weight_param_allocation=not allocate,
            tp_group=shared.groups.tensor,
        )
        self.is_split = shared.groups.grid.tensor > 1
        for parameter in (self.weight, self.bias):
            if parameter is not None:
                split_over_tensor_ranks(parameter, 0, parts)

    def forward(
        self, input_: Tensor, weight: Tensor | None = None, *, loss: Loss | None = None, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """[..., H] -> [..., rows], and no bias that is still to be added.

        Args:
            weight: of another layer.
            loss: what is made of the input, whole, and of this rank's weight and bias in place of their product.
        """
        weight = self.weight if weight is None else weight
        if loss is not None:
            assert weight is not None
            return loss(self._whole(input_), weight, self.bias), None
        if weight is None or (self.is_split and not by_another_way(input_)):
            return super().forward(input_, weight, **options)
        return linear(self._whole(input_), weight, self.bias), None

    def _whole(self, x: Tensor) -> Tensor:
        """The input of all tensor ranks, whose gradients are added up."""
        if not self.is_split:
            return x
        if self.sequence_parallel:
            return gather_from_sequence_parallel_region(x, tensor_parallel_output_grad=True, group=self.tp_group)
        return copy_to_tensor_model_parallel_region(x, group=self.tp_group)


class RowLinear(RowParallelLinear):
    """Y = X Aᵀ with the columns of A split over tensor ranks; the ranks' partial results are added.

    Args:
        output_size: model.hidden if None.
        whole_output: the result is whole on every tensor rank even under sequence parallelism.
    """

    def __init__(
        self,
        shared: ModelContext,
        input_size: int,
        *,
        bias: bool,
        output_size: int | None = None,
        whole_output: bool = False,
    ) -> None:
        super().__init__(
            input_size,
            output_size or shared.model.hidden,
            config=shared.unsliced if whole_output else shared.megatron,
            init_method=filled_later,
            bias=bias,
            input_is_parallel=True,
            skip_bias_add=False,
            tp_group=shared.groups.tensor,
        )
        self.is_split = shared.groups.grid.tensor > 1
        split_over_tensor_ranks(self.weight, 1)

    def forward(self, input_: Tensor) -> tuple[Tensor, Tensor | None]:
        """[..., columns] -> [..., H], and no bias that is still to be added."""
        if not self.is_split:
            return linear(input_, self.weight, self.bias), None
        if not by_another_way(input_):
            return super().forward(input_)
        return self._biased(self._added_up(linear(input_, self.weight))), None

    def _added_up(self, result: Tensor) -> Tensor:
        """Adds up what the ranks found."""
        if self.sequence_parallel:
            return reduce_scatter_to_sequence_parallel_region(result, group=self.tp_group)
        return reduce_from_tensor_model_parallel_region(result, group=self.tp_group) if self.is_split else result

    def _biased(self, result: Tensor) -> Tensor:
        return result if self.bias is None else result + self.bias


class Fp8ColumnLinear(ColumnLinear):
    """A ColumnLinear that multiplies in 8 bits. Its weight is of 16, and rounded at each use."""

    def forward(self, input_: Tensor, weight: Tensor | None = None, **options: Any) -> tuple[Tensor, Tensor | None]:
        """[S', B, H] -> [S, B, rows], and no bias that is still to be added."""
        assert weight is None, "weights of other layers are multiplied in 16 bits"
        assert not options
        assert self.weight is not None
        slices: Any = self.tp_group if self.is_split and self.sequence_parallel else None
        return fp8_linear(self._whole(input_), self.weight, self.bias, slices=slices), None


class Fp8RowLinear(RowLinear):
    """A RowLinear that multiplies in 8 bits. The ranks' partial results are added in 16."""

    def forward(self, input_: Tensor) -> tuple[Tensor, Tensor | None]:
        """[S, B, columns] -> [S', B, H], and no bias that is still to be added."""
        if not self.is_split:
            return fp8_linear(input_, self.weight, self.bias), None
        return self._biased(self._added_up(fp8_linear(input_, self.weight))), None


class AdaptedColumnLinear(ColumnLinear):
    """A ColumnLinear, some of whose fused parts have low-rank adapters (Hu et al. 2021, section 4.1).

    A is whole on every tensor rank and B split with the outputs: what A gives is the same everywhere, and its gradients, of
    each rank's outputs, are added."""

    def __init__(
        self, shared: ModelContext, parts: Sequence[Part], *, bias: bool, lora: LoraConfig, site: Site
    ) -> None:
        super().__init__(shared, parts, bias=bias)
        self.dropout, self.site, self.slices = lora.dropout, site, shared.slices
        self.rank, self.scale, self.is_sliced = lora.rank, lora.scale, shared.sequence_parallel
        tensor = shared.groups.grid.tensor
        self.rows = [(part.rows // tensor, part.name in lora.targets) for part in parts]
        adapted = [part for part in parts if part.name in lora.targets]
        like = {"dtype": shared.dtype, "device": shared.device}
        self.lora_a = nn.Parameter(torch.empty(len(adapted) * lora.rank, shared.model.hidden, **like))
        self.lora_b = nn.Parameter(torch.empty(sum(part.rows for part in adapted) // tensor, lora.rank, **like))
        notes: Any = self.lora_a
        notes.parts, notes.sequence_parallel = tuple(Part(part.name, lora.rank) for part in adapted), self.is_sliced
        split_over_tensor_ranks(self.lora_b, 0, adapted)

    def forward(
        self, input_: Tensor, weight: Tensor | None = None, *, keys: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """[S', B, H] -> [S, B, rows], and no bias that is still to be added; see `project` for `keys`."""
        result, bias = super().forward(input_, weight, **options)
        if self.training and self.dropout > 0.0:
            assert keys is not None
            input_ = dropout_add(input_, None, self.dropout, keys[self.site], **self.slices)
        low = linear(input_, self.lora_a)
        if self.is_sliced:
            low = gather_from_sequence_parallel_region(low, tensor_parallel_output_grad=True, group=self.tp_group)
        elif self.is_split:
            low = copy_to_tensor_model_parallel_region(low, group=self.tp_group)
        lows = iter(low.split(self.rank, dim=-1))
        factors = iter(self.lora_b.split([rows for rows, adapted in self.rows if adapted]))
        more = [
            linear(next(lows), next(factors)) if adapted else result.new_zeros(*result.shape[:-1], rows)
            for rows, adapted in self.rows
        ]
        return result + self.scale * torch.cat(more, dim=-1), bias


class AdaptedRowLinear(RowLinear):
    """A RowLinear with an adapter, whose A is split with the inputs, and B whole."""

    def __init__(self, shared: ModelContext, input_size: int, *, bias: bool, lora: LoraConfig, site: Site) -> None:
        super().__init__(shared, input_size, bias=bias)
        self.scale, self.dropout, self.site = lora.scale, lora.dropout, site
        self.slices = {"slice_index": shared.context_index, "num_slices": shared.context_ranks}
        columns, self.whole_size = input_size // shared.groups.grid.tensor, input_size
        self.before = columns * shared.groups.coordinates.tensor
        like = {"dtype": shared.dtype, "device": shared.device}
        self.lora_a = nn.Parameter(torch.empty(lora.rank, columns, **like))
        self.lora_b = nn.Parameter(torch.empty(shared.model.hidden, lora.rank, **like))
        split_over_tensor_ranks(self.lora_a, 1)
        self.lora_b.sequence_parallel = shared.sequence_parallel  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, input_: Tensor, *, keys: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """[S, B, columns] -> [S', B, H], and no bias that is still to be added; see `project` for `keys`."""
        result, bias = super().forward(input_)
        if self.training and self.dropout > 0.0:
            assert keys is not None
            input_ = self._dropped(input_, keys[self.site])
        low = self._added_up(linear(input_, self.lora_a))
        return result + self.scale * linear(low, self.lora_b), bias

    def _dropped(self, input_: Tensor, keys: Tensor) -> Tensor:
        """Drops elements of this rank's columns, as of whole rows: masks are drawn by the row."""
        size = input_.shape[-1]
        whole = functional.pad(input_, (self.before, self.whole_size - self.before - size))
        dropped = dropout_add(whole, None, self.dropout, keys, **self.slices)
        return dropped.narrow(-1, self.before, size).contiguous()  # else the backward pass would keep the whole


def project(layer: nn.Module, input_: Tensor, keys: Tensor | None) -> Tensor:
    """Applies a linear layer that `column_linear` or `row_linear` made.

    Args:
        keys: [sites, B] of the transformer layer, from which an adapter draws what it drops; None where nothing is dropped.
    """
    if isinstance(layer, (AdaptedColumnLinear, AdaptedRowLinear)):  # at A | B PyTorch 2.9 ends a graph
        return layer(input_, keys=keys)[0]
    return layer(input_)[0]


def column_linear(shared: ModelContext, parts: Sequence[Part], *, site: Site, bias: bool) -> nn.Module:
    """A ColumnLinear within a layer, in 8 bits or with adapters where the configuration says so, as embeddings and heads never
    are.

    Args:
        site: of the dropout of an adapter.
    """
    lora = shared.model.lora
    if lora is not None and any(part.name in lora.targets for part in parts):
        return AdaptedColumnLinear(shared, parts, bias=bias, lora=lora, site=site)
    return (Fp8ColumnLinear if shared.in_8_bits else ColumnLinear)(shared, parts, bias=bias)


def row_linear(shared: ModelContext, input_size: int, *, name: str, site: Site, bias: bool) -> nn.Module:
    """A RowLinear within a layer, likewise.

    Args:
        name: of what it is within its half of the layer.
    """
    lora = shared.model.lora
    if lora is not None and name in lora.targets:
        return AdaptedRowLinear(shared, input_size, bias=bias, lora=lora, site=site)
    return (Fp8RowLinear if shared.in_8_bits else RowLinear)(shared, input_size, bias=bias)


class Dense(nn.Module):
    """A linear layer that every tensor rank holds whole.

    Args:
        sliced_input: each tensor rank applies it to its slice of the sequence, so that the gradients are partial sums, which
            the engine adds over the tensor group.
    """

    def __init__(
        self, shared: ModelContext, input_size: int, output_size: int, *, bias: bool = True, sliced_input: bool = False
    ) -> None:
        super().__init__()
        like = {"dtype": shared.dtype, "device": shared.device}
        self.weight = nn.Parameter(torch.empty(output_size, input_size, **like))
        self.bias = nn.Parameter(torch.empty(output_size, **like)) if bias else None
        for parameter in self.parameters():
            parameter.sequence_parallel = sliced_input  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
