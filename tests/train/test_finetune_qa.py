"""Whole runs that learn to answer questions over windows of long texts: on any grid, and exported, they answer the same."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from dist_plm.config.decode import decode
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.tasks.convert.convert import convert
from tests.ranks.ports import free_port
from tests.ranks.selection import covering
from tests.train.finetuning import make_rows, records, settings
from tests.train.running import run_case

pytestmark = pytest.mark.ranks

QA: dict[str, Any] = {
    "task__name": "qa",
    "task__max_question_length": 4,
    "task__max_answer_length": 2,
    "model__activation": "gelu",
    "model__norm_placement": "post",
}
GRIDS: dict[str, dict[str, Any]] = {
    "data": {},
    "tensor": {"parallel__tensor": 2},
    "pipeline": {"parallel__pipeline": 2},
    "zero3": {"engine__zero_stage": 3, "engine__name": "deepspeed"},
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def alone(ranks, rows, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("alone")
    assert ranks.run(1, run_case, settings(rows, run_dir, **QA), free_port()) == [0]
    return run_dir


def test_answers_are_learned(alone: Path) -> None:
    found = records(alone)
    assert found[-1]["samples_seen"] > 8 * 61 * 1.3, "texts make several windows"
    assert found[-1]["eval/loss"] < found[0]["eval/initial/loss"]
    assert found[-1]["eval/f1"] == found[-1]["eval/exact_match"] >= 0.9


def test_predictions_are_written_as_squads_are(rows, alone: Path) -> None:
    said = json.loads((alone / "predictions" / "predictions.json").read_text())
    held_out = [json.loads(line) for line in (rows / "dev.jsonl").read_text().splitlines()]
    assert list(said) == [str(row) for row in range(len(held_out))]
    right = [said[str(row)] in value["answers"]["text"] for row, value in enumerate(held_out)]
    assert sum(right) / len(right) == pytest.approx(records(alone)[-1]["eval/exact_match"], abs=1e-9)
    assert json.loads((alone / "predictions" / "nbest_predictions.json").read_text()).keys() == said.keys()


@pytest.mark.parametrize("grid", covering(list(GRIDS), ["pipeline"]))
def test_two_ranks_equal_one(ranks, rows, alone: Path, grid: str, tmp_path: Path) -> None:
    assert ranks.run(2, run_case, settings(rows, tmp_path, **QA, **GRIDS[grid]), free_port()) == [0, 0]
    for ours, whole in zip(records(tmp_path), records(alone), strict=True):
        for key, value in whole.items():
            if value is not None:
                assert ours[key] == pytest.approx(value, rel=3e-4, abs=5e-5), (whole["step"], key)


def test_the_export_answers_as_the_run_did(rows, alone: Path, tmp_path: Path) -> None:
    """The class of Transformers on its own tokenizer's windows."""
    said = convert(decode(ConvertConfig, {"from": str(alone), "to": str(tmp_path / "hf"), "format": "hf"}))
    assert "BertForQuestionAnswering" in said
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "hf").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    held_out = [json.loads(line) for line in (rows / "dev.jsonl").read_text().splitlines()]
    right = [_answer(model, tokenizer, row) == row["answers"]["text"][0] for row in held_out]
    assert sum(right) / len(right) == pytest.approx(records(alone)[-1]["eval/exact_match"], abs=1e-9)


@torch.inference_mode()
def _answer(model: Any, tokenizer: Any, row: dict[str, Any]) -> str:
    """The best of all spans of up to two tokens of all windows, which share 8 of 12 tokens."""
    frame = {"max_length": 16, "stride": 8, "truncation": "only_second", "padding": "max_length"}
    read = tokenizer(
        row["question"],
        row["context"],
        **frame,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_tensors="pt",
    )
    names = ("input_ids", "attention_mask", "token_type_ids")
    told, best = model(**{name: read[name] for name in names}), (-math.inf, "")
    for window, offsets in enumerate(read["offset_mapping"].tolist()):
        places = [i for i, part in enumerate(read.sequence_ids(window)) if part == 1]
        for first, last in ((i, j) for i in places for j in (i, i + 1) if j in places):
            score = float(told.start_logits[window, first] + told.end_logits[window, last])
            best = max(best, (score, row["context"][offsets[first][0] : offsets[last][1]]))
    return best[1]
