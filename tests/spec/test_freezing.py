"""Names of train.freeze, the tensors that they are, and what is refused."""

import pytest

from dist_plm.core.errors import ConfigError
from dist_plm.spec.families.tensors import tensors_of
from dist_plm.spec.freezing import freeze_problems, frozen_tensors
from dist_plm.spec.rules.finalize import finalize
from tests.spec.make import pretrain

FAMILIES = {
    "gpt": {},
    "bert": {"model__family": "bert", "objective__name": "mlm_nsp"},
    "electra": {"model__family": "electra", "objective__name": "rtd"},
    "t5": {"model__family": "t5", "objective__name": "span"},
}


def model_of(family: str):
    return finalize(pretrain(**FAMILIES[family]), world_size=1, vocab_size=100).model


@pytest.mark.parametrize(
    ("family", "freeze", "begins"),
    [
        ("gpt", ["embeddings"], ("embedding.",)),
        ("gpt", ["layers.0-2"], ("layers.0.", "layers.1.", "layers.2.")),
        ("gpt", ["layers.3", "final_norm"], ("layers.3.", "final_norm.")),
        ("bert", ["head"], ("transform.", "output.", "pair.")),
        ("bert", ["all_but_head"], ("embedding.", "layers.", "final_norm.")),
        ("electra", ["generator"], ("generator.",)),
        ("t5", ["encoder.layers.0-1", "decoder"], ("encoder.layers.0.", "encoder.layers.1.", "decoder.")),
    ],
)
def test_names(family, freeze, begins):
    model = model_of(family)
    expected = {tensor.name for tensor in tensors_of(model) if tensor.name.startswith(begins)}
    assert frozen_tensors(model, freeze) == expected != set()
    assert list(freeze_problems(model, freeze)) == []


@pytest.mark.parametrize(
    ("family", "freeze", "parts"),
    [
        ("gpt", ["embedings"], ["'embedings'", "did you mean embedding", "embeddings"]),
        ("gpt", ["layers.2-9"], ["'layers.2-9'", "last layer is layers.3"]),
        ("gpt", ["layers.3-1"], ["the first layer of a range comes first"]),
        ("gpt", ["layers.20000-20001"], ["'layers.20000-20001'", "last layer is layers.3"]),
        ("gpt", [f"layers.0-{'9' * 5000}"], ["'layers.0-999", "no part of this model"]),
        ("t5", ["layers.0-1"], ["'layers.0-1'", "did you mean encoder.layers"]),
        ("gpt", ["all_but_head"], ["leaves nothing to train"]),
        ("bert", ["all_but_head", "head"], ["leaves nothing to train"]),
    ],
)
def test_what_is_refused(family, freeze, parts):
    with pytest.raises(ConfigError) as caught:
        finalize(pretrain(train__freeze=freeze, **FAMILIES[family]), world_size=1, vocab_size=100)
    (problem,) = caught.value.problems
    for part in parts:
        assert part in problem, problem


def test_one_name_need_not_be_a_list():
    assert pretrain(train__freeze="embeddings").train.freeze == ("embeddings",)
