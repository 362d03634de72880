import json
import math
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from dist_plm.checkpoint.open_checkpoint import look_at
from dist_plm.config.decode import decode
from dist_plm.core.errors import CheckpointError
from dist_plm.interop.hf.config_json import hf_config
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.tasks.convert.checkpoint_model import task_settings
from dist_plm.tasks.convert.convert import convert
from tests.checkpoint.poison import poison
from tests.ranks.training import configure
from tests.reference.hf import T5_SIZES
from tests.tasks.convert.hf_dirs import MODELS, save


def run(source, to, **changes):
    return convert(decode(ConvertConfig, {"from": str(source), "to": str(to), **changes}))


def halves(directory):
    parts = [directory / half for half in ("generator", "discriminator")]
    return parts if parts[0].exists() else [directory]


def weights(directory):
    return {name: t for file in sorted(directory.glob("*.safetensors")) for name, t in load_file(file).items()}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("name", [*MODELS, "electra"])
def test_out_is_what_came_in_and_hugging_face_loads_it(tmp_path, name):
    source = save(name, tmp_path / "hf")
    run(source, tmp_path / "in")
    assert "largest difference" in run(tmp_path / "in", tmp_path / "out", format="hf")
    for before, after in zip(halves(source), halves(tmp_path / "out"), strict=True):
        assert_same(weights(after), weights(before))
        assert json.loads((after / "config.json").read_text()) == json.loads((before / "config.json").read_text())
        kind = getattr(transformers, json.loads((after / "config.json").read_text())["architectures"][0])
        loaded, found = kind.from_pretrained(after, output_loading_info=True)
        assert all(key.startswith("pooler.") for key in found["missing_keys"]), found
        assert not found["unexpected_keys"], found
        assert_same({n: t for n, t in loaded.state_dict().items() if n in weights(before)}, weights(before))
        transformers.AutoModel.from_pretrained(after)
    # And back again: the same checkpoint to the bit.
    run(tmp_path / "out", tmp_path / "again")
    first, second = (look_at(str(tmp_path / place))[0] for place in ("in", "again"))
    assert first.weights == second.weights
    for tensor in first.weights:
        assert torch.equal(*(found.tensors.read_whole(f"model.{tensor}") for found in (first, second)))


def test_large_models_are_split_and_read_back(tmp_path):
    source = save("gpt2", tmp_path / "hf")
    run(source, tmp_path / "in")
    run(tmp_path / "in", tmp_path / "out", format="hf", shard_gb=2e-4)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 3
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert {file.name for file in files} == set(index["weight_map"].values())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in weights(source).values())
    assert all(file.stat().st_size < 2e5 + 1e4 for file in files)
    assert_same(weights(tmp_path / "out"), weights(source))
    transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out")
    run(tmp_path / "out", tmp_path / "again")
    assert look_at(str(tmp_path / "again"))[1] == []
    # A file of the set gets lost.
    files[1].unlink()
    assert_refused(tmp_path, f"{files[1].name} is missing", tmp_path / "out")


def test_half_precision_is_kept_and_can_be_chosen(tmp_path):
    MODELS["llama"]().to(torch.bfloat16).save_pretrained(tmp_path / "hf")
    run(tmp_path / "hf", tmp_path / "in")
    run(tmp_path / "in", tmp_path / "out", format="hf")
    assert_same(weights(tmp_path / "out"), weights(tmp_path / "hf"))
    run(tmp_path / "in", tmp_path / "fp32", format="hf", dtype="fp32")
    assert_same(weights(tmp_path / "fp32"), {n: t.float() for n, t in weights(tmp_path / "hf").items()})
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "fp32").dtype == torch.float32


