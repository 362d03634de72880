"""Writes files of checkpoints, in a process of its own: it holds up no training loop, and neither can fail the other.

The process imports no PyTorch, so it starts in a tenth of a second and takes some 20 MB. What it writes lies in memory that
it shares with the rank which started it, and which it outlives by a second at most. It is started without hearing the
signals that end a run: of those it learns from its rank.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import xxhash

from dist_plm.core.errors import described

#: Bytes as they are, or where they lie in the shared memory: offset and length.
FilePart = bytes | tuple[int, int]
Buffer = bytes | memoryview

#: Of what is mapped of the shared memory at a time, and of what is gathered before it is written.
BLOCK_BYTES = 32 * 2**20
#: Blocks from this size on are written from where they lie, others gathered.
DIRECT_BYTES = 2**20
#: What writing past the kernel's cache asks for of memory, offset and length: the largest sector of a disk, and a page.
ALIGNMENT_BYTES = 4096
#: Between two looks at whether the rank is still there.
LOOK_SECONDS = 1.0


def write_file(target: str, blocks: Iterable[Buffer]) -> tuple[int, str]:
    """Writes the blocks one after another to `target`, a path or an fsspec URL; a local file is synced to the disk.

    Args:
        blocks: each may change once the next is asked for.
    Returns:
        The bytes written, and their checksum (train_state.FileRecord).
    """
    digest, size = xxhash.xxh3_128(), 0
    with _open_url(target) if "://" in target else LocalFile(target) as file:
        for block in blocks:
            file.write(block)
            digest.update(block)
            size += memoryview(block).nbytes
            file.flush()
    return size, digest.hexdigest()


def _open_url(url: str) -> Any:
    import fsspec  # takes a second, and only object stores need it

    return fsspec.open(url, "wb")


class LocalFile:
    """A new file, written past the kernel's cache where the file system allows it. That took a third of the processor's time
    and half of the clock's where it was measured, and leaves the cache to the training data."""

    def __init__(self, path: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            self._number = os.open(path, flags | os.O_DIRECT, 0o666)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._number = os.open(path, flags, 0o666)
        self._gathered = mmap.mmap(-1, BLOCK_BYTES)  # begins at a page, as O_DIRECT has it
        self._used = self._begun = 0
        self._thread = ThreadPoolExecutor(1)
        self._written: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            self._thread.shutdown()
            os.close(self._number)

    def write(self, block: Buffer) -> None:
        """Begins to write `block`, which stays as it is until `flush`. From DIRECT_BYTES on it begins at a page, or it is
        copied by the kernel."""
        self.flush()
        view = memoryview(block).cast("B")
        if len(view) >= DIRECT_BYTES and self._used % ALIGNMENT_BYTES == 0:
            self._put_gathered(self._used)
            count = len(view) // ALIGNMENT_BYTES * ALIGNMENT_BYTES
            self._written = self._thread.submit(self._put, view[:count], self._begun)
            self._begun += count
            view = view[count:]
        while view:
            count = min(len(view), BLOCK_BYTES - self._used)
            self._gathered[self._used : self._used + count] = view[:count]
            self._used += count
            view = view[count:]
            if self._used == BLOCK_BYTES:
                self._put_gathered(BLOCK_BYTES)

    def flush(self) -> None:
        """Waits until the last block is written, or gathered to be."""
        if self._written is not None:
            self._written.result()
            self._written = None

    def _put_gathered(self, count: int) -> None:
        self._put(memoryview(self._gathered)[:count], self._begun)
        self._begun += self._used
        self._used = 0

    def _put(self, view: memoryview, offset: int) -> None:
        while view:
            try:
                count = os.pwrite(self._number, view, offset)
            except OSError as error:
                flags = fcntl.fcntl(self._number, fcntl.F_GETFL)
                if error.errno != errno.EINVAL or not flags & os.O_DIRECT:
                    raise
                fcntl.fcntl(self._number, fcntl.F_SETFL, flags & ~os.O_DIRECT)
                continue
            view, offset = view[count:], offset + count

    def _finish(self) -> None:
        self.flush()
        size = self._begun + self._used
        self._put_gathered(-(-self._used // ALIGNMENT_BYTES) * ALIGNMENT_BYTES)
        os.ftruncate(self._number, size)
        os.fsync(self._number)


def shared_blocks(memory: int, parts: Iterable[FilePart]) -> Iterator[Buffer]:
    """The parts in blocks, of which one at a time is mapped: a job's memory is often counted by process."""
    for part in parts:
        if isinstance(part, bytes):
            yield part
            continue
        offset, length = part
        end = offset + length
        while offset < end:
            before = offset % mmap.ALLOCATIONGRANULARITY
            count = min(BLOCK_BYTES - before, end - offset)
            window = mmap.mmap(memory, before + count, prot=mmap.PROT_READ, offset=offset - before)
            block = memoryview(window)[before:]
            try:
                yield block
            finally:
                with contextlib.suppress(BufferError):  # where writing failed, the error still holds what was written
                    block.release()
                    window.close()
            offset += count


def serve(connection: Connection, memory: int, rank: int) -> None:
    """Writes what it is told to, until the process `rank` is gone or closes the connection."""

    def is_orphan() -> bool:
        return os.getppid() != rank

    def blocks(parts: Iterable[FilePart]) -> Iterator[Buffer]:
        for block in shared_blocks(memory, parts):
            if is_orphan():
                raise SystemExit(1)
            yield block

    while not is_orphan():
        if not connection.poll(LOOK_SECONDS):
            continue
        try:
            order = connection.recv()
        except (EOFError, OSError):
            return
        if order is None:
            return
        target, parts = order
        answer: Any
        try:
            answer = write_file(target, blocks(parts))
        except Exception as error:  # whatever storage of other makers raises: the rank is to hear of it
            answer = described(error)
        try:
            connection.send(answer)
        except OSError:  # the rank is gone
            return


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), memory=int(sys.argv[2]), rank=int(sys.argv[3]))
