import numpy as np
import pytest

from dist_plm.tasks.samples.marked_text import lines_of


def decode(ids):
    return " ".join(map(str, ids))


def sample(**arrays):
    return {name: np.array([values]) for name, values in {"samples": 7, **arrays}.items()}


@pytest.mark.parametrize(
    ("arrays", "kind", "lines"),
    [
        pytest.param({"tokens": [1, 2, 3], "labels": [2, 3, 4]}, "decoder", ["1 2 3"], id="next"),
        pytest.param(
            {"tokens": [1, 2, 3, 4, 5], "labels": [-1, 3, 4, -1, -1]}, "decoder", ["1 2<<3 4>>5"], id="some of the next"
        ),
        pytest.param(
            {"tokens": [1, 9, 3, 4], "labels": [-1, 2, -1, 8]}, "encoder", ["1 [[9 -> 2]] 3 [[4 -> 8]]"], id="masked"
        ),
        pytest.param(
            {"tokens": [1, 9, 0, 0], "labels": [-1, 2, -1, -1], "lengths": 2}, "encoder", ["1 [[9 -> 2]]"], id="padded"
        ),
        pytest.param(
            {"tokens": [1, 90, 3], "labels": [90, 2, -1], "decoder_tokens": [0, 90, 2]},
            "encoder_decoder",
            ["reads: 1 90 3", "writes: 90 2"],
            id="decoder",
        ),
        pytest.param({"tokens": [1, 2], "class_labels": 1}, "encoder", ["1 2", "class_labels: 1"], id="class"),
        pytest.param(
            {"tokens": [1, 2], "segments": [0, 1], "labels": [-1, 5], "pair_labels": 0},
            "encoder",
            ["1 [[2 -> 5]]", "pair_labels: 0"],
            id="pair",
        ),
    ],
)
def test_what_is_asked_is_marked(arrays, kind, lines):
    assert list(lines_of(sample(**arrays), decode, kind)) == lines


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        pytest.param({"tokens": [1, 2], "labels": [-1, 3], "lengths": 2}, "1 2<<3>>", id="one token"),
        pytest.param({"tokens": [1, 2, 3, 0], "labels": [-1, 3, 4, -1], "lengths": 3}, "1 2<<3 4>>", id="padded"),
        pytest.param({"tokens": [1, 2], "labels": [2, 3], "lengths": 2}, "1 2 3", id="all"),
        pytest.param({"tokens": [1], "labels": [2], "lengths": 1}, "1 2", id="a token alone"),
        pytest.param(
            {"tokens": [1, 2, 3, 5, 6], "labels": [-1, 3, 4, 6, 7], "documents": [0, 0, 0, 1, 1], "lengths": 5},
            "1 2<<3 4>>5<<6 7>>",
            id="packed",
        ),
        pytest.param({"tokens": [1, 2, 3], "labels": [-1, -1, -1], "lengths": 3}, "1 2 3", id="none"),
    ],
)
def test_all_that_a_decoder_predicts_is_marked(arrays, line):
    assert list(lines_of(sample(**arrays), decode, "decoder")) == [line]


def test_a_mask_that_stands_for_the_token_behind_it_is_one():
    arrays = sample(tokens=[5, 103, 9, 9, 7], labels=[-1, 9, -1, -1, -1])
    assert list(lines_of(arrays, decode, "encoder")) == ["5 [[103 -> 9]] 9 9 7"]