def test_an_untied_t5_that_transformers_has_not_untied_yet(tmp_path):
    """Of the class as it begins to learn: its output is its embedding, without v1.0's scale, and is stored once."""
    config = transformers.T5Config(**T5_SIZES, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "hf")
    assert "lm_head.weight" not in weights(tmp_path / "hf")
    run(tmp_path / "hf", tmp_path / "in")
    assert "largest difference" in run(tmp_path / "in", tmp_path / "out", format="hf")
    stored = weights(tmp_path / "hf")
    assert_same(weights(tmp_path / "out"), stored | {"lm_head.weight": stored["shared.weight"]})
    loaded = [transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / name) for name in ("hf", "out")]
    tokens = torch.arange(2, 12).view(2, 5)
    assert torch.equal(*(model.eval()(input_ids=tokens, decoder_input_ids=tokens).logits for model in loaded))
    edit(tmp_path / "hf", tie_word_embeddings=False, scale_decoder_outputs=None)
    assert_refused(tmp_path, "lacks 1 tensor of a T5ForConditionalGeneration: lm_head.weight", tmp_path / "hf")


def test_names_of_older_files(tmp_path):
    """Of TensorFlow's norms, of tied and of computed tensors."""
    source = save("bert", tmp_path / "hf")
    stored = weights(source)
    old = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for n, t in stored.items()
    }
    old["cls.predictions.decoder.weight"] = stored["bert.embeddings.word_embeddings.weight"].clone()
    old["cls.predictions.decoder.bias"] = stored["cls.predictions.bias"].clone()
    old["bert.embeddings.position_ids"] = torch.arange(32)[None]
    save_file(old, source / "model.safetensors")
    settings = json.loads((source / "config.json").read_text())
    del settings["model_type"], settings["architectures"]
    (source / "config.json").write_text(json.dumps(settings))
    run(source, tmp_path / "in")
    run(tmp_path / "in", tmp_path / "out", format="hf")
    assert_same(weights(tmp_path / "out"), stored)


def test_tokenizer_files_go_along(tmp_path):
    source = save("bert_mlm", tmp_path / "hf")
    (source / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(206))]))
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    (source / "README.md").write_text("not a tokenizer's")
    run(source, tmp_path / "in")
    text = run(tmp_path / "in", tmp_path / "out", format="hf")
    assert "with its tokenizer" in text
    assert not (tmp_path / "out" / "README.md").exists()
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").vocab_size == 211


def test_of_a_linked_tokenizer_the_file_it_leads_to_goes_along(tmp_path):
    source = save("bert_mlm", tmp_path / "hf")
    (tmp_path / "shared.json").write_text('{"model": {}}')
    (source / "tokenizer.json").symlink_to(tmp_path / "shared.json")
    (source / "special_tokens_map.json").symlink_to(tmp_path / "gone.json")
    run(source, tmp_path / "in")
    run(tmp_path / "in", tmp_path / "out", format="hf")
    copied = tmp_path / "out" / "tokenizer.json"
    assert (copied.is_symlink(), copied.read_text()) == (False, '{"model": {}}')
    assert not (tmp_path / "out" / "special_tokens_map.json").exists()
    (tmp_path / "shared.json").write_text("a password")
    assert_refused(tmp_path, "tokenizer.json, of the tokenizer, is no JSON", source)


def test_a_sentencepiece_model_of_any_name_goes_along(tmp_path):
    source = save("bert_mlm", tmp_path / "hf")
    (source / "own.model").write_bytes(b"pieces")
    run(source, tmp_path / "in")
    run(tmp_path / "in", tmp_path / "out", format="hf")
    assert (tmp_path / "out" / "own.model").read_bytes() == b"pieces"


def test_a_single_file_goes_before_an_index_that_was_left_there(bert, tmp_path):
    source = shutil.copytree(bert, tmp_path / "hf")
    stale = {"weight_map": dict.fromkeys(weights(source), "model-00001-of-00002.safetensors")}
    (source / "model.safetensors.index.json").write_text(json.dumps(stale))
    wrong = {name: torch.zeros_like(tensor) for name, tensor in weights(source).items()}
    save_file(wrong, source / "model-00001-of-00002.safetensors")
    run(source, tmp_path / "in")
    run(tmp_path / "in", tmp_path / "out", format="hf")
    assert_same(weights(tmp_path / "out"), weights(bert))


