"""Rows without what a model is to say: it says of them what it says of the same rows with it, on any grid, and nothing is
measured."""

import json
from pathlib import Path
from typing import Any

import pytest

from dist_plm.core.errors import UserError
from dist_plm.tasks.evaluate.evaluate import measured
from tests.ranks.ports import free_port
from tests.tasks.inference.models import evaluate_config, opened
from tests.train.finetuning import make_rows, settings
from tests.train.running import run_case
from tests.train.test_finetune import GRIDS, TASKS

pytestmark = pytest.mark.ranks

QA = {"task__name": "qa", "data__columns": {"question": "question"}, "task__max_answer_length": 3}
#: Settings of each task, and the column that is left out.
ASKED: dict[str, tuple[dict[str, Any], str]] = {
    "classify": (TASKS["classify"][0], "label"),
    "multi_label": (TASKS["multi_label"][0], "both"),
    "regress": (TASKS["regress"][0], "number"),
    "tag": (TASKS["tag"][0], "tags"),
    "choice": (TASKS["choice"][0], "right"),
    "qa": (QA, "answers"),
    "written_by_t5": (TASKS["written_by_t5"][0], "turn.answer"),
    "written_by_gpt": ({**TASKS["written_by_gpt"][0], "task__max_target_length": 2}, "turn.answer"),
    "chat": (TASKS["chat"][0], "messages"),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rows(tmp_path_factory.mktemp("rows"))


def without(row: dict[str, Any], column: str) -> dict[str, Any]:
    """A row that asks the same and does not answer."""
    outer, _, inner = column.partition(".")
    if inner:
        return {**row, outer: {name: text for name, text in row[outer].items() if name != inner}}
    rest = {name: value for name, value in row.items() if name != column}
    return {**rest, "messages": row["messages"][:-1]} if column == "messages" else rest


def ask(world, config):
    try:
        return measured(config, opened(world, config))
    except UserError as error:
        return str(error)


@pytest.mark.parametrize(
    ("task", "grid"),
    [
        ("tag", "tensor"),
        ("written_by_gpt", "pipeline"),
        *(
            pytest.param(task, grid, marks=pytest.mark.slow)
            for task, grid in (
                ("chat", "data"),
                ("qa", "data"),
                ("classify", "pipeline"),
                ("multi_label", "data"),
                ("regress", "tensor"),
                ("choice", "data"),
                ("written_by_t5", "tensor"),
            )
        ),
    ],
)
def test_what_is_said_does_not_depend_on_what_should_be_said(ranks, rows, task, grid, tmp_path: Path) -> None:
    changes, column = ASKED[task]
    run, bare, told, asked = (tmp_path / name for name in ("run", "bare.jsonl", "told.jsonl", "asked.jsonl"))
    assert ranks.run(1, run_case, settings(rows, run, **changes, train__stop_at=12), free_port()) == [0]
    answered = [json.loads(line) for line in (rows / "dev.jsonl").read_text().splitlines()]
    bare.write_text("".join(json.dumps(without(row, column)) + "\n" for row in answered))
    wanted = {"on": "task", "batch_size": 3}
    (one,) = ranks.run(
        1, ask, evaluate_config(run, predictions=str(told), data={"rows": str(rows / "dev.jsonl")}, **wanted)
    )
    assert one["results"]["loss"] > 0
    if task == "written_by_gpt":  # whose answers are two words, and the token that ends them
        log = "".join(path.read_text() for path in (run / "log").iterdir())
        for split, count, told_in in (("train", 61, log), ("validation", 21, log), ("rows", 21, one["warnings"][0])):
            assert f"data.{split} = " in told_in
            assert f"in {count} of {count} rows (100 %) the answer is longer than task.max_target_length = 2" in told_in
    parallel = {key.removeprefix("parallel__"): value for key, value in GRIDS[grid].items()}
    given = {"data": {"rows": str(bare)}, "parallel": parallel, **wanted}
    first, other = ranks.run(2, ask, evaluate_config(run, predictions=str(asked), samples=2, **given))
    assert first["results"] == other["results"] == {"rows": 21}
    assert first["unmeasured"]
    assert "warnings" not in first
    assert len(first["samples"]) == (0 if task == "qa" else 2)
    lines = (
        [json.loads(line) for line in told.read_text().splitlines()] if task != "qa" else [json.loads(told.read_text())]
    )
    said = (
        [json.loads(line) for line in asked.read_text().splitlines()]
        if task != "qa"
        else [json.loads(asked.read_text())]
    )
    assert len(lines) == len(said) > 0
    for expected, line in zip(lines, said, strict=True):
        assert line.keys() == expected.keys() - {"target"}
        for name, value in line.items():
            near = isinstance(value, float)
            assert value == (pytest.approx(expected[name], rel=1e-4, abs=1e-5) if near else expected[name])
    for refused in ranks.run(2, ask, evaluate_config(run, **given)):
        assert "nothing can be measured: give predictions=FILE" in refused


def test_answers_may_be_left_unread(ranks, rows, tmp_path: Path) -> None:
    """Those of a test set are often none: GLUE's are all -1."""
    run, out = tmp_path / "run", tmp_path / "said.jsonl"
    assert ranks.run(1, run_case, settings(rows, run, train__stop_at=1), free_port()) == [0]
    hidden = tmp_path / "test.jsonl"
    hidden.write_text('{"text": "the film was good", "label": -1}\n' * 3)
    given = {"on": "task", "predictions": str(out)}
    (refused,) = ranks.run(1, ask, evaluate_config(run, data={"rows": str(hidden)}, **given))
    assert "'-1' is not among the labels of the task" in refused
    assert not out.exists()
    (content,) = ranks.run(
        1, ask, evaluate_config(run, data={"rows": str(hidden), "columns": {"label": None}}, **given)
    )
    assert content["results"] == {"rows": 3}
    assert len(out.read_text().splitlines()) == 3
    (refused,) = ranks.run(1, ask, evaluate_config(run, data={"rows": str(hidden), "columns": {"lable": "x"}}, **given))
    assert "did you mean label?" in refused
