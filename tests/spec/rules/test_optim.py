import pytest

from dist_plm.spec.optimizers import OPTIMIZERS
from tests.spec.broken import problems


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"optim__momentum": 0.9}, ["optim.momentum = 0.9 is not a setting of optim.name = 'adamw', but of sgd"]),
        ({"optim__trust_max": 10.0}, ["optim.trust_max = 10.0 is not a setting of optim.name = 'adamw', but of lamb"]),
        (
            {"optim__name": "sgd", "optim__eps": 1e-3},
            ["optim.eps = 0.001 is not a setting of optim.name = 'sgd', but of adamw, adam, lamb"],
        ),
        ({"optim__lr_scaling": "linear"}, ["optim.lr_scaling = 'linear' has no effect with optim.lr_batch = null"]),
        (
            {"optim__name": "lamb", "optim__trust_min": 2.0, "optim__trust_max": 1.0},
            ["optim.trust_min = 2 exceeds optim.trust_max = 1"],
        ),
        (
            {"optim__name": "lamb", "optim__pre_normalize": True},
            ["optim.clip_norm = 1", "optim.pre_normalize = true", "optim.clip_norm=0"],
        ),
        ({"optim__name": "sgd", "optim__nesterov": True}, ["optim.nesterov = true", "optim.momentum = 0.0"]),
        ({"optim__head_lr": 1e-2}, ["optim.head_lr = 0.01 has no effect with model.tied_embeddings = true"]),
        (
            {"optim__head_lr": 1e-2, "model__tied_embeddings": False, "train__freeze": ["head"]},
            ["optim.head_lr = 0.01 has no effect with a head that train.freeze or model.lora freezes"],
        ),
        (
            {"optim__head_lr": 1e-2, "model__tied_embeddings": False, "model__lora": {"rank": 2}},
            ["optim.head_lr = 0.01 has no effect with a head that train.freeze or model.lora freezes"],
        ),
    ],
)
def test_one_sentence_with_key_value_and_remedy(changes, parts):
    (problem,) = problems(**changes)
    for part in parts:
        assert part in problem


def test_a_head_of_its_own_has_a_rate_of_its_own():
    assert problems(optim__head_lr=1e-2, model__tied_embeddings=False) == []
    assert problems(optim__head_lr=1e-2, model__family="bert", objective__name="mlm") == []


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_pipeline_stages_may_leave_parameter_groups_empty(optim):
    settings = {"world_size": 4, "optim__name": optim, "optim__layer_decay": 0.9, "model__layers": 4}
    assert problems(parallel__pipeline=4, **settings) == []
    assert problems(engine__name="deepspeed", parallel__pipeline=4, **settings) == []
    assert problems(engine__name="deepspeed", parallel__pipeline=2, parallel__virtual_pipeline=2, **settings) == []


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_optimizer_passes_with_defaults(name):
    assert problems(optim__name=name) == []
