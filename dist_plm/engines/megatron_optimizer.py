"""Megatron-core's optimizer wrappers around a PyTorch optimizer: master weights, loss scaling, sharded states (ZeRO-1)."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.grad_scaler import DynamicGradScaler
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params, FP32Optimizer, MegatronOptimizer
from megatron.core.optimizer.optimizer_config import OptimizerConfig
from torch import nn

from dist_plm.config.schema import OptimConfig, PrecisionConfig, PretrainConfig
from dist_plm.optim.groups import ParamGroup, decay_groups
from dist_plm.parallel.groups import Groups


def build_optimizer(
    config: PretrainConfig, chunks: Sequence[DistributedDataParallel], groups: Groups
) -> MegatronOptimizer:
    """Wraps the configured optimizer: sharded over data ranks at zero_stage 1, with fp32 master weights under bf16 and
    fp16, and with dynamic loss scaling under fp16."""
    inner = _adamw(_named_parameters(chunks), config.optim)
    settings = _megatron_settings(config)
    scaler = _loss_scaler(config.precision) if config.precision.name == "fp16" else None
    arguments: tuple[Any, ...] = (inner, settings, scaler, _fill_adam_state)
    optimizer: Any  # Megatron-core sets the two groups below from outside as well
    if config.engine.zero_stage == 1:
        optimizer = DistributedOptimizer(
            *arguments,
            model_chunks=list(chunks),
            per_model_buffers={index: cast(Any, chunk.buffers) for index, chunk in enumerate(chunks)},
            data_parallel_group=groups.data,
            data_parallel_group_gloo=None,
            data_parallel_group_idx=groups.model.rank(),
            distributed_optimizer_instance_id=0,
        )
        stats_group = groups.world
    elif config.precision.name == "fp32":
        optimizer, stats_group = FP32Optimizer(inner, settings, _fill_adam_state), groups.model
    else:
        optimizer, stats_group = Float16OptimizerWithFloat16Params(*arguments), groups.model
    optimizer.grad_stats_parallel_group = stats_group
    optimizer.tp_group = groups.tensor
    return optimizer


def _named_parameters(chunks: Sequence[nn.Module]) -> list[tuple[str, nn.Parameter]]:
    return [pair for chunk in chunks for pair in chunk.named_parameters()]


def _adamw(named_parameters: list[tuple[str, nn.Parameter]], optim: OptimConfig) -> torch.optim.AdamW:
    groups: list[ParamGroup] = decay_groups(named_parameters, optim.weight_decay, optim.decay_norms_and_biases)
    return torch.optim.AdamW(cast(Any, groups), lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


def _fill_adam_state(optimizer: torch.optim.Optimizer, config: OptimizerConfig | None = None) -> None:
    """Makes the moments exist before the first step, so that a checkpoint can be loaded into them."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)


def _megatron_settings(config: PretrainConfig) -> OptimizerConfig:
    return OptimizerConfig(
        optimizer="adam",
        lr=config.optim.lr,
        clip_grad=config.optim.clip_norm or math.inf,
        fp16=config.precision.name == "fp16",
        bf16=config.precision.name == "bf16",
        params_dtype={"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision.name],
        use_distributed_optimizer=config.engine.zero_stage == 1,
        overlap_param_gather=config.engine.overlap_param_gather,
    )


def _loss_scaler(precision: PrecisionConfig) -> DynamicGradScaler:
    return DynamicGradScaler(
        initial_scale=precision.initial_loss_scale,
        min_scale=precision.min_loss_scale,
        growth_factor=2.0,
        backoff_factor=0.5,
        growth_interval=precision.loss_scale_window,
        hysteresis=precision.loss_scale_hysteresis,
    )
