"""The DeepSpeed engine: ZeRO 0 to 3 around our model chunks, on Megatron-core's process groups.

Without a pipeline each microbatch goes forward and backward through DeepSpeed's engine. With one, Megatron-core's
schedule drives the bare chunks, and DeepSpeed meets their gradients on the parameters.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dist_plm.core.errors import LacksError
from dist_plm.data.loader.batch import Batch
from dist_plm.distributed.groups import Groups
from dist_plm.engines.base import Lent, StepResult
from dist_plm.engines.deepspeed import bindings
from dist_plm.engines.deepspeed.json_schema import check_keys
from dist_plm.engines.deepspeed.loss_scaling import scale_between_steps
from dist_plm.engines.deepspeed.settings import on_nvme, settings_of, write_settings
from dist_plm.engines.engine_settings import EngineSettings
from dist_plm.engines.flat_parameters import FlatParameters
from dist_plm.engines.gradient_norm import ClippedStep, GradientNorm
from dist_plm.engines.non_finite_guard import SkipWatch
from dist_plm.engines.passes import Passes
from dist_plm.engines.predictions import Collect, Evaluating
from dist_plm.engines.state import EngineState, Stateful
from dist_plm.models.chunk import ModelChunk
from dist_plm.models.sharding import ShardSpec, describe
from dist_plm.objectives.base import LossTerm
from dist_plm.optim.base import WholeTensorOptimizer, build_optimizer, set_learning_rate
from dist_plm.optim.depth import Depths
from dist_plm.optim.param_groups import parameter_groups


class DeepSpeedEngine(Stateful, Evaluating):
    """See engines.base.Engine. Built by `build`."""

    def __init__(
        self,
        settings: EngineSettings,
        groups: Groups,
        device: torch.device,
        chunks: list[Any],
        losses: Mapping[str, LossTerm],
        engine: Any,
        inner: torch.optim.Optimizer,
        state: EngineState,
        norm: GradientNorm,
        clipped: ClippedStep | None,
        spare: "Spare | None",
    ) -> None:
        self._settings, self._groups = settings, groups
        self._chunks, self._engine, self._inner, self._state = chunks, engine, inner, state
        self._passes = Passes(settings, groups, device, chunks, chunks[0], losses)
        self._terms, self.clock = self._passes.terms, self._passes.clock
        held = [parameter for chunk in chunks for parameter in chunk.parameters() if parameter.requires_grad]
        self._tied = [parameter for parameter in held if getattr(parameter, "shared_embedding", False)]
        self._norm, self._clipped, self._spare = norm, clipped, spare
        shard_specs = describe(chunks, groups.coordinates.tensor, groups.grid.tensor)
        self._watch = SkipWatch(shard_specs, groups, settings.train.max_skipped)

    def train_step(self, microbatches: Sequence[Batch], lr: float, trained_from: int = 0) -> StepResult:
        set_learning_rate(self._inner, lr, trained_from)
        if not self._engine.module.training:  # it goes through all modules, and the engine itself never says eval
            self._engine.train()
        self._norm.expect(self._run(microbatches, forward_only=False))
        loss_scale = self._loss_scale()
        with self.clock.part("optimizer"):
            self._engine.step()
            told = self._norm.told()
        result = self._terms.result(told, grad_norm=self._grad_norm(), loss_scale=loss_scale)
        self._watch.note(skipped=result.skipped, loss=result.loss)
        return result

    @contextmanager
    def lend(self) -> Iterator[Lent]:
        self._engine.eval()
        yield Lent(self._chunks, together=self._settings.engine.zero_stage == 3)

    @torch.no_grad()
    def _score(self, microbatches: Sequence[Batch], collect: Collect | None) -> list[float]:
        self._engine.eval()
        return self._run(microbatches, forward_only=True, collect=collect).tolist()

    def _run(self, microbatches: Sequence[Batch], *, forward_only: bool, collect: Collect | None = None) -> Tensor:
        """Sums over all ranks, for `LossTerms.told`."""
        counts = self._terms.count(microbatches)
        # DeepSpeed averages gradients over data ranks.
        scales = self._terms.scales(counts, self._groups.data_context.size())
        run = self._pipeline if self._groups.grid.pipeline > 1 else self._unscheduled
        return self._terms.add_up(run(microbatches, scales, collect, forward_only=forward_only), counts)

    def _unscheduled(
        self, microbatches: Sequence[Batch], scales: Tensor, collect: Collect | None, *, forward_only: bool
    ) -> list[Tensor]:
        outputs = []
        for batch in microbatches:
            with self.clock.part("forward"):
                scores = self._engine(self._passes.to_device(batch))
                loss, sums = self._passes.scored(scales, collect, batch["samples"], scores)
            outputs.append(sums)
            if not forward_only:
                self._engine.backward(loss)
        return outputs

    def _pipeline(
        self, microbatches: Sequence[Batch], scales: Tensor, collect: Collect | None, *, forward_only: bool
    ) -> list[Tensor]:
        outputs = self._passes.scheduled(microbatches, scales, collect, forward_only=forward_only)
        if self._spare is not None and not forward_only:
            self._spare.give_gradient()
        if not forward_only:
            for parameter in self._tied:
                dist.all_reduce(bindings.gradient_of(self._engine.optimizer, parameter), group=self._groups.embedding)
        return outputs

    def _grad_norm(self) -> float | None:
        """Gives the gradient norm of the last step; None where it was skipped."""
        if self._clipped is not None:
            norm = self._clipped.norm
        else:
            norm = float(self._engine.get_global_grad_norm())
            if getattr(self._engine.optimizer, "overflow", False):
                return None
        return norm if math.isfinite(norm) and norm >= 0 else None

    def _loss_scale(self) -> float | None:
        return float(self._engine.optimizer.loss_scale) if self._settings.precision.scales_loss else None


def build(
    settings: EngineSettings,
    groups: Groups,
    device: torch.device,
    model: Sequence[ModelChunk],
    losses: Mapping[str, LossTerm],
) -> DeepSpeedEngine:
    """Wraps model chunks in DeepSpeed's engine and tells LAMB where the logical tensors lie in its flat ones.

    Raises:
        ConfigError: a key under engine.deepspeed is unknown or wrong.
        LacksError: the device has no fp16, or NVMe cannot be used.
    """
    check_keys(settings.engine.own_keys)
    if settings.precision.scales_loss and not bindings.supports_fp16():
        raise LacksError(["precision.name = 'fp16' is refused by DeepSpeed on this device: set precision=bf16"])
    if (keys := on_nvme(settings.engine.own_keys)) and (problem := bindings.nvme_problem()):
        raise LacksError([f"{key} = 'nvme' needs DeepSpeed's async_io: {problem}; or set it to cpu" for key in keys])
    chunks: list[Any] = list(model)
    shard_specs = describe(chunks, groups.coordinates.tensor, groups.grid.tensor)
    shapes = [shard_spec.parameter.shape for shard_spec in shard_specs]
    flat_parameters = FlatParameters(shard_specs, groups)
    module, spare = chunks[0] if len(chunks) == 1 else nn.ModuleList(chunks), None
    parts = _groups(settings, module)
    empty = [part for part in parts if not part["params"]]
    if empty and groups.grid.pipeline > 1 and (_by_group(settings) or len(empty) == len(parts)):
        spare = Spare(shard_specs[0].parameter, empty)
        module = nn.ModuleList([*chunks, spare])
    inner = build_optimizer(settings.optim, [part for part in parts if part["params"]])
    theirs = settings_of(settings)
    if settings.engine.zero_stage == 0:
        theirs["gradient_clipping"] = 0.0  # `ClippedStep` does it
    for shard_spec in shard_specs:
        _prepare(shard_spec, groups)
    if groups.rank == 0:
        write_settings(theirs, settings.run_dir)
    engine = bindings.initialize(module, inner, theirs, groups)
    norm = GradientNorm(bindings.norm_group(engine.optimizer, groups), device)
    clipped = None
    if engine.optimizer is inner:
        first = groups.tensor.rank() == 0
        clipped = ClippedStep(shard_specs, norm, settings.optim.clip_threshold, first=first)
        inner.register_step_pre_hook(clipped)
    else:
        bindings.measure_by(engine.optimizer, norm)
    fragments = list(
        bindings.fragments_of(engine.optimizer, [shard_spec.parameter for shard_spec in shard_specs], groups)
    )
    sharded = engine.optimizer is not inner
    if isinstance(inner, WholeTensorOptimizer):
        trained = [fragment for fragment in fragments if fragment.parameter.requires_grad]
        inner.bind(flat_parameters.segment_map(trained, sharded=sharded, device=device))
    reach = bindings.reach_of(engine.optimizer)
    state = EngineState(
        shard_specs,
        shapes,
        fragments,
        settings.optim,
        inner,
        bindings.flat_tensors(engine.optimizer),
        groups,
        flat_parameters,
        sharded=sharded,
        sharded_weights=settings.engine.zero_stage == 3,
        scaler=scale_between_steps(engine.optimizer),
        refresh=partial(bindings.refresh_weights, engine.optimizer, reach),
        reach=reach,
    )
    result = DeepSpeedEngine(settings, groups, device, chunks, losses, engine, inner, state, norm, clipped, spare)
    chunks[0].config.grad_scale_func = lambda loss: loss * (result._loss_scale() or 1.0)
    return result


class Spare(nn.Module):
    """Stands beside a pipeline stage with a weight for each parameter group that it leaves empty. DeepSpeed asks for something
    to train on every rank, and where stages wait for each other group by group (`_by_group`) they must have as many. No pass
    goes through it, and its gradients are 0."""

    def __init__(self, like: Tensor, empty: Sequence[dict[str, Any]]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.zeros(1, dtype=like.dtype, device=like.device) for _ in empty)
        for part, weight in zip(empty, self.weights, strict=True):
            part["params"].append(weight)

    def give_gradient(self) -> None:
        (torch.cat(list(self.weights)).sum() * 0.0).backward()


def _by_group(settings: EngineSettings) -> bool:
    """Tells whether ranks of the model meet once for each parameter group: in ZeRO-1's updates, of which there is one a group,
    where the optimizer looks at whole tensors, and in DeepSpeed's own norm, which stays where gradients are offloaded."""
    return settings.optim.whole_tensors or settings.engine.holding(settings.precision, 1).states_on_host


def _groups(settings: EngineSettings, module: nn.Module) -> list[dict[str, Any]]:
    depths, by_depth = Depths.of(settings.model), settings.train.unfreeze_every > 0
    groups = parameter_groups(module.named_parameters(), settings.optim, depths, by_depth=by_depth)
    return [cast("dict[str, Any]", group) for group in groups]


def _prepare(shard_spec: ShardSpec, groups: Groups) -> None:
    """Notes for DeepSpeed and for backward passes that Megatron-core's gradient reduction would see to."""
    parameter = shard_spec.parameter
    if shard_spec.copy:
        parameter.ds_pipe_replicated = True  # pyright: ignore[reportAttributeAccessIssue]
    if getattr(parameter, "sequence_parallel", False) and parameter.requires_grad:
        # Each tensor rank has seen its slice of the sequence alone.
        parameter.register_hook(partial(_sum_over, groups.tensor))


def _sum_over(group: dist.ProcessGroup, gradient: Tensor) -> Tensor:
    total = gradient.contiguous()
    dist.all_reduce(total, group=group)
    return total
