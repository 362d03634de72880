"""Checkpoints of Megatron-core and DeepSpeed that are damaged, incomplete or of another kind: refused by name."""

import argparse
import io
import os
import pickle

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

from dist_plm.checkpoint.io.unpickler import load_file
from dist_plm.core.errors import CheckpointError
from dist_plm.interop.megatron.buckets import Buckets
from dist_plm.interop.megatron.dist_checkpoint import MegatronDist
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.tasks.convert.convert import convert
from tests.reference.megatron_gpt import HEADS, HIDDEN, VOCAB

pytestmark = pytest.mark.ranks


def refusal(directory, **changes):
    to = directory.parent / "refused"
    with pytest.raises(CheckpointError) as caught:
        convert(ConvertConfig(from_=str(directory), to=str(to), **changes))
    assert not to.exists()
    return str(caught.value)


def test_what_megatron_does_not_tell_is_asked_for(copied):
    directory = copied("gpt")
    assert "216 rows of embedding.word_embeddings.weight" in refusal(directory)
    assert "vocab_size = 217 is more" in refusal(directory, vocab_size=217)
    common = directory / "iter_0000003" / "common.pt"
    torch.save({"iteration": 3}, common)
    assert "give kv_heads=N" in refusal(directory, vocab_size=VOCAB)
    for wrong in (3, 64):
        assert f"kv_heads = {wrong} does not fit " in refusal(directory, vocab_size=VOCAB, kv_heads=wrong)
    torch.save({"iteration": 3, "args": argparse.Namespace(num_attention_heads=4, apply_layernorm_1p=True)}, common)
    assert "apply_layernorm_1p=True" in refusal(directory, vocab_size=VOCAB)


def test_what_megatron_tells_is_not_overridden(copied):
    directory = copied("gpt")
    message = refusal(directory, vocab_size=VOCAB, kv_heads=2)
    assert message.startswith("kv_heads = 2 is not what ")
    assert f"which was trained with {HEADS}: leave it out" in message


#: What no rank has a part of, where Megatron-core 0.19 saves it; before it had a file.
COMMON = MetadataIndex("common_state/shard_0_1")


def as_a_file(directory):
    """Has common.pt hold it, whichever Megatron-core saved it."""
    place = directory / "iter_0000003"
    if (place / "common.pt").exists():
        return
    metadata = FileSystemReader(place).read_metadata()
    stored = metadata.storage_data.pop(COMMON)
    del metadata.state_dict_metadata[COMMON.fqn]
    (place / ".metadata").write_bytes(pickle.dumps(metadata))
    content = (place / stored.relative_path).read_bytes()[stored.offset : stored.offset + stored.length]
    torch.save(torch.load(io.BytesIO(content), weights_only=False)[0], place / "common.pt")


def among_tensors(directory, content):
    """Has an object hold `content`."""
    place, saved = directory / "iter_0000003", io.BytesIO()
    torch.save([content], saved)
    metadata, file = FileSystemReader(place).read_metadata(), place / "__0_0.distcp"
    metadata.state_dict_metadata[COMMON.fqn] = BytesStorageMetadata()
    metadata.storage_data[COMMON] = _StorageInfo(file.name, file.stat().st_size, len(saved.getvalue()))
    with file.open("ab") as stream:
        stream.write(saved.getvalue())
    (place / ".metadata").write_bytes(pickle.dumps(metadata))
    (place / "common.pt").unlink(missing_ok=True)


def test_what_no_rank_has_a_part_of_is_found_among_the_tensors_as_well(copied, tmp_path):
    directory = copied("gpt")
    as_a_file(directory)
    common = torch.load(directory / "iter_0000003" / "common.pt", weights_only=False)
    before = convert(ConvertConfig(from_=str(directory), to=str(tmp_path / "of_a_file"), vocab_size=VOCAB))
    found = MegatronDist(directory)
    among_tensors(directory, common)
    again = MegatronDist(directory)
    for name in ("step", "samples", "optimizer_steps", "states", "shapes"):
        assert getattr(again, name) == getattr(found, name), name
    assert again.step == 3
    assert again.settings["hidden_size"] == HIDDEN
    after = convert(ConvertConfig(from_=str(directory), to=str(tmp_path / "of_an_object"), vocab_size=VOCAB))
    assert str(after).replace("of_an_object", "of_a_file") == str(before)


def test_odd_shapes_of_it_are_refused(copied):
    directory = copied("gpt")
    for content in ODD["common.pt"]:
        among_tensors(directory, content)
        assert "common_state/shard_0_1 of " in refusal(directory, vocab_size=VOCAB)
    file = directory / "iter_0000003" / "__0_0.distcp"
    file.write_bytes(file.read_bytes()[:-100])
    assert "common_state/shard_0_1 of " in refusal(directory, vocab_size=VOCAB)
    for odd in (_StorageInfo(file.name, 2**70, 3), _StorageInfo("gone", 0, 3), _StorageInfo(3, 0, 3), None):
        metadata = FileSystemReader(file.parent).read_metadata()
        metadata.storage_data[COMMON] = odd
        (file.parent / ".metadata").write_bytes(pickle.dumps(metadata))
        assert str(file.parent) in refusal(directory, vocab_size=VOCAB)
    among_tensors(directory, {"iteration": 3, "args": os.getcwd})
    assert "names posix.getcwd" in refusal(directory, vocab_size=VOCAB)


