"""Runs that begin with weights of Hugging Face, on every kind of grid and engine."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from sentencepiece import SentencePieceTrainer

from dist_plm.checkpoint.open_checkpoint import find
from dist_plm.checkpoint.storage import LocalStorage
from dist_plm.config.decode import decode
from dist_plm.core.errors import CheckpointError
from dist_plm.data.sampling.build_dataset import tokenizer_store
from dist_plm.data.tokenizers.tokenizer_files import vocabulary_of
from dist_plm.distributed.groups import build_groups
from dist_plm.interop.hf.config_json import HALVES
from dist_plm.interop.hf.weights import open_hf
from dist_plm.models.sharding import Shard
from dist_plm.monitor.metrics_file import read_metrics
from dist_plm.spec.families.electra import generator_of
from dist_plm.spec.families.tensors import shapes_of
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.tasks.convert.convert import convert
from dist_plm.train.startup.load_weights import Weights, check_vocabulary, load_weights, of_checkpoint, open_weights
from tests.logits import record_logits
from tests.parts import engine_of, model_of
from tests.ranks.pool import RanksError
from tests.ranks.ports import free_port
from tests.ranks.selection import covering
from tests.ranks.times import LONG
from tests.ranks.training import VOCAB, batch_of, configure, grid_of, losses_of
from tests.reference.hf import CASES, ELECTRA, attended
from tests.tasks.convert.hf_dirs import save
from tests.train.running import make_store, run_case, settings

pytestmark = pytest.mark.ranks

SAMPLES = np.arange(6)
TENSOR2 = {"parallel__tensor": 2, "parallel__sequence_parallel": True}


def begun(world, config, where):
    """The model and engine of a run that begins with the weights at `where`: of Hugging Face, or an imported checkpoint."""
    groups = build_groups(grid_of(config), world.device, timeout=LONG)
    model, shard_specs = model_of(config, groups, world.device.torch_device)
    engine = engine_of(config, groups, world.device.torch_device, model, losses_of(config))
    found = find(where, LocalStorage(where), groups.world) if (Path(where) / "latest").exists() else None
    weights = of_checkpoint(found) if found else open_weights(where, groups.world)
    store = tokenizer_store(config.data)
    load_weights(weights, config.model, store, engine, shard_specs, groups.world, seed=config.train.seed)
    return groups, model, engine


def logits_case(world, config, where, batch):
    """Logits of all positions on the last stage, or what goes into the head where `where` holds none."""
    groups, model, engine = begun(world, config, where)
    seen = []
    if groups.coordinates.pipeline == groups.grid.pipeline - 1:
        record_logits(model[-1].output, seen.append)
    engine.eval_step([{**batch, "labels": torch.zeros_like(batch["labels"])}])
    return seen


def logits_of(outcomes, rows, length, vocabulary):
    """[B, S, V] from the hooks of all ranks: a decoder lengthens its rows, the vocabulary is padded."""
    ours = torch.cat([seen[0] for seen in outcomes if seen], dim=-1)[..., :vocabulary]
    return ours.view(-1, rows, vocabulary)[:length].transpose(0, 1)


def assert_parity(ranks, name, where, source, **grid):
    world_size = 2 if grid else 1
    sizes = {"train__micro_batch": len(SAMPLES), "train__global_batch": len(SAMPLES)}
    config = configure(world_size, **sizes, **grid, **CASES[name].changes)
    batch = batch_of(config, SAMPLES)
    model = type(CASES[name].build()).from_pretrained(source).eval()
    with torch.no_grad():
        expected = CASES[name].logits(model, batch)
    outcomes = ranks.run(world_size, logits_case, config, str(where), batch)
    ours = logits_of(outcomes, *expected.shape)
    real = attended(batch).bool() if "decoder_tokens" not in batch else torch.ones(expected.shape[:2], dtype=torch.bool)
    assert float((ours - expected)[real].abs().max()) < 1e-4


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_hugging_face(ranks, tmp_path, name):
    """On two tensor ranks straight from the directory, on two stages from it as a checkpoint, on one from that written out
    again."""
    source = save(name, tmp_path / "hf")
    assert_parity(ranks, name, source, source, **TENSOR2)
    turn(source, tmp_path / "in")
    if not name.startswith("t5"):
        assert_parity(ranks, name, tmp_path / "in", source, parallel__pipeline=2)
    turn(tmp_path / "in", tmp_path / "out", format="hf")
    assert_parity(ranks, name, tmp_path / "out", source)


@pytest.mark.parametrize(
    "name", ["bert_mlm", "llama", *(pytest.param(one, marks=pytest.mark.slow) for one in ("gpt2", "t5"))]
)
def test_rows_of_new_tokens_are_the_mean_of_the_others(ranks, tmp_path, name):
    """Over the ranks that share the vocabulary, tied or not, biases too: known tokens score as in a model of Hugging Face that
    was resized, and a new one the mean of theirs."""
    source, case = save(name, tmp_path / "hf"), CASES[name]
    more = {"model__vocab_size": VOCAB + 7, "model__new_rows": "mean", "model__init_from": str(source)}
    config = configure(2, **TENSOR2, **case.changes, **more)
    batch = batch_of(configure(2, **TENSOR2, **case.changes), SAMPLES)
    model = type(case.build()).from_pretrained(source).eval()
    model.resize_token_embeddings(VOCAB + 7, mean_resizing=True)
    with torch.no_grad():
        expected = case.logits(model, batch)
    ours = logits_of(ranks.run(2, logits_case, config, str(source), batch), *expected.shape)
    real = attended(batch).bool() if "decoder_tokens" not in batch else torch.ones(expected.shape[:2], dtype=torch.bool)
    known = expected[..., :VOCAB]
    assert float((ours[..., :VOCAB] - known)[real].abs().max()) < 1e-4
    assert float((ours[..., VOCAB:] - known.mean(-1, keepdim=True))[real].abs().max()) < 1e-4


def turn(source, to, **changes):
    return convert(decode(ConvertConfig, {"from": str(source), "to": str(to), **changes}))


def state_case(world, config, where):
    """The masters and moments of a new engine, in this rank's pieces."""
    _, _, engine = begun(world, config, where)
    held = {}
    for shard_spec, tensors in engine.parameter_states():
        for shard in shard_spec.shards:
            held[shard.name, shard.start] = {n: shard.local(t).clone() for n, t in tensors.items()}
    return held


