"""A progress bar that moves within a task, however long that is."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

_LOOK_SECONDS = 0.5


def progress_bar(label: str, total: int, *, hidden: bool = False) -> tqdm:
    """A bar of bytes on a terminal, unless it is `hidden`; nothing in a log file."""
    return tqdm(total=total, desc=label, unit="B", unit_scale=True, disable=hidden or None, leave=False)


@contextmanager
def following(bar: tqdm, bytes_read: Callable[[], int]) -> Iterator[Callable[[int], object]]:
    """Yields what is called with the bytes of tasks as they are done. Meanwhile `bar` shows `bytes_read`, where it is
    more: what has been read since, which every stage does of all that it works on."""
    if bar.disable:
        yield bar.update
        return
    began, done, lock, ended = bytes_read(), 0, threading.Lock(), threading.Event()

    def show(num_bytes: int) -> None:
        nonlocal done
        with lock:
            done += num_bytes
            bar.update(max(done, min(bytes_read() - began, bar.total), bar.n) - bar.n)

    def look() -> None:
        while not ended.wait(_LOOK_SECONDS):
            show(0)

    watcher = threading.Thread(target=look, daemon=True)
    try:
        watcher.start()
    except RuntimeError:  # no memory for it; the bar can do without
        yield bar.update
        return
    try:
        yield show
    finally:
        ended.set()
        watcher.join()