def assert_refused(tmp_path, part, source, **changes):
    with pytest.raises(CheckpointError) as caught:
        run(source, tmp_path / "refused", **changes)
    assert part in str(caught.value)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("refused")]


def edit(directory, **changes):
    path = directory / "config.json"
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not None}))


def change(directory, **tensors):
    """Tensors replaced, added, or with None taken out; `__` stands for a dot."""
    changed = weights(directory) | {name.replace("__", "."): t for name, t in tensors.items()}
    save_file({name: t for name, t in changed.items() if t is not None}, directory / "model.safetensors")


WRONG = {
    "config": (lambda d: (d / "config.json").unlink(), "has no config.json"),
    "not json": (lambda d: (d / "config.json").write_text("{"), "config.json cannot be read"),
    "deep json": (lambda d: (d / "config.json").write_text("[" * 100_000), "config.json cannot be read: it nests"),
    "a pipe for the config": (lambda d: pipe(d / "config.json"), "it is a pipe, not a file"),
    "a pipe for the weights": (lambda d: pipe(d / "model.safetensors"), "it is a pipe, not a file"),
    "other type": (lambda d: edit(d, model_type="mamba"), "model_type 'mamba'"),
    "other class": (
        lambda d: edit(d, architectures=["BertForNextSentencePrediction"]),
        "is of a BertForNextSentencePrediction; of model_type 'bert'",
    ),
    "other family": (lambda d: edit(d, model_type="roberta", architectures=["RobertaForMaskedLM"]), "lacks 74 tensors"),
    "setting": (lambda d: edit(d, hidden_act="silu"), "hidden_act = 'silu' is not supported"),
    "positions": (
        lambda d: edit(d, position_embedding_type="relative_key"),
        "position_embedding_type = 'relative_key'",
    ),
    "no size": (lambda d: edit(d, hidden_size=None), "has no hidden_size"),
    "size of another kind": (lambda d: edit(d, num_hidden_layers="four"), "layers = 'four' is not allowed"),
    "vocabulary": (
        lambda d: edit(d, vocab_size=300),
        "bert.embeddings.word_embeddings.weight is [211, 64], where the sizes in config.json make it [300, 64]",
    ),
    "layers": (
        lambda d: edit(d, num_hidden_layers=5),
        "lacks 16 tensors of a BertForPreTraining: bert.encoder.layer.4",
    ),
    "fewer layers": (
        lambda d: edit(d, num_hidden_layers=3),
        "holds 16 tensors that a BertForPreTraining does not have",
    ),
    "width": (
        lambda d: edit(d, intermediate_size=128),
        "is [256, 64], where the sizes in config.json make it [128, 64]",
    ),
    "missing": (
        lambda d: change(d, bert__pooler__dense__weight=None, cls__predictions__bias=None),
        "lacks 2 tensors of a BertForPreTraining: cls.predictions.bias, bert.pooler.dense.weight",
    ),
    "unexpected": (lambda d: change(d, classifier__weight=torch.ones(2)), "classifier.weight"),
    "untied": (
        lambda d: change(d, cls__predictions__decoder__weight=torch.ones(211, 64)),
        "cls.predictions.decoder.weight differs from bert.embeddings.word_embeddings.weight, to which it is tied",
    ),
    "integers": (
        lambda d: change(d, bert__pooler__dense__weight=torch.ones(64, 64, dtype=torch.int8)),
        "bert.pooler.dense.weight is of type I8",
    ),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "has neither model.safetensors nor"),
    "pickle": (
        lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"),
        "holds its weights in pytorch_model.bin, whose reading can run any program",
    ),
    "not safetensors": (
        lambda d: (d / "model.safetensors").write_bytes(b"PK\3\4" * 99),
        "truncated, damaged or not of",
    ),
    "empty": (lambda d: (d / "model.safetensors").write_bytes(b""), "truncated, damaged or not of safetensors"),
    "index": (lambda d: index(d, "[]"), "is no index of weights"),
    "deep index": (lambda d: index(d, "[" * 100_000), "is no index of weights (it nests"),
    "a pipe for the index": (
        lambda d: (index(d, "{}"), pipe(d / "model.safetensors.index.json")),
        "it is a pipe, not a file",
    ),
    "no name of a file": (lambda d: index(d, '{"weight_map": {"a": "a\\u0000b"}}'), "cannot be read: "),
    "outside": (lambda d: index(d, '{"weight_map": {"a": "../model.safetensors"}}'), "a file outside of its directory"),
    "index of another": (
        lambda d: index(d, '{"weight_map": {"a": "part.safetensors"}}'),
        "part.safetensors lacks a, which",
    ),
}


