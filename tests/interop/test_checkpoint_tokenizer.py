"""Stores and tokenizers that a run was given by variables of the environment are found where these are set."""

import pytest

from dist_plm.core.errors import DataError
from dist_plm.data.store.manifest import NAME
from dist_plm.interop.hf.checkpoint_tokenizer import given_to, store_of, unset_of
from dist_plm.spec.families.gpt import GPTConfig
from dist_plm.tasks.inference.source import ModelSource
from dist_plm.tasks.inference.vocabulary import vocabulary_of
from dist_plm.train.startup.load_weights import Weights

RUNS = (
    {"data": {"path": "${oc.env:SECRET_DIR}/store"}},
    {"data": {"blend": [{"path": "gone"}, {"path": "${oc.env:SECRET_DIR}/store"}]}},
)


@pytest.mark.parametrize("run", RUNS)
def test_a_store_is_found_by_its_variable(run, tmp_path, monkeypatch):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / NAME).write_text("{}")
    monkeypatch.delenv("SECRET_DIR", raising=False)
    assert store_of(run) is None
    assert unset_of(run) == "its run read ${oc.env:SECRET_DIR}/store, and SECRET_DIR is not set here"
    monkeypatch.setenv("SECRET_DIR", str(tmp_path))
    assert store_of(run) == f"{tmp_path}/store"
    assert unset_of(run) == ""


def test_a_tokenizer_is_found_by_its_variable(tmp_path, monkeypatch):
    run = {"data": {"tokenizer": "${oc.env:MY_TOKEN_DIR}"}}
    monkeypatch.delenv("MY_TOKEN_DIR", raising=False)
    assert given_to(run) is None
    monkeypatch.setenv("MY_TOKEN_DIR", str(tmp_path))
    assert given_to(run) == str(tmp_path)
    assert given_to({}) is None
    assert unset_of({}) == ""


def test_a_variable_that_is_not_set_is_named(monkeypatch):
    monkeypatch.delenv("SECRET_DIR", raising=False)
    weights = Weights("RUN", None, None, {}, (), lambda _: None, dict)
    source = ModelSource(weights, GPTConfig(layers=1, hidden=8, heads=1), unset=unset_of(RUNS[0]))
    with pytest.raises(DataError, match=r"and SECRET_DIR is not set here; set that, or give one with tokenizer=DIR"):
        vocabulary_of(source, None)
