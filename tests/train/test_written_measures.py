"""What a model writes decides, while it learns: on any grid and engine the same, and the same as launch/evaluate.py finds."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import tokenizers as hf
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

from dist_plm.config.decode import decode
from dist_plm.core.errors import ConfigError
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.tasks.convert.convert import convert
from dist_plm.tasks.evaluate.evaluate import measured
from dist_plm.tasks.generate.check_generation import check_generation
from tests.ranks.ports import free_port
from tests.tasks.inference.models import END, evaluate_config, generate_config, opened
from tests.train.finetuning import make_rows, records, settings
from tests.train.running import run_case
from tests.train.test_finetune import CHAT, GPT, SEQ2SEQ, T5

TEXT_MEASURES = ("rouge1", "rouge2", "rougeL", "bleu", "chrf", "exact_match")
BEST = {"checkpoint__keep_best": "rougeL", "train__stop_at": 18}
TASKS: dict[str, dict[str, Any]] = {
    "gpt": {"model": GPT, **SEQ2SEQ, **BEST},
    "gpt_deep": {"model": {**GPT, "layers": 4}, **SEQ2SEQ, **BEST},
    "gpt_both_ways": {"model": GPT, **SEQ2SEQ, **BEST, "task__prefix_lm": True},
    "t5": {"model": T5, **SEQ2SEQ, **BEST, "optim__lr": 8e-3},
    "chat": {**CHAT, "task__measure_writing": True, "task__written_rows": 5, "train__stop_at": 12},
    "chat_deep": {**CHAT, "model": {**GPT, "layers": 4}, "task__measure_writing": True, "task__written_rows": 5}
    | {"train__stop_at": 12},
}
GRIDS: dict[str, dict[str, Any]] = {
    "data": {},
    "tensor": {"parallel__tensor": 2},
    "sequence": {"parallel__tensor": 2, "parallel__sequence_parallel": True},
    "pipeline": {"parallel__pipeline": 2},
    "chunks": {"parallel__pipeline": 2, "parallel__virtual_pipeline": 2},
    "zero 1": {"engine__zero_stage": 1, "engine__overlap_param_gather": True, "engine__overlap_grad_reduce": True},
    "zero 3": {"engine__zero_stage": 3, "engine__name": "deepspeed"},
    "deepspeed pipeline": {"engine__zero_stage": 1, "engine__name": "deepspeed", "parallel__pipeline": 2},
}
_DEEPSPEED = {"engine__zero_stage": 1, "engine__name": "deepspeed"}
GRIDS["deepspeed sequence"] = {**GRIDS["sequence"], **_DEEPSPEED}
GRIDS["sequence zero 3"] = {**GRIDS["sequence"], **GRIDS["zero 3"], "parallel__data": 2}
GRIDS["sequence chunks"] = {**GRIDS["sequence"], **GRIDS["chunks"]}
GRIDS["deepspeed sequence chunks"] = {**GRIDS["sequence chunks"], **_DEEPSPEED}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rows(tmp_path_factory.mktemp("rows"))


def measure(world, config):
    return measured(config, opened(world, config))


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("task", "grid"),
    [
        ("gpt", "zero 3"),
        pytest.param("t5", "sequence", marks=pytest.mark.slow),
        pytest.param("gpt", "sequence", marks=pytest.mark.slow),
        pytest.param("t5", "tensor", marks=pytest.mark.slow),
        pytest.param("gpt_deep", "chunks", marks=pytest.mark.slow),
        pytest.param("gpt", "zero 1", marks=pytest.mark.slow),
        pytest.param("gpt_both_ways", "pipeline", marks=pytest.mark.slow),
        pytest.param("t5", "data", marks=pytest.mark.slow),
        pytest.param("t5", "zero 3", marks=pytest.mark.slow),
        pytest.param("gpt", "deepspeed pipeline", marks=pytest.mark.slow),
        pytest.param("chat", "data", marks=pytest.mark.slow),
        pytest.param("gpt", "deepspeed sequence", marks=pytest.mark.slow),
        pytest.param("t5", "deepspeed sequence", marks=pytest.mark.slow),
        pytest.param("gpt", "sequence zero 3", marks=pytest.mark.slow),
        pytest.param("gpt_deep", "sequence chunks", marks=pytest.mark.slow),
        pytest.param("gpt_deep", "deepspeed sequence chunks", marks=pytest.mark.slow),
        pytest.param("chat_deep", "sequence chunks", marks=pytest.mark.slow),
    ],
)
def test_what_several_ranks_write_equals_what_one_writes(ranks, rows, task, grid, tmp_path: Path) -> None:
    changes, alone, together = TASKS[task], tmp_path / "alone", tmp_path / "together"
    assert ranks.run(1, run_case, settings(rows, alone, **changes), free_port()) == [0]
    axes = [GRIDS[grid].get(f"parallel__{axis}", 1) for axis in ("data", "tensor", "pipeline")]
    count = max(2, math.prod(axes))
    assert ranks.run(count, run_case, settings(rows, together, **changes, **GRIDS[grid]), free_port()) == [0] * count
    found, whole = records(together), records(alone)
    assert sum("eval/rougeL" in record for record in whole) >= 2
    for ours, expected in zip(found, whole, strict=True):
        for name in (f"eval/{name}" for name in TEXT_MEASURES):
            assert ours.get(name) == pytest.approx(expected.get(name), abs=1e-6), (ours["step"], name)
        assert ours["loss"] == pytest.approx(expected["loss"], rel=3e-4)
    told = (folder / "predictions" / "predictions.jsonl" for folder in (alone, together))
    one, two = ([json.loads(line) for line in path.read_text().splitlines()] for path in told)
    assert one == two
    assert len(one) == changes.get("task__written_rows", 21)
    if not task.startswith("chat"):
        assert whole[-1]["eval/rougeL"] > whole[0]["eval/initial/rougeL"] + 10
        wanted = {"data": {"rows": str(rows / "dev.jsonl")}, "on": "task", "batch_size": 3}
        (after,) = ranks.run(1, measure, evaluate_config(alone, **wanted))
        assert {name: after["results"][name] for name in TEXT_MEASURES} == pytest.approx(
            {name: whole[-1][f"eval/{name}"] for name in TEXT_MEASURES}, abs=1e-6
        )


def said(who: str, text: str) -> dict[str, str]:
    return {"role": who, "content": text}


#: The second ends with a user, and of the third what the assistant says last is beyond the positions of the model.
DIALOGUES = [
    [said("user", "the film was good"), said("assistant", "good film")],
    [said("user", "the film was bad"), said("assistant", "bad film"), said("user", "very")],
    [said("user", "a play"), said("assistant", "play"), said("user", "very " * 90), said("assistant", "bad play")],
    [said("user", "the play was good"), said("assistant", "good play")],
]


@pytest.mark.ranks
def test_dialogues_are_answered_whose_last_turn_is_too_long_and_none_takes_the_place_of_another(
    ranks, rows, tmp_path: Path
) -> None:
    held_out, shown, out = tmp_path / "dev.jsonl", tmp_path / "shown.jsonl", tmp_path / "said.jsonl"
    held_out.write_text("".join(json.dumps({"messages": one}) + "\n" for one in DIALOGUES))
    chat = {**CHAT, "task__measure_writing": True, "train__stop_at": 6, "data__validation": str(held_out)}
    assert ranks.run(1, run_case, settings(rows, tmp_path / "run", **chat), free_port()) == [0]
    last = records(tmp_path / "run")[-1]
    lines = [json.loads(line) for line in (tmp_path / "run/predictions/predictions.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == [0, 2, 3]
    assert [line["target"] for line in lines] == ["good film", "bad play", "good play"]
    # A row without any answer, first, is said and not measured, as is that with one before the last turn.
    shown.write_text(json.dumps({"messages": DIALOGUES[0][:1]}) + "\n" + held_out.read_text())
    asked = {"data": {"rows": str(shown)}, "on": "task", "predictions": str(out), "samples": 9}
    (found,) = ranks.run(1, measure, evaluate_config(tmp_path / "run", **asked))
    results = found["results"]
    assert (results["rows"], results["scored_rows"]) == (5, 3)
    assert sorted(one["row"] for one in found["samples"]) == [1, 3, 4]
    assert len(out.read_text().splitlines()) == 5
    for name in (*TEXT_MEASURES, "loss"):
        assert results[name] == pytest.approx(last[f"eval/{name}"], rel=1e-4, abs=1e-6), name


def without_padding(folder: Path) -> int:
    """Writes a tokenizer whose only special token, its last one, ends texts; returns its number."""
    tokenizer = hf.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["the film play was very good lovely bad boring"] * 3, trainer)
    tokenizer.add_special_tokens([END])
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer.token_to_id(END)


@pytest.mark.ranks
def test_a_decoder_begins_as_in_training_where_no_token_pads(ranks, rows, tmp_path: Path) -> None:
    end, run, exported = without_padding(tmp_path), tmp_path / "run", tmp_path / "hf"
    changes = {"model": {**T5, "activation": "relu"}, **SEQ2SEQ, "task__measure_writing": True, "train__epochs": 4}
    config = settings(rows, run, **changes, optim__lr=8e-3, data__tokenizer=str(tmp_path / "tokenizer.json"))
    assert ranks.run(1, run_case, config, free_port()) == [0]
    convert(decode(ConvertConfig, {"from": str(run), "to": str(exported), "format": "hf"}))
    for name in ("config.json", "generation_config.json"):
        assert json.loads((exported / name).read_text())["decoder_start_token_id"] == end > 0
    last, data = records(run)[-1], {"rows": str(rows / "dev.jsonl"), "columns": SEQ2SEQ["data__columns"]}
    text = "the film was <|endoftext|>"
    theirs = transformers.AutoTokenizer.from_pretrained(exported)(text).input_ids
    assert theirs == hf.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text).ids, "whatever T5's is like"
    for source, told in ((run, {}), (exported, {"task": {"name": "seq2seq"}})):
        (found,) = ranks.run(1, measure, evaluate_config(source, on="task", data=data, **told))
        for name in TEXT_MEASURES:
            assert found["results"][name] == pytest.approx(last[f"eval/{name}"], abs=1e-6), (source.name, name)
    with pytest.raises(ConfigError) as refused:  # the task says how prompts are written
        check_generation(generate_config(run, prompt="the film", begin=True, chat=True), 1)
    assert [problem.split(" has no effect")[0] for problem in refused.value.problems] == ["begin = true", "chat = true"]


@pytest.mark.ranks
def test_a_run_stops_early_by_what_it_writes(ranks, rows, tmp_path: Path) -> None:
    stopping = {"train__early_stopping": {"patience": 1, "metric": "bleu", "threshold": 200.0}}
    config = settings(rows, tmp_path, model=GPT, **SEQ2SEQ, **stopping, task__written_rows=3)
    assert ranks.run(1, run_case, config, free_port()) == [0]
    found = records(tmp_path)
    assert found[-1]["step"] == 12, "the first evaluation is the best, the second is not 200 better"
    assert "eval/bleu" in found[-1]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"task__measure_writing": True, "data__validation": None}, "nothing to answer without data.validation"),
        ({"task__written_rows": 3}, "task.written_rows = 3 has no effect with task.measure_writing = false"),
        ({"checkpoint__keep_best": "rogueL"}, "did you mean rougeL or rouge2?"),
    ],
)
def test_what_cannot_be_written_is_refused(rows, tmp_path: Path, changes: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError) as refused:
        finalize(settings(rows, tmp_path, **{"model": GPT, **SEQ2SEQ, **changes}), world_size=2, vocab_size=None)
    assert part in str(refused.value)
