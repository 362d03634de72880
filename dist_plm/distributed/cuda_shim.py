"""The CPU standing in for CUDA, so that Megatron-core runs unpatched on gloo.

Megatron-core takes a CUDA device for granted. `REDIRECTS` is everything that is changed to let it run without one, each
with its reason; nothing else in the process is touched, and on CUDA nothing is installed at all. Huawei's
`torch_npu.contrib.transfer_to_npu` does the same for its devices.

Names of `torch.cuda` that Megatron-core uses and that are left alone: `is_available` and `device_count` (both tell the
truth), `empty_cache` and the memory statistics (harmless without a device), `nvtx`, `Event`, `CUDAGraph` and
`get_device_properties` (profiling, CUDA graphs, offloading and inference, which are not used on CPU).
"""

import contextlib
import functools
import logging
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.jit import _builtins as jit_builtins
from torch.utils import _device as torch_device_contexts

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Redirect:
    """One attribute to replace. `owner` is as `pkgutil.resolve_name` takes it; `make` turns the original into its
    stand-in."""

    owner: str
    name: str
    make: Callable[[Any], Any]
    why: str

    def resolve(self) -> Any:
        """The module or class that holds the attribute; imports it where needed."""
        return pkgutil.resolve_name(self.owner)


def installed() -> bool:
    """Whether the CPU stands in for CUDA in this process."""
    return torch.cuda.current_device is _current_device


def install() -> None:
    """Put every redirect in place, once. Megatron-core may be imported before or after."""
    if installed():
        return
    # `with torch.device(...)` knows the factory functions by identity and lists them on first use: were that later, it
    # would list the wrappers, which PyTorch never reports to it.
    torch_device_contexts._device_constructors()
    owners = [redirect.resolve() for redirect in REDIRECTS]
    for owner, redirect in zip(owners, REDIRECTS, strict=True):
        setattr(owner, redirect.name, redirect.make(getattr(owner, redirect.name)))
    # Drawing from a "CUDA" stream moves the CPU's generator, as it should here: the tracker would warn each time.
    logging.getLogger("megatron.core.tensor_parallel.random").addFilter(_is_not_cpu_random_state_warning)


def _is_not_cpu_random_state_warning(record: logging.LogRecord) -> bool:
    return "CPU RNG state changed within GPU RNG context" not in record.getMessage()


class _Stream:
    """A CUDA stream where work is done by the time the call returns, so that any order of waiting holds by itself."""

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        pass

    def wait_stream(self, stream: object) -> None:
        pass

    def synchronize(self) -> None:
        pass


def _current_device() -> torch.device:
    return CPU


def _on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
    """`factory` with `device="cuda"` read as the CPU; any other device, or none, goes through as it is."""

    @functools.wraps(factory)
    def call(*args: Any, **kwargs: Any) -> Any:
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "cuda":
            kwargs["device"] = CPU
        return factory(*args, **kwargs)

    # torch.jit too knows the factory functions by identity.
    if operator := jit_builtins._find_builtin(factory):
        jit_builtins._register_builtin(call, operator)
    return call


def _init_data_on_cpu(init_data: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init_data)
    def call(self: Any, device: Any, *args: Any, **kwargs: Any) -> None:
        init_data(self, CPU if torch.device(device).type == "cuda" else device, *args, **kwargs)

    return call


def _cuda_type_name(type_: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(type_)
    def call(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        answer = type_(self, *args, **kwargs)
        if isinstance(answer, str) and self.device.type == "cpu":
            return answer.replace("torch.", "torch.cuda.", 1)
        return answer

    return call


def _instead(replacement: object) -> Callable[[Any], Any]:
    return lambda _original: replacement


def _cuda_redirects() -> tuple[Redirect, ...]:
    def redirect(name: str, replacement: object, why: str) -> Redirect:
        return Redirect("torch.cuda", name, _instead(replacement), why)

    streams = "the distributed optimizer and expert dispatch put communication on streams of their own"
    return (
        redirect("current_device", _current_device, "given as device= where layers, buffers and messages are made"),
        redirect("synchronize", lambda device=None: None, "called around timers, messages and checkpoints"),
        redirect("Stream", _Stream, streams),
        redirect("current_stream", lambda device=None: _Stream(), streams),
        redirect("default_stream", lambda device=None: _Stream(), streams),
        redirect("stream", contextlib.nullcontext, streams),
        redirect("manual_seed", torch.default_generator.manual_seed, "seeds the streams of the random-state tracker"),
        redirect("get_rng_state", lambda device="cuda": torch.get_rng_state(), "read by the random-state tracker"),
        redirect("set_rng_state", lambda new_state, device="cuda": torch.set_rng_state(new_state), "its counterpart"),
    )


def _factory_redirects() -> tuple[Redirect, ...]:
    why = 'called with a literal device="cuda" in schedules, gradient clipping, loss scaling and checkpointing'
    return tuple(Redirect("torch", name, _on_cpu, why) for name in ("empty", "empty_like", "ones", "tensor", "zeros"))


REDIRECTS: tuple[Redirect, ...] = (
    *_cuda_redirects(),
    *_factory_redirects(),
    Redirect(
        "torch.cuda.random",
        "get_rng_state",
        _instead(lambda device="cuda": torch.get_rng_state()),
        "activation recomputation reads the state under this second name",
    ),
    Redirect(
        "torch:Tensor",
        "cuda",
        _instead(lambda self, *_args, **_kwargs: self),
        "loss scaler, rotary embeddings and checkpoint loading move tensors with it",
    ),
    Redirect(
        "torch:Tensor",
        "type",
        _cuda_type_name,
        "the optimizers and gradient clipping sort parameters by comparing with 'torch.cuda.FloatTensor' and its kind",
    ),
    Redirect(
        "megatron.core.tensor_parallel.random",
        "_set_cuda_rng_state",
        _instead(lambda new_state, device=-1, graph_safe=False: torch.set_rng_state(new_state)),
        "queues the new state until CUDA is initialised, which never happens: dropout streams would silently be one",
    ),
    Redirect(
        "megatron.core.dist_checkpointing.mapping:ShardedTensor",
        "init_data",
        _init_data_on_cpu,
        "its default argument took torch.empty at import, before the redirect of torch.empty",
    ),
)
