"""Models trained by Megatron-core and by DeepSpeed, converted: they say the same, and training goes on as it would have."""

import json

import pytest
import torch
import transformers

from dist_plm.checkpoint.open_checkpoint import find
from dist_plm.checkpoint.storage import LocalStorage
from dist_plm.core.errors import CheckpointError
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.tasks.convert.convert import convert
from tests.checkpoint.saving import engine_of, pieces
from tests.logits import record_logits
from tests.ranks.training import configure
from tests.reference import megatron_gpt
from tests.reference.megatron_gpt import BATCH, HEADS, HIDDEN, LAYERS, LENGTH, LR, SAVED_AT, STEPS, VOCAB, tokens_of
from tests.tasks.convert.foreign_runs import MEGATRON, ZERO

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
    "gpt_bf16_distributed_tensor2",
    "gpt2_zero1",
    "gpt2_zero2",
    "gpt2_zero3",
    "llama_zero1_bf16",
)


def settings_of(kind, activation):
    return SIZES | (LLAMA if kind.llama else {"model__activation": activation})


def continue_case(world, config, directory):
    """Opens the newest checkpoint: the logits of a batch, all states, and the losses of the steps to the end."""
    groups, engine, shard_specs = engine_of(world, config)
    found = find("auto", LocalStorage(directory), groups.world)
    assert found is not None
    found.check_model(shard_specs, groups.world)
    engine.load_parameter_states(found.read)
    engine.load_scalars(found.train_state.engine)
    held = {name: parts[0][2] for name, parts in pieces(engine).items()}
    logits: list[torch.Tensor] = []
    (chunk,) = engine._chunks
    end = record_logits(chunk.module.output, lambda found: logits.append(found[:, None]))
    engine.eval_step(batches(99))
    end()
    losses = [engine.train_step(batches(step), LR).loss for step in range(found.train_state.step, STEPS)]
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


@pytest.mark.slow
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


def test_a_model_of_hugging_face_goes_back_to_it_where_its_config_is_there(trained, tmp_path, copied):
    directory, before = trained("gpt2_zero1")
    theirs = transformers.GPT2Config(n_embd=HIDDEN, n_layer=LAYERS, n_head=HEADS, n_positions=LENGTH, vocab_size=VOCAB)
    theirs.save_pretrained(tmp_path / "theirs")
    # As trainers save it, beside the checkpoint.
    beside = copied("gpt2_zero1")
    theirs.save_pretrained(beside)
    given = {"hf_config": str(tmp_path / "theirs")}
    for number, (source, more) in enumerate(((directory, given), (beside, {}))):
        to, out = tmp_path / f"to{number}", tmp_path / f"hf{number}"
        assert "model.yaml" in convert(ConvertConfig(from_=str(source), to=str(to), **more))
        convert(ConvertConfig(from_=str(to), to=str(out), format="hf"))
        model = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
        with torch.no_grad():
            assert (model(tokens_of(99)[:, :-1]).logits - before[0].logits).abs().max() < 1e-4
    assert "convert again with hf_config=DIR" in convert(
        ConvertConfig(from_=str(directory), to=str(tmp_path / "untold"))
    )
    with pytest.raises(CheckpointError, match=r"its model is not known.*hf_config=DIR"):
        convert(ConvertConfig(from_=str(tmp_path / "untold"), to=str(tmp_path / "never"), format="hf"))
    file = tmp_path / "theirs" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"n_layer": LAYERS + 1, "n_inner": 48}))
    with pytest.raises(
        CheckpointError, match=r"is of another model than .*theirs/config\.json: layers\.\d\.attention_norm"
    ):
        convert(ConvertConfig(from_=str(directory), to=str(tmp_path / "never"), **given))
    transformers.ElectraConfig().save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"is of a model of family gpt, .*other/config\.json of electra"):
        convert(ConvertConfig(from_=str(directory), to=str(tmp_path / "never"), hf_config=str(tmp_path / "other")))
    megatron, _ = trained("gpt")
    with pytest.raises(CheckpointError, match="hf_config has no effect on a torch_dist checkpoint of Megatron"):
        convert(ConvertConfig(from_=str(megatron), to=str(tmp_path / "never"), vocab_size=VOCAB, **given))
    assert not (tmp_path / "never").exists()


def test_what_a_model_of_megatron_has_no_use_for_is_not_advised(tmp_path, copied):
    directory = copied("gpt")
    torch.save({"iteration": SAVED_AT}, directory / f"iter_{SAVED_AT:07}" / "common.pt")
    sizes = {"vocab_size": VOCAB, "kv_heads": HEADS}
    said = convert(ConvertConfig(from_=str(directory), to=str(tmp_path / "to"), **sizes))
    assert "it tells no more, and cannot be exported\n" in said
    assert "hf_config" not in said
