from pathlib import Path

import pytest

from dist_plm.core.installed import as_typed, shipped, start_words, typed

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
