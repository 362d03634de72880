"""Counts where a training step makes the host wait for the device, on a machine that has none.

    python bench/host_syncs.py

On CUDA, operations are queued, and the host runs ahead until it asks for a value: then the device runs dry while the host
queues anew. Here everything lies on the CPU, so the count keeps track of which tensors would lie on the host: batches, what is
made without a device, and what is computed from these alone. Everything else is taken for the device's. Asking for a value of
that is a sync, as is an operation whose result has a size that depends on values, and a copy that is not `non_blocking`.
"""

import itertools
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from datetime import timedelta
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from dist_plm.config.decode import decode
from dist_plm.distributed.device import choose
from dist_plm.distributed.grid import Grid
from dist_plm.distributed.groups import build_groups
from dist_plm.distributed.launch_env import from_environment
from dist_plm.distributed.world import init_process_group, shutdown
from dist_plm.engines.base import Engine
from dist_plm.engines.build import build_engine
from dist_plm.models.build import build_model
from dist_plm.objectives.build import build_objective
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema import PretrainConfig
from dist_plm.train.build import engine_settings

_aten = torch.ops.aten
#: Their results have as many elements as values decide, or are values of the host.
WAITING = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "equal",
    "is_nonzero",
    "bincount",
}
#: Made on the host where no device is named. By name: what stands in for CUDA wraps some of them.
_FACTORIES = {"tensor", "as_tensor", "zeros", "ones", "full", "empty", "arange", "rand"}


class HostSyncs:
    """Within it, syncs are counted by kind and place.

    Args:
        host: tensors that lie on the host, in whatever containers.
    """

    def __init__(self, host: Iterable[Any] = ()) -> None:
        self.found: Counter[tuple[str, str]] = Counter()
        self._host = WeakIdKeyDictionary()
        for tensor in tree_leaves(list(host)):
            self.mark(tensor)
        self._stack = ExitStack()

    def __enter__(self) -> "HostSyncs":
        owners: list[Any] = [torch.cuda, torch.cuda.Stream, torch.cuda.Event]
        if "deepspeed.accelerator" in sys.modules:
            owners.append(type(sys.modules["deepspeed.accelerator"].get_accelerator()))
        for owner in owners:
            self._stack.enter_context(patch.object(owner, "synchronize", lambda *_: self.note("synchronize")))
        self._stack.enter_context(_Calls(self))
        self._stack.enter_context(_Operations(self))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def __len__(self) -> int:
        return self.found.total()

    def __str__(self) -> str:
        return "\n".join(f"{count:4} × {kind:20} {place}" for (kind, place), count in self.found.most_common())

    def mark(self, value: Any) -> None:
        """Takes a tensor for one of the host."""
        if isinstance(value, Tensor):
            self._host[value] = True

    def is_host(self, tensor: Tensor) -> bool:
        return tensor in self._host

    def note(self, kind: str) -> None:
        frames = [f"{f.filename}:{f.lineno}" for f in traceback.extract_stack() if "/torch/" not in f.filename]
        here = [frame for frame in frames if not frame.startswith(__file__)]
        self.found[kind, " < ".join(reversed(here[-3:]))] += 1


class _Calls(TorchFunctionMode):
    """Sees what is called from Python: which device a tensor is made on or moved to, and reading that is no operation."""

    def __init__(self, syncs: HostSyncs) -> None:
        self._syncs = syncs

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        syncs, kwargs = self._syncs, kwargs or {}
        if func is Tensor.numpy:
            syncs.mark(args[0])  # of a device's tensor there is none: CUDA refuses
        if func is Tensor.tolist and not syncs.is_host(args[0]):
            syncs.note("tolist")
        if func is Tensor.cpu:
            return self._moved(args[0], func(*args, **kwargs), to_host=True, waits=True)
        if func is Tensor.to or func is Tensor.cuda:
            target = kwargs.get("device", next((a for a in args[1:] if isinstance(a, str | torch.device)), None))
            if target is not None or func is Tensor.cuda:
                waits = not kwargs.get("non_blocking", False)
                return self._moved(args[0], func(*args, **kwargs), to_host=target == "cpu", waits=waits)
        result = func(*args, **kwargs)
        if (name := getattr(func, "__name__", "")) in _FACTORIES:
            if kwargs.get("device") is None:
                syncs.mark(result)
            elif name in ("tensor", "as_tensor"):
                syncs.note("copy to the device")
        return result

    def _moved(self, source: Tensor, result: Tensor, *, to_host: bool, waits: bool) -> Tensor:
        was_host = self._syncs.is_host(source)
        if was_host == to_host:
            return result
        if waits:
            self._syncs.note("copy to the host" if to_host else "copy to the device")
        if result is source:  # here both are one
            result = result.view_as(result)
        if to_host:
            self._syncs.mark(result)
        else:
            self._syncs._host.pop(result, None)
        return result


