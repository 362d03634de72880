"""Takes the microbatches of the next step ahead in a thread, so that a rank that waits for data still hears the others."""

import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import overload

from dist_plm.data.loader.batch import Batch

_PUT_SECONDS = 0.2
#: How long the end of a run waits for what is being prepared.
_CLOSE_SECONDS = 2.0


class Prefetcher:
    """The microbatches of step after step.

    Args:
        microbatches: of this rank, in order.
        counts: microbatches of each step.
    """

    def __init__(self, microbatches: Iterator[Batch], counts: Iterable[int]) -> None:
        self._microbatches, self._counts = microbatches, counts
        self._ready: queue.Queue[list[Batch] | Exception] = queue.Queue(1)
        self._next: list[Batch] | Exception | None = None
        self._closed = False
        # A daemon: where it waits for data that never comes, the run ends without it.
        self._thread = threading.Thread(target=self._run, name="prefetcher", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Whether `take` would return at once, after waiting for that up to `seconds`."""
        if self._next is None:
            try:
                self._next = self._ready.get(timeout=seconds)
            except queue.Empty:
                return False
        return True

    def take(self) -> list[Batch]:
        """The next step's microbatches. Raises what preparing them raised."""
        content, self._next = self._next if self._next is not None else self._ready.get(), None
        if isinstance(content, Exception):
            raise content
        return content

    def close(self) -> None:
        """Ends the thread, unless it waits for data that never comes: Python would end it on its own way out, in PyTorch's
        C++ even, and that the whole program with code 134."""
        self._closed = True
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        try:
            for count in self._counts:
                if not self._put(list(itertools.islice(self._microbatches, count))):
                    break
        except Exception as error:
            self._put(error)
        finally:
            close = getattr(self._microbatches, "close", None)
            if close is not None:  # a loader's worker processes end with it
                close()

    def _put(self, content: list[Batch] | Exception) -> bool:
        while not self._closed:
            try:
                self._ready.put(content, timeout=_PUT_SECONDS)
                return True
            except queue.Full:
                continue
        return False


class Interruptible(Sequence[Batch]):
    """Microbatches that call `check` before each but the first is drawn; what it raises ends the step."""

    def __init__(self, microbatches: Sequence[Batch], check: Callable[[], None]) -> None:
        self._microbatches, self._check = microbatches, check

    def __len__(self) -> int:
        return len(self._microbatches)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        return self._microbatches[index]

    def __iter__(self) -> Iterator[Batch]:
        for number, batch in enumerate(self._microbatches):
            if number:
                self._check()
            yield batch