def masters_of(outcomes, shapes):
    """Masters of the tensors over the vocabulary, whole, from the pieces of all ranks."""
    whole = {name: torch.full(shape, torch.nan) for name, shape in shapes.items()}
    for (name, start), tensors in (item for outcome in outcomes for item in outcome.items()):
        if name in whole:
            held = tensors["weight"]
            places = tuple(slice(first, first + size) for first, size in zip(start, held.shape, strict=True))
            whole[name][places] = held
    return whole


#: Enough tokens to see of what scale their rows are, the last of which the second tensor rank alone has.
NEW = 64
#: Grids and engines, each with its number of ranks.
SHARDED = {
    "tensor2": (2, TENSOR2),
    "deepspeed_tensor2": (2, {**TENSOR2, "engine__name": "deepspeed", "engine__zero_stage": 1}),
    "megatron_zero1": (2, {"engine__zero_stage": 1}),
    "zero3": (2, {"engine__name": "deepspeed", "engine__zero_stage": 3}),
    "zero3_tensor2": (4, {**TENSOR2, "engine__name": "deepspeed", "engine__zero_stage": 3}),
}


@pytest.mark.parametrize(
    ("name", "grid"),
    covering(
        [(name, grid) for name in ("gpt2", "llama", "bert_mlm", "t5", "t5_v1_1") for grid in SHARDED],
        [("gpt2", "tensor2"), ("llama", "deepspeed_tensor2"), ("bert_mlm", "tensor2")],
    ),
)
def test_random_rows_of_new_tokens_are_the_same_on_every_grid(ranks, tmp_path, name, grid):
    """They are what a new run of the family begins with, by its seed; the other rows are the stored ones, to the bit."""
    source = str(save(name, tmp_path / "hf"))
    stored, (size, changes) = open_hf(source), SHARDED[grid]
    more = {"model__vocab_size": VOCAB + NEW, "model__new_rows": "random", "model__init_from": source}
    more |= {**CASES[name].changes, "train__micro_batch": 2}
    alone, other = configure(1, **more), configure(1, **more, train__seed=5)
    shapes = {n: s for n, s in shapes_of(alone.model).items() if s[0] == VOCAB + NEW}
    tied = alone.model.tied_embeddings
    assert shapes.keys() - {"output.bias"} == {"embedding.word.weight", *([] if tied else ["output.weight"])}
    found = masters_of(ranks.run(1, state_case, alone, source), shapes)
    drawn_otherwise = masters_of(ranks.run(1, state_case, other, source), shapes)
    sharded = masters_of(ranks.run(size, state_case, configure(size, **more, **changes), source), shapes)
    for n, values in found.items():
        assert torch.equal(sharded[n], values), n
        known = stored.read_shard(Shard(n, stored.shapes[n], *[(0,) * values.ndim] * 2, stored.shapes[n])).float()
        assert torch.equal(values[:VOCAB], known), n
        new = values[VOCAB:]
        if n == "output.bias":
            assert not new.any()
            continue
        assert float(new.std()) == pytest.approx(alone.model.deviation(n), rel=0.05)
        assert float(new.mean().abs()) < 4 * alone.model.deviation(n) / new.numel() ** 0.5
        assert len(new.unique(dim=0)) == NEW
        assert not torch.equal(drawn_otherwise[n][VOCAB:], new), "another seed draws others"
        assert torch.equal(drawn_otherwise[n][:VOCAB], known)


