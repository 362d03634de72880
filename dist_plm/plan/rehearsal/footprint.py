"""Counts what a rank allocates and launches, operation by operation, of tensors that may have no values."""

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dist_plm.plan.rehearsal.moment import Moment

#: Make room, or look at a tensor in another way, and start nothing on a GPU.
_NO_LAUNCH = {
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "lift_fresh",
    "lift",
    "detach",
    "alias",
    "_unsafe_view",
    "_reshape_alias",
    "resize_",
    "set_",
    "_local_scalar_dense",
    "record_stream",
}


class Apart:
    """Holds a peak that is measured by itself."""

    most = 0


class Footprint:
    """Holds what is allocated now, and what was at the peak, by the part of the model that made it.

    Attributes:
        live: bytes by label: the phase, or the module whose forward pass runs.
        most: bytes at the peak.
        peak: what `live` was then.
        launches: operations of steps that a GPU would run, by the moment's phase.
    """

    def __init__(self, moment: Moment) -> None:
        self._moment, self._modules = moment, ["weights"]
        self._names: dict[int, str] = {}
        self._sizes: dict[int, tuple[int, str]] = {}
        self._now = self.most = 0
        self.live: Counter[str] = Counter()
        self.peak: dict[str, int] = {}
        self.peak_at = ""
        self.launches: Counter[str] = Counter()
        self._backwards: Counter[int] = Counter()

    @contextmanager
    def phase(self, label: str) -> Iterator[None]:
        """Books what is allocated within the block, outside of forward passes, under a label."""
        self._modules.append(label)
        try:
            yield
        finally:
            self._modules.pop()

    @contextmanager
    def apart(self) -> Iterator["Apart"]:
        """Measures the peak within the block by itself, and leaves that before it as it is."""
        before, found = (self.most, self.peak, self.peak_at), Apart()
        self.most = self._now
        try:
            yield found
        finally:
            found.most = self.most
            self.most, self.peak, self.peak_at = before

    def name_modules(self, chunks: Sequence[nn.Module]) -> None:
        """Books what forward passes allocate from now on under the module that runs, all layers of a stack as one."""
        for chunk in chunks:
            for name, module in chunk.named_modules():
                self._names[id(module)] = _without_numbers(name)
                module.register_forward_pre_hook(self._enter)
                module.register_forward_hook(self._leave, always_call=True)

    def note(self, func: Any, outputs: Any) -> None:
        """Takes note of an operation and what it gave."""
        if func._schema.name.partition("::")[2] not in _NO_LAUNCH and not func.is_view and self._moment.is_step:
            self.launches[self._moment.phase] += 1
            if self._moment.phase == "backward":
                self._backwards[self._moment.backwards] += 1
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, Tensor):
                self._hold(tensor)

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._sizes:
            return
        label = "backward" if self._moment.phase == "backward" else self._modules[-1]
        self._sizes[key] = size, label
        weakref.finalize(storage, self._release, key).atexit = False
        self.hold({label: size})

    def hold(self, sizes: Mapping[str, int]) -> None:
        """Books bytes by label."""
        for label, size in sizes.items():
            self.live[label] += size
        self._now += sum(sizes.values())
        if self._now > self.most:
            self.most, self.peak, self.peak_at = self._now, dict(self.live), str(self._moment)

    def release(self, sizes: Mapping[str, int]) -> None:
        """Takes them off the books."""
        for label, size in sizes.items():
            self.live[label] -= size
        self._now -= sum(sizes.values())

    def repeat_backward(self, number: int) -> None:
        """Counts the operations of a backward pass again."""
        self.launches["backward"] += self._backwards[number]

    def label_of(self, tensor: Tensor) -> str:
        """Tells under which label a tensor's memory is booked."""
        return self._sizes[tensor.untyped_storage()._cdata][1]

    def _release(self, key: int) -> None:
        size, label = self._sizes.pop(key)
        self.release({label: size})

    def _enter(self, module: nn.Module, _: Any) -> None:
        self._modules.append(self._names[id(module)])

    def _leave(self, *_: Any) -> None:
        self._modules.pop()


def _without_numbers(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split(".")) or "model"
