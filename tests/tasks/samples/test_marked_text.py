import numpy as np
import pytest

from dist_plm.tasks.samples.marked_text import lines_of


def decode(ids):
    return " ".join(map(str, ids))


def sample(**arrays):
    return {name: np.array([values]) for name, values in {"samples": 7, **arrays}.items()}


@pytest.mark.parametrize(
    ("arrays", "lines"),
    [
        pytest.param({"tokens": [1, 2, 3], "labels": [2, 3, 4]}, ["1 2 3"], id="next"),
        pytest.param({"tokens": [1, 2, 3, 4, 5], "labels": [-1, 3, 4, -1, -1]}, ["1 2<<3 4>>5"], id="some of the next"),
        pytest.param({"tokens": [1, 9, 3, 4], "labels": [-1, 2, -1, 8]}, ["1 [[9 -> 2]] 3 [[4 -> 8]]"], id="masked"),
        pytest.param({"tokens": [1, 9, 0, 0], "labels": [-1, 2, -1, -1], "lengths": 2}, ["1 [[9 -> 2]]"], id="padded"),
        pytest.param(
            {"tokens": [1, 90, 3], "labels": [90, 2, -1], "decoder_tokens": [0, 90, 2]},
            ["reads: 1 90 3", "writes: 90 2"],
            id="decoder",
        ),
        pytest.param({"tokens": [1, 2], "class_labels": 1}, ["1 2", "class_labels: 1"], id="class"),
        pytest.param(
            {"tokens": [1, 2], "segments": [0, 1], "labels": [-1, 5], "pair_labels": 0},
            ["1 [[2 -> 5]]", "pair_labels: 0"],
            id="pair",
        ),
    ],
)
def test_what_is_asked_is_marked(arrays, lines):
    assert list(lines_of(sample(**arrays), decode)) == lines
