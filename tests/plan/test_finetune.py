"""Fine-tuning is planned with its own head, and without gradients of what is frozen."""

from dataclasses import replace

import pytest

from dist_plm.cli.app import load
from dist_plm.cli.check_summary import summary
from dist_plm.plan.verdict import make_plan
from dist_plm.spec.families.tensors import head_of, tensors_of
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema_finetune import FinetuneConfig

WORDS = ["experiment=squad_bert", "data.train=nowhere", "model=bert_large", "cluster.gpu=a100", "precision=bf16"]


def completed(*words: str):
    config, _ = load(FinetuneConfig, "finetune", [*words])
    config = replace(config, train=replace(config.train, steps=100, epochs=None))
    return finalize(config, world_size=1, vocab_size=30522)


def planned(*words: str):
    return make_plan(completed(*WORDS, *words), 1)


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


@pytest.mark.parametrize("model", ["t5_base", "gpt2_small", "bert_base"])
def test_each_choice_is_planned_as_a_row(model: str):
    words = ["task=choice", "data.train=nowhere", f"model={model}", "cluster.gpu=a100", "precision=bf16"]
    plans = {count: make_plan(completed(*words, f"task.num_choices={count}"), 1) for count in (2, 3, 5)}
    kept = {count: plan.worst.terms["activations"].low for count, plan in plans.items()}
    seconds = {count: plan.step.parts["compute"] for count, plan in plans.items()}
    assert kept[5] - kept[3] == pytest.approx(2 * (kept[3] - kept[2]), rel=1e-6)
    assert seconds[5] - seconds[3] == pytest.approx(2 * (seconds[3] - seconds[2]), rel=0.1)
    if model == "t5_base":  # whose encoder reads a row once
        assert 1.2 < kept[5] / kept[2] < 2.2
        assert 1.1 < seconds[5] / seconds[2] < 2.2
    else:
        assert kept[5] / kept[2] == pytest.approx(2.5, rel=0.01)
        assert seconds[5] / seconds[2] == pytest.approx(2.5, rel=0.1)


def test_labels_as_texts_are_planned_as_rows():
    words = ["data.train=nowhere", "model=t5_base", "cluster.gpu=a100", "precision=bf16"]
    few, many = (make_plan(completed(*words, f"task.labels=[{names}]"), 1) for names in ("a,b", "a,b,c,d,e,f"))
    assert many.worst.terms["activations"].low > 1.5 * few.worst.terms["activations"].low
    assert many.step.seconds > few.step.seconds


@pytest.mark.parametrize(
    ("word", "setting"), [("task.num_choices=4", "task.num_choices"), ("task.labels=[a,b]", "task.labels")]
)
def test_what_the_rows_would_tell_is_asked_for(word: str, setting: str):
    task = "choice" if "choices" in word else "classify"
    words = [f"task={task}", "data.train=nowhere", "model=t5_base", "cluster.gpu=a100", "precision=bf16"]
    assert f"memory        follows from {setting} as well" in summary(completed(*words), 1)
    assert "GiB of each NVIDIA A100" in summary(completed(*words, word), 1)


def test_a_check_names_the_files_that_are_not_here(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("")
    words = ["task=classify", f"data.train={rows}", "task.labels=[a,b]", "model=bert_tiny"]
    assert "not here" not in summary(completed(*words), 1)
    told = summary(completed(*words, "data.validation=nowhere.csv"), 1)
    assert "\n  not here      nowhere.csv: looked at where the run starts" in told
