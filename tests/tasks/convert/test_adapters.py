"""Adapters of real fine-tuning runs, opened by PEFT on the base that they began with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from dist_plm.checkpoint.fragments import checkpoint_name
from dist_plm.checkpoint.storage import open_storage
from dist_plm.checkpoint.streaming import write_checkpoint
from dist_plm.checkpoint.train_state import TrainState
from dist_plm.config.decode import decode, encode
from dist_plm.core.errors import CheckpointError
from dist_plm.distributed.launch_env import from_environment
from dist_plm.interop.hf.config_json import described_at
from dist_plm.interop.kinds import kind_of
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.tasks.convert.convert import convert
from dist_plm.train.opening.open_here import open_here
from dist_plm.train.startup.load_weights import MODEL_FILE
from tests.data.labelled.words import write_vocabulary
from tests.ranks.ports import free_port
from tests.tasks.convert.hf_dirs import disturb
from tests.train.finetuning import make_rows, settings
from tests.train.running import run_case

pytestmark = pytest.mark.ranks

SIZE = 82
ENCODER = {
    "vocab_size": SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
T5 = {"vocab_size": SIZE, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
LLAMA = {
    "vocab_size": SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
#: Bases as pretraining leaves them.
BASES: dict[str, Callable[[], transformers.PreTrainedModel]] = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=SIZE, n_positions=64, n_embd=32, n_layer=2, n_head=2)
    ),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)),
    "bert": lambda: transformers.BertForPreTraining(transformers.BertConfig(**ENCODER)),
    "roberta": lambda: transformers.RobertaForMaskedLM(
        transformers.RobertaConfig(**ENCODER, type_vocab_size=1, pad_token_id=0)
    ),
    "electra": lambda: transformers.ElectraForPreTraining(transformers.ElectraConfig(**ENCODER, embedding_size=16)),
    "t5": lambda: transformers.T5ForConditionalGeneration(
        transformers.T5Config(**T5, pad_token_id=0, eos_token_id=3, decoder_start_token_id=0)
    ),
}
ATTENTION = ("query", "key", "value", "output")
ALL = (*ATTENTION, "up", "down")
WRITES = {"task__name": "seq2seq", "data__columns": {"source": "turn.en", "target": "turn.answer"}}
CLASSIFIES: dict[str, Any] = {}
CHOOSES = {"task__name": "choice", "data__columns": {"context": "text", "choices": "options", "label": "right"}}
NUMBERS = {"task__name": "regress", "data__columns": {"text": "text", "label": "number"}}
#: The base, what is adapted, what is learned, and the class of Hugging Face that it makes.
RUNS: dict[str, tuple[str, tuple[str, ...], dict[str, Any], str]] = {
    "gpt2_writes": ("gpt2", ALL, WRITES, "CausalLM"),
    "gpt2_classifies": ("gpt2", ("query", "value"), CLASSIFIES, "SequenceClassification"),
    "llama_talks": ("llama", (*ALL, "gate"), {"task__name": "chat", "data__sequence_length": 48}, "CausalLM"),
    "llama_scores": ("llama", ATTENTION, NUMBERS, "SequenceClassification"),
    "bert_classifies": ("bert", ALL, CLASSIFIES, "SequenceClassification"),
    "bert_answers": ("bert", ("query",), {"task__name": "qa", "data__sequence_length": 24}, "QuestionAnswering"),
    "bert_chooses": ("bert", ATTENTION, CHOOSES, "MultipleChoice"),
    "roberta_tags": ("roberta", ATTENTION, {"task__name": "tag"}, "TokenClassification"),
    "roberta_scores": ("roberta", ("up",), NUMBERS, "SequenceClassification"),
    "electra_classifies": ("electra", ("query",), CLASSIFIES, "SequenceClassification"),
    "electra_chooses": ("electra", ("value", "down"), CHOOSES, "MultipleChoice"),
    "t5_writes": ("t5", ALL, WRITES, "Seq2SeqLM"),
}
IN_CI = (
    "gpt2_writes",
    "bert_answers",
    "electra_chooses",
    "t5_writes",
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rows(tmp_path_factory.mktemp("rows"))


def save_base(name: str, directory: Path) -> Path:
    torch.manual_seed(3)
    base = BASES[name]()
    disturb(base)
    base.save_pretrained(directory)
    write_vocabulary(directory)
    return directory


def sizes_of(base: Path) -> dict[str, Any]:
    """The settings of the model in a directory of Hugging Face, without those of its head."""
    told = encode(described_at(str(base))) | {"vocab_multiple": 8}
    return {k: v for k, v in told.items() if v is not None and k not in ("pair_head", "head", "num_labels")}


def learned(ranks, rows: Path, base: Path, targets: tuple[str, ...], run_dir: Path, **changes: Any) -> Path:
    """A run of adapters alone, which begins with the weights of a directory of Hugging Face."""
    model = {**sizes_of(base), "init_from": str(base), "lora": {"rank": 3, "targets": targets}}
    config = settings(rows, run_dir, model=model, train__epochs=1, optim__lr=2e-2, **changes)
    assert ranks.run(1, run_case, config, free_port()) == [0]
    return run_dir


def exported(run_dir: Path, wanted: str) -> tuple[Path, str]:
    to = run_dir / wanted
    return to, convert(decode(ConvertConfig, {"from": str(run_dir), "to": str(to), "format": wanted}))


def scores(model: torch.nn.Module, kind: str) -> list[torch.Tensor]:
    """Of a few tokens, with and without padding."""
    tokens = torch.arange(36).view(3, 12) % 70 + 5
    mask = (torch.arange(12) < torch.tensor([[12], [7], [10]])).long()
    inputs = {"input_ids": torch.where(mask > 0, tokens, 0), "attention_mask": mask}
    if getattr(model.config, "type_vocab_size", 1) > 1:
        inputs["token_type_ids"] = mask * (torch.arange(12) > 4)
    if kind == "Seq2SeqLM":
        inputs["decoder_input_ids"] = tokens[:, :5]
    if kind == "MultipleChoice":
        inputs = {name: values[None] for name, values in inputs.items()}
    with torch.no_grad():
        said = model.eval()(**inputs)
    return [said.start_logits, said.end_logits] if kind == "QuestionAnswering" else [said.logits]


def opened(kind: str, base: Path, adapters: Path, num_labels: int | None) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The base as it is, with a head of its own, and with adapters."""
    load = getattr(transformers, f"AutoModelFor{kind}").from_pretrained
    told = {"pad_token_id": 0} | ({} if num_labels is None else {"num_labels": num_labels})
    plain, under = (load(base, **told) for _ in range(2))
    return plain, peft.PeftModel.from_pretrained(under, adapters)


