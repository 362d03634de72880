import fcntl
import os
from pathlib import Path

import pytest

from dist_plm.core import marks
from dist_plm.core.errors import CheckpointError
from dist_plm.tasks.convert.directories import as_path, fresh_directory, refuse_unless_fresh


def fill(to, name="weights"):
    with fresh_directory(str(to)) as directory:
        Path(directory, name).touch()


def test_a_directory_is_whole_or_absent(tmp_path):
    fill(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["weights"], "no mark stays"
    with pytest.raises(ZeroDivisionError), fresh_directory(str(tmp_path / "other")):
        _ = 1 / 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["out.tmp", "out.1234abcd.tmp", "out.mine.tmp"])
def test_nothing_of_others_is_removed(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis").write_text("years of work")
    fill(tmp_path / "out")
    with pytest.raises(ZeroDivisionError), fresh_directory(str(tmp_path / "out")):
        _ = 1 / 0
    assert (tmp_path / name / "thesis").read_text() == "years of work"


def test_what_a_kill_left_is_removed_but_not_what_is_at_work(tmp_path):
    for name in ("out.aaaa.tmp", "out.bbbb.tmp", "outer.cccc.tmp"):
        marks.claim(tmp_path / name, "convert", "")
    at_work = os.open(tmp_path / "out.bbbb.tmp", os.O_RDONLY)
    fcntl.flock(at_work, fcntl.LOCK_EX)
    fill(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.bbbb.tmp", "outer.cccc.tmp"]
    os.close(at_work)


def test_of_two_at_once_one_is_refused(tmp_path):
    with (
        pytest.raises(CheckpointError, match="was made by another program meanwhile"),
        fresh_directory(str(tmp_path / "out")),
    ):
        fill(tmp_path / "out", "first")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["first"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_directory_and_a_link_to_one_are_filled(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to("elsewhere")
    fill(tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "elsewhere" / "weights").exists()
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(CheckpointError, match="dangling is there already"):
        refuse_unless_fresh(str(tmp_path / "dangling"))


def test_what_is_told_to_go_on_with_is_a_path():
    assert [as_path(to) for to in ("imported", "a/b", "/a", "s3://b/c")] == ["./imported", "a/b", "/a", "s3://b/c"]
