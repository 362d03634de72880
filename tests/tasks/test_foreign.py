"""Models trained by Megatron-core and by DeepSpeed, converted: they say the same, and training goes on as it would have."""

import argparse
import functools
import shutil

import pytest
import torch
import transformers

from dist_plm.checkpoint.megatron_buckets import Buckets
from dist_plm.checkpoint.megatron_dist import MegatronDist
from dist_plm.checkpoint.reading import find
from dist_plm.checkpoint.storage import LocalStorage
from dist_plm.checkpoint.unpickle import load_file
from dist_plm.config.schema_convert import ConvertConfig
from dist_plm.errors import CheckpointError
from dist_plm.tasks.convert import convert
from tests.checkpoint.saving import engine_of, pieces
from tests.ranks.training import configure
from tests.reference import megatron_gpt, zero
from tests.reference.megatron_gpt import BATCH, HEADS, HIDDEN, LAYERS, LENGTH, LR, SAVED_AT, STEPS, VOCAB, tokens_of

pytestmark = pytest.mark.ranks

SIZES = {
    "model__layers": LAYERS,
    "model__hidden": HIDDEN,
    "model__heads": HEADS,
    "data__sequence_length": LENGTH,
    "train__global_batch": BATCH,
    "train__steps": STEPS,
    "optim__lr": LR,
    "optim__betas": [0.9, 0.95],
    "optim__weight_decay": 0.1,
    "schedule__name": "constant",
    "schedule__warmup_steps": 0,
}
LLAMA = {
    "model__kv_heads": 2,
    "model__ffn": 48,
    "model__position": "rotary",
    "model__norm": "rmsnorm",
    "model__activation": "swiglu",
    "model__bias": False,
    "model__tied_embeddings": False,
}
#: Of each kind of model, fusion, sharding and file one is among the quick ones.
SLOW = (
    "gpt_pipeline2",
    "llama_distributed",
    "gpt_buckets_pipeline2",
    "llama_buckets_tensor2_bf16",
    "gpt2_zero2",
    "gpt2_zero3",
    "llama_zero1_bf16",
)
MEGATRON = {
    "gpt": (1, megatron_gpt.Kind()),
    "llama_tensor2": (2, megatron_gpt.Kind(llama=True, tensor=2, stacked=False)),
    "gpt_pipeline2": (2, megatron_gpt.Kind(pipeline=2)),
    "llama_distributed": (2, megatron_gpt.Kind(llama=True, distributed=True)),
    "gpt_buckets": (2, megatron_gpt.Kind(distributed=True, sharding="dp_reshardable")),
    "llama_buckets_tensor2_bf16": (
        4,
        megatron_gpt.Kind(llama=True, distributed=True, tensor=2, bf16=True, sharding="dp_reshardable"),
    ),
    "gpt_buckets_pipeline2": (4, megatron_gpt.Kind(distributed=True, pipeline=2, sharding="dp_reshardable")),
    "gpt_bf16_distributed_tensor2": (4, megatron_gpt.Kind(distributed=True, tensor=2, bf16=True)),
}
ZERO = {
    "gpt2_zero1": (2, zero.Kind(1)),
    "gpt2_zero2": (2, zero.Kind(2)),
    "gpt2_zero3": (2, zero.Kind(3)),
    "llama_zero3": (2, zero.Kind(3, "llama")),
    "llama_zero1_bf16": (2, zero.Kind(1, "llama", bf16=True)),
    "megatron_llama_zero2_tensor2": (4, zero.Kind(2, "megatron_llama", tensor=2)),
}


@pytest.fixture(scope="module")
def trained(ranks, tmp_path_factory):
    """Where a foreign checkpoint lies, and what each rank that made it says."""

    @functools.cache
    def train(name):
        directory = tmp_path_factory.mktemp(name) / "foreign"
        size, kind = (MEGATRON | ZERO)[name]
        module = zero if isinstance(kind, zero.Kind) else megatron_gpt
        return directory, ranks.run(size, module.train_and_save, kind, directory)

    return train


