"""What a start makes before it trains."""

from unittest.mock import patch

import pytest

from dist_plm.cli.commands import preflight
from dist_plm.cluster.preflight import look
from dist_plm.distributed.world import leave
from dist_plm.train.build import run_training
from tests.ranks.made_groups import counted_groups
from tests.ranks.ports import free_port
from tests.train import running
from tests.train.running import make_store, run_case, settings

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "tokens")


def training_case(world, config, port):
    def with_preflight(*arguments, **options):
        return run_training(*arguments, **options, preflight=look)

    with patch.object(running, "run_training", with_preflight), counted_groups() as made:
        assert run_case(world, config, port) == 0
    return made


def test_the_threads_of_a_run_have_one_group_of_all_ranks_each(ranks, store, tmp_path):
    """One for the start and for what asks whether to go on, and one for what writes checkpoints."""
    config = settings(store, tmp_path, train__steps=3, train__eval_samples=0)
    assert ranks.run(1, training_case, config, free_port()) == [["gloo"] * 2]


def preflight_case(world, config):
    leave()
    with counted_groups() as made:
        preflight.run(config, {})
    return made


def test_a_preflight_by_itself_has_one_group_of_all_ranks(ranks, store, tmp_path):
    assert ranks.run(1, preflight_case, settings(store, tmp_path)) == [["gloo"]]
