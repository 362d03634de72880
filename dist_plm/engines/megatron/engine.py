"""The Megatron-core engine: its gradient buffers, pipeline schedules and optimizer wrappers around our model chunks."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from torch import Tensor, nn

from dist_plm.data.loader.batch import Batch
from dist_plm.distributed.groups import Groups
from dist_plm.engines.base import Lent, StepResult
from dist_plm.engines.compiling import compiled_layers
from dist_plm.engines.engine_settings import EngineSettings
from dist_plm.engines.gradient_norm import GradientNorm, clip
from dist_plm.engines.megatron.gradient_runs import GradientRuns
from dist_plm.engines.megatron.optimizer import (
    build_optimizer,
    gathers_early,
    own_section,
    reduces_early,
    shards_states,
)
from dist_plm.engines.non_finite_guard import SkipWatch
from dist_plm.engines.passes import Passes
from dist_plm.engines.predictions import Collect, Evaluating
from dist_plm.engines.state import EngineState, Stateful
from dist_plm.models.chunk import ModelChunk
from dist_plm.models.kernels import row_sums
from dist_plm.models.sharding import ShardSpec, describe
from dist_plm.objectives.base import LossTerm
from dist_plm.optim.base import set_learning_rate


class BufferedChunk(DistributedDataParallel):
    """A model chunk in gradient buffers, whose parameters may be gathered while its forward pass already runs."""

    #: Whether gradients have to be added up over ranks at all.
    reduces = True
    #: Parameters whose gradients autograd adds to the buffers itself.
    _filled: Sequence[Any] = ()

    def fill_in_backward(self) -> None:
        """Has autograd add gradients to the buffers itself, where these have the type of the weights: Megatron-core's hooks,
        of which each parameter has one, add them up once more. Of use where nobody waits for them one by one."""
        parameters: list[Any] = list(self.params_with_grad)  # Megatron-core gives them a `main_grad`
        if all(parameter.main_grad.dtype == parameter.dtype for parameter in parameters):
            self.grad_accs.clear()
            self._filled = parameters

    def zero_gradients(self) -> None:
        """Begins the passes of a step, after the optimizer has let go of gradients."""
        self.zero_grad_buffer()
        for parameter in self._filled:
            parameter.grad = parameter.main_grad

    def check_gradients(self) -> None:
        """Makes sure that autograd has added all gradients to the buffers, where it was to.

        Raises:
            RuntimeError: the gradient of a parameter lies elsewhere.
        """
        for parameter in self._filled:
            if parameter.grad is not parameter.main_grad:
                name = next(name for name, one in self.module.named_parameters() if one is parameter)
                raise RuntimeError(f"autograd put the gradient of {name} elsewhere than into the buffer it was given")

    def finish_grad_sync(self, force_all_reduce: bool | None = False) -> None:
        """Adds gradients up over data ranks, where there are several."""
        if self.reduces:
            super().finish_grad_sync(force_all_reduce)

    def scale_gradients(self, scaling_factor: float) -> None:
        """Multiplies all gradients, which are read and written for it, where that changes them."""
        if scaling_factor != 1.0:
            super().scale_gradients(scaling_factor)

    def enable_forward_pre_hook(self) -> None:
        """Has each module wait for its parameters before it runs; compiled layers wait for all of theirs at once."""
        super().enable_forward_pre_hook()
        for layer in compiled_layers(self.module):
            modules, wait = list(layer.modules()), self._make_forward_pre_hook()
            for module in modules:
                self.remove_forward_pre_hook_handles[module].remove()
            hook = partial(_each, wait, modules)
            self.remove_forward_pre_hook_handles[layer] = layer.register_forward_pre_hook(hook)


def _each(wait: Callable[..., None], modules: Sequence[nn.Module], *_: Any) -> None:
    for module in modules:
        wait(module)


class MegatronEngine(Stateful, Evaluating):
    """See engines.base.Engine. Built by `build`."""

    def __init__(
        self,
        settings: EngineSettings,
        groups: Groups,
        device: torch.device,
        chunks: Sequence[BufferedChunk],
        shard_specs: Sequence[ShardSpec],
        optimizer,
        state: EngineState,
        losses: Mapping[str, LossTerm],
    ) -> None:
        self._settings, self._groups = settings, groups
        self._passes = Passes(settings, groups, device, chunks, cast("ModelChunk", chunks[0].module), losses)
        self._terms, self.clock = self._passes.terms, self._passes.clock
        self._chunks, self._optimizer = chunks, optimizer
        self._scaler = getattr(optimizer, "grad_scaler", None)  # fp16 alone has one
        self._norm = GradientNorm(optimizer.get_grad_stats_parallel_group(), device)
        self._gradients = GradientRuns(chunks, optimizer)
        self._watch = SkipWatch(shard_specs, groups, settings.train.max_skipped)
        self._state = state

    def train_step(self, microbatches: Sequence[Batch], lr: float, trained_from: int = 0) -> StepResult:
        set_learning_rate(self._optimizer.optimizer, lr, trained_from)
        for chunk in self._chunks:
            if not chunk.training:  # it goes through all modules
                chunk.train()
        self._optimizer.zero_grad()
        for chunk in self._chunks:
            chunk.zero_gradients()
        numbers = self._run(microbatches, forward_only=False)
        if self._scaler is not None:
            numbers = torch.cat([numbers, self._scaler.scale.double()])
        self._norm.expect(numbers)
        with self.clock.part("optimizer"):
            grad_norm = self._update()
            told = self._norm.told()
        loss_scale = told.pop() if self._scaler is not None else None
        result = self._terms.result(told, grad_norm=grad_norm, loss_scale=loss_scale)
        self._watch.note(skipped=result.skipped, loss=result.loss)
        return result

    def _update(self) -> float | None:
        """Clips and steps; None when the gradient is not finite and the step is skipped. All ranks agree: the norm and
        the overflow flag are reduced over all of them."""
        optimizer = self._optimizer
        overflow = optimizer.prepare_grads()
        if overflow:
            return None
        norm = self._norm.measure(self._gradients.counted())
        if not math.isfinite(norm):
            return None
        clip(self._gradients.held(), norm, self._settings.optim.clip_threshold)
        optimizer.step_with_ready_grads()
        return norm

    @contextmanager
    def lend(self) -> Iterator[Lent]:
        overlap = gathers_early(self._settings, self._groups)
        for chunk in self._chunks:
            chunk.eval()
            if overlap:
                chunk.disable_forward_pre_hook()
        try:
            yield Lent([cast("ModelChunk", chunk.module) for chunk in self._chunks], together=False)
        finally:
            if overlap:
                for chunk in self._chunks:
                    chunk.enable_forward_pre_hook()

    @torch.no_grad()
    def _score(self, microbatches: Sequence[Batch], collect: Collect | None) -> list[float]:
        with self.lend():
            return self._run(microbatches, forward_only=True, collect=collect).tolist()

    def _run(self, microbatches: Sequence[Batch], *, forward_only: bool, collect: Collect | None = None) -> Tensor:
        """Runs the pipeline schedule. Returns sums over all ranks, for `LossTerms.told`."""
        counts = self._terms.count(microbatches)
        # Times the number of microbatches, a microbatch's loss has the size of a mean, and fp16 gradients with it; the
        # end of the step divides by that number.
        self._num_microbatches = len(microbatches) * self._groups.grid.data
        scales = self._terms.scales(counts, self._num_microbatches)
        outputs = self._passes.scheduled(microbatches, scales, collect, forward_only=forward_only)
        return self._terms.add_up(outputs, counts)

    def finish_gradients(self, chunks: list[Any], _: Tensor | None, **more: Any) -> None:
        """Adds gradients up over ranks after the last microbatch, as a schedule's callback. What Megatron-core would divide
        them by it counts on the device, and waits for."""
        if self._groups.model.size() > 1:
            finalize_model_grads(chunks, None, **more)
        else:  # there are those of data ranks alone
            for chunk in chunks:
                chunk.finish_grad_sync(more.get("force_all_reduce", False))
        for chunk in chunks:
            chunk.check_gradients()
            chunk.scale_gradients(1.0 / self._num_microbatches)


def build(
    settings: EngineSettings,
    groups: Groups,
    device: torch.device,
    model: Sequence[ModelChunk],
    losses: Mapping[str, LossTerm],
) -> MegatronEngine:
    """Wraps model chunks in gradient buffers, builds the optimizer and ties the schedules' callbacks."""
    early = reduces_early(settings, groups)
    buffers = DistributedDataParallelConfig(
        grad_reduce_in_fp32=settings.precision.reduce_in_fp32,
        overlap_grad_reduce=early,
        overlap_param_gather=gathers_early(settings, groups),
        use_distributed_optimizer=shards_states(settings),
        bucket_size=own_section(settings).bucket_mib * 2**20 // 4,  # Megatron-core counts elements
    )
    megatron: Any = model[0].config  # its callbacks are declared narrower than the schedules take them
    chunks = [
        BufferedChunk(megatron, buffers, chunk, disable_bucketing=index > 0, pg_collection=groups.collection)
        for index, chunk in enumerate(model)
    ]
    for chunk in chunks:
        chunk.reduces = early or groups.data_context.size() > 1
        # On a GPU gradients of compiled layers were lost where autograd was to fill the buffers.
        if not early and device.type == "cpu":
            chunk.fill_in_backward()
            row_sums.add_directly(chunk.params_with_grad)
    shard_specs = describe([chunk.module for chunk in chunks], groups.coordinates.tensor, groups.grid.tensor)
    optimizer, state = build_optimizer(settings, chunks, shard_specs, groups)
    result = MegatronEngine(settings, groups, device, chunks, shard_specs, optimizer, state, losses)
    megatron.grad_scale_func = optimizer.scale_loss
    megatron.finalize_model_grads_func = result.finish_gradients
    if early:
        per_chunk = [chunk.no_sync for chunk in chunks]
        megatron.no_sync_func = per_chunk if len(chunks) > 1 else per_chunk[0]
    return result
