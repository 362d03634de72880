"""Fine-tuning is planned with its own head, and without gradients of what is frozen."""

from dataclasses import replace

from dist_plm.cli.app import load
from dist_plm.plan.verdict import make_plan
from dist_plm.spec.families.tensors import head_of, tensors_of
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema_finetune import FinetuneConfig

WORDS = ["experiment=squad_bert", "data.train=nowhere", "model=bert_large", "cluster.gpu=a100", "precision=bf16"]


def planned(*words: str):
    config, _ = load(FinetuneConfig, "finetune", [*WORDS, *words])
    config = replace(config, train=replace(config.train, steps=100, epochs=None))
    return make_plan(finalize(config, world_size=1, vocab_size=30522), 1)


def test_a_head_without_a_vocabulary_makes_no_logits_of_one():
    terms = planned().worst.terms
    assert terms["logits"].high < 2**26
    assert terms["gradients"].low == 2 * terms["weights"].low


def test_what_is_frozen_has_weights_alone():
    plan = planned("train.freeze=[all_but_head]")
    head = sum(one.numel for one in tensors_of(plan.config.model) if one.name in head_of(plan.config.model))
    terms = plan.worst.terms
    assert terms["gradients"].low == 4 * head
    assert terms["moments"].low == 8 * head
    assert terms["activations"].low == 0
    assert terms["weights"] == planned().worst.terms["weights"]
    assert plan.step.seconds < 0.6 * planned().step.seconds
