"""Megatron-core's tensor-parallel linear layers, told which logical tensors their fused weights are made of."""

from collections.abc import Sequence

from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from torch import Tensor

from dist_plm.models.layout import Part, split_over_tensor_ranks
from dist_plm.models.shape import Shape


def filled_later(_: Tensor) -> None:
    """Stands where Megatron-core wants an initialisation method."""
    raise AssertionError("weights are filled by models.init, not by the layer that allocates them")


class ColumnLinear(ColumnParallelLinear):
    """Y = X Aᵀ with the rows of A split over tensor ranks (Shoeybi et al. 2019, section 3).

    Several projections of one input may be fused: each rank then holds its share of the first part, then of the second,
    and so on. `parts` names them with their whole numbers of rows.
    """

    def __init__(self, shape: Shape, parts: Sequence[Part], *, bias: bool, allocate: bool = True) -> None:
        super().__init__(
            shape.model.hidden,
            sum(part.rows for part in parts),
            config=shape.megatron,
            init_method=filled_later,
            bias=bias,
            gather_output=False,
            skip_weight_param_allocation=not allocate,
            tp_group=shape.groups.tensor,
        )
        for parameter in (self.weight, self.bias):
            if parameter is not None:
                split_over_tensor_ranks(parameter, 0, parts)


class RowLinear(RowParallelLinear):
    """Y = X Aᵀ with the columns of A split over tensor ranks; the ranks' partial results are added."""

    def __init__(self, shape: Shape, input_size: int, *, bias: bool) -> None:
        super().__init__(
            input_size,
            shape.model.hidden,
            config=shape.megatron,
            init_method=filled_later,
            bias=bias,
            input_is_parallel=True,
            skip_bias_add=False,
            tp_group=shape.groups.tensor,
        )
        split_over_tensor_ranks(self.weight, 1)
