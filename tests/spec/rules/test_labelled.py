"""What is wrong with a fine-tuning run's own settings is told in one sentence each, before any file is read."""

from pathlib import Path
from typing import Any

import pytest

from dist_plm.cli.app import load
from dist_plm.config.decode import encode
from dist_plm.core.errors import ConfigError
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema_finetune import FinetuneConfig
from tests.train.finetuning import settings

QA = {"task__name": "qa"}
T5 = {"family": "t5", "layers": 2, "hidden": 32, "heads": 2, "position": "relative", "norm": "rmsnorm"}
GPT = {"family": "gpt", "layers": 2, "hidden": 32, "heads": 2}
STOP = {"train__early_stopping": {"patience": 1}}


def problems(**changes: Any) -> list[str]:
    try:
        finalize(settings(Path("rows"), Path("run"), **changes), world_size=1, vocab_size=None)
    except ConfigError as error:
        return error.problems
    return []


class Compared(str):
    """Counts how often a name is compared with another."""

    times = 0

    def __eq__(self, other: object) -> bool:
        Compared.times += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_names_are_not_compared_each_with_each(monkeypatch):
    """Tens of thousands of them were, for seconds of every rank's start."""
    monkeypatch.setattr(Compared, "times", 0)
    names = tuple(Compared(f"name{number}") for number in range(300))
    assert problems(data__new_tokens=names, task__labels=(*names, "name7")) == [
        "task.labels names 'name7' more than once: name each label once"
    ]
    assert Compared.times < 10 * len(names)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"train__epochs": None}, "train.epochs is missing: give train.epochs=3"),
        ({"train__steps": 5}, "train.epochs = 8 and train.steps = 5 are both given"),
        ({"data__columns": {"lable": "x"}}, "data.columns.lable is nothing that task.name = 'classify' reads"),
        ({"data__columns": {"label": 3}}, "data.columns.label = 3 is not allowed"),
        ({"data__validation": "rows/train.jsonl"}, "is data.train as well"),
        ({"data__augment": {"swap": 0.0}}, "data.augment changes nothing: give a share"),
        (
            {"data__augment": {"swap": 0.1}, **QA},
            "what task.name = 'qa' is to learn with the words: leave it out; it is for",
        ),
        (
            {"data__augment": {"swap": 0.1}, "task__name": "chat", "model": T5},
            "what task.name = 'chat' is to learn with the words: leave it out; it is for",
        ),
        ({"data__header": ("a", "a")}, "names a column twice"),
        ({"data__header": ("a", "b")}, "data.header = ['a', 'b'] has no effect with rows/train.jsonl and"),
        ({"data__sequence_length": 3}, "too short for task.name = 'classify'"),
        ({"data__train": "~/x.csv"}, "begins with ~"),
        ({"data__train": "rows/*.csv"}, "data.train = 'rows/*.csv' names several files: patterns are not read here"),
        (
            {"data__validation": "rows/b.xlsx"},
            "data.validation = 'rows/b.xlsx' is of a format that is not read: save it",
        ),
        ({"data__validation": None, "checkpoint__keep_best": "accuracy"}, "nothing to go by without data.validation"),
        ({"checkpoint__keep_best": "pearson"}, "'pearson' is no measure"),
        ({"train__batch_rampup": {"start": 4, "increment": 4, "samples": 8}}, "no place in fine-tuning"),
        ({"task__labels": ("a", "a")}, "names 'a' more than once"),
        ({"task__labels": ("a",)}, "is a single label"),
        ({"task__prefix": "x: "}, "task.prefix = 'x: ' has no effect with model.family = 'bert'"),
        ({"task__label_texts": {"a": "b"}}, "which scores them by a head: leave it at its default"),
        ({"task__max_target_length": 8}, "task.max_target_length = 8 has no effect with model.family = 'bert'"),
        (
            {"task__name": "choice", "task__max_target_length": 15, "model": GPT},
            "task.max_target_length = 15 leaves no room for what is read before it in data.sequence_length = 16",
        ),
        (
            {"task__max_target_length": 33, "model": {**T5, "position": "learned", "max_positions": 32}},
            "task.max_target_length = 33 exceeds model.max_positions = 32",
        ),
        ({"model": T5, "task__multi_label": True}, "task.multi_label = true is not for model.family = 't5'"),
        ({"model": T5, "task__r_drop": 1.0}, "task.r_drop needs a head, and model.family = 't5' has none"),
        (
            {"model": T5, "task__labels": ("a", "b"), "task__label_texts": {"c": "x"}},
            "task.label_texts.c is of no label; the labels are a, b",
        ),
        (
            {"model": T5, "task__label_texts": {"a": ["x"]}},
            "task.label_texts.a = ['x'] is no text that could be written",
        ),
        ({"model": T5, "task__label_texts": {"a": None}}, "task.label_texts.a = null is no text that could be written"),
        ({"model": T5, "task__label_texts": {"a": " "}}, "task.label_texts.a is empty"),
        (
            {"model": T5, "task__label_texts": {"a": True}},
            "task.label_texts.a = true is no text, as which YAML reads yes and on as well: write the word in quotes",
        ),
        (
            {"model": T5, "task__label_texts": {"a": False}},
            "task.label_texts.a = false is no text, as which YAML reads no and off as well: write the word in quotes",
        ),
        (
            {"model": T5, "task__labels": ("a", "b"), "task__label_texts": {"a": "b"}},
            "task.label_texts give 'b' for more than one label",
        ),
        ({"model": T5, "task": {"name": "regress"}}, "task.lowest and task.highest are missing"),
        (
            {"model": T5, "task": {"name": "regress", "lowest": 1, "highest": 0}},
            "task.lowest = 1, task.highest = 0 and task.step = 0.2 make fewer than 2",
        ),
        (
            {"model": T5, "task": {"name": "regress", "lowest": 0, "highest": 1e-5, "step": 1e-7}},
            "task.step = 1e-07 write '0' for more than one number, as texts have 6 decimals at most",
        ),
        ({"task": {"name": "regress", "lowest": 0}}, "task.lowest = 0.0 has no effect with model.family = 'bert'"),
        ({"model": T5, "task__name": "tag"}, "model.family = 't5' does not learn from task.name = 'tag'"),
        ({"task__labels": ("a", "b"), "task__positive": "c"}, "task.positive = 'c' is not among the labels"),
        (
            {"task__labels": ("a", "b", "c"), "task__positive": "a"},
            "task.positive = 'a' has no effect with 3 labels, whose f1 is the mean over all: leave it at its default",
        ),
        (
            {"task__multi_label": True, "task__positive": "a"},
            "positive = 'a' has no effect with task.multi_label = true",
        ),
        ({"task__separator": ""}, "stands between no labels"),
        ({"task__separator": ";"}, "task.separator = ';' has no effect with task.multi_label = false"),
        (
            {"task": {"name": "tag", "labels": ["DT", "NN"], "scheme": "IOBES"}},
            "task.scheme = 'IOBES' has no effect with labels that begin no entities",
        ),
        (
            {"task__labels": ("a", "b"), "task__class_weights": {"c": 1}},
            "task.class_weights.c is of no label; the labels are a, b",
        ),
        ({"task__class_weights": {"c": -1}}, "task.class_weights.c = -1 is not allowed"),
        ({"task__class_weights": {"c": 1}, "task__balanced": True}, "are both given: keep one"),
        ({"task__r_drop": 1.0}, "task.r_drop has no effect without dropout"),
        ({"task__multi_label": True, "task__label_smoothing": 0.1}, "has no effect with task.multi_label = true"),
        ({**STOP, "data__validation": None}, "train.early_stopping has nothing to go by without data.validation"),
        ({**STOP, "train__eval_every": 0}, "train.early_stopping has nothing to go by with train.eval_every = 0"),
        (
            {"train__early_stopping": {"patience": 1, "metric": "acuracy"}},
            "is no measure of task.name = 'classify'; did you",
        ),
        (
            {**QA, "task__max_question_length": 11},
            "no room for a text behind a question of task.max_question_length = 11",
        ),
        (
            {**QA, "task__doc_stride": 9},
            "task.doc_stride = 9 leaves tokens out between windows: data.sequence_length = 16 has",
        ),
        (
            {"task__name": "chat", "task__packing": True, "model": {**T5, "bias": False}},
            "has no effect with model.family = 't5'",
        ),
        ({**QA, "task__no_answer_threshold": 1.0}, "has no effect without task.no_answer=true"),
        ({**QA, "checkpoint__keep_best": "best_f1"}, "'best_f1' is no measure"),
        (
            {"task__name": "chat", "model": {**GPT, "lora": {}}, "train__unfreeze_every": 2},
            "train.unfreeze_every = 2 begins with what lies above the layers, and nothing of that is trained here",
        ),
    ],
)
def test_one_sentence_with_the_reason(changes: dict[str, Any], part: str) -> None:
    found = problems(**changes)
    assert any(part in problem for problem in found), found


