"""`launch/rehearse.py`: tables for a right command line, one message for a wrong one or for ranks that disagree."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from dist_plm.cli.app import load
from dist_plm.cli.commands.plan import execute as plan
from dist_plm.cli.commands.rehearse import execute
from dist_plm.cli.commands.submit import _rehearse
from dist_plm.cluster.check import check
from dist_plm.cluster.submit import Submission
from dist_plm.config import runfile
from dist_plm.core.errors import EXIT_REFUSED, ConfigError
from dist_plm.spec.flops import num_parameters
from dist_plm.spec.schema import SubmissionConfig
from dist_plm.spec.schema_finetune import FinetuneSubmissionConfig
from tests.train.finetuning import make_rows, settings

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


def test_the_data_are_read_where_they_are_here(capsys):
    store = Path(__file__).parents[1] / "fixtures" / "before" / "store"
    words = ["model=bert_tiny", "objective=mlm", f"data.path={store}", "data=store", "data.sequence_length=32"]
    assert (
        execute(
            [
                *words,
                "model.layers=1",
                "train.global_batch=4",
                "train.steps=2",
                "train.eval_samples=0",
                "train.eval_every=0",
            ]
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert "rank 0 samples 0 to 3 in the first step" in shown
    assert "random text" not in shown


def test_a_task_is_rehearsed_with_its_rows(tmp_path, capsys):
    rows = make_rows(tmp_path)
    words = ["task=classify", "model=bert_tiny", "model.layers=1", f"data.tokenizer={rows / 'vocabulary'}"]
    words += ["parallel.tensor=2", "--world-size", "4", "--ranks", "3"]
    assert execute([*words, f"data.train={rows / 'train.jsonl'}"]) == 0
    shown = capsys.readouterr().out
    assert "rehearsed 1 of 4 ranks (tensor 2 × data 2)" in shown
    assert "examples of train.jsonl" in shown
    assert execute([*words, "data.train=nowhere.jsonl"]) == EXIT_REFUSED
    assert "nowhere.jsonl" in capsys.readouterr().err


def test_a_run_of_fine_tuning_is_rehearsed_from_its_file(tmp_path, capsys):
    file = tmp_path / "run.yaml"
    runfile.write(settings(make_rows(tmp_path), tmp_path, model__lora={"rank": 2}), file)
    assert execute(["--frozen", str(file), "--world-size", "2", "--ranks", "1"]) == 0
    assert "examples of train.jsonl" in capsys.readouterr().out
    assert plan(["--frozen", str(file)]) == EXIT_REFUSED
    assert f"--frozen {file} is of fine-tuning: launch/finetune.py and rehearse.py take it" in capsys.readouterr().err
    assert execute(["--frozen", str(tmp_path / "none.yaml")]) == EXIT_REFUSED
    assert "none.yaml cannot be read" in capsys.readouterr().err


def test_a_batch_of_rows_that_nobody_has_set_fits_the_ranks(tmp_path, capsys):
    rows = make_rows(tmp_path)
    words = ["task=classify", "model=bert_tiny", "model.layers=1", f"data.tokenizer={rows / 'vocabulary'}"]
    words += [f"data.train={rows / 'train.jsonl'}", "--world-size", "64", "--check"]
    assert execute(words) == 0
    shown = capsys.readouterr()
    assert shown.err == "train.global_batch = 32 is that of a small run: 1024 in its place\n"
    assert "grid          data 64" in shown.out


def test_a_batch_that_nobody_has_set_fits_the_ranks(capsys):
    words = [
        "model=gpt_tiny",
        "model.vocab_size=211",
        "model.layers=2",
        "data=store",
        "data.sequence_length=32",
        "--world-size",
        "24",
    ]
    assert execute([*words, "parallel.tensor=2", "--ranks", "0"]) == 0
    shown = capsys.readouterr()
    assert shown.err == "train.global_batch = 16 is that of a small run: 96 in its place\n"
    assert "rehearsed 1 of 24 ranks" in shown.out
    assert execute([*words, "train.global_batch=16", "--ranks", "0"]) == EXIT_REFUSED
    assert "train.global_batch = 16 is not a multiple" in capsys.readouterr().err


def test_submit_queues_nothing_where_ranks_disagree(monkeypatch, capsys):
    from dist_plm.engines.gradient_norm import GradientNorm

    words = [*TINY[:-2], "cluster=example", "nodes=1", "cluster.gpus_per_node=4", "submit.check_data=false"]
    config, _ = load(SubmissionConfig, "submit", [*words, "submit.rehearse=true"])
    submission = Submission(config, check(config), ())
    _rehearse(submission)
    assert capsys.readouterr().out.startswith("rehearsed: ranks 0, 1, 2 agree")

    def broken(self, gradients):
        raise ValueError("no norm")

    monkeypatch.setattr(GradientNorm, "measure", broken)
    with pytest.raises(ConfigError, match=r"rank 1 fails in step 1, .*ValueError: no norm"):
        _rehearse(submission)


def test_what_this_machine_lacks_refuses_no_job(capsys):
    words = [*TINY[:-2], "engine=deepspeed", "precision=fp16"]
    assert execute([*words, "--world-size", "4", "--ranks", "0"]) == EXIT_REFUSED
    shown = capsys.readouterr().err
    assert shown.startswith(
        "not rehearsed, 1 problem:\n  - this machine lacks what the job may find where it runs: precision.name"
    )
    words += ["cluster=example", "nodes=1", "cluster.gpus_per_node=4", "submit.check_data=false"]
    config, _ = load(SubmissionConfig, "submit", [*words, "submit.rehearse=true"])
    _rehearse(Submission(config, check(config), ()))
    shown = capsys.readouterr()
    assert not shown.out
    assert shown.err.startswith("not rehearsed, 1 problem:\n  - this machine lacks")
    assert shown.err.endswith("the job is queued without\n")


def test_tokens_that_a_run_adds_are_rehearsed(tmp_path, capsys):
    rows = make_rows(tmp_path)
    words = ["task=classify", "model=bert_tiny", "model.layers=1", f"data.tokenizer={rows / 'vocabulary'}"]
    words += [f"data.train={rows / 'train.jsonl'}", f"run.root={tmp_path}", "train.global_batch=32"]
    words += [f"data.new_tokens=[{','.join(f'zork{number}' for number in range(256))}]"]
    assert execute([*words, f"json={tmp_path / 'seen.json'}"]) == 0
    saved = json.loads((tmp_path / "seen.json").read_text())["ranks"]["0"]["writes"]["bytes"]
    config, _ = load(FinetuneSubmissionConfig, "submit_finetune", [*words, "submit.rehearse=true"])
    complete = check(config)
    assert saved == 3 * 4 * num_parameters(complete.model)  # each with two moments
    assert complete.model.vocab_size > 256
    capsys.readouterr()
    _rehearse(Submission(config, complete, ()))
    assert capsys.readouterr().out.startswith("rehearsed: ranks 0 agree")


def test_a_fine_tuning_run_is_rehearsed_with_its_rows_alone():
    words = [
        "task=classify",
        "model=bert_base",
        "data.train=rows.csv",
        "data.tokenizer=here",
        "submit.rehearse=true",
        "submit.check_data=false",
    ]
    config, _ = load(FinetuneSubmissionConfig, "submit_finetune", words)
    with pytest.raises(ConfigError, match="needs the rows"):
        _rehearse(Submission(config, config, ()))


def test_ranks_that_disagree_are_refused(monkeypatch, capsys):
    from dist_plm.engines.gradient_norm import GradientNorm

    measure = GradientNorm.measure

    def skipped(self, gradients):
        return 0.0 if dist.get_rank() == 1 else measure(self, gradients)

    monkeypatch.setattr(GradientNorm, "measure", skipped)
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
        (["json=nowhere/at/all.json"], "json = 'nowhere/at/all.json'"),
        (["json=nowhere.bin"], "json = 'nowhere.bin' is the file of data.path = 'nowhere'"),
        (["jsn=x"], "did you mean json"),
        (["command=finetune"], "launch/rehearse.py task=NAME rehearses it"),
        (["task=classify"], "data = store is of pretraining"),
        (["experiment=glue_bert"], "data = store is of pretraining"),
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
