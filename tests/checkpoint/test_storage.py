"""Object stores by way of fsspec's memory file system; local directories are tested by all that save, and here where one is
replaced."""

import os
from dataclasses import replace
from itertools import count

import fsspec
import pytest

from dist_plm.checkpoint.fragments import ReplicaRank
from dist_plm.checkpoint.open_checkpoint import find
from dist_plm.checkpoint.retention import Retention
from dist_plm.checkpoint.saver import CheckpointWriter, SaveFailedError
from dist_plm.checkpoint.storage import LocalStorage, Storage, open_storage, step_of
from dist_plm.checkpoint.train_state import encode
from tests.checkpoint.saving import engine_of, pieces, steps, train_state_of
from tests.ranks.training import configure


def test_names():
    assert step_of("step_00000100") == 100
    assert step_of("step_123456789") == 123456789
    assert [step_of(n) for n in ("step_00000100.tmp", "step_1", "latest", "xstep_00000100")] == [None] * 4
    assert type(open_storage("memory://a/b")) is Storage
    assert type(open_storage("some/where")) is LocalStorage


def save_three_and_open(world, url, config):
    """In one process: the memory file system is its own."""
    groups, engine, _ = engine_of(world, config)
    storage = open_storage(url)
    writer = CheckpointWriter(
        storage,
        group=groups.world,
        place=ReplicaRank.of(groups),
        retention=Retention(latest=2),
        background=True,
        on_failure="stop",
        attachments={"run.yaml": "run: {}\n"},
    )
    for step in range(3):
        steps(engine, config, groups, step, step + 1)
        writer.save(engine.parameter_states(), train_state_of(step + 1, engine))
    writer.wait()
    assert storage.steps() == [2, 3]
    held = pieces(engine)
    steps(engine, config, groups, 3, 4)
    found = find("auto", storage, groups.world)
    assert found is not None
    assert found.train_state.step == 3
    engine.load_parameter_states(found.read)
    for name, parts in pieces(engine).items():
        for (_, _, mine), (_, _, theirs) in zip(parts, held[name], strict=True):
            assert mine.equal(theirs), name
    assert storage.read("step_00000003", "run.yaml") == b"run: {}\n"
    by_url = find(f"{url}/step_00000002", LocalStorage("nowhere"), groups.world)
    assert by_url is not None
    assert by_url.train_state.step == 2
    fs = fsspec.filesystem("memory")
    fs.rm(f"{url.removeprefix('memory:/')}/step_00000003/checkpoint.json")
    assert storage.steps() == [2], "what has no train state is not complete"
    storage.clean()
    assert not storage.exists("step_00000003")


@pytest.mark.ranks
def test_a_url_of_fsspec_serves_like_a_directory(ranks):
    ranks.run(1, save_three_and_open, "memory://bucket/run", configure(1))


@pytest.mark.ranks
def test_local_files_by_url(ranks, tmp_path):
    url = f"file://{tmp_path}/run"
    ranks.run(1, save_and_open_by_url, url, configure(1))
    assert (tmp_path / "run" / "latest").read_text() == "step_00000001\n"


def amended(world, url, config):
    """Adds what was measured since to a checkpoint, with its tensors there all the time, and to one that is not there."""
    groups, engine, _ = engine_of(world, config)
    storage = open_storage(url)
    retention = Retention(latest=2, best="loss")
    place = ReplicaRank.of(groups)
    writer = CheckpointWriter(
        storage, group=groups.world, place=place, retention=retention, background=False, on_failure="stop"
    )
    storage.clean()
    writer.save(engine.parameter_states(), train_state_of(1, engine))

    def refuse(*_):
        raise AssertionError("the checkpoint is away")

    storage.remove = storage.begin = refuse
    assert writer.amend(train_state_of(1, engine, evaluation={"loss": 2.0}))
    assert not writer.amend(train_state_of(2, engine))
    assert storage.read("best") == storage.read("latest") == b"step_00000001\n"
    found = find("auto", storage, groups.world)
    assert found is not None
    assert found.train_state.evaluation == {"loss": 2.0}
    engine.load_parameter_states(found.read)
    weights_alone = replace(found.train_state, engine={})
    storage.write(encode(weights_alone), "step_00000001", "checkpoint.json")
    assert not writer.amend(train_state_of(1, engine)), "the run holds more by now"
    storage.write = refuse
    writer._kept.read = lambda step: found.train_state
    assert writer.amend(train_state_of(1, engine))
    with pytest.raises(SaveFailedError, match="the checkpoint is away"):
        writer.report()