@pytest.mark.parametrize(
    "changes",
    [
        {"model__lora": {"rank": 2}},
        {"train__freeze": ("embeddings",)},
        {"train__unfreeze_every": 1},
        {"optim__head_lr": 1e-3},
    ],
)
def test_what_a_model_does_not_learn_is_refused_whatever_is_trained_of_it(changes: dict[str, Any]) -> None:
    (told,) = problems(**{"model": {**T5, "bias": False}, "task__name": "tag", **changes})
    assert "model.family = 't5' does not learn from task.name = 'tag'" in told


@pytest.mark.parametrize("name", ["tag", "qa"])
@pytest.mark.parametrize("family", ["gpt", "t5"])
def test_the_tasks_that_a_model_is_told_to_learn_instead_are_its_own(family: str, name: str) -> None:
    model = {"gpt": GPT, "t5": {**T5, "bias": False}}[family]
    (told,) = [problem for problem in problems(model=model, task__name=name) if "does not learn" in problem]
    assert "objective" not in told
    advised, _, families = told.partition(": choose ")[2].partition(", or a model of family ")
    assert set(families.split(", ")) == {"bert", "roberta", "electra"}
    choices = [word.removeprefix("task=") for word in advised.split(" or ")]
    assert choices == ["choice", "classify", "regress", "seq2seq", "chat"]
    for choice in choices:
        needed = {"lowest": 0, "highest": 5} if (family, choice) == ("t5", "regress") else {}
        assert problems(model=model, task={"name": choice, **needed}) == []


