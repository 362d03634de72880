"""What ranks make to run a model together."""

from tests.ranks.made_groups import counted_groups
from tests.tasks.inference.models import generate_config, opened


def opening_case(world, config):
    with counted_groups() as made:
        opened(world, config)
    return made


def test_a_model_is_found_over_one_group_of_all_ranks(ranks, model_dirs):
    assert ranks.run(1, opening_case, generate_config(model_dirs("gpt2"), prompt="To be")) == [["gloo"]]
