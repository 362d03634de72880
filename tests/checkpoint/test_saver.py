"""Saves that fail or are slow: earlier checkpoints stay, nothing half written remains, and the run hears of it."""

import contextlib
import errno
import logging
import os
import re
import subprocess
import threading
import time

import pytest

from dist_plm.checkpoint import saver
from dist_plm.checkpoint.open_checkpoint import find, open_checkpoint
from dist_plm.checkpoint.retention import Retention
from dist_plm.checkpoint.saver import SaveFailedError
from dist_plm.checkpoint.storage import LocalStorage
from dist_plm.distributed.world import host_group
from tests.checkpoint.saving import engine_of, killed_until_it_fails, pieces, steps, train_state_of, writer_for
from tests.ranks.times import LONG
from tests.ranks.training import configure

pytestmark = pytest.mark.ranks


def logged_by_writing():
    """What is logged from now on."""
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())
    logging.getLogger("dist_plm.checkpoint.saver").handlers = [handler]
    return logged


def let_end(writer):
    while writer.is_saving:
        threading.Event().wait(0.01)


def save_thrice(world, directory, config, on_failure, background, break_second):
    """Saves step 1, fails to save step 2 by what `break_second` does to the writer before and undoes, saves step 3. The
    newest checkpoint then, what was raised, what was logged of the failure, and how many steps were made after it."""
    groups, engine, _ = engine_of(world, config)
    own = host_group(LONG)  # training uses the other while checkpoints are written
    writer = writer_for(directory, groups, group=own, background=background, on_failure=on_failure)
    logged, raised, made = logged_by_writing(), "", 0
    try:
        writer.save(engine.parameter_states(), train_state_of(1, engine))
        writer.report()
        let_end(writer)
        steps(engine, config, groups, 0, 1)
        with break_second(world, directory, writer):
            writer.save(engine.parameter_states(), train_state_of(2, engine))
            made += len(steps(engine, config, groups, 1, 2))
            let_end(writer)
        writer.report()
        writer.save(engine.parameter_states(), train_state_of(3, engine))
        writer.wait()
    except SaveFailedError as error:
        raised = str(error)
    finally:
        logging.getLogger("dist_plm.checkpoint.saver").handlers = []
    found = find("auto", LocalStorage(directory), groups.world)
    assert found is not None
    return found.train_state.step, raised, [line for line in logged if "failed" in line], made


@contextlib.contextmanager
def full_of_others(world, directory, writer):
    """Little room is left on the disk until the end."""
    ballast = directory / "ballast"
    if world.rank == 0:
        free = os.statvfs(directory).f_bavail * os.statvfs(directory).f_frsize
        ballast.write_bytes(bytes(max(0, free - 300_000)))
    yield
    if world.rank == 0:
        ballast.unlink()


@contextlib.contextmanager
def manifest_cannot_be_written(world, directory, writer):
    original = writer._storage.write

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    writer._storage.write = fail
    yield
    writer._storage.write = original


