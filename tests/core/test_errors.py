"""What is shown of errors, and how advice is put in place of other advice."""

import ast
import importlib
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

import dist_plm
from dist_plm.core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ReplicasDifferError,
    UserError,
    count_of,
    described,
    reason_of,
    with_remedy,
)

#: Arguments of the errors that take others than one text; their subclasses take the same.
ARGUMENTS: dict[type[UserError], tuple[object, ...]] = {
    ConfigError: (["a = 1 is too small", "b = 2 is too large"],),
    CheckpointError: ("it is damaged", "train anew"),
    ReplicasDifferError: (3, "rank 1 differs from rank 0", "Take another machine."),
}


def raised(act) -> BaseException:
    try:
        act()
    except BaseException as error:
        return error
    raise AssertionError("it went well")


def test_one_thing_is_told_as_one():
    counts = [(1, "rank"), (2, "rank"), (0, "rank"), (1, "process"), (2, "process"), (2, "box"), (2, "microbatch")]
    told = ["1 rank", "2 ranks", "0 ranks", "1 process", "2 processes", "2 boxes", "2 microbatches"]
    assert [count_of(*one) for one in counts] == told
    assert count_of(12345, "row", ",") == "12,345 rows"
    assert str(ConfigError(["a"])).startswith("configuration refused, 1 problem:")
    assert str(ConfigError(["a", "b"])).startswith("configuration refused, 2 problems:")


def throw(error: Exception):
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (Path("nowhere/at/all").read_text, "No such file or directory (nowhere/at/all)"),
        (Path("/").read_bytes, "Is a directory (/)"),
        (throw(OSError("the file ends in the middle")), "the file ends in the middle"),
        (throw(FileNotFoundError("bucket/x")), "no such file (bucket/x)"),
        (lambda: int("9" * 5_000), "it holds a number of more than 4,300 digits"),
        (throw(ValueError("one\ntwo")), "one"),
        (throw(EOFError()), "EOFError"),
        (throw(KeyError("weight_map")), "it has no 'weight_map'"),
    ],
)
def test_reasons_are_words_of_one_line(act, words):
    assert reason_of(raised(act)) == words


def test_a_file_that_is_named_already_is_not_named_twice():
    assert reason_of(raised(Path("nowhere").read_text), "nowhere") == "No such file or directory"


def test_of_a_move_the_place_is_named_that_it_was_to(tmp_path):
    (tmp_path / "a.tmp").touch()
    (tmp_path / "a").mkdir()
    error = raised(lambda: (tmp_path / "a.tmp").replace(tmp_path / "a"))
    assert reason_of(error) == f"Is a directory ({tmp_path}/a)"
    assert reason_of(error, tmp_path / "a") == "Is a directory"


def test_what_nobody_expected_is_told_with_its_kind():
    assert described(KeyError("a")) == "KeyError: 'a'"
    assert described(raised(Path("nowhere").read_text)) == "No such file or directory (nowhere)"
    assert described(DataError("it is empty\nmend it")) == "it is empty\nmend it"


def test_a_remedy_is_replaced_by_that_of_another_command():
    with pytest.raises(CheckpointError, match=r"^it is damaged; name another$") as caught, with_remedy("name another"):
        raise CheckpointError("it is damaged", "train anew")
    assert str(pickle.loads(pickle.dumps(caught.value))) == "it is damaged; name another"
    with pytest.raises(CheckpointError, match=r"^it is damaged$"), with_remedy("name another"):
        raise CheckpointError("it is damaged")


def user_errors() -> Iterator[type[UserError]]:
    """Yields every error of the package that users see without a traceback."""
    root = Path(dist_plm.__file__).parent
    for file in root.rglob("*.py"):
        text = file.read_text()
        for found in ast.walk(ast.parse(text)) if "Error" in text else ():
            if isinstance(found, ast.ClassDef) and any("Error" in ast.unparse(base) for base in found.bases):
                name = ".".join(file.relative_to(root.parent).with_suffix("").parts)
                kind = getattr(importlib.import_module(name), found.name)
                if issubclass(kind, UserError):
                    yield kind


def test_an_error_is_the_same_in_another_process():
    kinds = set(user_errors())
    assert kinds > {*ARGUMENTS}
    for kind in kinds:
        (arguments,) = [ARGUMENTS[one] for one in kind.__mro__ if one in ARGUMENTS] or [("it is wrong",)]
        error = kind(*arguments)
        error.add_note("seen on rank 1")
        there = pickle.loads(pickle.dumps(error))
        assert type(there) is kind
        assert (str(there), there.args, vars(there)) == (str(error), error.args, vars(error))
        assert there.exit_code == error.exit_code
