"""launch/submit.py command=finetune where there is no Slurm: rows are read and settings checked before anything is queued."""

from dataclasses import replace
from pathlib import Path

import pytest

from dist_plm.cli.app import load
from dist_plm.cli.commands.submit import execute as main
from dist_plm.cluster.check import check, run_of
from dist_plm.cluster.submit import Submission
from dist_plm.core.errors import EXIT_FINISHED, EXIT_REFUSED
from dist_plm.core.installed import start_words
from dist_plm.spec.schema_finetune import FinetuneConfig, FinetuneSubmissionConfig
from tests.launch.frozen_files import frozen_words, script_of
from tests.train.finetuning import make_rows

OWN = ["command=finetune", "model=bert_tiny", "data.tokenizer=vocabulary", "cluster=example_cpu", "submit.dry_run=true"]
ROWS = ["data.train=train.jsonl", "data.validation=dev.jsonl"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(autouse=True)
def at_home(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the rows, without commands of Slurm."""
    monkeypatch.chdir(rows)
    monkeypatch.setenv("PATH", str(rows))


def test_the_script_starts_the_command_that_fine_tunes(capsys, rows):
    before = sorted(rows.iterdir())
    assert main([*OWN, *ROWS, "nodes=2", "min_nodes=1", "run.name=try"]) == EXIT_FINISHED
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    words = [*start_words("finetune"), "--frozen", f"{rows}/runs/try/slurm/config.yaml", ")"]
    assert lines[lines.index("script=(") + 1 :][: len(words)] == words
    assert "node_counts=(2 1)" in lines
    (told,) = [line for line in lines if line.startswith("# The settings, ")]
    assert "command" not in told
    assert told.endswith("data.train=train.jsonl data.validation=dev.jsonl run.name=try")
    assert sorted(rows.iterdir()) == before


def test_a_frozen_file_is_the_run_that_is_submitted(capsys, tmp_path):
    settings = [*OWN, *ROWS, "task=tag", "nodes=2", "run.name=try"]
    frozen = frozen_words(capsys, settings, tmp_path / "job.yaml")
    assert script_of(capsys, frozen) == script_of(capsys, settings)


def test_what_is_frozen_says_nothing_that_its_nodes_or_rows_tell(rows):
    given, _ = load(FinetuneSubmissionConfig, "submit_finetune", [*OWN, *ROWS, "task=tag", "nodes=2", "run.name=try"])
    submission = Submission(given, check(given), ())
    assert submission.frozen == replace(run_of(given), run=replace(given.run, dir=str(rows / "runs/try")))
    assert type(submission.frozen) is FinetuneConfig
    assert submission.config.train.steps == 6  # 3 epochs of 61 rows, 32 a step
    assert submission.config.parallel.data == 4


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.train=nowhere.csv"], "data.train = nowhere.csv is not there"),
        (["data.columns={label: stars}"], "did you mean tags?"),
        (["task.labels=[good,poor]"], "poor"),
        (["task=clasify"], "did you mean classify?"),
        (["objective=mlm"], "objective is not a group of submit_finetune"),
        (["command=finetun"], "did you mean finetune?"),
        (["command=plan"], "that is one of pretrain, finetune, evaluate, generate"),
        (["--multirun", "command=pretrain,finetune"], "is not what can be submitted"),
        (["nodse=2"], "did you mean nodes?"),
        (["nodes=3"], "data ranks"),
        (["submit.dry_run=false"], "is not installed here: submit from a login node"),
    ],
)
def test_refuses_with_one_message_and_code_2(capsys, overrides, words):
    assert main([*OWN, *ROWS, *overrides]) == EXIT_REFUSED
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_check_counts_the_steps_of_its_rows(capsys):
    assert main([*OWN, *ROWS, "nodes=2", "--check"]) == EXIT_FINISHED
    out = capsys.readouterr().out
    assert "= 4 processes" in out
    assert "6 steps" in out
    assert "2 nodes of 2 ranks, partition cpu" in out


def test_rows_that_are_elsewhere_may_be_left_unread(capsys):
    away = ["data.train=away.csv", "submit.check_data=false"]
    assert main([*OWN, *away]) == EXIT_FINISHED
    assert main([*OWN, *away, "--check", "cluster.gpu=h100"]) == EXIT_FINISHED
    assert "as many steps as its epochs take" in capsys.readouterr().out
