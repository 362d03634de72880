"""A search proposes what the rules allow and what fits, and a plan says what would fit."""

from dist_plm.plan.search import search, search_text
from dist_plm.plan.verdict import changed_by, remedies
from dist_plm.spec.gpus import GPUS
from tests.plan.test_memory import SIZES
from tests.spec.make import pretrain


def test_all_that_is_proposed_is_allowed_and_ranked():
    given = pretrain(**SIZES)
    found = search(given, 8, GPUS["a100"])
    assert found
    assert all(changed_by(given, one.changes, 8) is not None for one in found)
    fitting = [one.seconds for one in found if one.verdict == "fits"]
    assert fitting == sorted(fitting)
    assert "parallel.tensor=" in search_text(found, 3)


def test_remedies_make_it_fit():
    large = SIZES | {"model__layers": 32, "model__hidden": 4096, "model__heads": 32}
    assert remedies(pretrain(**large, train__micro_batch=4), 8, GPUS["a100"])
    assert remedies(pretrain(**large), 8, GPUS["v100_16"]) == []


def test_what_no_grid_holds_is_said():
    huge = SIZES | {"model__layers": 96, "model__hidden": 12288, "model__heads": 96}
    assert search(pretrain(**huge), 1, GPUS["v100"]) == []
    assert "no grid fits" in search_text([], 3)