def index(directory, text):
    """In place of the single file, which would go before it."""
    (directory / "model.safetensors").rename(directory / "part.safetensors")
    (directory / "model.safetensors.index.json").write_text(text)


def pipe(path):
    """In place of a file, which to open would wait for a writer."""
    path.unlink()
    os.mkfifo(path)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save("bert", tmp_path_factory.mktemp("bert"))


@pytest.mark.parametrize(
    ("name", "changes", "part"),
    [
        ("electra_choice", {"summary_type": "mean"}, "summary_type = 'mean' is not supported"),
        ("electra_choice", {"summary_activation": "tanh"}, "summary_activation = 'tanh' is not supported"),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rotary positions of rope_type 'linear'"),
        ("t5", {"dense_act_fn": "silu"}, "dense_act_fn = 'silu' is not supported"),
        ("t5", {"is_gated_act": True}, "is_gated_act = true is not supported"),
        (
            "t5",
            {"relative_attention_max_distance": 3, "relative_attention_num_buckets": 8},
            "relative_distance = 3 leaves",
        ),
        ("t5", {"relative_attention_num_buckets": 2}, "relative_buckets = 2 is too few"),
        ("bert", {"add_cross_attention": True}, "add_cross_attention = true is not supported"),
        ("roberta", {"pad_token_id": -1}, "pad_token_id = -1 is no token"),
        ("llama", {"rope_scaling": "linear"}, "rope_scaling = 'linear' has to hold settings by their names"),
        ("bert_sequence", {"id2label": {"good": "x", "bad": "y"}}, "id2label names its labels by 'good', 'bad'"),
    ],
)
def test_settings_that_transformers_obeys_are_refused_where_ours_do_otherwise(tmp_path, name, changes, part):
    source = save(name, tmp_path / "hf")
    edit(source, **changes)
    assert_refused(tmp_path, part, source)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", {"rope_scaling": {}, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
        ("roberta", {"pad_token_id": None}),
    ],
)
def test_settings_that_are_left_out_mean_what_they_mean_to_transformers(tmp_path, name, changes):
    source = save(name, tmp_path / "hf")
    edit(source, **changes)
    run(source, tmp_path / "in")
    assert "largest difference" in run(tmp_path / "in", tmp_path / "out", format="hf")


@pytest.mark.parametrize("name", WRONG)
def test_wrong_directories_are_refused_by_name(bert, tmp_path, name):
    spoil, part = WRONG[name]
    source = shutil.copytree(bert, tmp_path / "hf")
    spoil(source)
    assert_refused(tmp_path, part, source)


@pytest.mark.parametrize("keep", [4, 100, -4, -100_000])
def test_truncated_files_are_refused(bert, tmp_path, keep):
    source = shutil.copytree(bert, tmp_path / "hf")
    data = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(data[:keep])
    assert_refused(tmp_path, "is truncated, damaged or not of safetensors", source)


