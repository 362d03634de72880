"""Records the collectives and messages of a rank as PyTorch dispatches them, whichever library calls them, on real process
groups as on fake ones."""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dist_plm.plan.rehearsal.footprint import Footprint
from dist_plm.plan.rehearsal.ledger import Call, Ledger, Payload
from dist_plm.plan.rehearsal.moment import Moment

#: PyTorch's name -> ours, the argument whose tensors a rank gives or makes room for, and that of the process group.
_OPERATIONS: dict[str, tuple[str, int, int]] = {
    "allreduce_": ("all_reduce", 0, 1),
    "allreduce_coalesced_": ("all_reduce", 0, 1),
    "broadcast_": ("broadcast", 0, 1),
    "reduce_": ("reduce", 0, 1),
    "allgather_": ("all_gather", 1, 2),
    "_allgather_base_": ("all_gather", 1, 2),
    "allgather_coalesced_": ("all_gather", 1, 2),
    "allgather_into_tensor_coalesced_": ("all_gather", 1, 2),
    "reduce_scatter_": ("reduce_scatter", 1, 2),
    "_reduce_scatter_base_": ("reduce_scatter", 1, 2),
    "reduce_scatter_tensor_coalesced_": ("reduce_scatter", 1, 2),
    "gather_": ("gather", 1, 2),
    "scatter_": ("scatter", 0, 2),
    "alltoall_": ("all_to_all", 1, 2),
    "alltoall_base_": ("all_to_all", 1, 2),
    "send": ("send", 0, 1),
    "recv_": ("recv", 0, 1),
    "barrier": ("barrier", 0, 1),
}
_PACKAGE = "dist_plm"
_OWN_FOLDER = str(Path(__file__).parent)
#: Pass on what others ask for: the first stands between a library and itself in rehearsals alone.
_BETWEEN = ("/absent_ranks.py", "/contextlib.py", f"/{_PACKAGE}/distributed/collectives.py")
_ROOT = str(Path(__file__).parents[3]) + "/"
_TORCH = str(Path(torch.__file__).parent)


class CallRecorder(TorchDispatchMode):
    """Writes down what is sent, and lets it be sent."""

    def __init__(self, moment: Moment, footprint: Footprint) -> None:
        super().__init__()
        self.moment, self.footprint = moment, footprint
        self.ledger: Ledger = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.moment.look()
        if func.namespace == "c10d":
            self.note(func, args)
            return self.say(func, args)
        outputs = func(*args, **(kwargs or {}))
        self.footprint.note(func, outputs)
        return outputs

    def say(self, func: Any, args: Sequence[Any]) -> Any:
        """Has the process group do it."""
        return func(*args)

    def note(self, func: Any, args: Sequence[Any]) -> None:
        """Writes a collective or message down."""
        name = func._schema.name.partition("::")[2]
        if name not in _OPERATIONS:
            assert name in ("check_for_nan", "monitored_barrier_"), f"{name} is not known to the ledger"
            return
        operation, given, place = _OPERATIONS[name]
        group = ranks_of(args[place])
        payload = () if operation == "barrier" else tuple(map(payload_of, tree_leaves(args[given])))
        peer = group[args[2]] if operation in ("send", "recv") else None
        detail = _detail(operation, args)
        self.ledger.append(Call(operation, group, payload, detail, peer, str(self.moment), place_in_code()))


def payload_of(tensor: Tensor) -> Payload:
    """Describes a tensor."""
    return Payload(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


def ranks_of(boxed: Any) -> tuple[int, ...]:
    """Finds the ranks of a process group as operations take it."""
    return tuple(dist.get_process_group_ranks(dist.ProcessGroup.unbox(boxed)))


def _detail(operation: str, args: Sequence[Any]) -> str:
    if operation in ("all_reduce", "reduce_scatter", "reduce"):
        reduction = args[3] if operation == "reduce_scatter" else args[2]
        return dist.ReduceOp.RedOpType(reduction.op()).name.lower()
    if operation == "broadcast":
        return f"root {args[2]}"
    return f"tag {args[3]}" if operation in ("send", "recv") else ""


def place_in_code() -> str:
    """Finds the line that calls a collective: ours, and that of a library which it goes through."""
    frame, inner = sys._getframe(1), None
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_OWN_FOLDER, _TORCH)) and not file.endswith(_BETWEEN):
            name = _shortened(file)
            if name.startswith(_PACKAGE):
                line = f"{name}:{frame.f_lineno}"
                return line if inner is None else f"{line} through {inner}"
            inner = inner or f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return inner or "unknown"


def place_of(file: str, line: int | None) -> str | None:
    """Names a line of ours; None where it is another's."""
    name = _shortened(file)
    return f"{name}:{line}" if name.startswith(_PACKAGE) and not file.startswith(_OWN_FOLDER) else None


@functools.cache
def _shortened(file: str) -> str:
    return file.removeprefix(_ROOT).rpartition("site-packages/")[2]
