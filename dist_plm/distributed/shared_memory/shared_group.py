"""Makes a process group of ranks on one machine whose collectives go through memory that they share; the rest is gloo's."""

# PyTorch's stubs know no group that is written in Python; the names of its parameters are never given.
# pyright: reportIncompatibleMethodOverride=false, reportAssignmentType=false, reportAttributeAccessIssue=false

import weakref
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C import _distributed_c10d as c10d

from dist_plm.distributed.shared_memory import exchanges
from dist_plm.distributed.shared_memory.calls import DTYPES, SharedCall, begun
from dist_plm.distributed.shared_memory.segment import SharedSegment

#: The backend's name, for `torch.distributed.init_process_group`.
BACKEND = "shared_memory"
_REDUCTIONS: dict[Any, str] = {dist.ReduceOp.SUM: "sum", dist.ReduceOp.MAX: "max", dist.ReduceOp.MIN: "min"}
#: Those in use, for `leave_all`.
_groups: "weakref.WeakSet[SharedGroup]" = weakref.WeakSet()


def register() -> None:
    """Makes the backend known to PyTorch, once in a process."""
    if BACKEND.upper() not in dist.Backend._plugins:
        dist.Backend.register_backend(BACKEND, SharedGroup, devices=["cpu"])


def leave_all() -> None:
    """Leave every group, so that ranks which wait for this one see that it comes no more."""
    for group in list(_groups):
        group.leave()


def _of_gloo(name: str) -> Any:
    def handed_on(self: "SharedGroup", *arguments: Any, **options: Any) -> Any:
        return getattr(self._gloo, name)(*arguments, **options)

    return handed_on


