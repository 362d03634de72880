"""Nobody's files but a run's own are touched in its directory of checkpoints, and no two runs share one."""

import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from dist_plm.checkpoint.ownership import NAME, Owner, check_free, claim
from dist_plm.checkpoint.storage import LocalStorage, name_of, open_storage
from dist_plm.core import files
from dist_plm.core.errors import CheckpointError

FIRST, SECOND = Owner("/runs/first", "aaaa"), Owner("/runs/second", "bbbb")


def storage_of(directory, owner=FIRST, start=1):
    storage = open_storage(str(directory))
    storage.mark = f".{owner.name}.{start}"
    return storage


def save(storage, step):
    directory = storage.begin(name_of(step))
    storage.write(b"{}", directory, "checkpoint.json")
    storage.commit(name_of(step))
    storage.write(f"{name_of(step)}\n".encode(), "latest")


def content(place):
    return {str(p.relative_to(place)): p.read_bytes() if p.is_file() else b"" for p in place.rglob("*")}


@pytest.fixture(params=["path", "url"])
def place(request, tmp_path):
    return tmp_path / "shared" if request.param == "path" else f"file://{tmp_path}/shared"


def test_the_first_run_that_begins_there_keeps_it(place, tmp_path):
    first = Owner(str(tmp_path / "first"), "aaaa")
    (tmp_path / "first").mkdir()
    claim(storage_of(place), first)
    for _ in range(2):
        claim(storage_of(place, start=2), first)
        for attempt in (check_free, claim):
            with pytest.raises(CheckpointError, match=r"belongs to the run at .*/first: give this run another"):
                attempt(storage_of(place, SECOND), SECOND)
        save(storage_of(place), 10)
    assert storage_of(place).steps() == [10]


def test_a_run_begins_where_files_have_single_names(tmp_path, monkeypatch):
    """As on exFAT, and where object stores are mounted."""

    def refuse(*arguments):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(files.os, "link", refuse)
    claim(storage_of(tmp_path), FIRST)
    assert list(content(tmp_path)) == [NAME]
    (tmp_path / "elsewhere").mkdir()
    first = Owner(str(tmp_path / "elsewhere"), "aaaa")
    claim(storage_of(tmp_path / "held", first), first)
    with pytest.raises(CheckpointError, match="belongs to the run at"):
        claim(storage_of(tmp_path / "held", SECOND), SECOND)


def test_of_many_that_try_at_once_one_gets_it(tmp_path):
    owners = [Owner(f"/runs/{number}", f"{number}") for number in range(16)]
    save(storage_of(tmp_path), 1)

    def attempt(owner):
        try:
            claim(storage_of(tmp_path, owner), owner)
        except CheckpointError:
            return False
        return True

    with ThreadPoolExecutor(16) as threads:
        assert sum(threads.map(attempt, owners)) == 1


def test_what_was_copied_or_moved_goes_with_its_run(tmp_path):
    runs = tmp_path / "runs"
    first = Owner(str(runs / "first"), "aaaa")
    storage = storage_of(runs / "first" / "checkpoints", first)
    claim(storage, first)
    save(storage, 1)
    shutil.copytree(runs / "first" / "checkpoints", runs / "second" / "checkpoints")
    claim(storage_of(runs / "second" / "checkpoints", SECOND), Owner(str(runs / "second"), "bbbb"))
    claim(storage_of(tmp_path / "elsewhere", first), first)
    save(storage_of(tmp_path / "elsewhere", first), 1)
    copied, moved = Owner(str(runs / "third"), "aaaa"), Owner(str(runs / "first.old"), "aaaa")
    with pytest.raises(CheckpointError, match="belongs to the run at"):
        claim(storage_of(tmp_path / "elsewhere", copied), copied)
    os.rename(runs / "first", runs / "first.old")
    claim(storage_of(tmp_path / "elsewhere", moved), moved)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run_dir": 1}', "\x00\xff"])
def test_a_damaged_claim_is_made_anew(tmp_path, text):
    (tmp_path / NAME).write_text(text)
    claim(storage_of(tmp_path), FIRST)
    save(storage_of(tmp_path), 1)
    with pytest.raises(CheckpointError):
        check_free(storage_of(tmp_path), SECOND)


THEIRS = {
    "a thesis": lambda d: (d / "thesis.tmp").write_text("years of work"),
    "a directory": lambda d: shutil.copytree(d.parent / "years", d / "work.tmp"),
    "a step of others": lambda d: shutil.copytree(d.parent / "years", d / "step_00000010.tmp"),
    "another run's": lambda d: shutil.copytree(d.parent / "years", d / "step_00000010.bbbb.1.tmp"),
    "latest": lambda d: (d / "latest.tmp").write_text("mine"),
    "what is removed": lambda d: shutil.copytree(d.parent / "years", d / "removed.tmp"),
}


@pytest.mark.parametrize("kind", THEIRS)
def test_temporary_files_of_others_stay(tmp_path, kind):
    (tmp_path / "years").mkdir()
    (tmp_path / "years" / "of.tmp").write_text("work")
    place = tmp_path / "checkpoints"
    place.mkdir()
    THEIRS[kind](place)
    before = content(place)
    storage = storage_of(place)
    claim(storage, FIRST)
    storage.begin(name_of(3))
    following = storage_of(place, start=2)
    following.clean()
    for step in (10, 11, 10):
        save(following, step)
    following.remove(name_of(11))
    after = content(place)
    assert {name: after.get(name) for name in before} == before
    assert not [name for name in after if name.startswith("step_00000003")], "what the first start left is gone"


@pytest.mark.parametrize("url", [False, True])
def test_a_directory_of_others_is_no_place_for_checkpoints(tmp_path, url):
    where = f"file://{tmp_path}" if url else tmp_path
    (tmp_path / "step_00000010").mkdir()
    (tmp_path / "step_00000010" / "model.pt").write_text("of another program")
    before = content(tmp_path)
    with pytest.raises(CheckpointError, match=r"step_00000010 in it has no checkpoint\.json"):
        claim(storage_of(where), FIRST)
    with pytest.raises(CheckpointError, match="step_00000010 is there and not of this program"):
        storage_of(where).begin(name_of(10))
    storage_of(where).clean()
    assert content(tmp_path) == before


@pytest.mark.parametrize("kind", ["of DeepSpeed", "directory", "pipe"])
def test_a_latest_of_others_is_not_replaced(tmp_path, kind):
    if kind == "of DeepSpeed":
        (tmp_path / "latest").write_text("global_step10")
    elif kind == "pipe":
        os.mkfifo(tmp_path / "latest")
    else:
        (tmp_path / "latest").mkdir()
    with pytest.raises(CheckpointError, match="the latest in it is not of this program"):
        claim(LocalStorage(tmp_path), FIRST)


def test_a_file_above_is_named(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(CheckpointError, match=r"run/checkpoints cannot be used: \S+/run is no directory"):
        claim(LocalStorage(tmp_path / "run" / "checkpoints"), FIRST)
