"""Rows whose answers are longer than is learned and scored are counted, and named."""

import json
from pathlib import Path
from typing import Any

import pytest

from dist_plm.core.errors import DataError
from dist_plm.data.labelled.columns import find_columns
from dist_plm.data.labelled.encode import ExampleEncoder
from dist_plm.data.labelled.rows import RowFile
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.objectives.build import build_task
from dist_plm.objectives.tasks import encode_rows
from dist_plm.objectives.tasks.encode_rows import encoded
from dist_plm.spec.tasks import TASKS
from tests.data.labelled.words import write_vocabulary

#: Rows, the second and third of which are too long.
WRITTEN = [{"source": "good", "target": "a film" + more} for more in ("", " was good", " was bad")]
CHOSEN = [
    {"context": "good", "choices": ["bad", "a film" + more], "label": 0} for more in ("", " was good", " was bad")
]
SAID = [
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " ".join(["bad"] * count)}]}
    for count in (3, 20, 30)
]
#: What a turn of the assistant follows in another.
TURNS = [{"messages": [*SAID[0]["messages"], *row["messages"]]} for row in SAID]
TAGGED = [{"tokens": ["good"] * count, "tags": ["X"] * count} for count in (10, 11, 30)]
ASKED = [
    {"question": "film", "context": "good " * 30, "answers": {"text": [("good " * count).strip()], "answer_start": [0]}}
    for count in (3, 20, 30)
]
TARGET, LENGTH = "task.max_target_length = 4 tokens", "data.sequence_length = 12 tokens"
WINDOW = "no window of data.sequence_length = 12 tokens holds the whole answer"
BOUND = {"max_target_length": 4}


@pytest.mark.parametrize(
    ("task", "kind", "settings", "rows", "bound"),
    [
        ("seq2seq", "decoder", BOUND, WRITTEN, TARGET),
        ("seq2seq", "encoder_decoder", BOUND, WRITTEN, TARGET),
        ("choice", "decoder", {"max_target_length": 3}, CHOSEN, TARGET.replace("4", "3")),
        ("choice", "encoder_decoder", BOUND, CHOSEN, TARGET),
        ("chat", "decoder", {}, SAID, LENGTH),
        ("chat", "decoder", {"packing": True}, SAID, LENGTH),
        ("chat", "encoder_decoder", {}, TURNS, LENGTH),
        ("qa", "encoder", {}, ASKED, WINDOW),
        ("tag", "encoder", {"labels": ("X",)}, TAGGED, LENGTH),
    ],
)
def test_rows_with_long_answers_are_told(
    tmp_path: Path, task: str, kind: str, settings: dict[str, Any], rows: list[dict[str, Any]], bound: str
) -> None:
    tokenizer = Tokenizer.load(write_vocabulary(tmp_path / "vocabulary"))
    config = TASKS[task](**settings).with_template("{% for m in messages %}{{ m.content }} . {% endfor %}")
    encoder = ExampleEncoder(tokenizer, 12, kind == "encoder_decoder", by_likelihood=task == "choice")
    path, columns = tmp_path / "rows.jsonl", find_columns(config.columns, {}, list(rows[0]), "rows.jsonl")
    told = []
    for given in (rows[:1], rows):
        path.write_text("".join(json.dumps(row) + "\n" for row in given))
        told.append(encoded(RowFile("data.train", str(path), "train"), columns, build_task(config), encoder).warnings)
    whole, (warning,) = told
    assert whole == ()
    told_of = bound if task == "qa" else f"the answer is longer than {bound}"
    assert warning.startswith(f"data.train = {path}: in 2 of 3 rows (67 %) {told_of}, and ")
    assert f"of {path}, line 2 first" in warning


def test_a_number_of_choices_that_changes_between_batches_of_rows_is_told_with_the_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(encode_rows, "_ROWS", 2)
    encoder = ExampleEncoder(Tokenizer.load(write_vocabulary(tmp_path / "vocabulary")), 12)
    path, columns = tmp_path / "rows.jsonl", {"context": "context", "choices": "choices", "label": "label"}
    more = [{**row, "choices": [*row["choices"], "good"]} for row in CHOSEN[:2]]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*CHOSEN[:2], *more]))
    with pytest.raises(DataError) as refused:
        encoded(RowFile("data.train", str(path), "train"), columns, build_task(TASKS["choice"]()), encoder)  # pyright: ignore[reportCallIssue]
    assert str(refused.value) == f"{path}, line 3: 3 choices where rows before it have 2: give every row as many"
