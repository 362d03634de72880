"""The table of models says what the rules say, its tests exist, and docs/support.md shows it as it is."""

from pathlib import Path

import pytest

from dist_plm.spec.families import FAMILIES
from tools.support_models import TESTS, refusal, render
from tools.write_tables import parts

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_runs_data_and_tensor_parallel(family):
    for axis in ("data", "tensor", "tensor + sequence"):
        assert refusal(family, axis) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_chains_of_layers_alone_have_pipelines(family):
    for axis in ("pipeline", "interleaved pipeline"):
        sentence = refusal(family, axis)
        if family in ("gpt", "bert", "roberta"):
            assert sentence is None
        else:
            assert sentence is not None
            assert f"model.family = {family!r}, whose two networks" in sentence
            assert "parallel.pipeline=1" in sentence


def test_the_tests_that_it_names_exist():
    assert all((ROOT / test).is_file() for test in TESTS)


def test_the_page_shows_it():
    """`python -m tools.write_tables` writes it."""
    assert parts("table of models")[1].strip() == render().strip()
