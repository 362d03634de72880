import shutil

import pytest

from dist_plm.core import marks
from dist_plm.core.errors import UserError


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_claimed_directory_is_removed_whole(tmp_path):
    ours = tmp_path / "deep" / "mine.partial"
    marks.claim(ours, "store", "choose another")
    (ours / "work").mkdir()
    (ours / "work" / "a").write_text("")
    (ours / "link").symlink_to(tmp_path)
    marks.claim(ours, "store", "choose another")
    marks.remove(ours, "store")
    assert tree(tmp_path) == ["deep"]


def test_an_empty_directory_is_claimed(tmp_path):
    marks.claim(tmp_path / "a", "store", "choose another")
    assert marks.is_marked(tmp_path / "a", "store")
    marks.unmark(tmp_path / "a", "store")
    marks.claim(tmp_path / "a", "store", "choose another")


@pytest.mark.parametrize("kind", ["directory", "file", "link", "dangling link", "of another purpose"])
def test_what_is_not_ours_is_neither_claimed_nor_removed(tmp_path, kind):
    theirs, elsewhere = tmp_path / "mine.old", tmp_path / "elsewhere"
    elsewhere.mkdir()
    marks.mark(elsewhere, "store")
    match kind:
        case "directory":
            theirs.mkdir()
            (theirs / "thesis.txt").write_text("years of work")
        case "file":
            theirs.write_text("years of work")
        case "link":
            theirs.symlink_to(elsewhere)
        case "dangling link":
            theirs.symlink_to(tmp_path / "nowhere")
        case "of another purpose":
            marks.claim(theirs, "checkpoint", "")
    before = tree(tmp_path)
    assert not marks.is_ours_or_free(theirs, "store")
    with pytest.raises(
        UserError, match=r"mine\.old is there already, and was not made by this program: choose another"
    ):
        marks.claim(theirs, "store", "choose another")
    with pytest.raises(UserError, match=r"mine\.old is not removed: it was not made by this program"):
        marks.remove(theirs, "store")
    assert tree(tmp_path) == before


def test_what_a_kill_leaves_of_a_removal_is_still_ours(tmp_path, monkeypatch):
    ours = tmp_path / "mine.old"
    marks.claim(ours, "store", "")
    for name in ("a", "b", "z"):
        (ours / name).mkdir()
    removed = []

    def killed(path, **_):
        if removed:
            raise KeyboardInterrupt
        removed.append(path)
        real(path)

    real = shutil.rmtree
    monkeypatch.setattr(marks.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        marks.remove(ours, "store")
    assert marks.is_marked(ours, "store")
    monkeypatch.undo()
    marks.remove(ours, "store")
    assert tree(tmp_path) == []
