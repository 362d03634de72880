"""`launch/rehearse.py`: tables for a right command line, one message for a wrong one or for ranks that disagree."""

import json
import subprocess
import sys

import pytest

from dist_plm.cli.commands.rehearse import execute
from dist_plm.core.errors import EXIT_REFUSED

TINY = [
    *("model=gpt_tiny", "model.vocab_size=211", "model.layers=2", "data=store", "data.path=nowhere"),
    *(
        "data.sequence_length=32",
        "train.global_batch=8",
        "train.micro_batch=2",
        "parallel.pipeline=2",
        "--world-size",
        "4",
    ),
]


def test_it_says_what_ranks_do(tmp_path, capsys):
    file = tmp_path / "seen.json"
    assert execute([*TINY, "--ranks", "0,2", f"json={file}"]) == 0
    shown = capsys.readouterr().out
    for part in (
        "rehearsed 2 of 4 ranks (data 2 × pipeline 2)",
        "agree",
        "peak GiB",
        "a rank sends",
        "random text",
        "saves",
    ):
        assert part in shown
    seen = json.loads(file.read_text())
    assert seen["problems"] == []
    assert {call["operation"] for call in seen["ranks"]["0"]["ledger"]} >= {"all_reduce", "send", "recv"}
    assert seen["ranks"]["0"]["bytes_sent_by_axis"]["pipeline"] > 0


def test_ranks_that_disagree_are_refused(monkeypatch, capsys):
    import torch

    from dist_plm.engines.gradient_norm import GradientNorm

    measure = GradientNorm.measure
    monkeypatch.setattr(
        GradientNorm, "measure", lambda self, held: 0.0 if torch.distributed.get_rank() == 1 else measure(self, held)
    )
    assert execute([*TINY, "--ranks", "0,1"]) == EXIT_REFUSED
    shown = capsys.readouterr()
    assert "2 of 4 ranks" in shown.out
    assert "dist_plm/engines/gradient_norm.py:" in shown.err
    assert "Traceback" not in shown.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ranks", "worts"], "did you mean worst"),
        (["--ranks", "4"], "there is no rank 4 among 4"),
        (["parallel.tensor=5"], "parallel.tensor = 5"),
        (["model.vocab_size=null"], "set it, as in model.vocab_size=50257"),
        (["precision=fp8"], "precision.name = 'fp8'"),
        (["json=nowhere/at/all.json"], "json = 'nowhere/at/all.json'"),
        (["jsn=x"], "did you mean json"),
    ],
)
def test_wrong_words_are_refused_in_one_message(words, said, capsys):
    assert execute([*TINY, *words]) == EXIT_REFUSED
    shown = capsys.readouterr()
    assert said in shown.err
    assert not shown.out
    assert "Traceback" not in shown.err


def test_wrong_words_need_no_pytorch():
    code = (
        "import sys; from dist_plm.cli.commands.rehearse import execute; "
        f"assert execute({[*TINY, '--ranks', '9']!r}) == 2; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
