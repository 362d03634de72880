"""The door to DeepSpeed: its import without chatter, the process grid as it asks for it, and where its flat tensors lie."""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dist_plm.distributed.groups import Groups
from dist_plm.engines.deepspeed import json_schema as _schemas  # noqa: F401  # imports DeepSpeed without what it never uses
from dist_plm.engines.flat_parameters import OptimizerShard
from dist_plm.engines.gradient_norm import GradientNorm

logging.getLogger("DeepSpeed").setLevel(logging.ERROR)

import deepspeed  # noqa: E402
import deepspeed.comm.comm as deepspeed_comm  # noqa: E402
from deepspeed.accelerator import get_accelerator  # noqa: E402
from deepspeed.runtime import bf16_optimizer  # noqa: E402
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer  # noqa: E402
from deepspeed.runtime.utils import is_model_parallel_parameter  # noqa: E402
from deepspeed.runtime.zero import utils as zero_utils  # noqa: E402, F401
from deepspeed.runtime.zero.parameter_offload import DeepSpeedZeRoOffload  # noqa: E402
from deepspeed.runtime.zero.partition_parameters import Init  # noqa: E402
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3  # noqa: E402
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer  # noqa: E402
from deepspeed.utils import groups as deepspeed_groups  # noqa: E402

from dist_plm.core.errors import reason_of  # noqa: E402

__all__ = [
    "Mpu",
    "flat_tensors",
    "fragments_of",
    "gradient_of",
    "initialize",
    "measure_by",
    "norm_group",
    "nvme_problem",
    "reach_of",
    "refresh_weights",
    "supports_fp16",
]


class Mpu:
    """The process grid under the names by which DeepSpeed asks a "model parallel unit". Model = tensor x pipeline."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self.norm: GradientNorm | None = None  # what DeepSpeed's optimizer for bf16 clips by

    def get_model_parallel_group(self) -> dist.ProcessGroup:
        return self._groups.model

    def get_model_parallel_world_size(self) -> int:
        return self._groups.model.size()

    def get_model_parallel_rank(self) -> int:
        return self._groups.coordinates.tensor + self._groups.grid.tensor * self._groups.coordinates.pipeline

    def get_tensor_model_parallel_group(self) -> dist.ProcessGroup:
        return self._groups.tensor

    def get_tensor_model_parallel_world_size(self) -> int:
        return self._groups.tensor.size()

    def get_tensor_model_parallel_rank(self) -> int:
        return self._groups.coordinates.tensor

    def get_tensor_model_parallel_src_rank(self) -> int:
        return dist.get_process_group_ranks(self._groups.tensor)[0]

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        return self._groups.data_context

    def get_data_parallel_world_size(self) -> int:
        return self._groups.data_context.size()

    def get_data_parallel_rank(self) -> int:
        return self._groups.data_context.rank()


def initialize(module: nn.Module, optimizer: Any, settings: dict[str, Any], groups: Groups) -> Any:
    """DeepSpeed's engine around a module and an optimizer over its parameters. Collective."""
    _forget_the_last()
    if groups.device.kind == "cpu":
        # It would compile an operator for shared memory: minutes, for what gloo does as well.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed looks for both when it makes its view of the process group, which exists already.
    # It takes the one as a device's number, which it is not where each process sees a single device.
    os.environ["LOCAL_RANK"] = str(groups.device.torch_device.index or 0)
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings, mpu=Mpu(groups))
    return engine


def supports_fp16() -> bool:
    return bool(cast(Any, get_accelerator()).is_fp16_supported())


def nvme_problem() -> str | None:
    """Why DeepSpeed's operator for files, which offload to NVMe goes through, cannot be had here. Compiles it where it was not
    yet: minutes."""
    operator: Any = cast(Any, get_accelerator()).create_op_builder("AsyncIOBuilder")
    try:
        if not operator.is_compatible(verbose=False):  # imports distutils, which Python 3.12 has no more
            return "libaio and its header are not found (Debian's libaio-dev, Red Hat's libaio-devel)"
        operator.load(verbose=False)
    except (RuntimeError, ImportError, OSError) as error:
        return reason_of(error)
    return None