class _Operations(TorchDispatchMode):
    """Sees every operation, those of backward passes and of PyTorch's own Python code included."""

    def __init__(self, syncs: HostSyncs) -> None:
        super().__init__()
        self._syncs = syncs

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        result = func(*args, **kwargs)
        if tensors and all(map(self._syncs.is_host, tensors)):
            for leaf in tree_leaves(result):
                self._syncs.mark(leaf)
        elif waits(func, args, kwargs):
            self._syncs.note(func.overloadpacket.__name__)
        elif func is _aten.copy_.default and self._copy_waits(*args, **kwargs):
            self._syncs.note("copy")
        return result

    def _copy_waits(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> bool:
        """Between host and device; a single number of the host goes with the launch."""
        return self._syncs.is_host(target) != self._syncs.is_host(source) and source.dim() > 0 and not non_blocking


def waits(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether the host waits for an operation's result on the device."""
    name = func.overloadpacket.__name__
    if name in WAITING:
        return True
    if name in ("index_put", "index_put_", "_index_put_impl_") and args[2].numel() == 1:
        return False  # PyTorch fills by the mask
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    return name == "repeat_interleave" and kwargs.get("output_size") is None


def of_step(step: Callable[[], Any], host: Iterable[Any] = ()) -> HostSyncs:
    """The syncs of one call, to which `host` is given."""
    with HostSyncs(host) as syncs:
        step()
    return syncs


def main() -> None:
    env = from_environment(os.environ)
    device, timeout = choose("cpu", env.local_rank), timedelta(minutes=10)
    init_process_group(env, device, timeout)
    groups = build_groups(Grid(data=env.world_size, tensor=1, pipeline=1, context=1), device, timeout=timeout)
    with TemporaryDirectory() as runs:
        for engine, stage, optim in itertools.product(
            ("megatron", "deepspeed"), (0, 1), ("adamw", "lamb", "adafactor", "muon")
        ):
            settings = {
                "run": {"name": "bench", "root": runs},
                "model": {"family": "gpt", "layers": 2, "hidden": 64, "heads": 4, "vocab_size": 512},
                "objective": {"name": "causal"},
                "data": {"path": "none", "sequence_length": 32},
                "optim": {"name": optim, "lr": 1e-4},
                "schedule": {"name": "constant"},
                "engine": {"name": engine, "zero_stage": stage},
                "precision": {"name": "fp32"},
                "train": {"steps": 1, "global_batch": 4 * env.world_size, "micro_batch": 2},
            }
            config = finalize(decode(PretrainConfig, settings), world_size=env.world_size, vocab_size=None)
            model, _ = build_model(
                config.model, config.parallel, config.precision, groups, device.torch_device, seed=config.train.seed
            )
            losses = build_objective(config.objective).losses
            built = build_engine(engine_settings(config), groups, device.torch_device, model, losses)
            syncs = _third_step(built)
            if env.rank == 0:
                print(f"{engine} zero_stage={stage} {optim}: {len(syncs)} syncs a step\n{syncs}")
    shutdown()


def _third_step(engine: Engine) -> HostSyncs:
    """What is made once is there by then."""
    tokens = torch.arange(2 * 33).view(2, 33)
    batch = {"tokens": tokens[:, :-1], "labels": tokens[:, 1:].contiguous(), "samples": torch.arange(2)}
    for _ in range(2):
        engine.train_step([batch, batch], 1e-4)
    return of_step(lambda: engine.train_step([batch, batch], 1e-4), [batch])


if __name__ == "__main__":
    main()
