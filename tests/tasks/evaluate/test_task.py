"""What a fine-tuned model says of rows is told where it is made of numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from dist_plm.tasks.evaluate.evaluate import measured
from tests.data.labelled.words import write_vocabulary
from tests.ranks.pool import RanksError
from tests.tasks.inference.models import evaluate_config, opened, small_bert

HEADS = {
    "classify": transformers.BertForSequenceClassification,
    "tag": transformers.BertForTokenClassification,
    "qa": transformers.BertForQuestionAnswering,
}


def fine_tuned(directory: Path, task: str, *, weight: float = 1.0) -> Path:
    """A model with a head for a task, and the rows as rows.json or rows.jsonl; one weight of 60,000 overflows in fp16."""
    model = small_bert(HEADS[task], write_vocabulary(directory), ["a", "b"], layers=2, positions=40)
    with torch.no_grad():
        model.bert.encoder.layer[0].output.LayerNorm.weight[0] = weight
    model.save_pretrained(directory)
    return directory


def rows_of(directory: Path, task: str, *, labelled: bool) -> Path:
    lines: list[dict[str, Any]] = [{"text": "good film", "label": "a"}, {"text": "a bad play", "label": "b"}]
    if task == "tag":
        lines = [{"tokens": ["good", "film"], "tags": ["a", "b"]}, {"tokens": ["play"], "tags": ["a"]}]
    if task == "qa":
        answers = {"text": ["film"], "answer_start": [5]}
        lines = [{"id": f"q{n}", "question": "what", "context": "good film", "answers": answers} for n in range(2)]
    kept = [{k: v for k, v in line.items() if labelled or k not in ("label", "tags", "answers")} for line in lines]
    path = directory / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in kept))
    return path


def told(world, config):
    return measured(config, opened(world, config))


@pytest.mark.ranks
@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("labelled", [True, False], ids=["labelled", "unlabelled"])
def test_scores_that_overflow_are_neither_told_nor_written(ranks, task, labelled, tmp_path) -> None:
    model = fine_tuned(tmp_path, task, weight=6e4)
    out = tmp_path / "predictions.jsonl"
    asked = {"on": "task", "task": {"name": task}, "data": {"rows": str(rows_of(tmp_path, task, labelled=labelled))}}
    config = evaluate_config(model, predictions=str(out), precision={"name": "fp16"}, **asked)
    with pytest.raises(RanksError, match=r"DataError: .* nan: .*overflow; try precision=fp32"):
        ranks.run(1, told, config)
    assert not out.exists()
    (fine,) = ranks.run(1, told, evaluate_config(model, predictions=str(out), **asked))
    assert fine["results"]["rows"] == 2
    assert out.exists()


@pytest.mark.ranks
def test_the_first_rows_of_which_nothing_is_known_are_shown(ranks, tmp_path) -> None:
    for task, shown in {"classify": {"row", "label"}, "qa": {"row", "id", "prediction"}}.items():
        model = fine_tuned(tmp_path / task, task)
        data = {"rows": str(rows_of(model, task, labelled=False))}
        config = evaluate_config(model, on="task", task={"name": task}, data=data, samples=1)
        (found,) = ranks.run(1, told, config)
        (row,) = found["samples"]
        assert set(row) == shown
        assert row["row"] == 0
        assert row.get("id", "q0") == "q0"


@pytest.mark.ranks
def test_two_files_of_answers_share_none_beside_them(ranks, tmp_path) -> None:
    model = fine_tuned(tmp_path, "qa")
    asked = {"on": "task", "task": {"name": "qa"}, "data": {"rows": str(rows_of(model, "qa", labelled=True))}}
    folder = tmp_path / "answers"
    folder.mkdir()
    for name in ("dev", "test"):
        ranks.run(1, told, evaluate_config(model, predictions=str(folder / f"{name}.json"), **asked))
    beside = {f"{name}.nbest_predictions.json" for name in ("dev", "test")}
    assert {file.name for file in folder.iterdir()} == {"dev.json", "test.json"} | beside
