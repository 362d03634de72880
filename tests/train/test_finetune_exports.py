"""Runs of every task, exported: what convert writes says what the run said, and evaluate finds the run's measures of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from dist_plm.config.decode import decode
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.tasks.convert.convert import convert
from dist_plm.tasks.evaluate.evaluate import measured
from tests.ranks.pool import RanksError
from tests.ranks.ports import free_port
from tests.tasks.inference.models import evaluate_config, opened
from tests.train.finetuning import make_rows, records, settings
from tests.train.running import run_case

pytestmark = pytest.mark.ranks

SIZES = {"layers": 2, "hidden": 32, "heads": 2, "init_std": 0.1}
BERT = {"family": "bert", "segments": 2, "activation": "gelu", "norm_placement": "post", **SIZES}
ROBERTA = {**BERT, "family": "roberta", "segments": 1, "position_offset": 2}
ELECTRA = {**BERT, "family": "electra", "embedding_size": 16}
T5 = {"family": "t5", "position": "relative", "norm": "rmsnorm", "bias": False, "activation": "relu", **SIZES}
CHOICE = {
    "task__name": "choice",
    "data__columns": {"context": "text", "question": "text_b", "choices": "options", "label": "right"},
}
#: Each task as a run has it, the class that is written, and what a person has to say of it to measure the export.
TASKS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "classify": ({"data__columns": {"text": "text", "pair": "text_b"}}, "BertForSequenceClassification", {}),
    "pair_by_roberta": (  # which has one segment for both
        {"model": ROBERTA, "data__columns": {"text": "text", "pair": "text_b"}},
        "RobertaForSequenceClassification",
        {},
    ),
    "multi_label": (
        {"model": ROBERTA, "task__multi_label": True, "data__columns": {"text": "text", "label": "both"}},
        "RobertaForSequenceClassification",
        {},
    ),
    "regress": (
        {"model": ELECTRA, "task__name": "regress", "data__columns": {"text": "text", "label": "number"}},
        "ElectraForSequenceClassification",
        {},
    ),
    "tag": ({"task__name": "tag"}, "BertForTokenClassification", {}),
    "qa": (
        {"task__name": "qa", "task__max_question_length": 4, "task__max_answer_length": 2},
        "BertForQuestionAnswering",
        {"task": {"name": "qa", "max_question_length": 4, "max_answer_length": 2}},
    ),
    "choice": ({"model": ELECTRA, **CHOICE}, "ElectraForMultipleChoice", {}),
    "seq2seq": (
        {
            "model": T5,
            "task__name": "seq2seq",
            "task__prefix": "good: ",
            "data__columns": {"source": "turn.en", "target": "turn.answer"},
        },
        "T5ForConditionalGeneration",
        {"task": {"name": "seq2seq", "prefix": "good: "}},
    ),
    "chat": (
        {"model": {"family": "gpt", **SIZES}, "task__name": "chat", "data__sequence_length": 64},
        "GPT2LMHeadModel",
        {"task": {"name": "chat"}},
    ),
    "classify_by_gpt": (
        {"model": {"family": "gpt", **SIZES}},
        "GPT2ForSequenceClassification",
        {},
    ),
}


#: A head of each kind, and one that writes.
IN_CI = ("classify", "pair_by_roberta", "tag", "qa", "seq2seq")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def exported(ranks, rows, tmp_path_factory):
    """The run of each task on one rank, its export, and what convert said; made once."""
    made: dict[str, tuple[Path, Path, str]] = {}

    def of(task: str) -> tuple[Path, Path, str]:
        if task not in made:
            folder = tmp_path_factory.mktemp(task)
            changes = {"model": BERT, "train__epochs": 2, **TASKS[task][0]}
            assert ranks.run(1, run_case, settings(rows, folder / "run", **changes), free_port()) == [0]
            asked = {"from": str(folder / "run"), "to": str(folder / "hf"), "format": "hf"}
            made[task] = folder / "run", folder / "hf", convert(decode(ConvertConfig, asked))
        return made[task]

    return of


def measure(world, config):
    return measured(config, opened(world, config))


def asked_of(source: Path, rows: Path, columns: dict[str, str], **more: Any):
    data = {"rows": str(rows / "dev.jsonl"), "columns": columns}
    return evaluate_config(source, data=data, on="task", batch_size=4, **more)


@pytest.mark.parametrize("task", [pytest.param(one, marks=() if one in IN_CI else pytest.mark.slow) for one in TASKS])
def test_an_export_is_measured_as_its_run_was(ranks, rows, exported, task: str) -> None:
    run_dir, directory, said = exported(task)
    changes, kind, told = TASKS[task]
    assert f"by {kind} of" in said
    assert "largest difference" in said
    config = asked_of(directory, rows, changes.get("data__columns", {}), **told)
    ((found,), last) = ranks.run(1, measure, config), records(run_dir)[-1]
    assert found["task"] == changes.get("task__name", "classify")
    expected = {name.removeprefix("eval/"): value for name, value in last.items() if name.startswith("eval/")}
    assert len(expected) >= 2
    assert expected == {name: pytest.approx(found["results"][name], rel=1e-5, abs=1e-4) for name in expected}


@pytest.mark.parametrize("task", ["classify", "pair_by_roberta"])
def test_transformers_cuts_texts_to_the_positions_of_the_model(exported, task: str) -> None:
    _, directory, _ = exported(task)
    reads = transformers.pipeline("text-classification", model=str(directory))
    assert len(reads.tokenizer("good film " * 100, truncation=True).input_ids) == 16
    ((said,),) = reads(["good film " * 100], top_k=1, truncation=True)
    assert said["label"] in ("good", "bad")


def test_it_is_on_any_grid(ranks, rows, exported) -> None:
    _, directory, _ = exported("tag")
    (alone,) = ranks.run(1, measure, asked_of(directory, rows, {}))
    for parallel in ({"tensor": 2}, {"pipeline": 2}, {}):
        for found in ranks.run(2, measure, asked_of(directory, rows, {}, parallel=parallel)):
            assert found["results"] == {name: pytest.approx(v, rel=1e-5) for name, v in alone["results"].items()}


def edited(source: Path, folder: Path, **changes: Any) -> Path:
    """A copy of a directory of Hugging Face with other settings."""
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    settings = {**json.loads((source / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(json.dumps({name: v for name, v in settings.items() if v is not None}))
    return folder


def test_labels_are_those_of_the_directory_in_its_order(ranks, rows, exported, tmp_path: Path) -> None:
    """Names say which label a row has, not the order in which rows have them; labels without names are numbers."""
    _, directory, _ = exported("classify_by_gpt")
    (right,) = ranks.run(1, measure, asked_of(directory, rows, {}))
    turned = edited(directory, tmp_path / "turned", id2label={"0": "good", "1": "bad"})
    (wrong,) = ranks.run(1, measure, asked_of(turned, rows, {}))
    assert wrong["results"]["accuracy"] == pytest.approx(1 - right["results"]["accuracy"])
    numbered = edited(directory, tmp_path / "numbered", id2label=None, label2id=None, problem_type=None)
    said = [json.loads(line) for line in (rows / "dev.jsonl").read_text().splitlines()]
    lines = [json.dumps({**row, "label": ["bad", "good"].index(row["label"])}) for row in said]
    (tmp_path / "dev.jsonl").write_text("\n".join(lines))
    (found,) = ranks.run(1, measure, asked_of(numbered, tmp_path, {}))
    assert found["results"] == {name: pytest.approx(v, rel=1e-6) for name, v in right["results"].items()}


@pytest.mark.parametrize(
    ("task", "given", "part"),
    [
        (
            "classify",
            {"name": "tag"},
            r"task = 'tag' is not what .* has a head for: give task=classify or task=regress",
        ),
        ("classify", {"name": "regress"}, "is regression, where the config.json of .* 'single_label_classification'"),
        ("classify", {"name": "classify", "labels": ["a", "b", "c"]}, "names 3 labels, and .* scores 2: bad, good"),
        ("seq2seq", {"name": "tag"}, "task = 'tag' is not what .* has a head for: give .*task=seq2seq"),
    ],
)
def test_a_task_that_it_has_not_learned_is_refused(ranks, rows, exported, task, given, part) -> None:
    _, directory, _ = exported(task)
    with pytest.raises(RanksError, match=part):
        ranks.run(1, measure, asked_of(directory, rows, {}, task=given))


def test_a_run_says_its_task_itself(ranks, rows, exported) -> None:
    run_dir, _, _ = exported("tag")
    with pytest.raises(RanksError, match="whose run says its task: leave it out"):
        ranks.run(1, measure, asked_of(run_dir, rows, {}, task={"name": "tag"}))