@contextlib.contextmanager
def writer_is_killed(world, directory, writer):
    """That of the last rank, in the middle of its file."""
    original = writer._process.write

    def write(target, parts):
        os.mkfifo(target)  # its end is never opened
        with killed_until_it_fails(writer._process):
            return original(target, parts)

    if world.rank == world.size - 1:
        writer._process.write = write
    yield
    writer._process.write = original


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with room for two checkpoints."""
    where = tmp_path / "disk"
    where.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", where], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("only root may mount a file system")
    yield where
    subprocess.run(["umount", "--lazy", where], check=True)


def check_failure(outcomes, directory, on_failure, words):
    for step, raised, logged, made in outcomes:
        message = raised if on_failure == "stop" else logged[0]
        assert step == (1 if on_failure == "stop" else 3)
        assert bool(raised) == (on_failure == "stop")
        assert "step_00000002" in message
        assert words in message
        assert made == 1, "training goes on until the failure is known"
    assert LocalStorage(directory).steps() == ([1] if on_failure == "stop" else [1, 3])
    assert not list(directory.glob("*.tmp"))


@pytest.mark.parametrize(("on_failure", "background"), [("continue", True), ("stop", True), ("continue", False)])
def test_a_full_disk_keeps_what_is_there(ranks, small_disk, on_failure, background):
    outcomes = ranks.run(2, save_thrice, small_disk, configure(2), on_failure, background, full_of_others)
    check_failure(outcomes, small_disk, on_failure, "No space left on device")


@pytest.mark.parametrize(
    ("on_failure", "how", "words"),
    [
        ("continue", writer_is_killed, "rank 1: the process that writes it was ended by SIGKILL"),
        ("stop", writer_is_killed, "rank 1: the process that writes it was ended by SIGKILL"),
        ("continue", manifest_cannot_be_written, "No space left on device"),
    ],
)
def test_a_save_that_fails_leaves_nothing_and_is_told(ranks, tmp_path, on_failure, how, words):
    outcomes = ranks.run(2, save_thrice, tmp_path, configure(2), on_failure, True, how)
    check_failure(outcomes, tmp_path, on_failure, words)


def slow_disk(world, directory, config):
    """Two saves in a row while files take long: whether the first was in flight after `save`, how many were at once, and
    what was logged."""
    groups, engine, _ = engine_of(world, config)
    logged = logged_by_writing()
    writer = writer_for(directory, groups, background=True)
    storage, original = writer._storage, writer._storage.begin
    release, flying, most = threading.Event(), [0], [0]

    def slow(name):
        flying[0] += 1
        most[0] = max(most[0], flying[0])
        release.wait()
        return original(name)

    def complete(name, done=storage.commit):
        done(name)
        flying[0] -= 1

    storage.begin, storage.commit = slow, complete
    writer.save(engine.parameter_states(), train_state_of(1, engine))
    before = writer.is_saving
    copied = pieces(engine)
    steps(engine, config, groups, 0, 2)  # training goes on, and changes what was copied
    writer.watch()
    assert logged == [], "it is not slow yet"
    writer._began -= saver.SLOW_SECONDS
    for _ in range(3):
        writer.watch()
    threading.Thread(target=release_when_due, args=(logged, release), daemon=True).start()
    writer.save(engine.parameter_states(), train_state_of(2, engine))
    writer.wait()
    logging.getLogger("dist_plm.checkpoint.saver").handlers = []
    found = open_checkpoint(LocalStorage(directory), "step_00000001", groups.world)
    engine.load_parameter_states(found.read)
    for name, parts in pieces(engine).items():
        for (_, _, mine), (_, _, theirs) in zip(parts, copied[name], strict=True):
            assert mine.equal(theirs), name
    return before, most[0], [line for line in logged if "saved" not in line]


def release_when_due(logged, release):
    while not any("when the next save is due" in line for line in logged):
        time.sleep(0.01)
    release.set()


def test_one_save_is_in_flight_and_the_next_waits(ranks, tmp_path):
    ((before, most, logged),) = ranks.run(1, slow_disk, tmp_path, configure(1))
    assert before
    assert most == 1
    slow, due, waited = logged
    assert re.search(r"step_00000001 has been in writing for \d\d+ s", slow)
    assert "step_00000001 is still being written when the next save is due" in due
    assert "training waited" in waited
    assert LocalStorage(tmp_path).steps() == [1, 2]


def damaged_newest(world, directory, config):
    groups, engine, _ = engine_of(world, config)
    writer_for(directory, groups).save(engine.parameter_states(), train_state_of(1, engine))
    writer_for(directory, groups).save(engine.parameter_states(), train_state_of(2, engine))
    (directory / "step_00000002" / "__0_0.distcp").write_bytes(b"")
    writer = writer_for(directory, groups, retention=Retention(latest=2))
    writer.save(engine.parameter_states(), train_state_of(3, engine))
    return LocalStorage(directory).steps()


def test_damaged_checkpoints_do_not_push_out_good_ones(ranks, tmp_path):
    assert ranks.run(1, damaged_newest, tmp_path, configure(1)) == [[1, 2, 3]]
