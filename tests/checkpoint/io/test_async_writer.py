"""The process that writes files: what it writes, what it tells, and when it ends."""

import contextlib
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_plm.checkpoint.io import direct_io
from dist_plm.checkpoint.io.async_writer import WriterFailedError, WriterProcess
from dist_plm.checkpoint.io.direct_io import write_file
from dist_plm.checkpoint.io.host_memory import HostMemory
from dist_plm.checkpoint.train_state import checksum
from tests.checkpoint.saving import killed_until_it_fails

PARTS = [b"before", (0, 40_000), b"", (4, 8), b"after"]


@pytest.fixture
def memory():
    memory = HostMemory()
    memory.take((10_000,), pinned=False).copy_(torch.randn(10_000))
    return memory


@pytest.fixture
def process(memory):
    process = WriterProcess(memory.fd)
    yield process
    process.close()


def expected(memory):
    values = os.pread(memory.fd, 40_000, 0)
    return b"before" + values + values[4:12] + b"after"


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_it_writes_shared_memory_and_tells_the_checksum(memory, process, tmp_path, scheme):
    record = process.write(f"{scheme}{tmp_path}/file", PARTS)
    content = (tmp_path / "file").read_bytes()
    assert content == expected(memory)
    assert record == (len(content), checksum(content))


def test_blocks_need_not_fit_pages(memory, tmp_path, monkeypatch):
    monkeypatch.setattr(direct_io, "BLOCK_BYTES", 5000)
    write_file(str(tmp_path / "file"), direct_io.shared_blocks(memory.fd, [(100, 30_000)]))
    assert (tmp_path / "file").read_bytes() == os.pread(memory.fd, 30_000, 100)


def test_what_it_ran_into_is_told_and_it_goes_on(process, tmp_path):
    with pytest.raises(WriterFailedError, match=r"No such file or directory .*nowhere"):
        process.write(str(tmp_path / "nowhere" / "file"), PARTS)
    pid = process.pid
    process.write(str(tmp_path / "file"), PARTS)
    assert process.pid == pid


def test_its_death_is_told_and_another_takes_its_place(process, tmp_path):
    os.mkfifo(tmp_path / "pipe")  # which nobody reads: it waits
    process.write(str(tmp_path / "file"), PARTS)
    with killed_until_it_fails(process), pytest.raises(WriterFailedError, match="SIGKILL"):
        process.write(str(tmp_path / "pipe"), PARTS)
    process.write(str(tmp_path / "file"), PARTS)
    os.kill(process.pid, signal.SIGKILL)  # while it has nothing to do: no harm
    psutil.Process(process.pid).wait(120)
    process.write(str(tmp_path / "file"), PARTS)


def test_signals_for_the_run_do_not_reach_it(process, tmp_path):
    process.write(str(tmp_path / "file"), PARTS)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        os.kill(process.pid, number)
    process.write(str(tmp_path / "file"), PARTS)


def test_it_imports_no_pytorch():
    code = f"import runpy, sys; runpy.run_path({direct_io.__file__!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


RANK = """
import os, sys, time
from dist_plm.checkpoint.io.async_writer import WriterProcess
memory = os.memfd_create("memory")
os.ftruncate(memory, 400)
process = WriterProcess(memory)
process.write(sys.argv[1], [b"x"])
worker = os.fork()
if worker == 0:  # which outlives the rank, and holds its end of the connection
    time.sleep(600)
    os._exit(0)
print(process.pid, worker, flush=True)
if sys.argv[2] == "busy":
    process.write(sys.argv[1], [(0, 400)] * 10**6)
time.sleep(600)
"""


@pytest.mark.parametrize("doing", ["nothing", "busy"])
def test_it_does_not_outlive_its_rank(tmp_path, doing):
    argv = [sys.executable, "-c", RANK, str(tmp_path / "file"), doing]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "."}) as rank:
        try:
            assert rank.stdout is not None
            pid, worker = map(int, rank.stdout.readline().split())
            writer = psutil.Process(pid)
            if doing == "busy":
                wait_until(lambda: (tmp_path / "file").stat().st_size != 1)
            assert writer.is_running()
            assert psutil.pid_exists(worker)
        finally:
            rank.kill()
        writer.wait(120)
        os.kill(worker, signal.SIGKILL)


def wait_until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 30_000), max_size=12), st.booleans())
def test_blocks_of_any_size_make_the_file(sizes, past_the_cache):
    with (
        tempfile.NamedTemporaryFile() as file,
        mock.patch.multiple(direct_io, BLOCK_BYTES=8192, DIRECT_BYTES=4096),
        contextlib.nullcontext() if past_the_cache else mock.patch.object(os, "O_DIRECT", 0),
    ):
        content = [os.urandom(size) for size in sizes]
        blocks = []
        for one in content:
            page = mmap.mmap(-1, max(1, len(one)))  # memory that begins at a page
            page[: len(one)] = one
            blocks.append(memoryview(page)[: len(one)])
        size, digest = write_file(file.name, blocks)
        written = Path(file.name).read_bytes()
        assert written == b"".join(content)
        assert (size, digest) == (len(written), checksum(written))


def test_memory_that_begins_elsewhere_is_written_by_way_of_the_cache(tmp_path):
    content = os.urandom(3 * direct_io.DIRECT_BYTES)
    block = memoryview(b"x" + content)[1:]
    assert write_file(str(tmp_path / "file"), [block]) == (len(content), checksum(content))
    assert (tmp_path / "file").read_bytes() == content