def settings_of(kind, activation):
    return SIZES | (LLAMA if kind.llama else {"model__activation": activation})


def continue_case(world, config, directory):
    """Opens the newest checkpoint: the logits of a batch, all states, and the losses of the steps to the end."""
    groups, engine, layouts = engine_of(world, config)
    found = find("auto", LocalStorage(directory), groups.world)
    assert found is not None
    found.check_model(layouts, groups.world)
    engine.load_parameter_states(found.read)
    engine.load_scalars(found.manifest.engine)
    held = {name: parts[0][2] for name, parts in pieces(engine).items()}
    logits: list[torch.Tensor] = []
    (chunk,) = engine._chunks
    hook = chunk.module.output.register_forward_hook(lambda module, inputs, output: logits.append(output[0].detach()))
    engine.eval_step(batches(99))
    hook.remove()
    losses = [engine.train_step(batches(step), LR).loss for step in range(found.manifest.step, STEPS)]
    # Of microbatches of one row: [S, 1, V] each.
    return losses, torch.cat(logits, dim=1).transpose(0, 1), held


def batches(step):
    rows = tokens_of(step)
    return [
        {"tokens": row[None, :-1], "labels": row[None, 1:].contiguous(), "samples": torch.tensor([number])}
        for number, row in enumerate(rows)
    ]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in MEGATRON | ZERO]
)
def test_says_the_same_and_goes_on_as_it_would_have(ranks, trained, tmp_path, name):
    directory, before = trained(name)
    _, kind = (MEGATRON | ZERO)[name]
    megatron = isinstance(kind, megatron_gpt.Kind)
    # Megatron's softmax goes over the padding of the vocabulary as well, so for equal losses all rows are kept.
    rows = VOCAB if not megatron and kind.tensor == 1 else megatron_gpt.padded(kind.tensor)
    sizes = {"vocab_size": rows} if rows != VOCAB else {}
    if not megatron and kind.tensor > 1:
        sizes["kv_heads"] = 2
    said = convert(ConvertConfig(from_=str(directory), to=str(tmp_path / "to"), **sizes))
    assert "exp_avg and exp_avg_sq" in said
    changes = settings_of(kind, "gelu" if megatron else "gelu_tanh")
    config = configure(1, **changes, model__vocab_size=rows)
    ((losses, logits, _),) = ranks.run(1, continue_case, config, tmp_path / "to")
    tolerance = 0.05 if kind.bf16 else 1e-5
    assert losses == pytest.approx(before[0].losses[SAVED_AT:], rel=tolerance)
    assert len(losses) == STEPS - SAVED_AT
    if before[0].logits is not None:
        expected = torch.cat([outcome.logits for outcome in before[: kind.tensor]], dim=-1)
        assert (logits[..., :rows] - expected).abs().max() < (0.2 if kind.bf16 else 1e-4)


def by_head(fused, part):
    """Rows of the queries, keys or values of each head in turn; they are fused head by head."""
    size = HIDDEN // HEADS
    rows = [fused[(3 * head + part) * size : (3 * head + part + 1) * size] for head in range(HEADS)]
    return torch.cat(rows)


