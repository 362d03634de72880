"""Megatron-core's optimizer wrappers around a PyTorch optimizer: master weights, loss scaling, sharded states (ZeRO-1)."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.grad_scaler import DynamicGradScaler
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params, FP32Optimizer, MegatronOptimizer
from megatron.core.optimizer.optimizer_config import OptimizerConfig
from torch import nn

from dist_plm.distributed.groups import Groups
from dist_plm.engines.engine_settings import EngineSettings
from dist_plm.engines.flat_parameters import FlatParameters, OptimizerShard
from dist_plm.engines.state import EngineState
from dist_plm.models.build import DTYPES
from dist_plm.models.sharding import ShardSpec
from dist_plm.optim.base import WholeTensorOptimizer, fill_state
from dist_plm.optim.base import build_optimizer as torch_optimizer
from dist_plm.optim.depth import Depths
from dist_plm.optim.param_groups import parameter_groups
from dist_plm.spec.engines.megatron import MegatronConfig
from dist_plm.spec.schema import PrecisionConfig

_torch: Any = torch  # its operations on lists are private names


def own_section(settings: EngineSettings) -> MegatronConfig:
    """Returns the engine's section, which this engine runs under alone."""
    assert isinstance(settings.engine, MegatronConfig)
    return settings.engine


def shards_states(settings: EngineSettings) -> bool:
    """Tells whether ZeRO-1 acts."""
    assert settings.parallel.data is not None
    return own_section(settings).shards_states(settings.parallel.data * settings.parallel.context)


def reduces_early(settings: EngineSettings, groups: Groups) -> bool:
    """Tells whether gradients are added up over ranks while the backward pass still runs. Of one rank there is nothing to add,
    unless the settings ask for it."""
    engine = own_section(settings)
    several = groups.data_context.size() > 1 or engine.overlap_grad_reduce is True
    return several and engine.overlaps(on_gpus=groups.device.torch_device.type == "cuda")


def gathers_early(settings: EngineSettings, groups: Groups) -> bool:
    """Tells whether updated shards are gathered while the next forward pass runs."""
    on_gpus = groups.device.torch_device.type == "cuda"
    return own_section(settings).overlaps_gather(on_gpus=on_gpus) and shards_states(settings)


def gradients_for_norm(optimizer: MegatronOptimizer) -> list[torch.Tensor]:
    """Lists this rank's part of the gradients, without what other ranks count. Megatron-core renamed the method in 0.19."""
    theirs: Any = optimizer
    if hasattr(theirs, "get_grads_for_grad_norm"):
        return theirs.get_grads_for_grad_norm()
    return theirs.get_main_grads_for_grad_norm()


def build_optimizer(
    settings: EngineSettings,
    chunks: Sequence[DistributedDataParallel],
    shard_specs: Sequence[ShardSpec],
    groups: Groups,
) -> tuple[MegatronOptimizer, EngineState]:
    """Wraps the configured optimizer: sharded over data ranks at zero_stage 1, with fp32 master weights under bf16 and
    fp16, and with dynamic loss scaling under fp16.

    Args:
        shard_specs: of all parameters of the chunks.
    """
    optimizer = _wrap(settings, chunks, groups)
    inner = optimizer.optimizer = _replacement(settings, chunks, optimizer.optimizer)
    fragments = [fragment for shard_spec in shard_specs for fragment in _fragments(optimizer, shard_spec.parameter)]
    sharded, flat = isinstance(optimizer, DistributedOptimizer), FlatParameters(shard_specs, groups)
    if isinstance(inner, WholeTensorOptimizer):
        trained = [fragment for fragment in fragments if fragment.parameter.requires_grad]
        inner.bind(flat.segment_map(trained, sharded=sharded, device=groups.device.torch_device))
    scaler = getattr(optimizer, "grad_scaler", None)  # fp16 alone has one
    state = EngineState(
        shard_specs,
        [shard_spec.parameter.shape for shard_spec in shard_specs],
        fragments,
        settings.optim,
        inner,
        [parameter for group in inner.param_groups for parameter in group["params"]],
        groups,
        flat,
        sharded=sharded,
        scaler=MegatronScaler(scaler) if scaler is not None else None,
        refresh=partial(_refresh_weights, optimizer, chunks),
    )
    return optimizer, state


def _refresh_weights(wrapper: MegatronOptimizer, chunks: Sequence[DistributedDataParallel]) -> None:
    """Puts masters, or shards of them, into the model's weights, as the end of a step does. Collective over data ranks."""
    optimizer: Any = wrapper  # not narrowed: the method is private
    if not isinstance(wrapper, FP32Optimizer):
        optimizer._copy_main_params_to_model_params()
    if isinstance(wrapper, DistributedOptimizer):
        for chunk in chunks:
            chunk.start_param_sync(force_sync=True)


class MasterWeights(Float16OptimizerWithFloat16Params):
    """Rounds all weights in one launch of a GPU; without apex Megatron-core does so one by one."""

    def _copy_main_params_to_model_params(self) -> None:
        rounded, exact = self._get_model_and_main_params_data_float16()
        if rounded:
            _torch._foreach_copy_(rounded, exact)


