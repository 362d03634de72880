"""Megatron-core's own layers and pipeline schedules on the groups, with the CPU standing in for CUDA."""

import pytest
import torch
from megatron.core import tensor_parallel
from megatron.core.enums import ModelType
from megatron.core.model_parallel_config import ModelParallelConfig
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.transformer import TransformerConfig
from torch import nn
from torch.nn import functional as F

from dist_plm.distributed.grid import Grid
from dist_plm.distributed.groups import Groups, build_groups
from tests.ranks.times import LONG

SEQUENCE, BATCH, HIDDEN, VOCAB = 6, 2, 8, 12


def whole(name: str, *shape: int) -> torch.Tensor:
    """The same values on every rank."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(name.encode())))


def my_part(tensor: torch.Tensor, groups: Groups, dim: int) -> torch.Tensor:
    return tensor.chunk(groups.grid.tensor, dim)[groups.coordinates.tensor]


def no_init(_tensor):
    pass


class TinyModel(nn.Module):
    """Embedding, column- then row-parallel projection, and the logits of a tied head. Weights by name, whatever the grid."""

    def __init__(self, groups: Groups, sequence_parallel: bool) -> None:
        super().__init__()
        config = ModelParallelConfig(
            tensor_model_parallel_size=groups.grid.tensor,
            sequence_parallel=sequence_parallel,
            use_cpu_initialization=True,
            perform_initialization=False,
        )
        common = {"config": config, "init_method": no_init, "tp_group": groups.tensor}
        self.sequence_parallel, self.group = sequence_parallel, groups.tensor
        self.embedding = tensor_parallel.VocabParallelEmbedding(
            VOCAB, HIDDEN, reduce_scatter_embeddings=sequence_parallel, **common
        )
        self.up = tensor_parallel.ColumnParallelLinear(HIDDEN, 4 * HIDDEN, **common, gather_output=False)
        self.down = tensor_parallel.RowParallelLinear(
            4 * HIDDEN, HIDDEN, **common, bias=True, input_is_parallel=True, skip_bias_add=False
        )
        self.head = tensor_parallel.ColumnParallelLinear(
            HIDDEN, VOCAB, **common, bias=False, skip_weight_param_allocation=True
        )
        with torch.no_grad():
            for name, parameter, split in self.split_parameters():
                value = whole(name, *self.shape_of(name))
                parameter.copy_(value if split is None else my_part(value, groups, split))

    def split_parameters(self):
        yield "embedding", self.embedding.weight, 0
        yield "up", self.up.weight, 0
        yield "up_bias", self.up.bias, 0
        yield "down", self.down.weight, 1
        yield "down_bias", self.down.bias, None

    @staticmethod
    def shape_of(name):
        wide = 4 * HIDDEN
        return {
            "embedding": (VOCAB, HIDDEN),
            "up": (wide, HIDDEN),
            "up_bias": (wide,),
            "down": (HIDDEN, wide),
            "down_bias": (HIDDEN,),
        }[name]

    def forward(self, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Losses [S, B] of tokens [B, S] against labels [S, B]."""
        embedded = self.embedding(tokens)
        hidden = embedded if self.sequence_parallel else embedded.transpose(0, 1)
        hidden = self.down(F.gelu(self.up(hidden)[0]))[0]
        logits = self.head(hidden, weight=self.embedding.weight)[0]
        return tensor_parallel.vocab_parallel_cross_entropy(logits, labels)


def plain_losses(weights, tokens, labels):
    """The same network without Megatron-core, for the reference itself."""
    hidden = F.embedding(tokens, weights["embedding"]).transpose(0, 1)
    hidden = F.linear(
        F.gelu(F.linear(hidden, weights["up"], weights["up_bias"])), weights["down"], weights["down_bias"]
    )
    logits = F.linear(hidden, weights["embedding"])
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)


def tokens_and_labels():
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(VOCAB, (BATCH, SEQUENCE), generator=draw)
    return tokens, torch.randint(VOCAB, (SEQUENCE, BATCH), generator=draw)


def run_layers(world, grid, sequence_parallel):
    groups = build_groups(grid, world.device, timeout=LONG)
    model = TinyModel(groups, sequence_parallel)
    losses = model(*tokens_and_labels())
    losses.sum().backward()
    if sequence_parallel:
        # Of a parameter that is whole on each rank but sees a part of the sequence; the engine does this.
        torch.distributed.all_reduce(model.down.bias.grad, group=groups.tensor)
    return losses.detach(), {name: (parameter.grad, split) for name, parameter, split in model.split_parameters()}


