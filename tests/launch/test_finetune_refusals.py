"""What is wrong with a fine-tuning run, its rows or what it begins with: one message, exit code 2, and nothing made."""

import json
from pathlib import Path
from typing import Any

import pytest

from dist_plm.cli.app import front
from dist_plm.cli.commands.finetune import run
from dist_plm.core.errors import EXIT_REFUSED
from dist_plm.spec.schema_finetune import FinetuneConfig
from tests.train.finetuning import make_rows

TEXT = {"text": "the film was good", "label": "good"}
OTHER = {"text": "the play was bad", "label": "bad"}
QUESTION = {"question": "film", "context": "the film was good"}
SAID = [{"role": "user", "content": "good"}, {"role": "assistant", "content": "film"}]
#: Sizes of each kind of model that the runs would have.
SIZES = ("model.layers=1", "model.hidden=32", "model.heads=2")
BERT, GPT = ("model=bert_base", *SIZES), ("model=gpt2_small", *SIZES)
FORGETS = "{% for m in messages %}{{ messages | length }}{{ m.content }}{% endfor %}"
#: Rows of the training file, words of the command line, and what the message has to say.
WRONG: dict[str, tuple[list[dict[str, Any]] | str, tuple[str, ...], list[str]]] = {
    "missing column": (
        [{"words_of": "good", "label": "a"}],
        BERT,
        ["rows.jsonl has no column", "data.columns.text=NAME"],
    ),
    "named column": ([TEXT], (*BERT, "data.columns={label: stars}"), ["stars", "it has 'text', 'label'"]),
    "unknown column": ([TEXT], (*BERT, "data.columns={lable: stars}"), ["data.columns.lable", "did you mean label?"]),
    "label outside the set": ([TEXT], (*BERT, "task.labels=[fine,poor]"), ["'good' is not among the labels", "line 1"]),
    "label outside the training rows": (
        [{**TEXT, "label": "fine"}, OTHER],
        BERT,
        ["dev.jsonl, line", "'good' is not among the labels of the task, bad, fine"],
    ),
    "a single label": ([TEXT, TEXT], BERT, ["has 1 label (good)", "nothing to tell apart"]),
    "several labels": ([{**TEXT, "label": ["a", "b"]}], BERT, ["line 1", "task.multi_label=true"]),
    "no number": ([{**TEXT, "label": "much"}], (*BERT, "task=regress"), ["line 1", "'much', not a number"]),
    "words and tags": (
        [{"tokens": ["good", "film"], "tags": ["O"]}],
        (*BERT, "task=tag"),
        ["line 1: 2 words in 'tokens' and 1 label in 'tags'"],
    ),
    "answer not in the context": (
        [{**QUESTION, "answers": {"text": ["play"], "answer_start": [4]}}],
        (*BERT, "task=qa"),
        ["line 1", "'play'"],
    ),
    "answer without no_answer": (
        [{**QUESTION, "answers": {"text": [], "answer_start": []}}],
        (*BERT, "task=qa"),
        ["line 1", "task.no_answer=true"],
    ),
    "choices": (
        [{"context": "film", "choices": ["good", "bad"], "label": 2}],
        (*BERT, "task=choice"),
        ["line 1", "2"],
    ),
    "template that forgets": (
        [{"messages": [*SAID, *SAID]}],
        (*GPT, "task=chat", f'task.template="{FORGETS}"', "data.validation=null"),
        ["line 1", "{% generation %}"],
    ),
    "nobody answers": ([{"messages": SAID[:1]}], (*GPT, "task=chat"), ["line 1", "the assistant says nothing"]),
    "chat with an encoder": ([{"messages": SAID}], (*BERT, "task=chat"), ["model.family = 'bert'", "chat"]),
    "broken line": ('{"text": "good"', BERT, ["rows.jsonl", "line 1"]),
    "no rows": ("", BERT, ["rows.jsonl"]),
    "another language": (
        [{"text": "画面很好看画面很好看", "label": name} for name in "ab"],
        BERT,
        ["rows.jsonl", "data.tokenizer"],
    ),
    "empty validation set": ([TEXT, OTHER], (*BERT, "data.validation={folder}/empty.jsonl"), ["empty.jsonl"]),
    "file that is not there": ([TEXT], (*BERT, "data.validation={folder}/none.jsonl"), ["none.jsonl is not there"]),
    "measure of another task": ([TEXT], (*BERT, "checkpoint.keep_best=rougeL"), ["'rougeL' is no measure", "accuracy"]),
    "measure to stop by": (
        [TEXT],
        (*BERT, "train.early_stopping={patience: 1, metric: pearson}"),
        ["'pearson' is no measure of task.name = 'classify'"],
    ),
    "measure of labels that are no entities": (
        [{"tokens": ["the", "film"], "tags": tags} for tags in (["DT", "NN"], ["NN", "DT"])],
        (*BERT, "task=tag", "data.validation={folder}/speech.jsonl", "checkpoint.keep_best=f1"),
        ["keep_best = 'f1' is no measure of task.name = 'tag', whose labels are of no entities; it has loss, accuracy"],
    ),
    "strict measure of labels that begin none": (
        [{"tokens": ["the", "film"], "tags": ["O", "I-X"]}],
        (
            *(*BERT, "task=tag", "data.validation={folder}/begins_none.jsonl"),
            "train.early_stopping={patience: 1, metric: strict_f1}",
        ),
        ["metric = 'strict_f1' is no measure of task.name = 'tag', whose labels begin no entities; it has loss, f1,"],
    ),
    "measure of one label a row": (
        [{**TEXT, "label": ["good"]}],
        (*BERT, "task.multi_label=true", "checkpoint.keep_best=matthews"),
        ["keep_best = 'matthews' is no measure of task.name = 'classify' with task.multi_label = true; it has loss"],
    ),
    "label that no measure is of": (
        [{**TEXT, "label": label} for label in ("good", "bad", "fair")],
        (*BERT, "task.positive=good"),
        ["task.positive = 'good' has no effect with 3 labels"],
    ),
    "part to freeze": ([TEXT, OTHER], (*BERT, "train.freeze=[layers.7]"), ["train.freeze", "layers.7"]),
    "place of adapters": ([TEXT, OTHER], (*BERT, "model.lora.targets=[gate]"), ["model.lora.targets has gate"]),
    "words of other tasks": ([TEXT], (*BERT, "task=qa", "data.augment={swap: 0.1}"), ["data.augment", "classify"]),
    "model that is not there": ([TEXT], ("model.init_from={folder}/none",), ["{folder}/none"]),
    "run that is not there": (
        [TEXT, OTHER],
        (*BERT, "train.init_from={folder}/none"),
        ["train.init_from", "{folder}/none"],
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_rows(tmp_path_factory.mktemp("rows"))
    (made / "empty.jsonl").write_text("")
    for name, tags in (("speech", ["DT", "NN"]), ("begins_none", ["O", "I-X"])):
        (made / f"{name}.jsonl").write_text(json.dumps({"tokens": ["a", "play"], "tags": tags}) + "\n")
    return made


@pytest.mark.parametrize("case", WRONG)
def test_one_message_and_nothing_made(folder: Path, tmp_path: Path, capsys, monkeypatch, case: str) -> None:
    rows, words, parts = WRONG[case]
    file, run_dir = tmp_path / "rows.jsonl", tmp_path / "run"
    file.write_text(rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows))
    given = [f"data.train={file}", f"data.validation={folder}/dev.jsonl", f"data.tokenizer={folder}/vocabulary"]
    given += [f"run.dir={run_dir}", "cluster.device=cpu", "data.sequence_length=32"]
    given += [word.replace("{folder}", str(folder)) for word in words]
    monkeypatch.setattr("sys.argv", ["finetune", *given])
    assert front(given, FinetuneConfig, "finetune", run, "") == EXIT_REFUSED
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert len(told.removeprefix("configuration refused, 1 problem:\n").splitlines()) == 1, "one message"
    for part in parts:
        assert part.replace("{folder}", str(folder)) in told
    assert not run_dir.exists()
