import pytest

from dist_plm.config.suggest import OTHER_NAMES, did_you_mean, near, setting_names, suggest
from dist_plm.spec.prepare.schema import PrepareConfig
from dist_plm.spec.schema import PretrainConfig

NAMES = setting_names(PretrainConfig)


def test_setting_names_reach_into_groups_and_lists():
    assert {"optim", "optim.lr", "parallel.tensor", "track.to"} <= set(NAMES)
    assert "data.sources[0].path" in setting_names(PrepareConfig)


def test_every_other_name_leads_to_a_setting():
    known = {*NAMES, *setting_names(PrepareConfig)}
    assert {target for targets in OTHER_NAMES.values() for target in targets} <= known
    assert all(name == name.lower().replace("-", "").replace("_", "") for name in OTHER_NAMES if "." not in name)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("optim.lrr", "optim.lr"),
        ("optim.LR", "optim.lr"),
        ("optim.learning_rate", "optim.lr"),
        ("optim.learning-rate", "optim.lr"),
        ("lr", "optim.lr"),
        ("learning_rate", "optim.lr"),
        ("optimizer.lr", "optim.lr"),
        ("optimizer.weight_decay", "optim.weight_decay"),
        ("optim.wieght_decay", "optim.weight_decay"),
        ("train.lr", "optim.lr"),
        ("train.tensor", "parallel.tensor"),
        ("train.max_steps", "train.steps"),
        ("trian.steps", "train.steps"),
        ("steps", "train.steps"),
        ("train.batch_size", "train.global_batch"),
        ("train.warmup_steps", "schedule.warmup_steps"),
        ("schedule.warmup", "schedule.warmup_steps"),
        ("parallel.tp", "parallel.tensor"),
        ("tensor_model_parallel_size", "parallel.tensor"),
        ("parallel.tensor_parallel", "parallel.tensor"),
        ("parallel.pipline", "parallel.pipeline"),
        ("model.num_layers", "model.layers"),
        ("model.n_embd", "model.hidden"),
        ("model.layer", "model.layers"),
        ("model.sequence_length", "data.sequence_length"),
        ("data.seq_len", "data.sequence_length"),
        ("checkpoint.save_interval", "checkpoint.every"),
        ("engine.zero", "engine.zero_stage"),
        ("precision.fp16", "precision"),
        ("seed", "train.seed"),
        ("name", "run.name"),
    ],
)
def test_what_was_meant_comes_first(key, meant):
    assert suggest(key, NAMES)[0] == meant


def test_what_is_far_from_everything_gets_no_suggestion():
    assert suggest("qqq.zzz", NAMES) == []
    assert suggest("model.zzzzz", NAMES) == []


def test_near_finds_misspellings_and_beginnings():
    assert near("gpt2smal", ["gpt2_small", "llama"]) == ["gpt2_small"]
    assert near("deep", ["megatron", "deepspeed"]) == ["deepspeed"]
    assert near("bf-16", ["bf16", "fp32"])[0] == "bf16"
    assert near("qq", ["a", "b"]) == []


def test_did_you_mean():
    assert did_you_mean([]) == ""
    assert did_you_mean(["a", "b"]) == "; did you mean a or b?"
