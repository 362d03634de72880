import contextlib
import gc
import itertools
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import psutil
import pytest
import torch

from dist_plm.core.errors import DataError
from dist_plm.data.loader.microbatch_loader import LoaderError, MicrobatchLoader
from dist_plm.data.sampling.windows import WindowDataset
from dist_plm.data.store.store import TokenStore, TokenStoreWriter

from . import collates


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    prefix = tmp_path_factory.mktemp("loader") / "s"
    with TokenStoreWriter(prefix, np.dtype(np.uint16)) as writer:
        writer.add_document(range(8 * 40 + 1))
    return WindowDataset(TokenStore.open(prefix), sequence_length=8, seed=1)


def loader(dataset, collate=collates.plain, **changes):
    arguments = {
        "micro_batch": 2,
        "global_batch": 8,
        "data_rank": 1,
        "data_size": 2,
        "start_step": 0,
        "stop_step": 6,
        "num_workers": 1,
        "prefetch": 2,
    }
    return MicrobatchLoader(dataset, collate, **{**arguments, **changes})


@pytest.fixture(autouse=True)
def others():
    """Processes of this one that other tests keep, such as the pool of ranks; they do not count here."""
    OTHERS.clear()
    OTHERS.update(alive())


OTHERS: set[psutil.Process] = set()


def alive() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if _is_running(p.pid)]


def children() -> list[psutil.Process]:
    return [process for process in alive() if process not in OTHERS]


def open_files() -> set[tuple[str, str]]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
    return found


def as_lists(batches):
    return [{name: tensor.tolist() for name, tensor in batch.items()} for batch in batches]


def test_yields_the_ranks_samples_in_order(dataset):
    batches = list(loader(dataset, num_workers=0))
    assert [b["samples"].tolist() for b in batches[:4]] == [[4, 5], [6, 7], [12, 13], [14, 15]]
    assert len(batches) == len(loader(dataset)) == 12
    for batch in batches:
        expected = dataset.read(batch["samples"].numpy()).tokens
        assert batch["tokens"].tolist() == expected[:, :-1].tolist()
        assert batch["labels"].tolist() == expected[:, 1:].tolist()
        assert all(t.is_contiguous() for t in batch.values())
        assert batch["tokens"].dtype == torch.int64


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_any_number_of_workers_gives_the_same_batches(dataset, workers):
    assert as_lists(loader(dataset, num_workers=workers)) == as_lists(loader(dataset, num_workers=0))


def test_ranks_and_microbatches_together_cover_every_step(dataset):
    for data_size, micro_batch in [(1, 8), (2, 2), (4, 1)]:
        seen = []
        for rank in range(data_size):
            for batch in loader(
                dataset, data_size=data_size, data_rank=rank, micro_batch=micro_batch, stop_step=2, num_workers=0
            ):
                seen += batch["samples"].tolist()
        assert sorted(seen) == list(range(16))


def test_resuming_continues_the_same_stream(dataset):
    whole = as_lists(loader(dataset, num_workers=0))
    assert as_lists(loader(dataset, start_step=4)) == whole[8:]
    assert as_lists(loader(dataset, start_step=6)) == []


def test_dtypes_and_layouts_survive(dataset):
    for workers in (0, 1):
        batch = next(iter(loader(dataset, collates.read_only, num_workers=workers)))
        assert [batch[k].dtype for k in ("tokens", "mask", "weights")] == [torch.int64, torch.bool, torch.float32]
        batch["tokens"].add_(1)  # writable, and no element shares memory with another
        assert torch.equal(batch["tokens"][:, 0], batch["tokens"][:, 1])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_refusal_arrives_as_itself(dataset, workers):
    batches = iter(loader(dataset, collates.FailAt(14, "refuse"), num_workers=workers))
    assert [next(batches)["samples"][0].item() for _ in range(3)] == [4, 6, 12]
    with pytest.raises(DataError, match=r"^this corpus is no good$"):
        next(batches)
    assert children() == []


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raise", r"a data worker failed:\n(.|\n)*ZeroDivisionError: on purpose"),
        ("unpicklable", r"a data worker failed:\n(.|\n)*cannot travel"),
        ("kill", r"a data worker was ended by SIGKILL, .* lack of memory"),
        ("exit", r"a data worker ended early with exit code 3"),
    ],
)
def test_failures_of_a_worker_reach_the_consumer(dataset, how, message):
    batches = iter(loader(dataset, collates.FailAt(14, how), num_workers=2))
    assert [next(batches)["samples"][0].item() for _ in range(3)] == [4, 6, 12]
    with pytest.raises(LoaderError, match=message):
        next(batches)
    assert children() == []