class SharedGroup(dist.ProcessGroup):
    """Reduces, gathers, scatters and broadcasts by `exchanges`; each is done when the call returns, also where it was asked for
    asynchronously. Messages between two ranks, uneven pieces and other types are gloo's.

    The choice depends on what all ranks of a group give alike. Collective, as every making of a group.
    """

    def __init__(self, store: c10d.Store, rank: int, size: int, timeout: timedelta) -> None:
        super().__init__(rank, size)  # pyright: ignore[reportCallIssue]
        self._gloo = dist.ProcessGroupGloo(c10d.PrefixStore("gloo/", store), rank, size, timeout=timeout)
        self._gloo._set_sequence_number_for_group()
        self._register_backend(torch.device("cpu"), dist.ProcessGroup.BackendType.GLOO, self._gloo)
        self._set_default_backend(dist.ProcessGroup.BackendType.GLOO)
        self._segment: SharedSegment | None = None
        if size > 1:
            try:
                self._segment = SharedSegment(c10d.PrefixStore("memory/", store), rank, size, timeout.total_seconds())
            except OSError:  # on every rank
                self._segment = None
        self._num_calls = 0
        self._done = _done_work()
        _groups.add(self)

    def leave(self) -> None:
        """Tell those who wait for this rank that it comes no more."""
        if self._segment is not None:
            self._segment.leave()

    def allreduce(self, tensors: Sequence[Tensor], opts: Any = None) -> Any:
        opts = opts or c10d.AllreduceOptions()
        reduction = _REDUCTIONS.get(opts.reduceOp.op)
        if reduction is None or not self._takes(*tensors):
            return self._gloo.allreduce(list(tensors), opts)
        for tensor in tensors:
            call = SharedCall("all_reduce", tensor.dtype, tensor.numel(), reduction)
            with _Flat(tensor) as flat:
                self._run(exchanges.all_reduce, call, flat[0])
        return self._done

    def allreduce_coalesced(self, tensors: Sequence[Tensor], opts: Any = None) -> Any:
        opts = opts or c10d.AllreduceCoalescedOptions()
        if opts.reduceOp.op not in _REDUCTIONS or not self._takes(*tensors):
            return self._gloo.allreduce_coalesced(list(tensors), opts)
        return self.allreduce(tensors, opts)

    def broadcast(self, tensors: Sequence[Tensor], opts: Any = None) -> Any:
        opts = opts or c10d.BroadcastOptions()
        if not self._takes(*tensors):
            return self._gloo.broadcast(list(tensors), opts)
        for tensor in tensors:
            with _Flat(tensor) as flat:
                self._run(
                    exchanges.broadcast,
                    SharedCall("broadcast", tensor.dtype, tensor.numel(), "", opts.rootRank),
                    flat[0],
                )
        return self._done

    def allgather(self, outputs: Sequence[Sequence[Tensor]], inputs: Sequence[Tensor], opts: Any = None) -> Any:
        (values,), (gathered,) = inputs, outputs
        if not self._takes(values, *gathered) or any(one.numel() != values.numel() for one in gathered):
            return self._gloo.allgather([list(gathered)], [values], opts or c10d.AllgatherOptions())
        with _Flat(*gathered) as flat:
            self._run(exchanges.all_gather, SharedCall("all_gather", values.dtype, values.numel()), flat, _flat(values))
        return self._done

    def _allgather_base(self, output: Tensor, values: Tensor, opts: Any = None) -> Any:
        if not self._takes(output, values) or output.numel() != values.numel() * self.size():
            return self._gloo._allgather_base(output, values, opts or c10d.AllgatherOptions())
        call = SharedCall("all_gather", values.dtype, values.numel())
        with _Flat(output) as flat:
            self._run(exchanges.all_gather, call, self._rows(flat[0]), _flat(values))
        return self._done

    def allgather_into_tensor_coalesced(
        self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], opts: Any = None
    ) -> Any:
        for output, values in zip(outputs, inputs, strict=True):
            self._allgather_base(output, values, opts).wait()
        return self._done

    def reduce_scatter(self, outputs: Sequence[Tensor], inputs: Sequence[Sequence[Tensor]], opts: Any = None) -> Any:
        opts = opts or c10d.ReduceScatterOptions()
        (output,), (values,) = outputs, inputs
        reduction = _REDUCTIONS.get(opts.reduceOp.op)
        same = all(one.numel() == output.numel() for one in values)
        if reduction is None or not self._takes(output, *values) or not same:
            return self._gloo.reduce_scatter([output], [list(values)], opts)
        call = SharedCall("reduce_scatter", output.dtype, output.numel(), reduction)
        with _Flat(output) as flat:
            self._run(exchanges.reduce_scatter, call, flat[0], [_flat(one) for one in values])
        return self._done

    def _reduce_scatter_base(self, output: Tensor, values: Tensor, opts: Any = None) -> Any:
        opts = opts or c10d.ReduceScatterOptions()
        reduction = _REDUCTIONS.get(opts.reduceOp.op)
        if reduction is None or not self._takes(output, values) or values.numel() != output.numel() * self.size():
            return self._gloo._reduce_scatter_base(output, values, opts)
        call = SharedCall("reduce_scatter", output.dtype, output.numel(), reduction)
        with _Flat(output) as flat:
            self._run(exchanges.reduce_scatter, call, flat[0], self._rows(_flat(values)))
        return self._done

    def reduce_scatter_tensor_coalesced(
        self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], opts: Any = None
    ) -> Any:
        for output, values in zip(outputs, inputs, strict=True):
            self._reduce_scatter_base(output, values, opts).wait()
        return self._done

    def alltoall_base(
        self, output: Tensor, values: Tensor, output_sizes: list[int], input_sizes: list[int], opts: Any = None
    ) -> Any:
        even = not output_sizes and not input_sizes and values.numel() % self.size() == 0
        if not even or not self._takes(output, values) or output.numel() != values.numel():
            return self._gloo.alltoall_base(output, values, output_sizes, input_sizes, opts or c10d.AllToAllOptions())
        call = SharedCall("all_to_all", values.dtype, values.numel())
        with _Flat(output) as flat:
            self._run(exchanges.all_to_all, call, self._rows(flat[0]), self._rows(_flat(values)))
        return self._done

    def barrier(self, opts: Any = None) -> Any:
        if self._segment is None:
            return self._gloo.barrier(opts or c10d.BarrierOptions())
        self._run(exchanges.barrier, SharedCall("barrier"))
        return self._done

    # Gloo's part. Handed on in Python, as the rest is: where somebody puts a function in the place of a method of PyTorch's
    # class, to time it, PyTorch takes that for an override of this class, which would call itself.
    send, recv, recv_anysource = _of_gloo("send"), _of_gloo("recv"), _of_gloo("recv_anysource")
    reduce, gather, scatter = _of_gloo("reduce"), _of_gloo("gather"), _of_gloo("scatter")
    alltoall, allgather_coalesced = _of_gloo("alltoall"), _of_gloo("allgather_coalesced")

    # Their names from PyTorch 2.13 on.
    all_gather_single = _allgather_base
    all_gather_single_coalesced = allgather_into_tensor_coalesced
    reduce_scatter_single = _reduce_scatter_base
    reduce_scatter_single_coalesced = reduce_scatter_tensor_coalesced
    all_to_all_single = alltoall_base

    def _takes(self, *tensors: Tensor) -> bool:
        dtype = tensors[0].dtype
        return (
            self._segment is not None
            and dtype in DTYPES
            and all(one.dtype == dtype and one.layout == torch.strided and one.device.type == "cpu" for one in tensors)
        )

    def _rows(self, flat: Tensor) -> Sequence[Tensor]:
        return flat.view(self.size(), -1).unbind(0)

    def _run(self, exchange: Callable[..., None], call: SharedCall, *tensors: Any) -> None:
        self._num_calls += 1
        entry = begun(call.kind, self._num_calls, self.group_name, self.group_desc)
        exchange(self._segment, call, *tensors)
        entry[-1] = True


class _Flat:
    """Gives what is written to as flat vectors; a tensor whose elements lie apart is written once all went well."""

    def __init__(self, *tensors: Tensor) -> None:
        self._tensors = tensors
        self._flat = [_flat(tensor) for tensor in tensors]

    def __enter__(self) -> list[Tensor]:
        return self._flat

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            for tensor, flat in zip(self._tensors, self._flat, strict=True):
                if not tensor.is_contiguous():
                    tensor.data.copy_(flat.view(tensor.shape))


def _flat(tensor: Tensor) -> Tensor:
    # As gloo's writes, those through `data` do not count as changes that autograd has to know of.
    return tensor.data.reshape(-1)


def _done_work() -> Any:
    future: torch.futures.Future[list[Tensor]] = torch.futures.Future()
    future.set_result([])
    return c10d._create_work_from_future(future)
