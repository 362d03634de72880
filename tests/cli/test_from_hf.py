"""Directories of Hugging Face that a run begins with: sizes with model=from_hf, and what is refused before anything starts."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from dist_plm.cli.app import front, load
from dist_plm.cli.commands.submit import execute as submit
from dist_plm.config.decode import encode
from dist_plm.core.errors import EXIT_REFUSED, CheckpointError, ConfigError
from dist_plm.interop.hf.config_json import described_at
from dist_plm.interop.hf.safetensors_files import WeightFiles
from dist_plm.interop.hf.weights import open_hf
from dist_plm.spec.schema import PretrainConfig
from tests.tasks.convert.hf_dirs import save
from tests.train.running import make_store

#: What the family of a model learns from.
OBJECTIVE = {"bert": "mlm_nsp", "roberta": "mlm", "electra": "rtd", "gpt": "causal", "t5": "span"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Directories of Hugging Face by name."""
    place = tmp_path_factory.mktemp("hf")
    return lambda name: place / name if (place / name).exists() else save(name, place / name)


def settings(where, *more: str) -> list[str]:
    """A run on data that are not here."""
    return ["model=from_hf", f"model.init_from={where}", "data.path=elsewhere/x", "data.sequence_length=24", *more]


def check(capsys, *arguments: str) -> tuple[int, str]:
    code = front(["--check", *arguments], PretrainConfig, "pretrain", lambda config, origins: None, "")
    said = capsys.readouterr()
    return code, said.out if code == 0 else said.err


@pytest.mark.parametrize("name", ["bert", "roberta_model", "t5_v1_1", "gpt2", "llama", "electra"])
def test_sizes_are_those_of_the_directory(saved, capsys, name):
    theirs = open_hf(str(saved(name))).model
    more = [f"objective={OBJECTIVE[theirs.family]}", "model.hidden_dropout=0.3"]
    config, origins = load(PretrainConfig, "pretrain", settings(saved(name), *more))
    assert config.model.hidden_dropout == 0.3
    ours, told = encode(config.model), encode(theirs)
    free = ("hidden_dropout", "pair_head", "init_from")
    assert {n: v for n, v in ours.items() if n not in free} == {n: v for n, v in told.items() if n not in free}
    assert origins["model.layers"].source == f"{saved(name)}/config.json"
    code, said = check(capsys, *settings(saved(name), *more))
    assert code == 0, said


def test_checkpoints_that_others_made_where_the_run_keeps_its_own_are_told(saved, capsys, tmp_path):
    (tmp_path / "checkpoints" / "step_00000002").mkdir(parents=True)
    arguments = settings(saved("bert"), "objective=mlm_nsp", f"run.dir={tmp_path}")
    code, said = check(capsys, *arguments)
    assert code == EXIT_REFUSED
    assert "step_00000002 in it has no checkpoint.json, and is not of this program" in said


def test_of_electra_one_half_or_both(saved):
    both, alone = (described_at(str(place)) for place in (saved("electra"), saved("electra") / "discriminator"))
    assert (both.hidden, both.generator_hidden, both.generator_heads) == (64, 32, 2)
    assert (alone.hidden, alone.generator_hidden, alone.generator_heads) == (64, None, None)
    with pytest.raises(CheckpointError, match="does not tell the sizes of the discriminator"):
        described_at(str(saved("electra") / "generator"))


def test_sizes_are_asked_for_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"give it as model\.init_from=DIR"):
        load(PretrainConfig, "pretrain", ["model=from_hf"])
    with pytest.raises(ConfigError, match=r"model\.init_from cannot be resolved"):
        load(PretrainConfig, "pretrain", ["model=from_hf", "model.init_from=${nowhere}"])
    (tmp_path / "config.json").write_text(
        '{"model_type": "bert", "num_hidden_layers": 2, "hidden_size": "x", "num_attention_heads": 2}'
    )
    with pytest.raises(CheckpointError, match=r"config\.json does not describe a model"):
        described_at(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": ["bert"], "architectures": {}}')
    with pytest.raises(CheckpointError, match=r"model_type \['bert'\], which this program has no model for"):
        described_at(str(tmp_path))


def without_a_tensor(directory):
    file = directory / "model.safetensors"
    tensors = load_file(file)
    del tensors["bert.encoder.layer.2.output.dense.bias"]
    save_file(tensors, file)


def halved(directory):
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def of_another_class(directory):
    content = json.loads((directory / "config.json").read_text()) | {"architectures": ["BertForNextSentencePrediction"]}
    (directory / "config.json").write_text(json.dumps(content))


WRONG = {
    "missing": (shutil.rmtree, "there is no directory"),
    "no tensor": (without_a_tensor, "lacks 1 tensor of a BertForPreTraining: bert.encoder.layer.2.output.dense.bias"),
    "halved": (halved, "model.safetensors is truncated, damaged or not of safetensors"),
    "pickle": (
        lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"),
        "holds its weights in pytorch_model.bin, whose reading can run any program",
    ),
    "class": (of_another_class, "is of a BertForNextSentencePrediction"),
}
#: The sizes of the small models in conf/model's terms.
SIZES = [f"model.{size}" for size in ("hidden=64", "layers=4", "heads=4", "max_positions=32", "vocab_size=211")]


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_directories_are_refused_before_anything_starts(saved, capsys, tmp_path, monkeypatch, kind):
    where = shutil.copytree(saved("bert"), tmp_path / "hf")
    spoil, part = WRONG[kind]
    monkeypatch.chdir(tmp_path)
    spoil(where)
    own = settings(where, "model=bert_tiny", "model.norm_eps=1e-12", "objective=mlm_nsp", *SIZES)[1:]
    code, said = check(capsys, *own)
    assert code == EXIT_REFUSED
    assert part in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ([] if kind == "missing" else ["hf"])


def test_nothing_is_submitted_that_cannot_begin(saved, capsys, tmp_path, monkeypatch):
    where = shutil.copytree(saved("gpt2"), tmp_path / "hf")
    own = ["model=from_hf", f"model.init_from={where}", f"data.path={make_store(tmp_path / 'store')}"]
    own += ["data.sequence_length=24", "train.eval_samples=0", "train.eval_every=0"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(WeightFiles, "read", None)  # headers alone are looked at
    assert submit(["submit.dry_run=true", *own]) == 0
    assert "#SBATCH" in capsys.readouterr().out
    halved(where)
    assert submit(["submit.dry_run=true", *own]) == EXIT_REFUSED
    said = capsys.readouterr()
    assert "truncated, damaged" in said.err
    assert said.out == ""
    assert submit(["submit.check_data=false", "submit.dry_run=true", *own]) == 0, (
        "neither data nor weights are looked for"
    )


def test_other_models_are_refused_with_what_to_set(saved, capsys):
    own = settings(saved("bert"), "model=bert_tiny", "objective=mlm_nsp", *SIZES, "model.layers=2")[1:]
    code, said = check(capsys, *own)
    assert code == EXIT_REFUSED
    assert "model.layers = 2 (there 4), model.norm_eps = 1e-05 (there 1e-12)" in said
    assert "set model.layers=4 model.norm_eps=1e-12" in said
    assert check(capsys, *settings(saved("bert"), "model=gpt_tiny")[1:])[0] == EXIT_REFUSED
