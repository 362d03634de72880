"""Runs with tokens that their model did not have: the same on every grid and after a stop, and kept with what comes of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from dist_plm.config.decode import decode
from dist_plm.core.errors import ConfigError, DataError
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.models.init import initialize
from dist_plm.models.sharding import Shard, ShardSpec
from dist_plm.spec.families.tensors import shapes_of
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.tasks.convert.convert import convert
from dist_plm.tasks.evaluate.evaluate import measured
from dist_plm.train.data import open_run
from tests.ranks.ports import free_port
from tests.tasks.inference.models import evaluate_config, opened
from tests.train.finetuning import make_rows, records, settings
from tests.train.running import run_case

pytestmark = pytest.mark.ranks

SIZE = 82
TEMPLATE = """{%- for message in messages %}{% if message.role == "assistant" -%}
<|bot|>{% generation %}{{ message.content }}<|end|>{% endgeneration %}
{%- else %}<|user|>{{ message.content }}{% endif %}{% endfor %}"""
MARKS = ("<|user|>", "<|bot|>", "<|end|>")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, and a GPT-2 of Hugging Face with their vocabulary."""
    folder = make_rows(tmp_path_factory.mktemp("rows"))
    torch.manual_seed(0)
    sizes = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=SIZE, **sizes)).save_pretrained(folder / "model")
    return folder


def dialogues(rows: Path, run_dir: Path, **more: Any):
    """A run that learns by a template whose marks its model did not have."""
    model = {"family": "gpt", "layers": 2, "hidden": 32, "heads": 2, "max_positions": 64, "vocab_size": SIZE}
    return settings(
        rows,
        run_dir,
        **{
            "model": {**model, "init_from": str(rows / "model")},
            "task": {"name": "chat", "template": TEMPLATE},
            "data__sequence_length": 64,
            "data__new_special_tokens": MARKS,
            "train__epochs": 1,
            **more,
        },
    )


def measure(world, config):
    return measured(config, opened(world, config))


def test_a_run_with_new_tokens_is_the_same_on_every_grid_and_after_a_stop(ranks, rows, tmp_path: Path) -> None:
    """The tokenizer goes with the export, and how the model writes dialogues and where it ends."""
    alone, parted = tmp_path / "alone", tmp_path / "parted"
    assert ranks.run(1, run_case, dialogues(rows, alone), free_port()) == [0]
    for more in ({"parallel__tensor": 2, "train__stop_at": 3}, {"parallel__pipeline": 2}):
        assert ranks.run(2, run_case, dialogues(rows, parted, **more), free_port()) == [0, 0]
    ours, theirs = records(parted), records(alone)
    assert [record["step"] for record in ours] == [record["step"] for record in theirs] == list(range(1, 7))
    for one, whole in zip(ours, theirs, strict=True):
        assert one["loss"] == pytest.approx(whole["loss"], rel=3e-4)
    assert theirs[-1]["eval/loss"] < theirs[0]["eval/initial/loss"]
    wanted = {"data": {"rows": str(rows / "dev.jsonl")}, "on": "task", "batch_size": 4}
    (said,) = ranks.run(1, measure, evaluate_config(parted, **wanted))
    assert said["results"]["loss"] == pytest.approx(theirs[-1]["eval/loss"], rel=3e-4)
    convert(decode(ConvertConfig, {"from": str(parted), "to": str(tmp_path / "hf"), "format": "hf"}))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert len(tokenizer) == model.config.vocab_size == SIZE + len(MARKS)
    assert tokenizer("<|bot|>good", add_special_tokens=False)["input_ids"][0] == SIZE + MARKS.index("<|bot|>")
    said = [{"role": "user", "content": "good film"}, {"role": "assistant", "content": "bad"}]
    ids = tokenizer.apply_chat_template(said)["input_ids"]
    assert tokenizer.decode(ids).replace(" ", "") == "<|user|>goodfilm<|bot|>bad<|end|>"
    assert model.generation_config.eos_token_id == [SIZE + MARKS.index("<|end|>"), model.config.eos_token_id]
    assert Tokenizer.load(parted / "tokenizer").pieces() == Tokenizer.load(tmp_path / "hf").pieces()


