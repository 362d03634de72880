"""Which ranks a rehearsal looks at."""

import pytest

from dist_plm.core.errors import ConfigError
from dist_plm.distributed.grid import Grid
from dist_plm.plan.rehearsal.chosen_ranks import chosen_ranks
from tests.ranks.training import configure

GRID = Grid(data=2, tensor=2, pipeline=4)


def chosen(text):
    config = configure(16, parallel__tensor=2, parallel__pipeline=4)
    return chosen_ranks(text, config, GRID)


def test_all_and_numbers():
    assert chosen("all") == list(range(16))
    assert chosen("3,0,3") == [0, 3]


def test_the_worst_stage_its_neighbours_and_another_of_each_axis():
    # Of a tied model the first stage holds most: all its microbatches in flight, and the embedding.
    assert chosen("worst") == [0, 1, 2, 4, 12]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("worts", "did you mean worst"),
        ("0,x", "write numbers with commas"),
        ("16", "there is no rank 16 among 16"),
        ("-1", "write numbers"),
        ("", "write numbers"),
    ],
)
def test_wrong_words_are_refused(text, said):
    with pytest.raises(ConfigError, match=said):
        chosen(text)
