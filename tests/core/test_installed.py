import shlex
from pathlib import Path

import pytest

from dist_plm.cli.app import load
from dist_plm.core.installed import as_typed, shipped, start_words, typed, typed_setting
from dist_plm.spec.inference.schema import GenerateConfig

ROOT = Path(__file__).resolve().parents[2]


def test_a_checkout_is_told_what_it_has(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert as_typed("start launch/submit.py") == "start launch/submit.py"
    assert (shipped("conf") / "pretrain.yaml").is_file()
    assert (shipped("slurm") / "common.sh").is_file()
    assert start_words("pretrain", relative=True) == ["launch/pretrain.py"]
    monkeypatch.chdir(tmp_path)
    assert typed("pretrain") == f"python {ROOT}/launch/pretrain.py"


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("python launch/pretrain.py train.steps=50", "dist-plm pretrain train.steps=50"),
        ("what launch/prepare_data.py wrote", "what dist-plm prepare_data wrote"),
        ("torchrun --nproc-per-node 4 launch/pretrain.py x=1", "torchrun --nproc-per-node 4 -m dist_plm pretrain x=1"),
        ("srun --nodes 2 python launch/preflight.py x=1", "srun --nodes 2 dist-plm preflight x=1"),
        ("torchrun launch/a.py\npython launch/b.py", "torchrun -m dist_plm a\ndist-plm b"),
    ],
)
def test_a_wheel_is_told_of_its_command(text, typed):
    assert as_typed(text, in_wheel=True) == typed


@pytest.mark.parametrize("text", ["runs/gpt", "/tmp/a-b_c.d/0", "./x", "../runs/2", "s3://bucket/run"])
def test_plain_values_are_typed_as_they_are(text):
    assert typed_setting("from", text) == f"from={text}"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "runs/gpt",
            "s3://bucket/run",
            "/tmp/0.5",
            "a b",
            "runs/größe",
            "x,y",
            "runs/lr=3e-4",
            "it's",
            "3",
            "1e5",
            "true",
        ),
        *(
            "NULL",
            "nan",
            "-1",
            ".5",
            "cls (1).jsonl",
            "a[0]",
            "{a:b}",
            "~x",
            'say "so"',
            "back\\",
            'a\\"b',
            "5$ {x}",
            "$HOME",
        ),
        *("a\\$x", "a#b", " a ", "*", "&;|<>", "2024-run/step"),
    ],
)
def test_values_are_read_back_as_they_were(text):
    words = shlex.split(f"{typed_setting('from', text)} prompt=x")
    config, _ = load(GenerateConfig, "generate", words)
    assert config.from_ == text


def test_references_stay_references(monkeypatch):
    monkeypatch.setenv("PLACE", "over there")
    words = shlex.split(f"{typed_setting('from', 'runs/größe ${oc.env:PLACE}')} prompt=x")
    config, _ = load(GenerateConfig, "generate", words)
    assert config.from_ == "runs/größe over there"