@pytest.mark.parametrize(
    "settings",
    [
        {"engine__zero_stage": 1, "precision__name": "bf16"},
        pytest.param(
            {"engine__name": "deepspeed", "engine__zero_stage": 2, "precision__name": "bf16", "optim__name": "lamb"},
            marks=pytest.mark.slow,
        ),
        {"engine__name": "deepspeed", "engine__zero_stage": 3},
        pytest.param(
            {"engine__zero_stage": 0, "optim__name": "sgd", "optim__momentum": 0.9, **TENSOR2},
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_masters_are_the_stored_weights_to_the_bit(ranks, tmp_path, settings):
    weights = open_hf(str(save("bert_model", tmp_path / "hf")))
    settings = {**CASES["bert"].changes, "train__micro_batch": 2, **settings}
    config = configure(2, **settings)
    outcomes = ranks.run(2, state_case, config, weights.where)
    names = set()
    for (name, start), tensors in (item for outcome in outcomes for item in outcome.items()):
        values = tensors.pop("weight")
        names.add(name)
        assert all(not moment.any() for moment in tensors.values())
        if name in weights.shapes:
            shard = Shard(name, weights.shapes[name], start, start, tuple(values.shape))
            assert torch.equal(values, weights.read_shard(shard).float()), name
        else:  # the heads, which begin as in any run
            assert name.startswith(("transform.", "output.", "pair.classifier"))
            assert name.endswith("bias") or "norm" in name or values.std() > 0.01
    assert weights.shapes.keys() < names


@pytest.mark.parametrize("half", HALVES)
def test_one_half_of_electra_is_taken_and_the_other_begins_anew(ranks, tmp_path, half):
    save("electra", tmp_path)
    weights = open_hf(str(tmp_path / half))
    config = configure(2, **ELECTRA, **TENSOR2)
    assert generator_of(config.model).hidden != config.model.hidden
    held = {
        name: t["weight"] for outcome in ranks.run(2, state_case, config, weights.where) for name, t in outcome.items()
    }
    taken = {name for name, _ in held if name in weights.shapes}
    assert taken == weights.shapes.keys()
    assert {name.partition(".")[0] for name in taken if name.startswith(HALVES)} == {half}
    fresh = {name.partition(".")[0] for name, _ in held if name not in taken}
    (other,) = set(HALVES) - {half}
    assert fresh == {other, "detector"} if half == "generator" else {other, "transform", "output"}
    for (name, start), values in held.items():
        if name in taken:
            shard = Shard(name, weights.shapes[name], start, start, tuple(values.shape))
            assert torch.equal(values, weights.read_shard(shard).float()), name
    wrong = configure(2, **{**ELECTRA, "model__generator_heads": 4, "model__layers": 3}, **TENSOR2)
    for told in ranks.run(2, refused_case, wrong, weights.where):
        own = "model.generator_layers = 3 (there 4), model.generator_heads = 4 (there 2)"
        assert (own if half == "generator" else "model.layers = 3 (there 4); ") in told


def refused_case(world, config, where):
    with pytest.raises(CheckpointError) as caught:
        begun(world, config, where)
    return str(caught.value)


def test_other_models_are_refused_by_name_on_every_rank(ranks, tmp_path):
    source = save("bert", tmp_path / "hf")
    turn(source, tmp_path / "in")
    changes = {**CASES["bert"].changes, "model__layers": 2, "model__norm_eps": 1e-6, "model__vocab_size": 300}
    for where in (source, tmp_path / "in"):
        for told in ranks.run(2, refused_case, configure(2, **changes), str(where)):
            assert "model.layers = 2 (there 4), model.vocab_size = 300 (there 211), model.norm_eps = 1e-06" in told
            assert "set model.layers=4 model.vocab_size=211 model.norm_eps=1e-12" in told
    other = configure(2, objective__name="causal")
    (told, _) = ranks.run(2, refused_case, other, str(source))
    assert "model.family = 'gpt' (there 'bert')" in told
    (told, _) = ranks.run(2, refused_case, configure(2, **CASES["bert"].changes), str(tmp_path / "nowhere"))
    assert "there is no directory" in told


def losses_of_run(directory):
    return [record["loss"] for record in read_metrics(directory / "metrics.jsonl") if "loss" in record]


def test_a_run_begins_with_weights_and_its_own_checkpoints_win(ranks, tmp_path):
    store = make_store(tmp_path / "store")
    made = settings(store, tmp_path / "made", train__stop_at=4)
    assert ranks.run(2, run_case, made, free_port()) == [0, 0]
    turn(tmp_path / "made", tmp_path / "hf", format="hf")
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").config.vocab_size == 97
    begun_with = {"model__init_from": str(tmp_path / "hf"), "train__steps": 6, "checkpoint__every": 2}
    run = settings(store, tmp_path / "run", train__stop_at=4, **begun_with)
    assert ranks.run(2, run_case, run, free_port()) == [0, 0]
    before, after = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("made", "run"))
    ended = [r["eval/loss"] for r in before if "eval/loss" in r][-1]
    began = next(r["eval/initial/loss"] for r in after if "eval/initial/loss" in r)
    assert began == pytest.approx(ended, abs=1e-6)
    # The same from a checkpoint of weights alone, on another grid.
    turn(tmp_path / "hf", tmp_path / "in")
    resumed = {"train__resume": str(tmp_path / "in"), "train__steps": 6, "parallel__tensor": 2}
    assert ranks.run(2, run_case, settings(store, tmp_path / "other", train__stop_at=4, **resumed), free_port()) == [
        0,
        0,
    ]
    assert losses_of_run(tmp_path / "other") == pytest.approx(losses_of_run(tmp_path / "run"), rel=1e-4)
    # Started again it goes on from its checkpoint, and no longer needs the directory.
    shutil.rmtree(tmp_path / "hf")
    assert ranks.run(2, run_case, settings(store, tmp_path / "run", **begun_with), free_port()) == [0, 0]
    assert [r["step"] for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in r] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(RanksError, match="there is no directory"):
        ranks.run(2, run_case, settings(store, tmp_path / "new", **begun_with), free_port())
    assert not (tmp_path / "new").exists()


def beside(files):
    return Weights("there", None, None, {}, (), torch.empty_like, lambda: files)


def test_weights_of_another_vocabulary_are_refused(store):
    """The store's own tokenizer passes; with two of its tokens exchanged it is refused, naming the first."""
    content = json.loads((store / "tokenizer.json").read_text())
    check_vocabulary(beside({"tokenizer.json": (store / "tokenizer.json").read_bytes()}), str(store))
    check_vocabulary(beside({}), str(store))
    vocabulary = content["model"]["vocab"]
    first, second = sorted(vocabulary, key=vocabulary.__getitem__)[300:302]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    with pytest.raises(CheckpointError, match="another vocabulary than that of") as caught:
        check_vocabulary(beside({"tokenizer.json": json.dumps(content).encode()}), str(store))
    assert f"token 300 is {second!r} there and {first!r} here" in str(caught.value)


def test_the_vocabulary_of_a_bare_sentencepiece_model_is_compared(store):
    model = io.BytesIO()
    lines = iter(["shall i compare thee to a summers day"] * 50)
    SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, vocab_size=60, hard_vocab_limit=False, minloglevel=2
    )
    for name in ("spiece.model", "own.model"):
        with pytest.raises(CheckpointError, match=r"token 0 is '<unk>' there"):
            check_vocabulary(beside({name: model.getvalue()}), str(store))
        with pytest.raises(CheckpointError, match=r"cannot be read, so that nothing tells whether they go with"):
            check_vocabulary(beside({name: b"no model"}), str(store))


def test_a_line_separator_in_a_vocabulary_is_a_token(tmp_path):
    """BERT's Chinese vocabulary holds U+2028."""
    case = Path(__file__).parents[2] / "data" / "tokenizers" / "cases" / "vocab_with_line_separator.txt"
    pieces = vocabulary_of({"vocab.txt": case.read_bytes()})
    assert (len(pieces), pieces[6]) == (8, "\u2028")
    known = vocabulary_of(
        {"vocab.txt": case.read_bytes(), "tokenizer_config.json": b'{"tokenizer_class": "BertTokenizer"}'}
    )
    assert known == pieces
    other = b'{"tokenizer_class": "BertJapaneseTokenizer"}'  # whose ids are not given, but whose vocabulary is known
    assert vocabulary_of({"vocab.txt": case.read_bytes(), "tokenizer_config.json": other}) == pieces
