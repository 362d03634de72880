"""Whole fine-tuning runs: they learn, on any grid with the same numbers, and go on after a stop as if there had been none."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml

from dist_plm.config.decode import decode
from dist_plm.core.errors import ConfigError, DataError
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.tasks.convert.convert import convert
from dist_plm.tasks.convert.inspection import inspect
from dist_plm.tasks.evaluate.evaluate import measured
from dist_plm.tasks.inference.open_model import build_runner
from dist_plm.train.data import open_run
from dist_plm.train.ending.closing_summary import closing_summary
from tests.ranks.ports import free_port
from tests.tasks.inference.models import evaluate_config, opened
from tests.train.finetuning import make_rows, records, settings
from tests.train.running import run_case

pytestmark = pytest.mark.ranks

SIZES = {"layers": 2, "hidden": 32, "heads": 2, "init_std": 0.1}
T5 = {"family": "t5", "position": "relative", "norm": "rmsnorm", "bias": False, **SIZES}
TRANSFORMER = {"family": "transformer", "position": "sinusoidal", "norm_placement": "post", **SIZES}
GPT = {"family": "gpt", **SIZES}
SEQ2SEQ = {"task__name": "seq2seq", "data__columns": {"source": "turn.en", "target": "turn.answer"}}
CHAT = {"model": GPT, "task__name": "chat", "data__sequence_length": 64}
CHANGED = {"delete": 0.1, "swap": 0.2, "mask": 0.1}
#: Each task with what it measures, and what it has to reach on rows that were not seen.
TASKS: dict[str, tuple[dict[str, Any], str, float]] = {
    "classify": ({}, "accuracy", 0.9),
    "pair": (
        {
            "data__columns": {"text": "text", "pair": "text_b"},
            "data__augment": CHANGED,
            "task__label_smoothing": 0.1,
            "task__balanced": True,
        },
        "accuracy",
        0.6,
    ),
    "multi_label": (
        {"task__multi_label": True, "data__columns": {"text": "text", "label": "both"}},
        "f1_micro",
        0.7,
    ),
    "regress": ({"task__name": "regress", "data__columns": {"text": "text", "label": "number"}}, "pearson", 0.7),
    "tag": (
        {
            "task__name": "tag",
            "task__class_weights": {"B-WORD": 2.0},
            "task__label_smoothing": 0.1,
            "data__augment": CHANGED,
        },
        "f1",
        0.9,
    ),
    "choice": (
        {
            "task__name": "choice",
            "data__columns": {"context": "text", "question": "text_b", "choices": "options", "label": "right"},
        },
        "accuracy",
        0.8,
    ),
    "label_by_t5": (
        {"model": T5, "optim__lr": 8e-3, "task__prefix": "is ", "task__label_texts": {"bad": "not good"}},
        "accuracy",
        0.9,
    ),
    "number_by_t5": (
        {
            "model": T5,
            "optim__lr": 8e-3,
            "task": {"name": "regress", "lowest": -4, "highest": 4, "step": 1.0},
            "data__columns": {"text": "text", "label": "number"},
        },
        "pearson",
        0.7,
    ),
    "choice_by_gpt": (
        {
            "model": GPT,
            "task__name": "choice",
            "data__columns": {"context": "text", "choices": "options", "label": "right"},
        },
        "accuracy",
        0.8,
    ),
    "written_by_t5": ({"model": T5, **SEQ2SEQ, "optim__lr": 8e-3}, "accuracy", 0.7),
    "written_by_transformer": ({"model": TRANSFORMER, **SEQ2SEQ}, "accuracy", 0.7),
    "chat_by_t5": (
        {"model": T5, "task__name": "chat", "data__sequence_length": 24, "optim__lr": 8e-3},
        "accuracy",
        0.7,
    ),
    "chat": ({**CHAT, "task__packing": True}, "accuracy", 0.5),
    "written_by_gpt": ({"model": GPT, **SEQ2SEQ, "task__prefix_lm": True}, "accuracy", 0.8),
}
#: By steps so large as those above other roundings grow tenfold every third step: one rank adds gradients up otherwise than
#: two, by 1e-8 of their norm.
TASKS["choice_slowly"] = ({**TASKS["choice"][0], "optim__lr": 5e-4, "data__augment": CHANGED}, "accuracy", 0.0)
TASKS["choice_by_t5"] = (
    {**TASKS["choice_by_gpt"][0], "model": T5, "task__label_smoothing": 0.1, "train__epochs": 1},
    "accuracy",
    0.0,
)
TASKS["twice"] = ({"task__r_drop": 1.0, "model__hidden_dropout": 0.1}, "accuracy", 0.0)
TASKS["twice_many"] = ({**TASKS["multi_label"][0], **TASKS["twice"][0]}, "f1_micro", 0.0)
TASKS["gradually"] = ({"train__unfreeze_every": 6}, "accuracy", 0.0)
GRIDS: dict[str, dict[str, Any]] = {
    "data": {},
    "tensor": {"parallel__tensor": 2},
    "pipeline": {"parallel__pipeline": 2},
    "zero": {"engine__zero_stage": 1, "engine__name": "deepspeed"},
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def run_alone(ranks, rows, tmp_path_factory):
    """The run of each task on one rank, made once."""
    made: dict[str, Path] = {}

    def of(task: str) -> Path:
        if task not in made:
            made[task] = tmp_path_factory.mktemp(task)
            assert ranks.run(1, run_case, settings(rows, made[task], **TASKS[task][0]), free_port()) == [0]
        return made[task]

    return of


@pytest.fixture(scope="module")
def alone(run_alone):
    return lambda task: records(run_alone(task))


def test_packed_dialogues_cost_what_they_cost_apart(ranks, rows, alone, tmp_path: Path) -> None:
    """As no dialogue sees another."""
    assert ranks.run(1, run_case, settings(rows, tmp_path, **CHAT, train__stop_at=1), free_port()) == [0]
    apart, packed = records(tmp_path)[0], alone("chat")[0]
    assert packed["eval/initial/loss"] == pytest.approx(apart["eval/initial/loss"], rel=1e-5)
    assert packed["eval/initial/accuracy"] == pytest.approx(apart["eval/initial/accuracy"])


SLOW = ("chat_by_t5", "number_by_t5", "written_by_transformer")
ELSEWHERE = ("pair", "chat", "choice_by_t5", "choice_slowly", "gradually", "twice", "twice_many")
LEARNED = [task for task in TASKS if task not in (*SLOW, *ELSEWHERE)]


@pytest.mark.parametrize("task", [*LEARNED, *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW)])
def test_every_task_is_learned(alone, task: str) -> None:
    changes, measure, least = TASKS[task]
    found = alone(task)
    assert len(found) == 41  # 8 epochs of 61 rows, by 12
    assert found[-1]["samples_seen"] == 8 * 61, "the last batch is short"
    epoch = found[-1]["tokens_seen"] / 8
    assert epoch.is_integer(), "padding is no token"
    assert epoch < 61 * changes.get("data__sequence_length", 16) * (2 if "choice" in task else 1)
    assert [r["step"] for r in found if "eval/loss" in r] == [6, 12, 18, 24, 30, 36, 41]
    given = {name.removeprefix("eval/") for name in found[-1] if name.startswith("eval/")}
    asked = settings(Path("rows"), Path("run"), **changes).task
    assert given == {*asked.measured} - {*getattr(asked, "text_measures", ())}, "what a checkpoint may be the best by"
    assert found[-1]["eval/loss"] < found[0]["eval/initial/loss"]
    assert found[-1][f"eval/{measure}"] >= least


@pytest.mark.parametrize(
    ("task", "grid"),
    [
        ("classify", "data"),
        pytest.param("pair", "tensor", marks=pytest.mark.slow),
        pytest.param("twice", "data", marks=pytest.mark.slow),
        pytest.param("twice", "pipeline", marks=pytest.mark.slow),
        pytest.param("twice_many", "pipeline", marks=pytest.mark.slow),
        pytest.param("multi_label", "pipeline", marks=pytest.mark.slow),
        ("regress", "zero"),
        ("tag", "pipeline"),
        pytest.param("tag", "data", marks=pytest.mark.slow),
        pytest.param("choice_slowly", "pipeline", marks=pytest.mark.slow),
        pytest.param("choice_slowly", "zero", marks=pytest.mark.slow),
        pytest.param("choice_slowly", "tensor", marks=pytest.mark.slow),
        pytest.param("label_by_t5", "data", marks=pytest.mark.slow),
        pytest.param("choice_by_gpt", "pipeline", marks=pytest.mark.slow),
        ("choice_by_t5", "data"),
        pytest.param("written_by_gpt", "pipeline", marks=pytest.mark.slow),
        pytest.param("chat", "data", marks=pytest.mark.slow),
        pytest.param("written_by_t5", "tensor", marks=pytest.mark.slow),
        pytest.param("written_by_t5", "zero", marks=pytest.mark.slow),
        pytest.param("written_by_gpt", "data", marks=pytest.mark.slow),
        pytest.param("written_by_transformer", "tensor", marks=pytest.mark.slow),
        pytest.param("written_by_transformer", "zero", marks=pytest.mark.slow),
    ],
)
def test_two_ranks_equal_one(ranks, rows, alone, task: str, grid: str, tmp_path: Path) -> None:
    config = settings(rows, tmp_path, **TASKS[task][0], **GRIDS[grid])
    assert ranks.run(2, run_case, config, free_port()) == [0, 0]
    for ours, whole in zip(records(tmp_path), alone(task), strict=True):
        for key, value in whole.items():
            if value is not None:
                near = 5e-3 if key.endswith("spearman") else 5e-5  # ranks of what is all but equal change places
                assert ours[key] == pytest.approx(value, rel=3e-4, abs=near), (whole["step"], key)


@pytest.mark.parametrize(
    "task", [pytest.param(one, marks=pytest.mark.slow) for one in ("classify", "written_by_t5", "gradually")]
)
def test_a_stopped_run_goes_on_on_another_grid(ranks, rows, alone, task: str, tmp_path: Path) -> None:
    first = settings(rows, tmp_path, train__stop_at=15, **TASKS[task][0])
    assert ranks.run(2, run_case, first, free_port()) == [0, 0]
    again = settings(rows, tmp_path, **TASKS[task][0], **GRIDS["tensor"])
    assert ranks.run(2, run_case, again, free_port()) == [0, 0]
    found = records(tmp_path)
    assert [r["step"] for r in found] == list(range(1, 42))
    assert found[-1]["loss"] == pytest.approx(alone(task)[-1]["loss"], rel=1e-3, abs=1e-5)
    assert found[-1]["eval/accuracy"] == alone(task)[-1]["eval/accuracy"]


def measure(world, config):
    return measured(config, opened(world, config))


@pytest.mark.parametrize(
    ("task", "grid"),
    [
        ("written_by_t5", "tensor"),
        ("written_by_gpt", "pipeline"),
        pytest.param("written_by_transformer", "tensor", marks=pytest.mark.slow),
    ],
)
def test_what_a_run_writes_is_measured_alike_on_every_grid(ranks, rows, run_alone, task, grid, tmp_path: Path) -> None:
    run = run_alone(task)
    wanted = {"data": {"rows": str(rows / "dev.jsonl")}, "on": "task"}  # the run knows the columns
    out = tmp_path / "predictions.jsonl"
    (one,) = ranks.run(1, measure, evaluate_config(run, predictions=str(out), **wanted))
    results, last = one["results"], records(run)[-1]
    assert results["loss"] == pytest.approx(last["eval/loss"], rel=1e-4)
    assert results["accuracy"] == pytest.approx(last["eval/accuracy"])
    assert results["exact_match"] > 30.0
    assert results["rougeL"] > 60.0
    written = [json.loads(line) for line in out.read_text().splitlines()]
    right = [line["prediction"] == line["target"] for line in written]
    assert len(written) == 21
    assert results["exact_match"] == pytest.approx(100 * sum(right) / 21)
    parallel = {key.removeprefix("parallel__"): value for key, value in GRIDS[grid].items()}
    again = tmp_path / "again.jsonl"
    for other in ranks.run(2, measure, evaluate_config(run, parallel=parallel, predictions=str(again), **wanted)):
        assert other["results"] == pytest.approx(results, rel=1e-4)
    assert again.read_text() == out.read_text(), "greedily, word for word"


@pytest.mark.parametrize(
    ("task", "grid"),
    [
        ("classify", "tensor"),
        ("tag", "pipeline"),
        pytest.param("label_by_t5", "tensor", marks=pytest.mark.slow),
        pytest.param("choice_by_gpt", "pipeline", marks=pytest.mark.slow),
        pytest.param("choice_by_t5", "data", marks=pytest.mark.slow),
        pytest.param("regress", "data", marks=pytest.mark.slow),
        pytest.param("choice", "data", marks=pytest.mark.slow),
    ],
)
def test_what_a_run_says_is_measured_alike_on_every_grid(ranks, rows, run_alone, task, grid, tmp_path: Path) -> None:
    run, settings_of_task = run_alone(task), TASKS[task][0]
    wanted = {
        "data": {"rows": str(rows / "dev.jsonl"), "columns": settings_of_task.get("data__columns", {})},
        "on": "task",
        "batch_size": 3,
    }
    out = tmp_path / "predictions.jsonl"
    (one,) = ranks.run(1, measure, evaluate_config(run, predictions=str(out), samples=21, **wanted))
    results, last = one["results"], records(run)[-1]
    losses = [row["loss"] for row in one["samples"]]
    assert losses == sorted(losses, reverse=True)
    said = [json.loads(line) for line in out.read_text().splitlines()]
    for row in one["samples"]:
        assert row["prediction"] == next(value for name, value in said[row["row"]].items() if name != "row")
    if "task__label_smoothing" not in settings_of_task:  # which the loss of a row is without
        assert sum(losses) / 21 == pytest.approx(results["loss"], rel=1e-5)
    assert results.pop("rows") == len(out.read_text().splitlines()) == 21
    for name, value in results.items():
        assert value == pytest.approx(last[f"eval/{name}"], rel=1e-4, abs=1e-6), name
    parallel = {key.removeprefix("parallel__"): value for key, value in GRIDS[grid].items()}
    for other in ranks.run(2, measure, evaluate_config(run, parallel=parallel, **wanted)):
        assert other["results"] == pytest.approx({**results, "rows": 21}, rel=1e-4, abs=1e-6)
    (some,) = ranks.run(1, measure, evaluate_config(run, limit=5, samples=2, **wanted))
    assert (some["results"]["rows"], len(some["samples"])) == (5, 2)


def test_run_yaml_holds_what_the_data_told(ranks, rows, tmp_path: Path) -> None:
    config = settings(rows, tmp_path, train__epochs=1, checkpoint__keep_best="accuracy", train__eval_every=4)
    assert ranks.run(1, run_case, config, free_port()) == [0]
    written = yaml.safe_load((tmp_path / "run.yaml").read_text())
    assert written["task"]["labels"] == ["bad", "good"]
    assert written["train"]["steps"] == 6
    assert written["train"]["eval_samples"] == 21
    assert written["model"]["head"] == "sequence"
    assert written["checkpoint"]["every"] == 4
    assert written["checkpoint"]["best_is"] == "highest"


def test_rows_tell_how_many_choices_they_have(rows, tmp_path: Path) -> None:
    config = settings(rows, tmp_path, **TASKS["choice"][0])
    assert open_run(config, 1)[0].task.num_choices == 2
    with pytest.raises(ConfigError, match=r"task.num_choices = 4, and the rows of data.train have 2: leave it out"):
        open_run(replace(config, task=replace(config.task, num_choices=4)), 1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_validation_rows_with_another_number_of_choices_are_refused(rows, tmp_path: Path, smoothing) -> None:
    """Of which labels and what is learned of them would be others."""
    config = settings(rows, tmp_path, **TASKS["choice"][0], task__label_smoothing=smoothing)
    other = tmp_path / "other.jsonl"
    held_out = [json.loads(line) for line in Path(config.data.validation or "").read_text().splitlines()]
    other.write_text("".join(json.dumps({**row, "options": [*row["options"], "other"]}) + "\n" for row in held_out))
    with pytest.raises(DataError) as refused:
        open_run(replace(config, data=replace(config.data, validation=str(other))), 1)
    assert str(refused.value) == (
        f"{other}, line 1: 3 choices where the rows of data.train have 2: give every row as many"
    )


def test_the_best_checkpoint_has_a_path(ranks, rows, tmp_path: Path) -> None:
    """It is measured, described, exported and begun with by that; the last words name it."""
    run, kept = tmp_path / "run", {"checkpoint__keep_best": "loss", "checkpoint__best_is": "highest"}
    config = settings(rows, run, train__epochs=2, train__eval_every=2, **kept)
    assert ranks.run(1, run_case, config, free_port()) == [0]
    measured_at = {record["step"]: record["eval/loss"] for record in records(run) if "eval/loss" in record}
    step = max(measured_at, key=lambda one: measured_at[one])
    assert step < max(measured_at), "the last is not the one that stays"
    best = run / "checkpoints" / "best"
    wanted = {"data": {"rows": str(rows / "dev.jsonl")}, "on": "task", "batch_size": 4}
    (said,) = ranks.run(1, measure, evaluate_config(best, **wanted))
    assert said["model"].endswith(f"step_{step:08d}")
    assert said["results"]["loss"] == pytest.approx(measured_at[step], rel=1e-5)
    assert f"step_{step:08d}: " in inspect(str(run))[0].partition("best of the run")[2]
    assert inspect(str(best))[0].splitlines()[0].split() == ["checkpoint", str(best.with_name(f"step_{step:08d}"))]
    told = closing_summary(run, replace(config.checkpoint, dir=None), ["finetune"], config.model, config.data)
    assert f"step {step}, loss {measured_at[step]:.4g}: {best}" in told
    assert f"from={best} on=task" in told
    begun = settings(rows, tmp_path / "begun", train__init_from=str(best), train__epochs=1, train__stop_at=1)
    assert ranks.run(1, run_case, begun, free_port()) == [0]
    assert records(tmp_path / "begun")[0]["eval/initial/loss"] == pytest.approx(measured_at[step], rel=1e-5)


def test_an_export_decides_as_the_run_did(ranks, rows, tmp_path: Path) -> None:
    """Transformers' own pipeline on what convert writes, the tokenizer with it."""
    run_dir = tmp_path / "run"
    config = settings(rows, run_dir, model__activation="gelu", model__norm_placement="post")
    assert ranks.run(1, run_case, config, free_port()) == [0]
    said = convert(decode(ConvertConfig, {"from": str(run_dir), "to": str(tmp_path / "hf"), "format": "hf"}))
    assert "BertForSequenceClassification" in said
    classify = transformers.pipeline("text-classification", str(tmp_path / "hf"))
    held_out = [json.loads(line) for line in (rows / "dev.jsonl").read_text().splitlines()]
    right = [classify(row["text"])[0]["label"] == row["label"] for row in held_out]
    assert sum(right) / len(right) == pytest.approx(records(run_dir)[-1]["eval/accuracy"], abs=1e-9)


