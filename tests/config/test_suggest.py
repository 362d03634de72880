from collections import Counter

import pytest

from dist_plm.config.decode import decode
from dist_plm.config.suggest import (
    _NAMES,
    _WAYS,
    OTHER_NAMES,
    OTHER_WAYS,
    did_you_mean,
    near,
    other_way,
    setting_names,
    suggest,
)
from dist_plm.core.errors import ConfigError
from dist_plm.spec.prepare.schema import PrepareConfig
from dist_plm.spec.schema import PretrainConfig
from dist_plm.spec.schema_finetune import FinetuneConfig

NAMES = setting_names(PretrainConfig)
OF_FINETUNING = setting_names(FinetuneConfig)
OF_PREPARING = setting_names(PrepareConfig)


def test_setting_names_reach_into_groups_and_lists():
    assert {"optim", "optim.lr", "parallel.tensor", "track.to"} <= set(NAMES)
    assert "data.sources[0].path" in setting_names(PrepareConfig)


def test_every_other_name_leads_to_a_setting():
    known = {*NAMES, *OF_FINETUNING, *OF_PREPARING}
    assert {target for targets in OTHER_NAMES.values() for target in targets} <= known
    names = [*OTHER_NAMES, *OTHER_WAYS]
    assert all(name == name.lower().replace("-", "").replace("_", "") for name in names if "." not in name)


def test_every_other_name_stands_once():
    for table in (_NAMES, _WAYS):
        assert [name for name, times in Counter(" ".join(table.values()).split()).items() if times > 1] == []


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


@pytest.mark.parametrize(
    ("names", "meant"),
    [
        ("train_samples max_epochs num_train_epochs epochs trainer.max_epochs lr_decay_iters", "train.steps"),
        ("accumulate_grad_batches grad_accum total_batch_size", "train.global_batch"),
        ("eval_batch_size per_device_eval_batch_size", "train.micro_batch"),
        ("eval_strategy evaluation_strategy val_check_interval do_eval train.eval_steps", "train.eval_every"),
        ("limit_val_batches eval_iters", "train.eval_samples"),
        ("log_every_n_steps steps_per_print", "train.log_every"),
        ("save_every save_strategy", "checkpoint.every"),
        ("metric_for_best_model", "checkpoint.keep_best"),
        ("pretrained_checkpoint init_checkpoint finetune", "train.init_from"),
        ("no_load_optim", "train.init_optimizer"),
        ("model_name_or_path", "model.init_from"),
        ("mlm_probability masked_lm_prob objective.mlm_probability", "objective.mask_rate"),
        ("adam_epsilon adam_eps", "optim.eps"),
        ("lr_warmup_samples num_warmup_steps", "schedule.warmup_steps"),
        ("recompute_activations recompute_method recompute_num_layers", "model.recompute"),
        ("max_length data.max_length", "data.sequence_length"),
        ("n_ctx model.n_ctx", "model.max_positions"),
        ("untie_embeddings_and_output_weights", "model.tied_embeddings"),
        ("make_vocab_size_divisible_by", "model.vocab_multiple"),
        ("swiglu hidden_act", "model.activation"),
        ("normalization", "model.norm"),
        ("position_embedding_type", "model.position"),
        ("layer_norm_eps rms_norm_eps", "model.norm_eps"),
        ("hidden_dropout_prob", "model.hidden_dropout"),
        ("overlap_comm", "engine.overlap_grad_reduce"),
        ("fsdp sharding_strategy", "engine.zero_stage"),
        ("reduce_bucket_size allgather_bucket_size", "engine.bucket_mib"),
        ("offload_optimizer cpu_offload contiguous_gradients", "engine.deepspeed"),
        ("wall_clock_breakdown gradient_predivide_factor", "engine.deepspeed"),
        ("amp mixed_precision", "precision"),
        ("logging_dir tensorboard_dir", "track.to"),
        ("wandb_exp_name", "run.name"),
        ("data.blend[0].epochs", "data.blend[0].max_epochs"),
    ],
)
def test_a_name_of_another_library_is_answered_with_ours(names, meant):
    assert {name: suggest(name, NAMES)[:1] for name in names.split()} == {name: [meant] for name in names.split()}
    assert not any(other_way(name, NAMES) for name in names.split())


@pytest.mark.parametrize(
    ("name", "valid", "meant"),
    [
        ("max_epochs", OF_FINETUNING, "train.epochs"),
        ("num_train_epochs", OF_FINETUNING, "train.epochs"),
        ("train_file", OF_FINETUNING, "data.train"),
        ("tokenizer_name", OF_FINETUNING, "data.tokenizer"),
        ("vocab_file", OF_PREPARING, "tokenizer.path"),
        ("tokenizer_type", OF_PREPARING, "tokenizer.name"),
    ],
)
def test_a_name_of_another_library_is_answered_with_what_the_command_has(name, valid, meant):
    assert suggest(name, valid)[0] == meant
    assert other_way(name, valid) == ""


@pytest.mark.parametrize(
    ("key", "way"),
    [
        ("vocab_file", "launch/prepare_data.py tokenizer=file tokenizer.path=FILE"),
        ("data.tokenizer_type", "launch/prepare_data.py"),
        ("tokenizer_model", "launch/prepare_data.py"),
        ("merge_file", "launch/prepare_data.py"),
        ("devices", "torchrun --nproc-per-node"),
        ("trainer.devices", "torchrun --nproc-per-node"),
        ("nproc_per_node", "torchrun --nproc-per-node"),
        ("nnodes", "torchrun --nnodes"),
        ("world_size", "--world-size"),
        ("do_train", "launch/pretrain.py"),
        ("model.attn_implementation", "attention"),
        ("use_flash_attn", "attention"),
        ("rotary_percent", "model.position=rotary"),
    ],
)
def test_what_is_no_setting_here_is_answered_with_what_does_it(key, way):
    assert way in other_way(key, NAMES)
    group, _, name = key.rpartition(".")
    values = {group: {"family": "gpt", name: 1}} if group == "model" else {group: {name: 1}} if group else {name: 1}
    with pytest.raises(ConfigError) as refused:
        decode(PretrainConfig, values)
    assert f"{key} = 1 is not a setting; {other_way(key, NAMES)}" in refused.value.problems


def test_a_slip_of_the_pen_is_no_name_of_another_library():
    assert other_way("cluster.devices", NAMES) == ""
    assert suggest("cluster.devices", NAMES)[0] == "cluster.device"
    assert other_way("train.stepps", NAMES) == ""


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
