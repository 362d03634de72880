"""Compiles what a model chunk computes by itself (torch.compile; Ansel et al. 2024, "PyTorch 2").

On one tensor and context rank that are whole layers: all that are alike share one piece of compiled code, and none is
recompiled from step to step. On several, layers talk to other ranks in their middle, and the pieces between are compiled.
Modules stay what they are: names of parameters, hooks and checkpoints do not change.
"""

from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from dist_plm.core.errors import ConfigError
from dist_plm.engines.engine_settings import EngineSettings
from dist_plm.models.layers.attention import CoreAttention
from dist_plm.models.layers.mlp import MLP
from dist_plm.models.layers.transformer import TransformerLayer
from dist_plm.spec.engines import EngineConfig

#: Where a layer waits for other ranks: what it computes between, by the attribute that holds it.
_PIECES = ((MLP, "activation"), (CoreAttention, "rotate"))
#: Versions of one function that PyTorch keeps: by stack, size of the last batch, training and evaluation.
_VERSIONS = 64
#: Of the first GPUs that Triton compiles for.
_CAPABILITY = (7, 0)


def compile_model(settings: EngineSettings, device: torch.device, chunks: Iterable[nn.Module]) -> None:
    """Compiles what `engine.compile` says, when it first runs.

    Raises:
        ConfigError: the configuration asks for it, and the machine cannot.
    """
    if not wanted(settings.engine, device):
        return spare_compiler()
    if problem := compiler_problem(device):
        if settings.engine.compile == "layers":
            raise ConfigError([f"engine.compile = 'layers' cannot be done: {problem}; or set engine.compile=off"])
        return spare_compiler()
    told: Any = torch._dynamo.config
    told.recompile_limit = max(told.recompile_limit, _VERSIONS)
    # Numbers of a layer are constants of its code, whatever those of another were.
    told.specialize_float = told.specialize_int = True
    for chunk in chunks:
        if settings.parallel.tensor == settings.parallel.context == 1:
            for layer in _layers(chunk):
                layer.forward = torch.compile(layer.forward, dynamic=False)
        else:
            _compile_pieces(chunk)
    return None


def spare_compiler() -> None:
    """Keeps PyTorch's compiler, a fifth of all that a rank imports, out of runs that compile nothing: its optimizers import
    it to say that they are not to be compiled."""
    optimizer = torch.optim.Optimizer
    for method in (optimizer.add_param_group, optimizer.zero_grad, optimizer.state_dict, optimizer.load_state_dict):
        plain = getattr(method, "__wrapped__", None)
        if plain is not None and not hasattr(plain, "__dynamo_disable"):
            setattr(plain, "__dynamo_disable", plain)  # in a class its name would be another


def wanted(engine: EngineConfig, device: torch.device) -> bool:
    """Tells whether to compile, as far as the configuration goes: by default on CUDA, where nothing stands against it."""
    if engine.compile == "auto":
        return device.type == "cuda" and not any(engine.compile_problems())
    return engine.compile == "layers"


def compiled_layers(chunk: nn.Module) -> Iterator[nn.Module]:
    """Yields the layers that are compiled as a whole: within, nothing of the host is to happen."""
    return (layer for layer in _layers(chunk) if "forward" in vars(layer))


def compiler_problem(device: torch.device) -> str | None:
    """Says what this machine lacks to compile for a device."""
    if device.type == "cuda":
        if find_spec("triton") is None:
            return "Triton is not installed"
        capability = torch.cuda.get_device_capability(device)
        if capability < _CAPABILITY:
            return f"Triton does not compile for a GPU of compute capability {'.'.join(map(str, capability))}"
        return None
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError):
        return "PyTorch finds no C++ compiler: install g++, or name one by the environment variable CXX"
    return None


def _layers(chunk: nn.Module) -> Iterator[nn.Module]:
    return (module for module in chunk.modules() if isinstance(module, TransformerLayer))


def _compile_pieces(chunk: nn.Module) -> None:
    for module in chunk.modules():
        for kind, name in _PIECES:
            if isinstance(module, kind):
                setattr(module, name, _compiled(getattr(module, name)))


def _compiled(piece: Callable[..., Any]) -> Callable[..., Any]:
    # A function of Python: those of PyTorch itself are not compiled.
    def call(*args: Any) -> Any:
        return piece(*args)

    return torch.compile(call, dynamic=False)
