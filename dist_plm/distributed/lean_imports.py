"""Imports Megatron-core and others without what this program never uses of them, and without warnings a user cannot act on.

Megatron-core decorates functions with `torch.compile` as its modules are read, which alone brings PyTorch's whole
compiler in, and imports wandb and TensorBoard for its own logging: together almost half of a rank's imports. None of those
functions is called here (`models.build` turns the fusions off), and metrics go through `monitor.trackers`.
"""

import importlib.abc
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_PACKAGE = "megatron.core"
_UNUSED = ("wandb", "torch.utils.tensorboard")
#: Megatron-core warns once a module on import that it falls back to torch; both libraries are optional here.
_FALLBACK_MESSAGE = r"(Transformer Engine and Apex are|Apex is) not installed\. Falling back to"


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Has modules of these names, where they are not imported yet, be as if they were not installed."""
    absent = _Absent(names)
    sys.meta_path.insert(0, absent)
    try:
        yield
    finally:
        sys.meta_path.remove(absent)


def make_megatron_lean() -> None:
    """Sees to it that Megatron-core is imported leanly and quietly, whenever that will be."""
    warnings.filterwarnings("ignore", message=_FALLBACK_MESSAGE, category=UserWarning, module=r"megatron\.core\b")
    # Of escapes in its texts, where it was installed without being compiled; the module is then a path.
    warnings.filterwarnings("ignore", category=SyntaxWarning, module=r".*\bmegatron\Wcore\b")
    if _PACKAGE not in sys.modules and not any(isinstance(finder, _Lean) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Lean())


class _Lean(importlib.abc.MetaPathFinder):
    """Finds Megatron-core's package once, and has it read under `_without_unused`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _PACKAGE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            read = spec.loader.exec_module

            def read_leanly(module: ModuleType) -> None:
                with _without_unused():
                    read(module)

            spec.loader.exec_module = read_leanly
        return spec


class _Absent(importlib.abc.MetaPathFinder):
    """Says that modules are not installed."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname in self._names:
            raise ModuleNotFoundError(f"{fullname} is not imported here", name=fullname)


@contextmanager
def _without_unused() -> Iterator[None]:
    import torch  # here, as the package is also imported by what needs no tensors

    compiled = torch.compile
    torch.compile = _not_compiled
    try:
        with without(*_UNUSED):
            yield
    finally:
        torch.compile = compiled


def _not_compiled(function: Callable[..., Any] | None = None, **_: Any) -> Callable[..., Any]:
    """Stands for `torch.compile` as a decorator, with and without arguments."""
    return _not_compiled if function is None else function