def _forget_the_last() -> None:
    """DeepSpeed keeps groups in globals, from where they outlive the process group that they were made in, and numbers
    modules and parameters through the life of a process, though the numbers must agree over ranks."""
    deepspeed_comm.cdb = None
    deepspeed_groups._WORLD_GROUP = None
    deepspeed_groups.mpu = None
    cast(Any, DeepSpeedZeRoOffload._register_deepspeed_module).__defaults__[0][0] = 0
    Init.param_id = 0


def flat_tensors(optimizer: Any) -> list[Tensor]:
    """Lists what the inner optimizer updates on this rank: fp32, flat, padded."""
    if isinstance(optimizer, DeepSpeedZeroOptimizer_Stage3):
        return list(optimizer.fp32_partitioned_groups_flat)
    if isinstance(optimizer, DeepSpeedZeroOptimizer):
        return list(optimizer.single_partition_of_fp32_groups)
    if isinstance(optimizer, BF16_Optimizer):
        return list(optimizer.fp32_groups_flat_partition)
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def fragments_of(optimizer: Any, parameters: Sequence[nn.Parameter], groups: Groups) -> Iterator[OptimizerShard]:
    """Finds the elements of each parameter that this rank's inner optimizer updates, and where they stand in its flat
    tensors; of a frozen one, those of its weights that are here."""
    tensors = flat_tensors(optimizer)
    for parameter in parameters:
        if not parameter.requires_grad:
            yield from _frozen_fragments(parameter, groups)
        elif isinstance(optimizer, DeepSpeedZeroOptimizer_Stage3):
            group, offset, held = optimizer.grad_position[optimizer.get_param_id(parameter)]
            start = held * groups.data_context.rank()
            length = min(held, parameter.ds_numel - start)  # pyright: ignore[reportAttributeAccessIssue]
            if length > 0:
                yield OptimizerShard(parameter, start, length, tensors[group], offset)
        elif isinstance(optimizer, DeepSpeedZeroOptimizer | BF16_Optimizer):
            mapping = parameter._hp_mapping  # pyright: ignore[reportAttributeAccessIssue]
            if mapping is not None:
                held, place = mapping.lp_fragment_address, mapping.hp_fragment_address
                yield OptimizerShard(parameter, held.start, held.numel, tensors[mapping.param_group_index], place.start)
        else:
            yield OptimizerShard(parameter, 0, parameter.numel(), parameter)


def _frozen_fragments(parameter: nn.Parameter, groups: Groups) -> Iterator[OptimizerShard]:
    part: Tensor | None = getattr(parameter, "ds_tensor", None)  # ZeRO-3 takes what is frozen apart as well
    if part is None:
        yield OptimizerShard(parameter, 0, parameter.numel(), parameter)
        return
    start = part.numel() * groups.data_context.rank()
    length = min(part.numel(), parameter.ds_numel - start)  # pyright: ignore[reportAttributeAccessIssue]
    if length > 0:
        yield OptimizerShard(parameter, start, length, part)


def gradient_of(optimizer: Any, parameter: nn.Parameter) -> Tensor:
    """Gives what has been accumulated of a parameter's gradient on this rank, before any reduction; not under ZeRO-2 or 3."""
    if isinstance(optimizer, BF16_Optimizer):
        return parameter._hp_grad  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(optimizer, DeepSpeedZeroOptimizer):
        return cast(Tensor, optimizer.get_gradient_for_reduction(parameter))
    return cast(Tensor, parameter.grad)


def norm_group(optimizer: Any, groups: Groups) -> dist.ProcessGroup:
    """Gives the ranks whose gradients, as the optimizer holds them when it clips, make up the whole model's."""
    sharded = isinstance(optimizer, DeepSpeedZeroOptimizer | DeepSpeedZeroOptimizer_Stage3)
    return groups.world if sharded else groups.model


