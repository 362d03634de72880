"""launch/submit.py where there is no Slurm: what it refuses, and what it would have submitted."""

from pathlib import Path

import pytest

from dist_plm.cli.commands.submit import execute as main
from dist_plm.core.errors import EXIT_FINISHED, EXIT_REFUSED
from tests.launch.frozen_files import frozen_words, script_of

DRY = ["cluster=example", "submit.dry_run=true", "submit.check_data=false", "train.global_batch=256"]


@pytest.fixture(autouse=True)
def empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with nothing in it, and no commands of Slurm."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_a_dry_run_prints_the_script_and_writes_nothing(capsys, empty_place):
    assert main([*DRY, "nodes=8", "cluster.time=12:00:00", "run.name=try"]) == EXIT_FINISHED
    lines = capsys.readouterr().out.splitlines()
    assert {"#SBATCH --nodes=8", "#SBATCH --gpus-per-node=8", "#SBATCH --time=12:00:00"} <= set(lines)
    assert f"run_dir={empty_place}/runs/try" in lines
    given = [line.strip() for line in lines[lines.index("script=(") + 2 : lines.index(")")]]
    assert given == ["--frozen", f"{empty_place}/runs/try/slurm/config.yaml"]
    (settings,) = [line for line in lines if line.startswith("# The settings, ")]
    assert settings.endswith(": cluster=example train.global_batch=256 cluster.time=12:00:00 run.name=try")
    assert list(empty_place.iterdir()) == []


def test_a_frozen_file_is_the_run_that_is_submitted(capsys, empty_place):
    settings = [*DRY, "nodes=2", "run.name=try", "train.micro_batch=4", "cluster.gpu=a100"]
    frozen = frozen_words(capsys, settings, empty_place / "job.yaml")
    assert script_of(capsys, frozen) == script_of(capsys, settings)
    assert main(["-m", *frozen]) == EXIT_REFUSED
    assert "--multirun has no effect with --frozen" in capsys.readouterr().err
    assert main([*frozen, "nodes=4"]) == EXIT_REFUSED
    assert "nodes=4 cannot be added to it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "words"), [("pretrian", "did you mean pretrain?"), ("[a]", "is not what can be submitted")]
)
def test_a_frozen_file_of_no_command_is_refused(capsys, empty_place, command, words):
    (empty_place / "job.yaml").write_text(f"command: {command}\nnodes: 2\n")
    assert main(["--frozen", "job.yaml"]) == EXIT_REFUSED
    assert words in capsys.readouterr().err


def test_fewer_nodes_are_those_on_which_the_batch_can_be_divided(capsys):
    assert main([*DRY, "nodes=8", "min_nodes=2", "run.name=try"]) == EXIT_FINISHED
    lines = capsys.readouterr().out.splitlines()
    assert "#SBATCH --nodes=2-8" in lines
    assert "node_counts=(8 4 2)" in lines


def test_a_sweep_prints_a_script_for_each_run(capsys):
    assert main(["--multirun", *DRY, "optim.lr=1e-4,3e-4", "run.name=try"]) == EXIT_FINISHED
    out = capsys.readouterr().out
    assert out.count("#!/usr/bin/env bash") == 2
    for lr in ("0.0001", "0.0003"):
        assert f"#SBATCH --job-name=try-lr={lr}" in out
        assert f" optim.lr={lr} " in out


def test_of_a_sweep_all_runs_are_checked_before_one_is_queued(capsys):
    assert main(["-m", *DRY, "train.micro_batch=4,5"]) == EXIT_REFUSED
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "train.micro_batch = 5" in captured.err


@pytest.mark.parametrize("more", [[], ["submit.dry_run=false"], ["--check"]])
@pytest.mark.parametrize("place", ["checkpoint.dir=shared", "run.dir=shared"])
def test_a_sweep_into_one_directory_is_refused(capsys, empty_place, more, place):
    assert main(["-m", *DRY, "optim.lr=1e-4,3e-4", place, *more]) == EXIT_REFUSED
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{place.partition('=')[0]} = " in captured.err
    assert "would be of several runs" in captured.err
    assert "None" not in captured.err
    assert list(empty_place.iterdir()) == []


def test_a_checked_sweep_names_the_runs_as_they_would_be_submitted(capsys):
    assert main(["-m", "--check", *DRY, "optim.lr=1e-4,3e-4", "run.name=try"]) == EXIT_FINISHED
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines() if line.startswith("  run ")] == [
        "runs/try-lr=0.0001",
        "runs/try-lr=0.0003",
    ]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optim.lrr=1"], "did you mean optim.lr?"),
        (["nodse=2"], "did you mean nodes?"),
        (["submit.dryrun=true"], "did you mean submit.dry_run?"),
        (["nodes=0"], "at least 1"),
        (["nodes=2", "min_nodes=4"], "min_nodes = 4 exceeds nodes = 2"),
        (["nodes=4", "min_nodes=3"], "on min_nodes = 3: "),
        (["nodes=3"], "x 24 data ranks = 96"),
        (["cluster.time=1h"], "is not a time limit"),
        (["cluster=exampel"], "did you mean example"),
        (["submit.check_data=true"], "corpus/quickstart"),
        (["optim.lr=1,2"], "gives several values"),
        (["submit.dry_run=false"], "is not installed here: submit from a login node"),
    ],
)
def test_refuses_with_one_message_and_code_2(capsys, empty_place, overrides, words):
    assert main([*DRY, *overrides]) == EXIT_REFUSED
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_check_tells_how_many_ranks_there_will_be(capsys):
    assert main(["-m", *DRY, "nodes=2,4", "--check"]) == EXIT_FINISHED
    out = capsys.readouterr().out
    assert "= 16 processes" in out
    assert "= 32 processes" in out
    assert "4 nodes of 8 ranks, partition gpu, at most 24:00:00" in out


def test_help_names_what_is_its_own(capsys):
    assert main(["--help"]) == EXIT_FINISHED
    out = capsys.readouterr().out
    assert "submit.dry_run=true" in out
    assert "example_cpu" in out
