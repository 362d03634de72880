"""What is exported is opened and asked before it is there: in all types, and nothing that says something else stays."""

import json
import shutil
from types import SimpleNamespace

import psutil
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from dist_plm.checkpoint.open_checkpoint import look_at
from dist_plm.config.decode import decode
from dist_plm.core.errors import CheckpointError
from dist_plm.interop.hf.roberta import HFRoberta
from dist_plm.interop.hf.safetensors_files import write_weights
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.tasks.convert import huggingface
from dist_plm.tasks.convert.convert import convert
from dist_plm.tasks.convert.verify_export import exported_at, verify_export
from tests.tasks.convert.hf_dirs import save

#: A tensor of each whose loss only some of the outputs show: what pads, pairs, choices and second halves are read by.
SPOILT = {
    "bert": "bert.pooler.dense.bias",
    "roberta_tokens": "classifier.bias",
    "electra_span": "electra.embeddings.token_type_embeddings.weight",
    "electra_choice": "sequence_summary.summary.weight",
    "gpt2_sequence": "transformer.wpe.weight",
    "llama": "model.layers.1.self_attn.k_proj.weight",
    "t5": "decoder.block.1.layer.1.EncDecAttention.v.weight",
}


def run(source, to, **changes):
    return convert(decode(ConvertConfig, {"from": str(source), "to": str(to), **changes}))


def imported(name, folder):
    run(save(name, folder / "hf"), folder / "in")
    return folder / "in"


def spoil(directory, name):
    path = directory / "model.safetensors"
    tensors = load_file(path)
    tensors[name] = tensors[name] * 1.1 + 0.01
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("name", SPOILT)
def test_a_tensor_that_is_not_the_checkpoints_is_found(tmp_path, name):
    source = imported(name, tmp_path)
    said = run(source, tmp_path / "out", format="hf", verify=False)
    assert "difference" not in said
    found, _ = look_at(str(source))
    assert "largest difference" in verify_export(found, None, exported_at(tmp_path / "out", merged=False))
    spoil(tmp_path / "out", SPOILT[name])
    with pytest.raises(
        CheckpointError, match=r"as exported differ by .* from those of .*/in/step_00000000, .* verify=false"
    ):
        verify_export(found, None, exported_at(tmp_path / "out", merged=False))


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_both_halves_of_electra_in_each_type(tmp_path, dtype):
    """Both sides round weights alike, so that half the precision hides no fault."""
    source = imported("electra", tmp_path)
    said = run(source, tmp_path / "out", format="hf", dtype=dtype)
    assert "logits by ElectraForMaskedLM of 2 texts of 32 tokens: largest difference" in said
    assert "logits by ElectraForPreTraining of 2 texts" in said
    spoil(tmp_path / "out" / "discriminator", "discriminator_predictions.dense_prediction.bias")
    found, _ = look_at(str(source))
    with pytest.raises(CheckpointError, match="logits of ElectraForPreTraining as exported differ"):
        verify_export(found, "discriminator", exported_at(tmp_path / "out" / "discriminator", merged=False))


def test_nothing_stays_of_an_export_that_says_something_else(tmp_path, monkeypatch):
    """An empty directory that was there does."""
    source = imported("gpt2", tmp_path)

    def broken(directory, shapes, read, **more):
        return write_weights(directory, shapes, lambda name: read(name).flip(0), **more)

    monkeypatch.setattr(huggingface, "write_weights", broken)
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="nothing was written"):
        run(source, tmp_path / "out", format="hf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "in", "out"]
    assert not list((tmp_path / "out").iterdir())


def test_a_model_that_memory_has_no_room_for_is_exported_without(tmp_path, monkeypatch):
    source = imported("gpt2", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=100_000))
    assert "logits not compared: GPT2LMHeadModel takes 0.0 GB in fp32" in run(source, tmp_path / "out", format="hf")
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_texts_of_unlike_lengths_are_read_without_a_token_for_padding(tmp_path):
    """Transformers classes of sequences then read one text at a time."""
    source = save("gpt2_sequence", tmp_path / "hf")
    settings = json.loads((source / "config.json").read_text())
    assert settings.get("pad_token_id") is None
    run(source, tmp_path / "in")
    assert "largest difference" in run(tmp_path / "in", tmp_path / "out", format="hf")
    (source / "config.json").write_text(json.dumps({**settings, "pad_token_id": 3}))
    shutil.rmtree(tmp_path / "in")
    run(source, tmp_path / "in")
    assert "largest difference" in run(tmp_path / "in", tmp_path / "padded", format="hf")


@pytest.mark.parametrize(("pad", "told"), [(0, True), (1, False), (None, False)])
def test_positions_that_a_class_counts_otherwise_are_told(pad, told):
    tokens = SimpleNamespace(special=None if pad is None else SimpleNamespace(pad=pad))
    found = list(HFRoberta().differences_of_tokens({"pad_token_id": 1}, tokens))
    assert any("those behind a token 1 in a text are others" in line for line in found) == told


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_hidden_states_are_compared_of_a_class_without_a_head(tmp_path, name):
    source = save(name, tmp_path / "hf")
    network = {"gpt2": "GPT2Model", "llama": "LlamaModel", "t5": "T5Model"}[name]
    getattr(transformers, network).from_pretrained(source).save_pretrained(tmp_path / "network")
    run(tmp_path / "network", tmp_path / "in")
    said = run(tmp_path / "in", tmp_path / "out", format="hf")
    if name == "t5":
        assert "logits not compared: T5Model gives hidden states alone" in said
    else:
        assert f"mean hidden states by {network}" in said


@pytest.mark.parametrize(("name", "pad"), [("gpt2", -1), ("gpt2", 211), ("llama", -1)])
def test_a_token_for_padding_that_is_none_of_the_vocabulary_is_not_used(tmp_path, name, pad):
    source = save(name, tmp_path / "hf")
    settings = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**settings, "pad_token_id": pad}))
    run(source, tmp_path / "in")
    assert "largest difference" in run(tmp_path / "in", tmp_path / "out", format="hf")


def test_no_process_group_stays(tmp_path):
    run(imported("gpt2", tmp_path), tmp_path / "out", format="hf")
    assert not torch.distributed.is_initialized()