def measure_by(wrapper: Any, norm: GradientNorm) -> None:
    """Makes DeepSpeed clip by our norm, which tells of an overflow as well: theirs waits for the device once a group of
    parameters and more, and adds up bf16's squares in fp32. Where gradients are offloaded theirs stays, in fp64."""
    optimizer: Any = wrapper  # not narrowed: methods are replaced
    if isinstance(wrapper, BF16_Optimizer):
        optimizer.mpu.norm = norm
    elif isinstance(wrapper, DeepSpeedZeroOptimizer) and not optimizer.cpu_offload:
        optimizer.scaled_global_norm = lambda: _on_host(norm.measure(list(_counted(optimizer))))
        optimizer.has_overflow = lambda *_: False
    elif isinstance(wrapper, DeepSpeedZeroOptimizer_Stage3) and not optimizer.offload_optimizer:
        optimizer._get_norm_groups = lambda: [_on_host(norm.measure(list(_counted(optimizer))))]
        optimizer.has_overflow = lambda *_: False


def _counted(optimizer: Any) -> Iterator[Tensor]:
    """Yields this rank's parts of the gradients, without what other ranks of the tensor or pipeline group count."""
    third = isinstance(optimizer, DeepSpeedZeroOptimizer_Stage3)
    for number, parameters in enumerate(optimizer.fp16_groups if third else optimizer.params_in_partition):
        held = (part for part in optimizer.averaged_gradients[number] if not getattr(part, "_zero_padding", False))
        for gradient, parameter in zip(held, parameters, strict=False):
            split = is_model_parallel_parameter(parameter)
            if (split or optimizer.model_parallel_rank == 0) and not getattr(parameter, "ds_pipe_replicated", False):
                yield gradient


def _on_host(norm: float) -> Tensor:
    """Gives a norm as DeepSpeed takes it: negative where it is not finite."""
    return torch.tensor(norm if math.isfinite(norm) else -1.0)


def _norm_for_bf16(input_tensors: list[Tensor], mpu: Any, **options: Any) -> Tensor:
    norm = getattr(mpu, "norm", None)  # engines that this program did not build have theirs
    return _their_norm(input_tensors, mpu=mpu, **options) if norm is None else _on_host(norm.measure(input_tensors))


_their_norm = bf16_optimizer.get_global_norm_of_tensors  # pyright: ignore[reportAttributeAccessIssue]
bf16_optimizer.get_global_norm_of_tensors = _norm_for_bf16  # pyright: ignore[reportAttributeAccessIssue]


class Swapped:
    """See engines.state.Reach. Flat tensors that lie on NVMe between steps, of which one, with its state, is brought into
    memory at a time."""

    def __init__(self, optimizer: DeepSpeedZeroOptimizer_Stage3) -> None:
        self._optimizer: Any = optimizer
        self._numbers = {tensor: number for number, tensor in enumerate(flat_tensors(optimizer))}
        self._here: int | None = None

    def __call__(self, tensor: Tensor) -> None:
        number = self._numbers[tensor]
        if number != self._here:
            self.release()
            if self._optimizer._swappable_optimizer_subgroup(number):
                self._optimizer._optimizer_states_and_gradient_swap_in(number)
                self._here = number

    def release(self) -> None:
        if self._here is not None:
            self._optimizer._optimizer_states_and_gradient_swap_out(self._here)
            self._here = None


def reach_of(optimizer: Any) -> Swapped | None:
    """None where everything is in memory."""
    return Swapped(optimizer) if getattr(optimizer, "swap_optimizer", False) else None


def refresh_weights(optimizer: Any, reach: Swapped | None) -> None:
    """Puts what the flat fp32 tensors hold into the model's weights. Collective over data ranks."""
    if isinstance(optimizer, DeepSpeedZeroOptimizer_Stage3):
        optimizer.checkpoint_event_prologue()
        for index, tensor in enumerate(optimizer.fp32_partitioned_groups_flat):
            if reach is not None:
                reach(tensor)
            optimizer._reassign_or_swap_out_partitioned_parameters(index)
        if reach is not None:
            reach.release()
        optimizer.checkpoint_event_epilogue()
    elif isinstance(optimizer, DeepSpeedZeroOptimizer | BF16_Optimizer):
        optimizer.update_lp_params()
