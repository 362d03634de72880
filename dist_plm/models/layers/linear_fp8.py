"""The linear layers of `linear` that multiply in 8 bits: Transformer Engine's, by way of Megatron-core.

Imported only where a configuration asks for them, after `device.fp8` has found Transformer Engine.
"""

from collections.abc import Sequence

# Where it is missing, Megatron-core's layers around it are mocks that say nothing.
import transformer_engine.pytorch  # noqa: F401  # pyright: ignore[reportMissingImports]
from megatron.core.extensions.transformer_engine import TEColumnParallelLinear, TERowParallelLinear

from dist_plm.models.layers.linear import filled_later
from dist_plm.models.model_context import ModelContext
from dist_plm.models.sharding import Part, split_over_tensor_ranks


class Fp8ColumnLinear(TEColumnParallelLinear):
    """See models.layers.linear.ColumnLinear. The weight is kept in bf16 and cast at each use."""

    def __init__(self, shared: ModelContext, parts: Sequence[Part], *, bias: bool) -> None:
        super().__init__(
            shared.model.hidden,
            sum(part.rows for part in parts),
            config=shared.megatron,
            init_method=filled_later,
            gather_output=False,
            bias=bias,
            skip_bias_add=False,
            is_expert=False,
            tp_group=shared.groups.tensor,
        )
        for parameter in self.parameters():
            split_over_tensor_ranks(parameter, 0, parts)


class Fp8RowLinear(TERowParallelLinear):
    """See models.layers.linear.RowLinear."""

    def __init__(self, shared: ModelContext, input_size: int, *, bias: bool) -> None:
        super().__init__(
            input_size,
            shared.model.hidden,
            config=shared.megatron,
            init_method=filled_later,
            bias=bias,
            input_is_parallel=True,
            skip_bias_add=False,
            is_expert=False,
            tp_group=shared.groups.tensor,
        )
        split_over_tensor_ranks(self.weight, 1)