@pytest.mark.parametrize("name", [pytest.param(one, marks=() if one in IN_CI else pytest.mark.slow) for one in RUNS])
def test_peft_says_what_the_merged_export_says(ranks, rows, tmp_path: Path, name: str) -> None:
    family, targets, changes, kind = RUNS[name]
    base = save_base(family, tmp_path / "base")
    run_dir = learned(ranks, rows, base, targets, tmp_path / "run", **changes)
    (merged_at, _), (adapters, told) = (exported(run_dir, wanted) for wanted in ("hf", "peft"))
    merged = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(merged_at)
    labels = merged.config.num_labels if "Classification" in kind else None
    plain, with_adapters = opened(kind, base, adapters, labels)
    expected = scores(merged, kind)
    for ours, theirs, before in zip(scores(with_adapters, kind), expected, scores(plain, kind), strict=True):
        assert float((ours - theirs).abs().max()) < 1e-5
        assert float((before - theirs).abs().max()) > 1e-2, "there is something to be seen"
    assert "largest difference" in told, "of what the command compared itself"
    if not kind.endswith("LM"):
        assert f"where base is a {type(merged).__name__}" in told
        assert labels is None or f"of num_labels={labels}" in told
    with pytest.raises(CheckpointError, match=r"holds adapters of PEFT, .* give the run that they came from"):
        kind_of(str(adapters))
    without = settings(rows, tmp_path / "next", model=sizes_of(base), train__init_from=str(run_dir), **changes)
    with pytest.raises(CheckpointError, match=r"has adapters, and this run has none; .* to=DIR format=hf writes"):
        open_here(without, from_environment({}))


