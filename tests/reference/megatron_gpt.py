"""GPT as Megatron-core has it: trained by its optimizers, saved by its checkpoint library as Megatron-LM's training does."""

import argparse
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, tensor_parallel
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.enums import ModelType
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import Float16Module
from torch import Tensor
from torch.nn import functional

from dist_plm.distributed.grid import Grid
from dist_plm.distributed.groups import Groups, build_groups
from tests.ranks.pool import World
from tests.ranks.times import LONG

VOCAB, LENGTH, LAYERS, HIDDEN, HEADS = 211, 16, 4, 32, 4
BATCH, LR = 4, 1e-3
SAVED_AT, STEPS = 3, 5


@dataclass(frozen=True)
class Kind:
    """A model, its process grid and how it is saved. `stacked`: the layers' tensors as one, as Megatron-LM did by default
    until 0.15."""

    llama: bool = False
    tensor: int = 1
    pipeline: int = 1
    distributed: bool = False
    sharding: str = "fully_reshardable"
    bf16: bool = False
    stacked: bool = True

    @property
    def kv_heads(self) -> int:
        return 2 if self.llama else HEADS


@dataclass(frozen=True)
class Outcome:
    """Of one rank. `states`: what its optimizer holds, whole, by Megatron-core's names; where it is not sharded."""

    losses: list[float]
    logits: Tensor | None
    states: dict[str, dict[str, Tensor]]