LORA = {**TASKS["written_by_gpt"][0], "task__prefix_lm": False, "model": {**GPT, "lora": {"rank": 4, "alpha": 8.0}}}


def test_adapters_begin_with_a_run(ranks, rows, run_alone, tmp_path: Path) -> None:
    base = run_alone("written_by_gpt")
    config = settings(
        rows,
        tmp_path,
        **{**TASKS["written_by_gpt"][0], "model": LORA["model"]},
        train__init_from=str(base),
        train__epochs=1,
    )
    assert ranks.run(1, run_case, config, free_port()) == [0]
    found = records(tmp_path)
    assert found[0]["eval/initial/loss"] == pytest.approx(records(base)[-1]["eval/loss"], rel=1e-6)
    assert found[-1]["step"] > 3


def logits_of(world, run: Path, tokens) -> Any:
    session = opened(world, evaluate_config(run))
    runner = build_runner(session)
    return runner.run({"tokens": tokens, "samples": torch.arange(len(tokens))}).transpose(0, 1)[
        ..., : runner.shared.vocab_size
    ]


def test_adapters_resume_and_are_exported_merged(ranks, rows, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    torch.manual_seed(0)
    sizes = {"vocab_size": 82, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 2}
    base = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    base.save_pretrained(tmp_path / "base")
    changes = {**LORA, "train__epochs": 2}
    changes["model"] = {**changes["model"], "init_from": str(tmp_path / "base")}
    assert ranks.run(1, run_case, settings(rows, whole, **changes), free_port()) == [0]
    for more in ({"train__stop_at": 4}, GRIDS["tensor"]):
        assert ranks.run(2, run_case, settings(rows, stopped, **changes, **more), free_port()) == [0, 0]
    ours, theirs = records(stopped), records(whole)
    assert [r["step"] for r in ours] == [r["step"] for r in theirs]
    assert ours[-1]["loss"] == pytest.approx(theirs[-1]["loss"], rel=1e-4)
    assert ours[-1]["eval/loss"] == pytest.approx(theirs[-1]["eval/loss"], rel=1e-4)
    assert theirs[-1]["eval/loss"] < theirs[0]["eval/initial/loss"]
    said = convert(decode(ConvertConfig, {"from": str(whole), "to": str(tmp_path / "hf"), "format": "hf"}))
    assert "logits by GPT2LMHeadModel of 2 texts of 16 tokens: largest difference" in said
    half = convert(
        decode(ConvertConfig, {"from": str(whole), "to": str(tmp_path / "half"), "format": "hf", "dtype": "bf16"})
    )
    assert "largest difference" in half, "merged in fp32, and rounded then"
    exported = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    tokens = torch.arange(24).view(2, 12) + 5
    (expected,) = ranks.run(1, logits_of, whole, tokens)
    with torch.no_grad():
        assert float((exported(tokens).logits - expected).abs().max()) < 1e-5