class ShardedMasterWeights(DistributedOptimizer):
    """Does the same with shards, and looks up once which belongs where."""

    _rounded: dict[torch.dtype, tuple[list[torch.Tensor], list[torch.Tensor]]] | None = None

    def _copy_main_params_to_model_params(self) -> None:
        if self._rounded is None:
            self._rounded = {}
            of_model = itertools.chain(*self.model_float16_groups, *self.model_fp32_groups)
            of_shards = itertools.chain(*self.shard_fp32_from_float16_groups, *self.shard_fp32_groups)
            for parameter, shard in zip(of_model, of_shards, strict=True):
                place = self._shard_of(parameter)
                pairs = self._rounded.setdefault(place.dtype, ([], []))
                pairs[0].append(place)
                pairs[1].append(shard.data)
        for places, shards in self._rounded.values():
            _torch._foreach_copy_(places, shards)

    def _shard_of(self, parameter: nn.Parameter) -> torch.Tensor:
        """Finds this rank's part of a parameter in what is gathered over data ranks."""
        held = self._get_model_param_range_map(parameter)["gbuf_world_in_bucket"]
        buffer, _, bucket = self.model_param_gbuf_map[parameter]
        whole: Any = self.buffers[buffer].buckets[bucket].param_data
        return whole.view(-1)[held.start : held.end]


class MegatronScaler:
    """See engines.state.LossScaler."""

    def __init__(self, scaler: DynamicGradScaler) -> None:
        self._scaler = scaler

    def state(self) -> dict[str, Any]:
        state = self._scaler.state_dict()
        return {
            "loss_scale": float(state["scale"]),
            "steps_since_overflow": state["growth_tracker"],
            "hysteresis_left": state["hysteresis_tracker"],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        # Beyond its interval it would never meet it.
        steps = min(state["steps_since_overflow"], self._scaler.growth_interval - 1)
        self._scaler.load_state_dict(
            {
                "scale": torch.tensor([state["loss_scale"]], dtype=torch.float32),
                "growth_tracker": steps,
                "hysteresis_tracker": state["hysteresis_left"],
            }
        )


def _replacement(
    settings: EngineSettings, chunks: Sequence[DistributedDataParallel], placeholder: torch.optim.Optimizer
) -> torch.optim.Optimizer:
    """The configured optimizer over what the wrapper filled the placeholder's parameter groups with: whole parameters,
    master weights or shards of them. The wrappers take AdamW alone, though they need no more of it than these groups."""
    inner = torch_optimizer(settings.optim, _groups(settings, chunks))
    for ours, theirs in zip(inner.param_groups, placeholder.param_groups, strict=True):
        theirs.update({key: value for key, value in ours.items() if key != "params"})
    inner.param_groups = placeholder.param_groups
    return inner


def _groups(settings: EngineSettings, chunks: Sequence[nn.Module]) -> list[dict[str, Any]]:
    named = [pair for chunk in chunks for pair in chunk.named_parameters()]
    depths, by_depth = Depths.of(settings.model), settings.train.unfreeze_every > 0
    return cast("list[dict[str, Any]]", parameter_groups(named, settings.optim, depths, by_depth=by_depth))


def _wrap(settings: EngineSettings, chunks: Sequence[DistributedDataParallel], groups: Groups) -> MegatronOptimizer:
    placeholder = torch.optim.AdamW(_groups(settings, chunks))
    theirs = _megatron_settings(settings, groups)
    scaler = _loss_scaler(settings.precision) if settings.precision.scales_loss else None

    def fill(optimizer: torch.optim.Optimizer, _: OptimizerConfig | None = None) -> None:
        fill_state(optimizer, settings.optim)

    arguments: tuple[Any, ...] = (placeholder, theirs, scaler, fill)
    optimizer: Any  # Megatron-core sets the two groups below from outside as well
    if shards_states(settings):
        optimizer = ShardedMasterWeights(
            *arguments,
            model_chunks=list(chunks),
            per_model_buffers={index: cast(Any, chunk.buffers) for index, chunk in enumerate(chunks)},
            data_parallel_group=groups.data_context,
            data_parallel_group_gloo=None,
            data_parallel_group_idx=groups.model.rank(),
            distributed_optimizer_instance_id=0,
        )
        stats_group = groups.world
    elif settings.precision.weights == "fp32":
        optimizer, stats_group = FP32Optimizer(placeholder, theirs, fill), groups.model
    else:
        optimizer, stats_group = MasterWeights(*arguments), groups.model
    optimizer.grad_stats_parallel_group = stats_group
    optimizer.tp_group = groups.tensor
    return optimizer


def _fragments(optimizer: MegatronOptimizer, parameter: nn.Parameter) -> Iterator[OptimizerShard]:
    """Finds what the inner optimizer of this rank updates of a parameter; of a frozen one, all of it where it is."""
    if not isinstance(optimizer, DistributedOptimizer) or not parameter.requires_grad:
        yield OptimizerShard(parameter, 0, parameter.numel(), getattr(parameter, "main_param", parameter))
        return
    if parameter not in optimizer.model_param_group_index_map:  # other data ranks hold all of it
        return
    group, order = optimizer.model_param_group_index_map[parameter]
    held = optimizer._get_model_param_range_map(parameter)["param"]
    yield OptimizerShard(parameter, held.start, held.size, optimizer.optimizer.param_groups[group]["params"][order])


def _megatron_settings(settings: EngineSettings, groups: Groups) -> OptimizerConfig:
    return OptimizerConfig(
        optimizer="adam",
        lr=settings.optim.lr,
        clip_grad=0.0,  # the engine clips
        fp16=settings.precision.scales_loss,
        bf16=settings.precision.weights == "bf16",
        params_dtype=DTYPES[settings.precision.weights],
        use_distributed_optimizer=shards_states(settings),
        overlap_param_gather=gathers_early(settings, groups),
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
