import errno
import os

import pytest

from dist_plm.core import files
from dist_plm.core.files import atomic_writer, copy_into, create_file, link_or_copy, output_writer


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


@pytest.mark.parametrize("number", [None, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_name_is_taken_once(tmp_path, monkeypatch, number):
    if number is not None:
        monkeypatch.setattr(files.os, "link", refuse(number))
    create_file(tmp_path / "a", b"first")
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "a", b"second")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"first")]


def test_no_half_of_a_file_takes_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "link", refuse(errno.EPERM))
    monkeypatch.setattr(files.os, "fsync", refuse(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        create_file(tmp_path / "a", b"first")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_not_taken_for_single_names(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "link", refuse(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        create_file(tmp_path / "a", b"first")
    assert list(tmp_path.iterdir()) == []


def test_a_file_does_not_appear_where_the_guard_refuses(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    seen = []

    def guard():
        seen.append({path.name: path.read_bytes() for path in tmp_path.iterdir()})
        raise PermissionError

    with pytest.raises(PermissionError), atomic_writer(tmp_path / "a", temporary="mine", guard=guard) as file:
        file.write(b"new")
    assert seen == [{"a": b"old", "mine": b"new"}], "all is written before it is asked"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


@pytest.mark.parametrize("sync", [True, False])
def test_files_reach_the_disk_before_they_appear(tmp_path, monkeypatch, sync):
    synced, whole = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (synced.append((tmp_path / "a").exists()), whole(number)))
    with atomic_writer(tmp_path / "a", sync=sync) as file:
        file.write(b"new")
    assert synced == ([False] if sync else [])
    assert (tmp_path / "a").read_bytes() == b"new"


def test_what_a_person_names_replaces_files_and_touches_no_other(tmp_path):
    for name in ("out", "out.tmp", ".out.tmp"):
        (tmp_path / name).write_text("theirs")
    with output_writer(tmp_path / "out") as file:
        file.write(b"ours")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "out": "ours",
        "out.tmp": "theirs",
        ".out.tmp": "theirs",
    }


@pytest.mark.parametrize("kind", ["a pipe", "a link", "directory", "no name"])
def test_what_is_no_file_is_not_replaced(tmp_path, kind):
    """Of root /dev/null would be a file from then on."""
    path = tmp_path / "out"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a link":
        path.symlink_to("/dev/null")
    elif kind == "directory":
        path.mkdir()
    else:
        path = type(path)("")
    before = sorted((entry.name, entry.lstat().st_ino) for entry in tmp_path.iterdir())
    with pytest.raises(OSError, match=kind), output_writer(path) as file:
        file.write(b"ours")
    assert sorted((entry.name, entry.lstat().st_ino) for entry in tmp_path.iterdir()) == before
