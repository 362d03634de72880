"""The size and checksum of files, taken as they are written through torch.distributed.checkpoint's file systems."""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import IO, Any, cast

import xxhash
from torch.distributed.checkpoint.filesystem import FileSystemBase

from dist_plm.checkpoint.train_state import FileRecord


class HashedFiles(FileSystemBase):
    """A writer's file system that takes note of the size and checksum of each file as it is written."""

    def __init__(self, inner: FileSystemBase) -> None:
        self._inner = inner
        self.records: dict[str, FileRecord] = {}

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Generator[Any, None, None]:
        with self._inner.create_stream(path, mode) as stream:
            if mode != "wb":
                yield stream
                return
            hashed = _HashedStream(cast(IO[bytes], stream))
            yield hashed
        self.records[os.path.basename(os.fspath(path))] = FileRecord(hashed.size, hashed.digest.hexdigest())

    def rename(self, path: Any, new_path: Any) -> None:
        self._inner.rename(path, new_path)
        record = self.records.pop(os.path.basename(os.fspath(path)))
        self.records[os.path.basename(os.fspath(new_path))] = record

    def concat_path(self, path: Any, suffix: str) -> Any:
        return self._inner.concat_path(path, suffix)

    def init_path(self, path: Any) -> Any:
        return self._inner.init_path(path)

    def mkdir(self, path: Any) -> None:
        self._inner.mkdir(path)

    def exists(self, path: Any) -> bool:
        return self._inner.exists(path)

    def rm_file(self, path: Any) -> None:
        self._inner.rm_file(path)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True


class _HashedStream:
    """A binary file open for writing from its beginning to its end."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.digest = xxhash.xxh3_128()
        self.size = 0
        self.flush: Callable[[], None] = stream.flush
        self.close: Callable[[], None] = stream.close
        self.fileno: Callable[[], int] = stream.fileno

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.digest.update(view)
        self._stream.write(view)
        self.size += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self.size