@pytest.mark.parametrize(("tensor", "sequence_parallel"), [(1, False), (2, False), (2, True)])
def test_tensor_parallel_layers_agree_with_plain_pytorch(ranks, tensor, sequence_parallel):
    weights = {
        n: whole(n, *TinyModel.shape_of(n)).requires_grad_()
        for n in ("embedding", "up", "up_bias", "down", "down_bias")
    }
    expected = plain_losses(weights, *tokens_and_labels())
    expected.sum().backward()
    outcomes = ranks.run(tensor, run_layers, Grid(tensor=tensor), sequence_parallel)
    for losses, _ in outcomes:
        torch.testing.assert_close(losses, expected.detach(), rtol=1e-5, atol=1e-6)
    for name, weight in weights.items():
        parts = [gradients[name][0] for _, gradients in outcomes]
        split = outcomes[0][1][name][1]
        # An element is a sum over tokens whose terms are of the size of the largest, whatever comes of it.
        rounding = 1e-6 * float(weight.grad.abs().max())
        for gradient in parts if split is None else [torch.cat(parts, split)]:
            torch.testing.assert_close(gradient, weight.grad, rtol=1e-5, atol=rounding)


LAYERS, MICROBATCHES = 4, 6


class Chunk(nn.Module):
    """Some layers of a toy network, fed by the schedule."""

    def __init__(self, config: TransformerConfig, layers: range, first: bool) -> None:
        super().__init__()
        self.config, self.first = config, first
        self.model_type = ModelType.encoder_or_decoder
        self.layers = nn.ModuleDict({str(layer): nn.Linear(HIDDEN, HIDDEN) for layer in layers})
        with torch.no_grad():
            for number, layer in self.layers.items():
                layer.weight.copy_(whole(f"layer{number}", HIDDEN, HIDDEN) / HIDDEN**0.5)
                layer.bias.zero_()

    def set_input_tensor(self, tensor) -> None:
        self.input = tensor[0] if isinstance(tensor, list) else tensor

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        hidden = batch if self.first else self.input
        for layer in self.layers.values():
            hidden = torch.tanh(layer(hidden))
        return hidden


def forward_step(batches, chunk):
    batch = next(batches)

    def loss(output):
        total = output.square().sum()
        return total, torch.tensor(output.numel()), {"loss": total.detach().clone()}

    return chunk(batch), loss


def run_schedule(world, grid, virtual_pipeline, forward_only):
    groups = build_groups(grid, world.device, virtual_pipeline=virtual_pipeline, timeout=LONG)
    stages = grid.pipeline * virtual_pipeline
    config = TransformerConfig(
        num_layers=LAYERS,
        hidden_size=HIDDEN,
        num_attention_heads=1,
        pipeline_model_parallel_size=grid.pipeline,
        virtual_pipeline_model_parallel_size=virtual_pipeline if virtual_pipeline > 1 else None,
        pipeline_dtype=torch.float32,
        calculate_per_token_loss=True,
        batch_p2p_comm=False,
    )
    chunks = []
    for number in range(virtual_pipeline):
        stage = groups.coordinates.pipeline + number * grid.pipeline
        layers = range(stage * LAYERS // stages, (stage + 1) * LAYERS // stages)
        chunks.append(Chunk(config, layers, groups.is_first_chunk(number)))
    losses = get_forward_backward_func(grid.pipeline, virtual_pipeline if virtual_pipeline > 1 else None)(
        forward_step_func=forward_step,
        data_iterator=[iter(pipeline_batches()) for _ in chunks],
        model=chunks,
        num_microbatches=MICROBATCHES,
        seq_length=SEQUENCE,
        micro_batch_size=BATCH,
        forward_only=forward_only,
        p2p_communicator=P2PCommunicator(pp_group=groups.pipeline, config=config),
        pg_collection=groups.collection,
    )
    gradients = {number: layer.weight.grad for chunk in chunks for number, layer in chunk.layers.items()}
    return [float(loss["loss"]) for loss in losses], gradients


def pipeline_batches():
    return [whole(f"batch{number}", SEQUENCE, BATCH, HIDDEN) for number in range(MICROBATCHES)]


def plain_schedule():
    weights = [(whole(f"layer{n}", HIDDEN, HIDDEN) / HIDDEN**0.5).requires_grad_() for n in range(LAYERS)]
    losses = []
    for hidden in pipeline_batches():
        for weight in weights:
            hidden = torch.tanh(F.linear(hidden, weight))
        losses.append(hidden.square().sum())
    sum(losses).backward()
    return [loss.item() for loss in losses], {str(n): weight.grad for n, weight in enumerate(weights)}


@pytest.mark.parametrize("forward_only", [False, True])
@pytest.mark.parametrize(("pipeline", "virtual_pipeline"), [(1, 1), (2, 1), (4, 1), (2, 2)])
def test_pipeline_schedules_agree_with_plain_pytorch(ranks, pipeline, virtual_pipeline, forward_only):
    expected_losses, expected_gradients = plain_schedule()
    outcomes = ranks.run(pipeline, run_schedule, Grid(pipeline=pipeline), virtual_pipeline, forward_only)
    for losses, _ in outcomes[:-1]:
        assert losses == []
    assert outcomes[-1][0] == pytest.approx(expected_losses, rel=1e-5)
    gradients = {number: gradient for _, held in outcomes for number, gradient in held.items()}
    assert gradients.keys() == expected_gradients.keys()
    for number, gradient in gradients.items():
        if forward_only:
            assert gradient is None
        else:
            torch.testing.assert_close(gradient, expected_gradients[number], rtol=1e-5, atol=1e-5)