def test_a_header_that_lies_is_refused(bert, tmp_path):
    source = shutil.copytree(bert, tmp_path / "hf")
    data = (source / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header["cls.predictions.bias"]["shape"] = [10**9]
    text = json.dumps(header).encode()
    (source / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    assert_refused(tmp_path, "is truncated, damaged or not of safetensors", source)


def test_what_else_is_refused(bert, tmp_path):
    assert_refused(tmp_path, "there is nothing at", tmp_path / "nowhere")
    assert_refused(tmp_path, "is a file: give the directory", bert / "model.safetensors")
    (tmp_path / "other").mkdir()
    assert_refused(tmp_path, "is no checkpoint that is known", tmp_path / "other")
    assert_refused(tmp_path, "does not convert to format=hf", bert, format="hf")
    electra = save("electra", tmp_path / "electra")
    assert_refused(tmp_path, "is the generator of electra alone", electra / "generator")
    change(electra / "generator", electra__embeddings__LayerNorm__bias=torch.ones(48))
    assert_refused(tmp_path, "the halves of electra share their embeddings here", electra)
    edit(electra / "generator", vocab_size=300)
    assert_refused(tmp_path, "vocab_size is 300 in the generator, 211 in the discriminator", electra)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(CheckpointError, match="full is there already"):
        run(bert, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]


def test_a_damaged_checkpoint_is_not_exported(bert, tmp_path):
    run(bert, tmp_path / "in")
    (tensors,) = (tmp_path / "in" / "step_00000000").glob("*.distcp")
    tensors.write_bytes(tensors.read_bytes()[:-1])
    assert_refused(tmp_path, "is damaged", tmp_path / "in", format="hf")


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_numbers_that_are_not_finite_are_neither_imported_nor_exported(bert, tmp_path, value):
    source = shutil.copytree(bert, tmp_path / "hf")
    change(source, bert__pooler__dense__bias=torch.full((64,), value))
    assert_refused(tmp_path, "model.pair.pooler.bias holds numbers that are not finite", source)
    run(bert, tmp_path / "in")
    poison(tmp_path / "in" / "step_00000000", "model.embedding.word.weight", value)
    assert_refused(tmp_path, "numbers that are not finite, in bert.embeddings.word", tmp_path / "in", format="hf")


@pytest.mark.slow
def test_memory_holds_one_tensor_at_a_time(tmp_path):
    """Of 78 MB in tensors of up to 4 MB; what is written out is a tensor, what it is made from a part of it."""
    sizes = {"vocab_size": 1000, "n_positions": 512, "n_embd": 512, "n_layer": 6, "n_head": 8}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).save_pretrained(tmp_path / "hf")
    size = (tmp_path / "hf" / "model.safetensors").stat().st_size
    assert size > 75e6
    for arguments in (["from=hf", "to=in"], ["from=in", "to=out", "format=hf", "verify=false"]):
        assert growth_of(arguments, tmp_path) < size / 3


def growth_of(arguments, directory):
    """Bytes by which the memory of a process grows that converts."""
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, root / "tests" / "tasks" / "convert" / "measure_memory.py", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ({"objective": {"name": "mlm"}}, {}),
        ({"task": {"name": "regress"}}, {"problem_type": "regression"}),
        (
            {"task": {"name": "classify", "labels": ["no", "yes"], "multi_label": True}},
            {
                "id2label": {"0": "no", "1": "yes"},
                "label2id": {"no": 0, "yes": 1},
                "problem_type": "multi_label_classification",
            },
        ),
        (
            {"task": {"name": "tag", "labels": ["O", "B-PER"]}},
            {"id2label": {"0": "O", "1": "B-PER"}, "label2id": {"O": 0, "B-PER": 1}},
        ),
    ],
)
def test_a_task_names_its_labels(run, expected):
    assert task_settings(run, "runs/x") == expected


def test_a_task_of_another_version_is_refused():
    with pytest.raises(CheckpointError, match=r"runs/x/run\.yaml has no task of this version"):
        task_settings({"task": {"name": "guess"}}, "runs/x")


def test_a_hidden_size_that_heads_do_not_divide_is_no_llama():
    llama = {"model__position": "rotary", "model__norm": "rmsnorm", "model__activation": "swiglu", "model__bias": False}
    sizes = {"model__heads": 3, "model__kv_heads": 1, "model__head_size": 10}
    assert hf_config(configure(1, **llama, **{**sizes, "model__hidden": 33}).model, ["output.weight"])["head_dim"] == 10
    with pytest.raises(
        CheckpointError, match=r"cannot be a model with model\.hidden = 32 and model\.heads = 3: it wants"
    ):
        hf_config(configure(1, **llama, **{**sizes, "model__hidden": 32}).model, ["output.weight"])
