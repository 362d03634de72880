"""Paths in a run.yaml lead to the same from anywhere."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dist_plm.config.decode import decode, encode
from dist_plm.config.runfile import STARTED_IN
from dist_plm.config.stored_paths import PATHS, located
from dist_plm.core.errors import ConfigError
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema import PretrainConfig
from dist_plm.spec.schema_finetune import FinetuneConfig
from tests.spec.make import pretrain
from tests.train.finetuning import settings as finetune


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in which runs were started; the test is in another."""
    for name in ("data/store", "data/tokenizer", "runs/one/tokenizer", "runs/one/checkpoints", "kept"):
        (tmp_path / "tree" / name).mkdir(parents=True)
    (tmp_path / "tree/data/pair.idx").touch()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "tree"


def run(run_dir: str = "runs/one", started: Any = None, **data: Any) -> dict[str, Any]:
    found = {"run": {"dir": run_dir}, "data": data, "checkpoint": {"dir": None}}
    return found if started is None else {STARTED_IN: str(started), **found}


def test_the_directory_of_the_start_is_where_it_was_or_where_the_run_is_now(tree: Path) -> None:
    one = f"{tree}/runs/one"
    there = {"path": f"{tree}/data/store"}
    assert located(run(started=tree, path="data/store"))["data"] == there
    for started in (tree, "/gone", None):  # of runs of before it is not known
        assert located(run(started=started, path="data/store"), run_dir=one)["data"] == there
        assert located(run(started=started, path="data/store"), checkpoints=f"{one}/checkpoints")["data"] == there
    assert located(run(run_dir="/gone/runs/one", started="/gone", path="data/store"), run_dir=one)["data"] == there
    assert STARTED_IN not in located(run(started=tree))


def test_checkpoints_in_a_place_of_their_own_tell_it_too(tree: Path) -> None:
    settings = {**run(started="/gone", tokenizer="data/tokenizer"), "checkpoint": {"dir": "kept"}}
    assert located(settings, checkpoints=f"{tree}/kept")["data"] == {"tokenizer": f"{tree}/data/tokenizer"}


def test_what_is_in_the_run_is_found_after_it_was_renamed(tree: Path) -> None:
    (tree / "runs/one").rename(tree / "runs/two")
    for started, told in ((tree, "runs/one"), (None, "runs/one"), (tree, f"{tree}/runs/one")):
        settings = run(told, started, tokenizer=f"{told}/tokenizer")
        found = located(settings, checkpoints=f"{tree}/runs/two/checkpoints")
        assert found["data"] == {"tokenizer": f"{tree}/runs/two/tokenizer"}
        assert found["run"] == {"dir": f"{tree}/runs/two"}


def test_paths_of_every_kind(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PART", "store")
    blend = [{"path": "data/store"}, {"path": "data/pair"}, {"path": "data/${oc.env:PART}"}, {"path": "s3://a/data"}]
    found = located(run(started=tree, blend=blend, train="data/*.idx", validation="nowhere", test="/data/store"))
    assert found["data"] == {
        "blend": [
            {"path": f"{tree}/data/store"},
            {"path": f"{tree}/data/pair"},
            {"path": f"{tree}/data/${{oc.env:PART}}"},
            {"path": "s3://a/data"},
        ],
        "train": f"{tree}/data/*.idx",
        "validation": "nowhere",
        "test": "/data/store",
    }


def test_in_the_same_directory_they_stay_as_they_were_given(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    settings = run(started=tree, path="data/store", tokenizer="./data/tokenizer")
    assert located(settings, run_dir="runs/one")["data"] == settings["data"]


@pytest.mark.parametrize("broken", [{"run": 3}, {"data": [1]}, {"run": {"dir": 3}}, {STARTED_IN: 3}, {"data": None}])
def test_what_is_no_run_stays(tree: Path, broken: dict[str, Any]) -> None:
    whole = {**run(path="nowhere"), **broken}
    kept = {name: value for name, value in whole.items() if name != STARTED_IN}
    assert located(whole, run_dir=f"{tree}/runs/one") in (kept, {**kept, "run": {"dir": f"{tree}/runs/one"}})


def _leaves(value: Any, key: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, (*key, name))
    elif value is None or isinstance(value, str):
        yield key


def _with(values: Mapping[str, Any], key: tuple[str, ...], value: Any) -> dict[str, Any]:
    first, *rest = key
    return {**values, first: _with(values[first], tuple(rest), value) if rest else value}


def _is_path(config: Any, key: tuple[str, ...]) -> bool:
    """Whether the rules take a setting for a path."""
    try:
        finalize(decode(type(config), _with(encode(config), key, "~/x")), world_size=1, vocab_size=None)
    except ConfigError as error:
        return any("begins with ~" in problem for problem in error.problems)
    return False


@pytest.mark.parametrize("kind", [PretrainConfig, FinetuneConfig])
def test_all_paths_that_the_rules_know_are_looked_for(kind: type, tmp_path: Path) -> None:
    config = pretrain() if kind is PretrainConfig else finetune(tmp_path, tmp_path / "run")
    if kind is PretrainConfig:
        config = dataclasses.replace(config, run=dataclasses.replace(config.run, dir=None))
    known = {".".join(key) for key in _leaves(encode(config)) if _is_path(config, key)}
    assert len(known) >= 5
    assert not {key for key in known if key not in PATHS and not key.startswith("cluster.")}
