"""What fp8 needs, as a function of what is there, and what a configuration has to be."""

import pytest

from dist_plm.spec.rules.fp8 import Fp8Facts, fp8_problem
from tests.spec.broken import problems

FITTING = {"precision__name": "fp8", "model__hidden": 64, "model__heads": 4}


@pytest.mark.parametrize("version", ["2.2", "2.2.0", "2.10.0.dev0+abc", "3.0"])
@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (10, 0)])
def test_both_are_there(version, capability):
    assert fp8_problem(Fp8Facts(version, capability)) is None


ENGINE, GPU = "Transformer Engine cannot be imported", "there is no CUDA device"


@pytest.mark.parametrize(
    ("facts", "named", "unnamed"),
    [
        (Fp8Facts(None, (9, 0), why_not="No module named 'x'"), [ENGINE, "No module named 'x'"], [GPU, "the GPU has"]),
        (Fp8Facts("2.1.1", (9, 0)), ["Transformer Engine is 2.1.1"], [ENGINE, GPU, "the GPU has"]),
        (Fp8Facts("1.13", (9, 0)), ["Transformer Engine is 1.13"], [ENGINE, GPU, "the GPU has"]),
        (Fp8Facts("2.2", None), [GPU], [ENGINE, "Transformer Engine is"]),
        (Fp8Facts("2.2", (8, 6)), ["the GPU has compute capability 8.6"], [ENGINE, GPU]),
        (Fp8Facts(None, None), [ENGINE, GPU], []),
    ],
)
def test_what_is_missing_is_named_and_nothing_else(facts, named, unnamed):
    problem = fp8_problem(facts) or ""
    assert problem.startswith("precision.name = 'fp8' needs Transformer Engine 2.2 or later and a GPU")
    assert problem.endswith("set precision=bf16")
    reasons = problem.partition(", but ")[2]
    assert all(part in reasons for part in named)
    assert not any(part in reasons for part in unnamed)


def test_a_fitting_configuration_passes():
    assert problems(**FITTING) == []
    assert problems(world_size=4, **FITTING, parallel__tensor=2, parallel__sequence_parallel=True) == []


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"engine__name": "deepspeed"}, "is not supported by engine.name = 'deepspeed'"),
        ({"cluster__device": "cpu"}, "needs a GPU, and cluster.device = 'cpu'"),
        ({"model__ffn": 200}, "model.ffn / parallel.tensor = 200 is not a multiple of 16"),
        ({"model__kv_heads": 2, "model__head_size": 4}, "model.kv_heads x model.head_size / parallel.tensor = 8"),
        ({"data__sequence_length": 20, "train__micro_batch": 2}, "tokens of a sequence that a rank holds = 40"),
    ],
)
def test_one_sentence_with_key_and_value(changes, part):
    (problem,) = problems(**FITTING, **changes)
    assert part in problem


def test_pairs_of_networks_are_refused():
    changes = {"model__family": "t5", "objective__name": "span", "data__sequence_length": 64}
    assert any("model.family = 't5'" in problem for problem in problems(**FITTING, **changes))