def test_what_a_task_says_of_a_model_names_the_task() -> None:
    bert = {"family": "bert", "layers": 2, "hidden": 32, "heads": 2, "pair_head": True}
    for problem in problems(model=bert) + problems(data__sequence_length=3) + problems(checkpoint__keep_best="bleu"):
        assert "objective" not in problem


def test_the_settings_themselves_pass() -> None:
    assert problems() == []
    assert problems(checkpoint__keep_best="accuracy") == []
    assert problems(**STOP) == []
    assert problems(**QA, task__no_answer=True, checkpoint__keep_best="best_f1") == []
    assert problems(train__epochs=None, train__steps=100) == []
    assert problems(train__unfreeze_every=2, model__lora={}) == []


@pytest.mark.parametrize(
    ("labels", "weights"),
    [(("0", "1"), "{0: 1.0, 1: 5.0}"), (("false", "true"), "{true: 3}"), (("a", "0.5"), "{0.5: 2}")],
)
def test_labels_that_are_numbers_or_true_can_be_named(labels, weights) -> None:
    words = [f"task.labels=[{','.join(map(repr, labels))}]", f"task.class_weights={weights}"]
    config, _ = load(FinetuneConfig, "finetune", ["model=bert_tiny", "task=classify", "data.train=x", *words])
    assert set(config.task.class_weights) <= set(labels)
    assert not [one for one in problems(task=encode(config.task)) if "class_weights" in one]


@pytest.mark.parametrize(
    ("world_size", "changes", "micro_batch"),
    [
        (1, {}, 8),
        (8, {}, 4),
        (16, {}, 2),
        (32, {}, 1),
        (8, {"train__micro_batch": 2}, 2),
        (2, {"train__global_batch": 30}, 5),
        (4, {"parallel__pipeline": 2, "model__layers": 4}, 8),
        (16, {"parallel__pipeline": 4, "model__layers": 4}, 2),  # four microbatches, one for each stage
    ],
)
def test_a_pass_takes_what_the_ranks_leave_of_the_batch(world_size, changes, micro_batch) -> None:
    config = settings(Path("rows"), Path("run"), **{"train__micro_batch": None, "train__global_batch": 32, **changes})
    assert finalize(config, world_size=world_size, vocab_size=None).train.micro_batch == micro_batch


def test_a_batch_that_no_pass_divides_over_the_ranks_is_refused() -> None:
    config = settings(Path("rows"), Path("run"), train__micro_batch=None, train__global_batch=32)
    with pytest.raises(ConfigError, match=r"micro_batch = 1 x 3 data ranks = 3: choose train.global_batch=30 or 33$"):
        finalize(config, world_size=3, vocab_size=None)
