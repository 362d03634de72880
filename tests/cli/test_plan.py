"""`launch/plan.py`: a verdict for a right command line, one message for a wrong one, and no PyTorch for either."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from dist_plm.cli.app import front, load
from dist_plm.cli.commands.plan import execute
from dist_plm.cli.commands.submit import _plan
from dist_plm.cluster.check import check
from dist_plm.cluster.submit import Submission
from dist_plm.core.errors import EXIT_REFUSED, ConfigError
from dist_plm.spec.gpus import GPUS
from dist_plm.spec.schema import PretrainConfig, SubmissionConfig
from dist_plm.train.data import open_data
from tests.plan.test_calibration import write_run
from tests.train.running import make_store

GPT2 = ["experiment=gpt2_small", "data.path=nowhere", "cluster.gpu=a100", "--world-size", "8"]


def test_it_says_whether_and_how_long(capsys):
    assert execute([*GPT2, "cluster.gpu_hour_price=2"]) == 0
    shown = capsys.readouterr().out
    for part in ("fits: ", "weights", "activations", "s a step", "GPU hours", "at 2 an hour"):
        assert part in shown


def test_what_does_not_fit_gets_a_remedy(capsys):
    words = ["model=llama2_13b", "data=store", "data.path=nowhere", "precision=bf16", "train.global_batch=512"]
    assert execute([*words, "cluster.gpu=a100_40", "train.micro_batch=2", "--world-size", "64"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("does not fit: ")
    assert "would fit with  " in shown


def test_a_search_gives_settings_to_paste(capsys):
    assert execute([*GPT2, "search=true", "top=2"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("parallel.tensor=") == 2


def test_what_a_search_gives_can_be_added_to_its_own_settings(capsys):
    own = [*GPT2[:-2], "parallel.data=2"]
    assert execute([*own, "search=true", "top=1", "--world-size", "8"]) == 0
    found = capsys.readouterr().out.splitlines()[1].split("  ")[-1].split()
    assert execute([*own, *found, "--world-size", "8"]) == 0
    assert "fits: " in capsys.readouterr().out


def test_epochs_are_those_that_the_run_counts(tmp_path, capsys):
    store = make_store(tmp_path / "store")
    words = ["model=gpt_tiny", "model.vocab_size=97", f"data.path={store}", "data.sequence_length=64"]
    words += ["data.packing=best_fit", "train.steps=100", "train.global_batch=8", "cluster.gpu=a100"]
    config, _ = load(PretrainConfig, "pretrain", words)
    data = open_data(config.data, config.objective, config.train, config.model)
    epochs = 800 / data.samples["train"].num_windows
    assert execute([*words, "--world-size", "1"]) == 0
    assert f" = {epochs:.2f} epochs of the store" in capsys.readouterr().out


def test_a_search_replaces_a_grid_that_rules_refuse(capsys):
    refused = ["train.global_batch=16", "train.micro_batch=8"]
    assert execute([*GPT2, *refused]) == EXIT_REFUSED
    capsys.readouterr()
    assert execute([*GPT2, *refused, "search=true", "top=1"]) == 0
    assert "train.micro_batch=" in capsys.readouterr().out
    assert execute([*GPT2, "train.global_batch=7", "search=true"]) == 0
    assert "parallel.pipeline=" in capsys.readouterr().out
    assert execute([*GPT2[:-1], "1000", "search=true"]) == EXIT_REFUSED
    assert "train.global_batch = 512 is not a multiple of" in capsys.readouterr().err


def test_neither_a_store_nor_a_gpu_has_to_be_named(capsys):
    assert execute(["experiment=bert_large_lamb", "cluster=example", "--world-size", "256"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == [*GPUS]
    rows = {line.split()[0]: line.split() for line in lines[2:]}
    assert rows["h100"][3] == "fits"
    assert float(rows["h100"][4]) < float(rows["a100"][4]) < float(rows["v100"][4])


def test_a_batch_that_nobody_has_set_fits_the_planned_ranks(capsys):
    words = ["model=gpt2_small", "cluster.gpu=a100", "--world-size", "512"]
    assert execute(words) == 0
    assert capsys.readouterr().err == "train.global_batch = 16 is that of a small run: 4096 in its place\n"
    assert execute([*words, "train.global_batch=16"]) == EXIT_REFUSED


def test_the_whole_job_and_its_picture(tmp_path, capsys):
    page = tmp_path / "plan.html"
    words = ["cluster.gpu_watts=700", "cluster.time=2:00:00", "checkpoint.every=100", f"picture={page}"]
    assert execute([*GPT2, *words]) == 0
    shown = capsys.readouterr().out
    for part in ("jobs under the time limit", "GiB on disk at most", "kWh", "tokens", str(page)):
        assert part in shown
    assert "</html>" in page.read_text()


def test_a_short_run_calibrates(tmp_path, capsys):
    write_run(tmp_path, [1.0] * 20)
    assert execute([*GPT2, f"calibrate={tmp_path}"]) == 0
    shown = capsys.readouterr().out
    assert f"calibrated on {tmp_path}: 1 s a step measured" in shown
    assert execute([*GPT2, f"calibrate={tmp_path}", "search=true", "top=1"]) == 0
    assert "calibrated on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cluster.gpu=h10"], "did you mean h100"),
        (["cluster.gpu=null", "search=true"], "names no GPU to plan for"),
        (["cluster.time=soon"], "cluster.time = 'soon' is not a time limit"),
        (["cluster.time=0:05:00"], "leaves no time to train"),
        (["search=true", "picture=plan.html"], "leave one out"),
        (["picture=nowhere.idx"], "picture = 'nowhere.idx' is the file of data.path = 'nowhere'"),
        (["calibrate="], "calibrate = '' names no run"),
        (["parallel.context=5"], "parallel.context = 5"),
        (["parallel.expert=2", "search=true"], "parallel.expert = 2 has no experts to share out"),
        (["cluster.network_gbit=0"], "cluster.network_gbit = 0"),
        (["parallel.tensor=5"], "parallel.tensor = 5"),
        (["model.vocab_size=null"], "set it, as in model.vocab_size=50257"),
        (["--world-size", "0"], "must be a whole number"),
        (["serch=true"], "did you mean search"),
        (["experiment=glue_bert"], "launch/finetune.py --check … cluster.gpu=NAME prints its plan"),
        (["task=classify"], "launch/finetune.py --check … cluster.gpu=NAME prints its plan"),
        (["precision=fp8"], "precision.name = 'fp8' cannot be computed by cluster.gpu = 'a100'"),
        (["precision=fp8", "search=true"], "precision.name = 'fp8' cannot be computed by cluster.gpu = 'a100'"),
        (["calibrate=nowhere"], "nowhere/run.yaml cannot be read"),
    ],
)
def test_wrong_words_are_refused_in_one_message(words, said, capsys):
    assert execute([*GPT2, *words]) == EXIT_REFUSED
    shown = capsys.readouterr()
    assert said in shown.err
    assert not shown.out
    assert "Traceback" not in shown.err


def test_gpus_that_multiply_no_8_bits_are_left_out(capsys):
    words = ["experiment=bert_large_lamb", "cluster=example", "precision=fp8", "data=store", "data.path=nowhere"]
    assert execute([*words, "--world-size", "256"]) == 0
    named = [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert named == [name for name in GPUS if not name.startswith(("v100", "a100", "mi250x"))]


@pytest.mark.parametrize("denoisers", ["[{paradigm: R, mask_rate: 0.15}]", "[]"])
def test_an_objective_that_rules_refuse_is_refused_by_a_search_as_well(denoisers, capsys):
    words = ["model=gpt2_medium", "objective=ul2", f"objective.denoisers={denoisers}", "model.vocab_size=50304"]
    assert (
        execute([*words, "data.path=nowhere", "cluster.gpu=a100", "--world-size", "8", "search=true"]) == EXIT_REFUSED
    )
    assert "objective.denoisers" in capsys.readouterr().err


def test_no_pytorch_is_needed():
    code = (
        "import sys; from dist_plm.cli.commands.plan import execute; "
        f"assert execute({GPT2!r}) == 0; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_check_shows_the_verdict_as_well(capsys):
    words = [word for word in GPT2 if not word.startswith("cluster")]
    assert front(["--check", *words, "cluster.gpu=a100"], PretrainConfig, "pretrain", lambda *_: 1, "") == 0
    shown = capsys.readouterr().out
    assert "memory" in shown
    assert "GiB of each NVIDIA A100" in shown


def test_submit_refuses_what_surely_does_not_fit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["model=llama2_70b", "data=store", "data.path=nowhere", "precision=bf16", "train.global_batch=64"]
    config, _ = load(
        SubmissionConfig,
        "submit",
        [*words, "cluster=example", "nodes=1", "cluster.gpu=a100", "submit.check_data=false"],
    )
    with pytest.raises(ConfigError, match=r"GiB, and cluster\.gpu = 'a100' has 79\.3: .*submit\.force=true"):
        _plan(Submission(config, check(config), ()))
    forced = replace(config, submit=replace(config.submit, force=True))
    _plan(Submission(forced, check(forced), ()))
    assert capsys.readouterr().out.startswith("plan: does not fit: ")


def test_whoever_reads_it_may_stop_early(tmp_path):
    """The picture is drawn all the same."""
    reader, writer = os.pipe()
    os.close(reader)
    picture = tmp_path / "plan.html"
    command = [sys.executable, "-m", "dist_plm", "plan", *GPT2, f"picture={picture}"]
    with os.fdopen(writer, "wb") as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr, picture.exists()) == (0, "", True)
