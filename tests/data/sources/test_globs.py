import glob
import os

import pytest

from dist_plm.core.errors import DataError
from dist_plm.data.sources.globs import matching_files
from tests.fuzz import child


@pytest.fixture
def texts(tmp_path, monkeypatch):
    for name in ("a.txt", "b.csv", "x/c.txt", "x/.d/e.txt", "x/y/z/f.txt", "x/y/g[1].txt", ".h.txt", "k/l.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


PATTERNS = (
    "*.txt",
    "**/*.txt",
    "x/**",
    "**/y/**/*.txt",
    "x/**/z/*",
    "*/**/*.txt",
    "./**/*.txt",
    "**/*[a-f].*",
    "?/*.txt",
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_mean_what_glob_says(texts, pattern):
    for full in (pattern, str(texts / pattern)):
        assert matching_files(full) == sorted(p for p in glob.glob(full, recursive=True) if not os.path.isdir(p))


def test_links_to_folders_are_followed_and_lead_to_each_file_once(texts):
    (texts / "x" / "y" / "round").symlink_to(texts)
    (texts / "x" / "again").symlink_to(texts / "x")
    (texts / "0").symlink_to(texts / "x" / "y")
    assert matching_files("**/*.txt") == ["a.txt", "k/l.txt", "x/c.txt", "x/y/g[1].txt", "x/y/z/f.txt"]
    elsewhere = texts.with_name(texts.name + "_elsewhere")
    elsewhere.mkdir()
    (elsewhere / "m.txt").write_text("m")
    (texts / "out").symlink_to(elsewhere)
    assert "out/m.txt" in matching_files("**/*.txt")


def test_two_links_to_their_own_folder_make_no_forest(texts):
    for name in ("one", "two", "three"):
        (texts / name).symlink_to(texts)
    assert len(matching_files("**/*.txt")) == 5


def test_hard_links_and_links_to_files_are_read_once(texts):
    os.link("x/c.txt", "0.txt")
    os.symlink("a.txt", "b.txt")
    assert matching_files("**/*.txt") == ["0.txt", "a.txt", "k/l.txt", "x/y/g[1].txt", "x/y/z/f.txt"]


def test_brackets_in_a_name_are_found(texts):
    assert matching_files("x/y/g[1].txt") == ["x/y/g[1].txt"]
    (texts / "set[2]").mkdir()
    (texts / "set[2]" / "n.txt").write_text("n")
    assert matching_files("set[2]/*.txt") == ["set[2]/n.txt"]
    (texts / "x" / "y" / "g1.txt").write_text("another")
    with pytest.raises(DataError, match=r"write 'x/y/g\[\[\]1\]\.txt' for the file, or give it another name"):
        matching_files("x/y/g[1].txt")
    assert matching_files("x/y/g[[]1].txt") == ["x/y/g[1].txt"]


def test_nothing_matched_is_said(texts):
    with pytest.raises(DataError, match=r"no file matches 'x/\*\.pdf', seen from /"):
        matching_files("x/*.pdf")
    with pytest.raises(DataError, match=r"it is a directory, whose text files are x/\*\.txt"):
        matching_files("x/")
    with pytest.raises(DataError, match="no file matches"):
        matching_files("y/**/*.txt")


@pytest.mark.parametrize("pattern", ["**/*.txt", "*/*.txt", "x/**", "x/*.txt", "x/y/*.txt"])
def test_a_folder_that_may_not_be_looked_into_is_no_empty_one(texts, pattern):
    (texts / "x").chmod(0)
    (texts / "lost+found").mkdir(mode=0)

    def find() -> int:
        child.give_up_root()
        with pytest.raises(DataError, match="cannot look into x: Permission denied"):
            matching_files(pattern)
        assert matching_files("*.txt") == ["a.txt"]
        assert matching_files("[kl]*/*.txt") == ["k/l.txt"]
        return 0

    ended = child.run(find, texts)
    (texts / "x").chmod(0o700)
    assert ended.code == 0, ended.error