def test_every_state_is_equal_to_the_bit(ranks, trained, tmp_path):
    directory, (before,) = trained("gpt")
    convert(ConvertConfig(from_=str(directory), to=str(tmp_path), vocab_size=VOCAB))
    ((_, _, held),) = ranks.run(1, continue_case, configure(1, **settings_of(MEGATRON["gpt"][1], "gelu")), tmp_path)
    theirs = before.states
    for state in ("weight", "exp_avg", "exp_avg_sq"):
        expected = {
            "embedding.word.weight": theirs["embedding.word_embeddings.weight"][state][:VOCAB],
            "embedding.position.weight": theirs["embedding.position_embeddings.weight"][state],
        }
        for kind in ("weight", "bias"):
            expected[f"final_norm.{kind}"] = theirs[f"decoder.final_layernorm.{kind}"][state]
            for i in range(LAYERS):
                layer = {n.removeprefix(f"decoder.layers.{i}."): s[state] for n, s in theirs.items()}
                for ours, name in {
                    "attention_norm": "input_layernorm",
                    "attention.output": "self_attention.linear_proj",
                    "mlp_norm": "pre_mlp_layernorm",
                    "mlp.up": "mlp.linear_fc1",
                    "mlp.down": "mlp.linear_fc2",
                }.items():
                    expected[f"layers.{i}.{ours}.{kind}"] = layer[f"{name}.{kind}"]
                for number, part in enumerate(("query", "key", "value")):
                    fused = layer[f"self_attention.linear_qkv.{kind}"]
                    expected[f"layers.{i}.attention.{part}.{kind}"] = by_head(fused, number)
        assert {name for name in held if name.startswith(f"{state} ")} == {f"{state} {name}" for name in expected}
        for name, tensor in expected.items():
            assert torch.equal(held[f"{state} {name}"], tensor), (state, name)


def test_masters_are_taken_where_the_model_is_in_bf16(ranks, trained, tmp_path):
    directory, _ = trained("gpt_bf16_distributed_tensor2")
    convert(ConvertConfig(from_=str(directory), to=str(tmp_path), vocab_size=VOCAB))
    config = configure(1, **settings_of(MEGATRON["gpt"][1], "gelu"))
    ((_, _, held),) = ranks.run(1, continue_case, config, tmp_path)
    weight = held["weight layers.0.mlp.up.weight"]
    assert not torch.equal(weight.bfloat16().float(), weight)


@pytest.mark.parametrize("name", ["gpt", "llama_tensor2"])
def test_the_model_is_told_and_goes_on_to_hugging_face(trained, tmp_path, name):
    directory, before = trained(name)
    said = convert(ConvertConfig(from_=str(directory), to=str(tmp_path / "to"), vocab_size=VOCAB, weights_only=True))
    assert "weights alone" in said
    assert "model.yaml" in said
    convert(ConvertConfig(from_=str(tmp_path / "to"), to=str(tmp_path / "hf"), format="hf"))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    kind = MEGATRON[name][1]
    expected = torch.cat([outcome.logits for outcome in before[: kind.tensor]], dim=-1)[..., :VOCAB]
    with torch.no_grad():
        assert (model(tokens_of(99)[:, :-1]).logits - expected).abs().max() < 1e-4


@pytest.fixture
def copied(trained, tmp_path):
    """A checkpoint to be damaged: its directory by name."""
    return lambda name: shutil.copytree(trained(name)[0], tmp_path / "copied")


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
    torch.save({"iteration": 3, "args": argparse.Namespace(num_attention_heads=4, apply_layernorm_1p=True)}, common)
    assert "apply_layernorm_1p=True" in refusal(directory, vocab_size=VOCAB)


@pytest.mark.parametrize("file", [".metadata", "common.pt", "__0_0.distcp", "metadata.json"])
@pytest.mark.parametrize("kind", ["removed", "halved"])
def test_damage_to_a_checkpoint_of_megatron_is_named(copied, file, kind):
    directory = copied("gpt")
    path = directory / "iter_0000003" / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if kind == "removed":
        path.unlink()
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
    read = reader.read_pieces

    def with_constant(wanted):
        read(wanted)
        for stored, piece, target in wanted:
            if stored == f"{masters.bucket}.param" and piece.size[0] > masters.start + HIDDEN:
                target[masters.start : masters.start + HIDDEN] = 0.5

    reader.read_pieces = with_constant
    with pytest.raises(CheckpointError, match=f"{name} holds values that are elsewhere too"):
        Buckets("here", reader, found.shapes, lambda n: constant if n == name else model_weight(n), 1)
    reader.read_pieces = read
    with pytest.raises(CheckpointError, match=f"no optimizer state for {name} that fits"):
        Buckets("here", reader, found.shapes, lambda n: constant if n == name else model_weight(n), 1)