@pytest.mark.parametrize("file", [".metadata", "common.pt", "__0_0.distcp", "metadata.json"])
@pytest.mark.parametrize("kind", ["removed", "halved", "directory"])
def test_damage_to_a_checkpoint_of_megatron_is_named(copied, file, kind):
    directory = copied("gpt")
    as_a_file(directory)
    path = directory / "iter_0000003" / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if kind != "halved":
        path.unlink()
    if kind == "directory":
        path.mkdir()
    assert str(path.parent) in refusal(directory, vocab_size=VOCAB)


ODD = {
    "common.pt": [[], 3, None, {"iteration": "x"}, {"iteration": -1}, {"iteration": True}, {"iteration": 3, "args": 5}]
}
ODD["common.pt"] += [{"iteration": 3, "args": {"hidden_size": 64}}]
ODD["common.pt"] += [{"iteration": 3, "args": argparse.Namespace(consumed_train_samples="many")}]
ODD["metadata.json"] = ["[]", "3", "null", '"text"', "{}", "[" * 100_000, '{"sharded_backend": ["torch_dist"]}']


@pytest.mark.parametrize(("file", "content"), [(file, one) for file, contents in ODD.items() for one in contents])
def test_odd_shapes_of_megatrons_files_are_refused(copied, file, content):
    directory = copied("gpt")
    path = directory / "iter_0000003" / file
    if isinstance(content, str):
        path.write_text(content)
    else:
        torch.save(content, path)
    assert str(path.parent) in refusal(directory, vocab_size=VOCAB)


def test_other_kinds_are_refused_by_name(copied, tmp_path):
    directory = copied("gpt")
    settings = directory / "iter_0000003" / "metadata.json"
    settings.write_text(settings.read_text().replace("torch_dist", "zarr"))
    assert "format zarr" in refusal(directory)
    (directory / "latest_checkpointed_iteration.txt").write_text("7")
    assert "says '7'" in refusal(directory)
    old = tmp_path / "old" / "iter_0000003"
    (old / "mp_rank_00").mkdir(parents=True)
    (old / "mp_rank_00" / "model_optim_rng.pt").write_bytes(b"")
    (old.parent / "latest_checkpointed_iteration.txt").write_text("3")
    assert "--ckpt-format torch_dist" in refusal(old.parent)


def test_an_incomplete_checkpoint_of_deepspeed_is_refused(copied):
    directory = copied("gpt2_zero1")
    place = directory / "global_step3"
    gone = place / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    held = gone.read_bytes()
    gone.unlink()
    assert "1 data ranks, and they speak of" in refusal(directory)
    gone.write_bytes(held[:1000])
    assert f"{gone} cannot be read" in refusal(directory)
    gone.write_bytes((place / "zero_pp_rank_0_mp_rank_00_optim_states.pt").read_bytes())
    assert "are not those of the model" in refusal(directory), "a file in another's place"
    gone.write_bytes(held)
    (place / "mp_rank_00_model_states.pt").unlink()
    assert "mp_rank_00_model_states.pt is missing" in refusal(directory)
    (place / "layer_01-model_00-model_states.pt").write_bytes(b"")
    assert "PipelineModule" in refusal(directory)


def replace(file, content):
    """Writes a new file: tensors of `content` are mapped from the one that is there."""
    beside = file.with_name("beside")
    torch.save(content, beside)
    beside.replace(file)


def test_unknown_names_are_listed(copied):
    directory = copied("gpt2_zero1")
    file = directory / "global_step3" / "mp_rank_00_model_states.pt"
    content = load_file(file)
    content["param_shapes"] = [
        {name.replace("ln_1", "norm_one"): shape for name, shape in group.items()} for group in content["param_shapes"]
    ]
    replace(file, content)
    message = refusal(directory)
    assert "it lacks transformer.h.0.ln_1" in message
    assert "unknown: transformer.h.0.norm_one" in message
    content["param_shapes"] = [
        {f"mine.{name}": shape for name, shape in group.items()} for group in content["param_shapes"]
    ]
    replace(file, content)
    assert "names are not those of a GPT: mine.transformer" in refusal(directory)


def test_buckets_are_not_guessed_at(copied):
    """A weight whose values are one over and over could be anywhere, padding too."""
    directory = copied("gpt_buckets")
    found = MegatronDist(directory)
    name = "decoder.layers.1.self_attention.linear_proj.bias"
    constant = torch.full(found.shapes[name], 0.5)
    reader, model_weight = found._tensors, found._model_weight
    masters = found._buckets._places[name, 0]
    read = reader.read_shards

    def with_constant(wanted):
        read(wanted)
        for stored, shard, target in wanted:
            if stored == f"{masters.bucket}.param" and shard.size[0] > masters.start + HIDDEN:
                target[masters.start : masters.start + HIDDEN] = 0.5

    reader.read_shards = with_constant
    with pytest.raises(CheckpointError, match=f"{name} holds values that are elsewhere too"):
        Buckets("here", reader, found.shapes, lambda n: constant if n == name else model_weight(n), 1)
    reader.read_shards = read
    with pytest.raises(CheckpointError, match=f"no optimizer state for {name} that fits"):
        Buckets("here", reader, found.shapes, lambda n: constant if n == name else model_weight(n), 1)