def padded(tensor: int) -> int:
    """Rows of the embedding where `tensor` ranks share it."""
    unit = 8 * tensor
    return -(-VOCAB // unit) * unit


def tokens_of(step: int) -> Tensor:
    """[B, S + 1]."""
    return torch.randint(VOCAB, (BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(100 + step))


def build(kind: Kind, groups: Groups) -> GPTModel:
    dtype = torch.bfloat16 if kind.bf16 else torch.float32
    config = TransformerConfig(
        num_layers=LAYERS,
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        num_query_groups=kind.kv_heads,
        ffn_hidden_size=48 if kind.llama else 4 * HIDDEN,
        tensor_model_parallel_size=kind.tensor,
        pipeline_model_parallel_size=kind.pipeline,
        pipeline_dtype=dtype,
        params_dtype=dtype,
        bf16=kind.bf16,
        use_cpu_initialization=True,
        gated_linear_unit=kind.llama,
        activation_func=functional.silu if kind.llama else functional.gelu,
        add_bias_linear=not kind.llama,
        normalization="RMSNorm" if kind.llama else "LayerNorm",
        hidden_dropout=0.0,
        attention_dropout=0.0,
        init_method_std=0.2,
        batch_p2p_comm=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
        cuda_graph_scope=[],
    )
    return GPTModel(
        config,
        get_gpt_layer_local_spec(normalization=config.normalization),
        vocab_size=padded(kind.tensor),
        max_sequence_length=LENGTH,
        pre_process=groups.is_first_stage,
        post_process=groups.is_last_stage,
        share_embeddings_and_output_weights=not kind.llama,
        position_embedding_type="rope" if kind.llama else "learned_absolute",
        rotary_base=10000,
        pg_collection=groups.collection,
    )


def train_and_save(world: World, kind: Kind, directory: Path) -> Outcome:
    """Trains SAVED_AT steps, saves as Megatron-LM lays its directories out, scores a batch, and goes on to STEPS."""
    grid = Grid(data=world.size // (kind.tensor * kind.pipeline), tensor=kind.tensor, pipeline=kind.pipeline, context=1)
    groups = build_groups(grid, world.device, timeout=LONG)
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    torch.manual_seed(5)
    bare = build(kind, groups)
    _disturb(bare, groups)
    model, optimizer = _wrap(bare, kind, groups)
    losses = [_step(model, optimizer, kind, groups, step) for step in range(SAVED_AT)]
    states = _states(bare, optimizer) if not kind.distributed and not kind.bf16 else {}
    _save(bare, optimizer, kind, groups, directory)
    logits = _logits(bare) if kind.pipeline == 1 else None
    losses += [_step(model, optimizer, kind, groups, step) for step in range(SAVED_AT, STEPS)]
    return Outcome(losses, logits, states)


def _disturb(model: GPTModel, groups: Groups) -> None:
    """Norms and biases are constant at first. Ranks that hold the same values change them alike."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            draw = torch.Generator().manual_seed(sum(name.encode()) + groups.coordinates.pipeline)
            if getattr(parameter, "tensor_model_parallel", False):
                draw.manual_seed(draw.initial_seed() + 1000 * groups.coordinates.tensor)
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw).to(parameter.dtype)


def _wrap(bare: GPTModel, kind: Kind, groups: Groups) -> tuple[DistributedDataParallel, Any]:
    settings = DistributedDataParallelConfig(
        use_distributed_optimizer=kind.distributed, grad_reduce_in_fp32=True, bucket_size=10_000
    )
    module = Float16Module(bare.config, bare) if kind.bf16 else bare
    model = DistributedDataParallel(bare.config, settings, module, pg_collection=groups.collection)
    optimizer_config = OptimizerConfig(
        optimizer="adam",
        lr=LR,
        adam_beta1=0.9,
        adam_beta2=0.95,
        adam_eps=1e-5,
        weight_decay=0.1,
        clip_grad=1.0,
        bf16=kind.bf16,
        use_distributed_optimizer=kind.distributed,
        params_dtype=bare.config.params_dtype,
    )
    optimizer: Any = get_megatron_optimizer(optimizer_config, [model], use_gloo_process_groups=False)
    for group in optimizer.param_groups:  # as OptimizerParamScheduler does before each step
        group["weight_decay"] *= group["wd_mult"]
    bare.config.grad_scale_func = optimizer.scale_loss
    bare.config.finalize_model_grads_func = finalize_model_grads
    return model, optimizer


def _step(model: DistributedDataParallel, optimizer: Any, kind: Kind, groups: Groups, step: int) -> float:
    model.zero_grad_buffer()
    optimizer.zero_grad()
    rows = tokens_of(step).chunk(groups.grid.data)[groups.coordinates.data]
    outputs = get_forward_backward_func(groups.grid.pipeline)(
        forward_step_func=_forward,
        data_iterator=iter(rows.split(1)),
        model=[model],
        num_microbatches=len(rows),
        seq_length=LENGTH,
        micro_batch_size=1,
        forward_only=False,
        p2p_communicator=P2PCommunicator(pp_group=groups.pipeline, config=model.config),
        pg_collection=groups.collection,
    )
    optimizer.step()
    total = torch.tensor([float(sum(outputs)) if outputs else 0.0, float(len(outputs))])
    dist.all_reduce(total)
    return float(total[0] / total[1])


def _forward(batches: Iterator[Tensor], model: Any) -> tuple[Tensor, Any]:
    rows = next(batches)
    return run(model, rows[:, :-1], rows[:, 1:]), partial(_mean)


def _mean(losses: Tensor) -> tuple[Tensor, Tensor]:
    loss = losses.float().mean()
    return loss, loss.detach().clone()


def run(model: Any, tokens: Tensor, labels: Tensor | None = None) -> Tensor:
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    hidden = torch.ones(1, 1, tokens.shape[1], tokens.shape[1], dtype=torch.bool).triu(1)
    return model(tokens, positions, hidden, labels=labels)


@torch.no_grad()
def _logits(bare: GPTModel) -> Tensor:
    """[B, S, this rank's V]."""
    return run(bare, tokens_of(99)[:, :-1]).float()


def _states(bare: GPTModel, optimizer: Any) -> dict[str, dict[str, Tensor]]:
    state = optimizer.chained_optimizers[0] if hasattr(optimizer, "chained_optimizers") else optimizer
    return {
        name: {"weight": p.detach().clone()}
        | {key: value.clone() for key, value in state.optimizer.state[p].items() if key.startswith("exp_avg")}
        for name, p in bare.named_parameters()
    }


def _save(bare: GPTModel, optimizer: Any, kind: Kind, groups: Groups, directory: Path) -> None:
    place = directory / f"iter_{SAVED_AT:07d}"
    if groups.rank == 0:
        place.mkdir(parents=True)
    dist.barrier()
    metadata = {"distrib_optim_sharding_type": kind.sharding, "non_homogeneous_layers": not kind.stacked}
    model = bare.sharded_state_dict(metadata=metadata)
    of_rank = (groups.coordinates.pipeline, groups.coordinates.tensor)
    random = ShardedObject("rng_state", [{}], (kind.pipeline, kind.tensor), of_rank, replica_id=groups.coordinates.data)
    content = {
        "args": _args(kind),
        "checkpoint_version": 3.0,
        "iteration": SAVED_AT,
        "model": model,
        "optimizer": optimizer.sharded_state_dict(model, metadata=metadata),
        "opt_param_scheduler": {"max_lr": LR, "num_steps": SAVED_AT * BATCH},
        "rng_state": random,
    }
    dist_checkpointing.save(content, str(place), content_metadata=metadata)
    if groups.rank == 0:
        (directory / "latest_checkpointed_iteration.txt").write_text(f"{SAVED_AT}")


def _args(kind: Kind) -> argparse.Namespace:
    """What Megatron-LM keeps of its command line, in part, with things of the kinds that are in it."""
    return argparse.Namespace(
        num_layers=LAYERS,
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        group_query_attention=kind.llama,
        num_query_groups=kind.kv_heads if kind.llama else 1,
        kv_channels=HIDDEN // HEADS,
        ffn_hidden_size=48 if kind.llama else 4 * HIDDEN,
        max_position_embeddings=LENGTH,
        position_embedding_type="rope" if kind.llama else "learned_absolute",
        rotary_base=10000,
        swiglu=kind.llama,
        bias_gelu_fusion=False,
        add_bias_linear=not kind.llama,
        normalization="RMSNorm" if kind.llama else "LayerNorm",
        norm_epsilon=1e-5,
        untie_embeddings_and_output_weights=kind.llama,
        padded_vocab_size=padded(kind.tensor),
        vocab_size=None,
        consumed_train_samples=SAVED_AT * BATCH,
        tensor_model_parallel_size=kind.tensor,
        model_type=ModelType.encoder_or_decoder,
        params_dtype=torch.float32,
        exit_signal=signal.SIGTERM,
        data_cache_path=Path("cache"),
    )
