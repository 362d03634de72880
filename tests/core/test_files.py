import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from dist_plm.core import files
from dist_plm.core.files import atomic_writer, copy_into, link_or_copy, save_array


def refuse(number):
    def call(*arguments):
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [None, errno.EXDEV, errno.EOPNOTSUPP])
def test_contents_are_appended_whatever_the_kernel_can(tmp_path, monkeypatch, number):
    (tmp_path / "a").write_bytes(b"one" * 50_000)
    if number is not None:
        monkeypatch.setattr(os, "copy_file_range", refuse(number), raising=False)
    with atomic_writer(tmp_path / "b") as file:
        file.write(b"zero")
        copy_into(tmp_path / "a", file)
        copy_into(tmp_path / "a", file)
        file.write(b"two")
    assert (tmp_path / "b").read_bytes() == b"zero" + b"one" * 100_000 + b"two"


def test_what_copying_half_begun_leaves_is_copied_too(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(bytes(range(256)))
    whole = os.copy_file_range
    calls = []

    def once(source, target, count):
        calls.append(count)
        return whole(source, target, 100) if len(calls) == 1 else refuse(errno.EINVAL)()

    monkeypatch.setattr(os, "copy_file_range", once)
    with atomic_writer(tmp_path / "b") as file:
        copy_into(tmp_path / "a", file)
    assert (tmp_path / "b").read_bytes() == bytes(range(256))


def test_a_full_disk_is_not_taken_for_a_missing_feature(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"a")
    monkeypatch.setattr(os, "copy_file_range", refuse(errno.ENOSPC), raising=False)
    with pytest.raises(OSError, match="No space"), atomic_writer(tmp_path / "b") as file:
        copy_into(tmp_path / "a", file)
    assert not (tmp_path / "b").exists()


def test_a_file_gets_a_second_name(tmp_path):
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"old")
    for _ in range(2):
        link_or_copy(tmp_path / "a", tmp_path / "b")
        assert (tmp_path / "b").samefile(tmp_path / "a")
    (tmp_path / "a").unlink()
    assert (tmp_path / "b").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_it_is_copied_where_names_are_single(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"new")
    monkeypatch.setattr(files.os, "link", refuse(errno.EPERM))
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"new"
    assert not (tmp_path / "b").samefile(tmp_path / "a")


@pytest.mark.parametrize("dtype", ["<u8", "<i8", [("end", "<i8"), ("high", "<u8")]])
@pytest.mark.parametrize("shape", [(0,), (5,), (4, 2)])
def test_arrays_come_back(tmp_path, dtype, shape):
    array = np.arange(np.prod(shape)).astype(np.dtype(dtype)).reshape(shape)
    with atomic_writer(tmp_path / "a.npy") as file:
        save_array(file, array)
    assert np.array_equal(np.load(tmp_path / "a.npy"), array)


FULL = """
import io, json, resource, signal, sys
from pathlib import Path
import numpy as np
from dist_plm.core.files import atomic_writer, save_array
from dist_plm.data.prepare.documents import Selection
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2500, resource.RLIM_INFINITY))

def save(path):
    with atomic_writer(path) as file:
        save_array(file, np.arange(10**6))

for write in (save, Selection([np.zeros(10**5, np.int8)], {}, ()).save):
    try:
        write(Path(sys.argv[1]))
    except OSError as error:
        print(error.errno)
"""


def test_a_full_disk_is_called_one(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path / "a"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(errno.EFBIG)] * 2
    assert list(tmp_path.iterdir()) == []
