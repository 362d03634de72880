import pytest

from dist_plm.spec.rules.paths import name_problems, path_problems


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("", "is empty"),
        (" ", "is empty"),
        ("~/x", "write $HOME/x"),
        ("a\nb", "line break"),
        ("a\rb", "line break"),
        ("a\x07b", "control character"),
        ("a\x85b", "control character"),
        ("a\u2029b", "line break"),
        ("a" * 256, "255 bytes at most for each"),
        ("é" * 128, "255 bytes at most for each"),
        ("a/" * 2048, "4,095 bytes at most"),
        ("s3://x", "is a URL"),
    ],
)
def test_paths_that_cannot_be(path: str, part: str) -> None:
    (problem,) = path_problems("key", path)
    assert problem.startswith("key = ")
    assert part in problem


@pytest.mark.parametrize("path", [None, "a", "/a b/语/ñ", "a" * 255, "a:b", "a//b/", "..", "[x]*?"])
def test_paths_that_can_be(path: str | None) -> None:
    assert list(path_problems("key", path)) == []


def test_what_is_made_leaves_room_for_longer_names() -> None:
    (problem,) = path_problems("key", "a" * 230, made=True)
    assert "220 bytes" in problem


@pytest.mark.parametrize("url", ["memory://a", "file:///a", "simplecache::memory://a", "local://a"])
def test_places_to_write_to(url: str) -> None:
    assert list(path_problems("key", url, url="write")) == []


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("nosuch://a", "no protocol that fsspec knows"),
        ("simplecache::nosuch://a", "no protocol that fsspec knows"),
        ("data://a", "can be read alone"),
        ("memory://a\nb", "line break"),
    ],
)
def test_places_that_cannot_be_written_to(url: str, part: str) -> None:
    (problem,) = path_problems("key", url, url="write")
    assert part in problem


def test_a_place_to_read_from_may_be_read_only() -> None:
    assert list(path_problems("key", "data://a", url="read")) == []


@pytest.mark.parametrize(
    "name", ["", " ", "a/b", ".", "..", "a\nb", "a\x00", "n" * 300, "语" * 80, "\u202e", "a\u2028"]
)
def test_names_that_no_directory_can_have(name: str) -> None:
    assert len(list(name_problems("run.name", name))) == 1


@pytest.mark.parametrize("name", ["a", "a b", "100%", "语" * 70, "it's", "-", "a.b"])
def test_names_that_can_be(name: str) -> None:
    assert list(name_problems("run.name", name)) == []
