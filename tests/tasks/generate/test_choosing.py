import pytest
import torch

from dist_plm.spec.inference.schema import GenerateConfig
from dist_plm.tasks.generate.choosing import choosers


def drawn(temperature: float, scores: torch.Tensor) -> list[int]:
    config, numbers = GenerateConfig(temperature=temperature), [*range(len(scores))]
    found = choosers(config, numbers, torch.zeros(len(scores), dtype=torch.int64), 3)
    return found(torch.zeros(len(scores), 3, dtype=torch.int64), scores.clone()).argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [1e-3, 1e-6, 1e-7, 1e-30, 1e-38, 1e-45, 1e-320])
def test_the_colder_it_is_the_surer_is_the_most_likely_token(temperature: float) -> None:
    scores = torch.tensor([[1.0, 9.0, 3.0, -40.0, 2.0], [-7.0, -torch.inf, -3.0, -40.0, -9.0]]).repeat(20, 1)
    assert drawn(temperature, scores) == [1, 2] * 20