def test_an_export_has_the_random_rows_that_a_run_began_with(ranks, rows, tmp_path: Path) -> None:
    config = dialogues(rows, tmp_path / "run", model__new_rows="random", optim__lr=1e-30, train__stop_at=1)
    parted = replace(config, parallel=replace(config.parallel, tensor=2))
    assert ranks.run(2, run_case, parted, free_port()) == [0, 0]
    convert(decode(ConvertConfig, {"from": str(tmp_path / "run"), "to": str(tmp_path / "hf"), "format": "hf"}))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    complete, name = open_run(config, 1)[0], "embedding.word.weight"
    whole = Shard(name, shape := shapes_of(complete.model)[name], (0, 0), (0, 0), shape)
    drawn = ShardSpec(torch.nn.Parameter(torch.empty(shape)), (whole,), None, copy=False)
    initialize([drawn], complete.model, config.train.seed)
    for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert torch.equal(embedding.weight[SIZE:], drawn.parameter[SIZE:])
    assert len(model.get_input_embeddings().weight) == SIZE + len(MARKS)


@pytest.mark.slow
def test_another_run_begins_with_one_that_has_new_tokens(ranks, rows, tmp_path: Path) -> None:
    """It reads with the tokenizer that the first run kept, and may give it more."""
    first, second = tmp_path / "first", tmp_path / "second"
    slow = {"optim__lr": 1e-30}
    assert ranks.run(1, run_case, dialogues(rows, first, **slow), free_port()) == [0]
    more = {"data__new_special_tokens": (), "data__new_tokens": ("never said",), "data__tokenizer": None}
    begins = {"model__init_from": None, "train__init_from": str(first)}
    assert ranks.run(1, run_case, dialogues(rows, second, **slow, **more, **begins), free_port()) == [0]
    pieces = Tokenizer.load(second / "tokenizer").pieces()
    assert pieces[SIZE:] == [*MARKS, "never said"]
    before, after = (records(run)[-1]["eval/loss"] for run in (first, second))
    assert before < after < 1.05 * before, "there is one token more among which to choose"


def test_a_tokenizer_of_more_tokens_than_the_model_asks_what_their_rows_are(rows, tmp_path: Path) -> None:
    enlarged = tmp_path / "tokenizer"
    enlarged.mkdir()
    Tokenizer.load(rows / "vocabulary").with_tokens(["[E1]"], MARKS).save_directory(enlarged)
    given = {"data__new_special_tokens": (), "data__tokenizer": str(enlarged)}
    with pytest.raises(ConfigError, match=r"model\.vocab_size = 82 is smaller .* of 86: .*model\.new_rows=mean"):
        open_run(dialogues(rows, tmp_path / "run", **given), 1)
    complete, _ = open_run(dialogues(rows, tmp_path / "run", **given, model__new_rows="random"), 1)
    assert complete.model.vocab_size == SIZE + 4


def test_nobody_says_a_new_mark(rows, tmp_path: Path) -> None:
    said = [{"role": "user", "content": "good <|bot|> film"}, {"role": "assistant", "content": "film"}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": said}))
    with pytest.raises(DataError, match=r"line 1: the text of a message holds '<\|bot\|>', a special token"):
        open_run(dialogues(rows, tmp_path / "run", data__train=str(tmp_path / "rows.jsonl")), 1)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data__new_tokens": ("a ",)}, r"data\.new_tokens and data\.new_special_tokens have 'a '"),
        ({"data__new_tokens": ("[E1]", "[E1]")}, r"have '\[E1\]', which cannot be: give each token once"),
        ({"model__new_rows": "mean", "model__init_from": None}, r"model\.new_rows = 'mean' has no effect"),
    ],
)
def test_wrong_tokens_are_refused(rows, tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        open_run(dialogues(rows, tmp_path, **changes), 1)
