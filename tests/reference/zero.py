"""Models of Hugging Face and of Megatron-core, trained and saved by DeepSpeed's own engine."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from megatron.core import tensor_parallel
from torch import Tensor, nn

from dist_plm.distributed.grid import Grid
from dist_plm.distributed.groups import Groups, build_groups
from dist_plm.engines.deepspeed import bindings
from tests.ranks.pool import World
from tests.ranks.times import LONG
from tests.reference import megatron_gpt as megatron
from tests.reference.megatron_gpt import BATCH, HEADS, HIDDEN, LAYERS, LENGTH, LR, SAVED_AT, STEPS, VOCAB, tokens_of


@dataclass(frozen=True)
class Kind:
    stage: int
    model: str = "gpt2"
    tensor: int = 1
    bf16: bool = False

    @property
    def llama(self) -> bool:
        return self.model in ("llama", "megatron_llama")


@dataclass(frozen=True)
class Outcome:
    losses: list[float]
    logits: Tensor | None


def train_and_save(world: World, kind: Kind, directory: Path) -> Outcome:
    """Trains SAVED_AT steps, saves, scores a batch, and goes on to STEPS."""
    grid = Grid(data=world.size // kind.tensor, tensor=kind.tensor, pipeline=1, context=1)
    groups = build_groups(grid, world.device, timeout=LONG)
    torch.manual_seed(5)
    module, run = _build(kind, groups)
    engine = bindings.initialize(module, _optimizer(module), _settings(kind, groups), groups)
    losses = [_step(engine, run, groups, step) for step in range(SAVED_AT)]
    engine.save_checkpoint(str(directory))
    engine.eval()
    with torch.no_grad():
        logits = run(engine, tokens_of(99)[:, :-1]).float()
    engine.train()
    losses += [_step(engine, run, groups, step) for step in range(SAVED_AT, STEPS)]
    return Outcome(losses, logits)


def _build(kind: Kind, groups: Groups) -> tuple[nn.Module, Callable[..., Tensor]]:
    """A module, and how it is run: (module, tokens) gives logits, [B, S, V]."""
    if kind.model.startswith("megatron"):
        tensor_parallel.model_parallel_cuda_manual_seed(1)
        module = megatron.build(megatron.Kind(llama=kind.llama, tensor=kind.tensor, bf16=kind.bf16), groups)
        return module, megatron.run
    sizes: dict[str, Any] = {"vocab_size": VOCAB, "attn_implementation": "eager", "initializer_range": 0.2}
    if kind.llama:
        config: Any = transformers.LlamaConfig(
            hidden_size=HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=2,
            intermediate_size=48,
            max_position_embeddings=LENGTH,
            rms_norm_eps=1e-5,
            **sizes,
        )
        return transformers.LlamaForCausalLM(config), _run_hf
    config = transformers.GPT2Config(
        n_embd=HIDDEN,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=LENGTH,
        attn_pdrop=0,
        resid_pdrop=0,
        embd_pdrop=0,
        **sizes,
    )
    return transformers.GPT2LMHeadModel(config), _run_hf


def _run_hf(module: Any, tokens: Tensor) -> Tensor:
    return module(input_ids=tokens).logits


def _optimizer(module: nn.Module) -> torch.optim.Optimizer:
    parameters = list(module.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.95), eps=1e-5)


def _settings(kind: Kind, groups: Groups) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": BATCH // groups.grid.data,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 1.0,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**62,
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {"stage": kind.stage},
    }
    if kind.bf16:
        settings["bf16"] = {"enabled": True, "immediate_grad_update": True}
    return settings


def _step(engine: Any, run: Callable[..., Tensor], groups: Groups, step: int) -> float:
    rows = tokens_of(step).chunk(groups.grid.data)[groups.coordinates.data]
    logits = run(engine, rows[:, :-1]).float()
    if groups.grid.tensor > 1:
        losses = tensor_parallel.vocab_parallel_cross_entropy(logits, rows[:, 1:].contiguous())
        loss = losses.mean()
    else:
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
    engine.backward(loss)
    engine.step()
    total = loss.detach().clone()
    dist.all_reduce(total, group=groups.data)
    return float(total / groups.grid.data)
