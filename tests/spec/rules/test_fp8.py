"""What fp8 needs of a GPU, and what a configuration has to be."""

import pytest

from dist_plm.spec.rules.fp8 import fp8_problem
from tests.spec.broken import problems

FITTING = {"precision__name": "fp8", "model__hidden": 64, "model__heads": 4}


@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (10, 0)])
def test_newer_gpus_can(capability):
    assert fp8_problem(capability) is None


def test_an_older_gpu_is_refused_by_its_capability():
    assert fp8_problem((8, 6)) == (
        "precision.name = 'fp8' needs an NVIDIA GPU of compute capability 8.9 or higher, and this one has 8.6: set "
        "precision=bf16"
    )


def test_a_fitting_configuration_passes():
    assert problems(**FITTING) == []
    assert problems(world_size=4, **FITTING, parallel__tensor=2, parallel__sequence_parallel=True) == []


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"model__ffn": 200}, "model.ffn / parallel.tensor = 200 is not a multiple of 16"),
        ({"model__kv_heads": 2, "model__head_size": 4}, "model.kv_heads x head_size / parallel.tensor = 8"),
    ],
)
def test_one_sentence_with_key_and_value(changes, part):
    (problem,) = problems(**FITTING, **changes)
    assert part in problem


def test_each_network_of_a_pair_is_looked_at():
    changes = {"model__family": "electra", "objective__name": "rtd", "model__generator_hidden": 8}
    changes |= {"model__generator_heads": 1, "model__generator_ffn": 32}
    found = problems(**FITTING, **changes)
    assert any("model.hidden = 8 of the generator is not a multiple of 16" in problem for problem in found)
    assert not any("discriminator" in problem for problem in found)