@pytest.mark.slow
def test_on_the_export_of_the_run_that_it_began_with(ranks, rows, tmp_path: Path) -> None:
    """Whose own head gives way to the one that was learned."""
    first = settings(rows, tmp_path / "first", model__norm_placement="post", model__activation="gelu", train__epochs=1)
    assert ranks.run(1, run_case, first, free_port()) == [0]
    sizes = {**encode(first.model), "lora": {"rank": 2, "targets": ATTENTION}}
    changes = {"train__init_from": str(tmp_path / "first"), "train__epochs": 1, "optim__lr": 2e-2}
    second = settings(rows, tmp_path / "second", model={k: v for k, v in sizes.items() if v is not None}, **changes)
    assert ranks.run(1, run_case, second, free_port()) == [0]
    base, merged_at = (exported(tmp_path / one, "hf")[0] for one in ("first", "second"))
    adapters, told = exported(tmp_path / "second", "peft")
    assert f"base is what {tmp_path / 'first'} began with if it has adapters too" in told
    plain, with_adapters = opened("SequenceClassification", base, adapters, None)
    load = transformers.AutoModelForSequenceClassification.from_pretrained
    (ours,), (theirs,), (before,) = (scores(m, "") for m in (with_adapters, load(merged_at), plain))
    assert float((ours - theirs).abs().max()) < 1e-5
    assert float((before - theirs).abs().max()) > 1e-2


def test_rows_of_new_tokens_go_along(ranks, rows, tmp_path: Path) -> None:
    """Onto a base that was enlarged before, as PEFT has it."""
    base = save_base("gpt2", tmp_path / "base")
    changes = {**WRITES, "data__new_tokens": ("never said", "[E1]")}
    run_dir = learned(ranks, rows, base, ("query", "value"), tmp_path / "run", **changes)
    (merged_at, _), (adapters, told) = (exported(run_dir, wanted) for wanted in ("hf", "peft"))
    assert f"after base.resize_token_embeddings({SIZE + 2})" in told
    merged, grown = (transformers.AutoModelForCausalLM.from_pretrained(one) for one in (merged_at, base))
    grown.resize_token_embeddings(SIZE + 2)
    with_adapters = peft.PeftModel.from_pretrained(grown, adapters)
    tokens = torch.arange(SIZE - 10, SIZE + 2)[None]
    with torch.no_grad():
        ours, theirs = (model.eval()(input_ids=tokens).logits for model in (with_adapters, merged))
    assert theirs.shape[-1] == SIZE + 2
    assert float((ours - theirs).abs().max()) < 1e-5


def test_two_models_have_no_one_base(tmp_path: Path) -> None:
    """ELECTRA as it pretrains, whose network a task has alone."""
    model = "{family: electra, layers: 1, hidden: 32, heads: 2, vocab_size: 97, lora: {rank: 2}}"
    state, written = TrainState(step=0, samples_seen=0, engine={}, stream={}), {MODEL_FILE: model.encode()}
    zeros = torch.zeros(97, 32)
    storage, name = open_storage(str(tmp_path / "electra")), checkpoint_name("weight", "embedding.word.weight")
    write_checkpoint(storage, state, {name: zeros.shape}, lambda box: box.local(zeros), written)
    with pytest.raises(CheckpointError, match=r"two models of Hugging Face.* format=hf"):
        convert(
            decode(ConvertConfig, {"from": str(tmp_path / "electra"), "to": str(tmp_path / "to"), "format": "peft"})
        )
