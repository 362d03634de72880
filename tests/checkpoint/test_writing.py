"""Saves that fail or are slow: earlier checkpoints stay, nothing half written remains, and the run hears of it."""

import errno
import logging
import threading

import pytest

from dist_plm.checkpoint.reading import find
from dist_plm.checkpoint.retention import Retention
from dist_plm.checkpoint.storage import LocalStorage, _HashedStream
from dist_plm.checkpoint.writing import SaveFailedError
from tests.checkpoint.saving import engine_of, manifest_of, steps, writer_for
from tests.ranks.training import configure

pytestmark = pytest.mark.ranks


def full_disk_on_one_rank(world, directory, config, on_failure, where):
    """Saves step 1, fails to save step 2 as the disk of the last rank is full, saves step 3. What was raised and logged."""
    groups, engine, _ = engine_of(world, config)
    writer = writer_for(directory, groups, background=True, on_failure=on_failure)
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())
    logger = logging.getLogger("dist_plm.checkpoint.writing")
    logger.addHandler(handler)
    raised = ""
    try:
        writer.save(engine.parameter_states(), manifest_of(1, engine))
        writer.wait()
        steps(engine, config, groups, 0, 1)
        owner, name = (_HashedStream, "write") if where == "tensors" else (writer._storage, "write")
        original = getattr(owner, name)

        def fail(*arguments, **options):
            raise OSError(errno.ENOSPC, "No space left on device")

        if world.rank == (world.size - 1 if where == "tensors" else 0):
            setattr(owner, name, fail)
        writer.save(engine.parameter_states(), manifest_of(2, engine))
        while writer.is_saving:
            threading.Event().wait(0.01)
        setattr(owner, name, original)
        writer.report()
        writer.save(engine.parameter_states(), manifest_of(3, engine))
        writer.wait()
    except SaveFailedError as error:
        raised = str(error)
    finally:
        logger.removeHandler(handler)
    found = find("auto", LocalStorage(directory), groups.world)
    assert found is not None
    return found.manifest.step, raised, [line for line in logged if "failed" in line]


@pytest.mark.parametrize("where", ["tensors", "manifest"])
@pytest.mark.parametrize("on_failure", ["continue", "stop"])
def test_a_full_disk_keeps_what_is_there(ranks, tmp_path, on_failure, where):
    outcomes = ranks.run(2, full_disk_on_one_rank, tmp_path, configure(2), on_failure, where)
    for step, raised, logged in outcomes:
        message = raised if on_failure == "stop" else logged[0]
        assert step == (1 if on_failure == "stop" else 3)
        assert bool(raised) == (on_failure == "stop")
        assert "step_00000002" in message
        assert "No space left on device" in message
    expected = [1] if on_failure == "stop" else [1, 3]
    assert LocalStorage(tmp_path).steps() == expected
    assert not list(tmp_path.glob("*.tmp"))


def slow_disk(world, directory, config):
    """Two saves in a row while files take long: what the loop was told, and how many were in flight at once."""
    groups, engine, _ = engine_of(world, config)
    writer = writer_for(directory, groups, background=True, retention=Retention(latest=1))
    storage, original = writer._storage, writer._storage.begin
    release, flying, most = threading.Event(), [0], [0]

    def slow(name):
        flying[0] += 1
        most[0] = max(most[0], flying[0])
        release.wait(30)
        return original(name)

    def complete(name, done=storage.commit):
        done(name)
        flying[0] -= 1

    storage.begin, storage.commit = slow, complete
    writer.save(engine.parameter_states(), manifest_of(1, engine))
    before = writer.is_saving
    steps(engine, config, groups, 0, 2)  # training goes on, and changes what was copied
    threading.Timer(0.5, release.set).start()
    writer.save(engine.parameter_states(), manifest_of(2, engine))
    writer.wait()
    return before, most[0]


def test_one_save_is_in_flight_and_the_next_waits(ranks, tmp_path):
    assert ranks.run(1, slow_disk, tmp_path, configure(1)) == [(True, 1)]
    assert LocalStorage(tmp_path).steps() == [2]


def damaged_newest(world, directory, config):
    groups, engine, _ = engine_of(world, config)
    writer_for(directory, groups).save(engine.parameter_states(), manifest_of(1, engine))
    writer_for(directory, groups).save(engine.parameter_states(), manifest_of(2, engine))
    (directory / "step_00000002" / "__0_0.distcp").write_bytes(b"")
    writer = writer_for(directory, groups, retention=Retention(latest=2))
    writer.save(engine.parameter_states(), manifest_of(3, engine))
    return LocalStorage(directory).steps()


def test_damaged_checkpoints_do_not_push_out_good_ones(ranks, tmp_path):
    assert ranks.run(1, damaged_newest, tmp_path, configure(1)) == [[1, 2, 3]]