def test_a_worker_that_cannot_start_is_reported(dataset, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(LoaderError, match="ended early with exit code 1"):
        next(iter(loader(dataset)))


@pytest.mark.parametrize("way", ["exhaust", "break", "close", "forget", "error"])
def test_nothing_is_left_behind(dataset, way):
    files, threads = open_files(), set(threading.enumerate())  # some of other tests may go meanwhile
    source = loader(dataset, num_workers=2, prefetch=1, stop_step=6 if way == "exhaust" else 1000)
    batches = iter(source)
    next(batches)
    assert way == "exhaust" or len(children()) == 2  # where little is asked for, a worker may be done by now
    if way == "exhaust":
        list(batches)
    elif way == "close":
        source.close()
        with pytest.raises(StopIteration):
            next(batches)
    elif way == "error":
        children()[0].kill()
        with pytest.raises(LoaderError):
            list(batches)
    if way == "break":
        for _ in batches:
            break
    del batches
    gc.collect()
    assert children() == []
    assert open_files() <= files
    assert set(threading.enumerate()) <= threads


def test_an_unused_iterator_starts_nothing(dataset):
    source = loader(dataset)
    batches = iter(source)
    assert children() == []
    source.close()
    assert list(batches) == []


def test_each_iteration_starts_over(dataset):
    source = loader(dataset, num_workers=1)
    first, second = iter(source), iter(source)
    assert as_lists(itertools.islice(first, 3)) == as_lists(itertools.islice(second, 3))
    source.close()
    assert children() == []


def test_workers_run_ahead_but_not_without_bound(dataset, tmp_path):
    made = tmp_path / "made"
    source = loader(dataset, collates.Counted(made), stop_step=10**6, num_workers=1, prefetch=3)
    batches = iter(source)
    next(batches)
    _wait_until(lambda: made.stat().st_size > 4)
    before = -1
    while made.stat().st_size != before:  # until it waits
        before = made.stat().st_size
        time.sleep(0.3)
    assert before < 1_000_000  # of 4 million
    source.close()


def test_signals_to_the_job_do_not_stop_a_worker(dataset):
    source = loader(dataset, collates.signals_its_process_group)
    assert as_lists(source) == as_lists(loader(dataset, num_workers=0))


def test_workers_do_not_import_torch(dataset):
    assert not next(iter(loader(dataset, collates.modules)))["torch"].any()


def test_workers_end_when_the_trainer_is_killed(dataset, tmp_path):
    (tmp_path / "dataset.pickle").write_bytes(pickle.dumps(dataset))
    program = f"""
        import os, pickle, signal, sys
        sys.path.insert(0, {os.path.dirname(os.path.dirname(__file__))!r})
        from {collates.__package__}.collates import plain
        from dist_plm.data.loader.microbatch_loader import MicrobatchLoader
        dataset = pickle.load(open({str(tmp_path / "dataset.pickle")!r}, "rb"))
        batches = iter(MicrobatchLoader(dataset, plain, micro_batch=2, global_batch=2, data_rank=0, data_size=1,
                                        start_step=0, stop_step=10**6, num_workers=2))
        next(batches)
        print(open(f"/proc/{{os.getpid()}}/task/{{os.getpid()}}/children").read(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    workers = [int(pid) for pid in result.stdout.split()]
    assert len(workers) == 2, result.stderr
    _wait_until(lambda: not any(_is_running(pid) for pid in workers))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_pinned_memory(dataset):
    for workers in (0, 1):
        batch = next(iter(loader(dataset, num_workers=workers, pin_memory=True)))
        assert all(tensor.is_pinned() for tensor in batch.values())


def _is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait_until(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.02)