@pytest.mark.ranks
def test_a_checkpoint_is_amended_in_place(ranks):
    ranks.run(1, amended, "memory://bucket/amended", configure(1))


def save_and_open_by_url(world, url, config):
    groups, engine, _ = engine_of(world, config)
    writer = CheckpointWriter(
        open_storage(url),
        group=groups.world,
        place=ReplicaRank.of(groups),
        retention=Retention(latest=2),
        background=False,
        on_failure="stop",
    )
    writer.save(engine.parameter_states(), train_state_of(1, engine))
    found = find("auto", open_storage(url), groups.world)
    assert found is not None
    engine.load_parameter_states(found.read)


class Killed(BaseException):
    """Stands for the end of a process, which nothing catches."""


#: What changes names in a directory.
DEEDS = ("rename", "replace", "unlink", "rmdir", "mkdir")
PLACE = "step_00000003"


def storage_of(place, start):
    storage = open_storage(str(place))
    storage.mark = f".aaaa.{start}"
    return storage


def write(storage, text):
    """Saves a checkpoint of step 3, two files of which hold `text`."""
    directory = storage.begin(PLACE)
    for file in ("__0_0.distcp", "checkpoint.json"):
        storage.write(text, directory, file)
    storage.commit(PLACE)


def held(place):
    return {(place / PLACE / file).read_bytes() for file in ("__0_0.distcp", "checkpoint.json")}


def kill_at(patched, moment):
    """Ends this process at its `moment`-th change, of which none comes after."""
    made = count(1)

    def dying(original):
        def deed(*arguments, **options):
            if next(made) >= moment:
                raise Killed
            return original(*arguments, **options)

        return deed

    for name in DEEDS:
        patched.setattr(os, name, dying(getattr(os, name)))


def is_killed(monkeypatch, moment, deed):
    """Whether it came to that moment."""
    with monkeypatch.context() as patched:
        kill_at(patched, moment)
        try:
            deed()
        except Killed:
            return True
    return False


def test_a_checkpoint_that_is_replaced_is_there_after_a_kill_at_any_moment(tmp_path, monkeypatch):
    found = []
    for moment in count(1):
        place = tmp_path / str(moment)
        write(storage_of(place, 1), b"old")
        was_killed = is_killed(monkeypatch, moment, lambda place=place: write(storage_of(place, 2), b"new"))
        storage_of(place, 3).clean()
        assert [path.name for path in place.iterdir()] == [PLACE], moment
        (text,) = held(place)
        found.append(text)
        if not was_killed:
            break
    assert found == sorted(found, reverse=True), "once the new one is there, it stays"
    assert {found[0], found[-1]} == {b"old", b"new"}


def test_a_kill_while_one_is_removed_leaves_it_whole_or_not_at_all(tmp_path, monkeypatch):
    for moment in count(1):
        place = tmp_path / str(moment)
        write(storage_of(place, 1), b"old")
        was_killed = is_killed(monkeypatch, moment, lambda place=place: storage_of(place, 2).remove(PLACE))
        storage_of(place, 3).clean()
        assert not list(place.glob("*.tmp"))
        assert not (place / PLACE).exists() or held(place) == {b"old"}
        if not was_killed:
            break


def test_a_checkpoint_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    """The new one does not get its name; it is removed then, as what saves does."""
    write(storage_of(tmp_path, 1), b"old")
    storage, rename = storage_of(tmp_path, 2), os.rename

    def refuse(source, target):
        if os.path.basename(source).startswith(f"{PLACE}."):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        write(storage, b"new")
    assert held(tmp_path) == {b"old"}
