"""The table of models says what the rules say, its tests exist, and the README shows it as it is."""

from pathlib import Path

import pytest

from dist_plm.spec.rules.model import OBJECTIVES
from tools.support_models import TESTS, refusal, render

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("family", OBJECTIVES)
def test_every_family_runs_data_and_tensor_parallel(family):
    for axis in ("data", "tensor", "tensor + sequence"):
        assert refusal(family, axis) is None


@pytest.mark.parametrize("family", OBJECTIVES)
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


def test_the_readme_shows_it():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    begin, end = "<!-- table of models: begin -->\n", "<!-- table of models: end -->"
    if begin not in readme:
        pytest.fail("README.md lacks the table: put tools.support_models.render() between its two markers")
    assert readme.partition(begin)[2].partition(end)[0].strip() == render().strip()
