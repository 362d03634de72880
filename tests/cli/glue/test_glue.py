"""`experiment=glue`: all nine tasks in the layouts of their archive, and a table of what single runs reached."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dist_plm.cli import app
from dist_plm.cli.commands.submit import execute as submit
from dist_plm.cli.glue.glue_cells import cells_of, settings_of
from dist_plm.cli.glue.glue_table import reached
from dist_plm.cli.glue.glue_tasks import RECIPES, TASKS
from dist_plm.core.errors import EXIT_FINISHED, ConfigError
from dist_plm.monitor.metrics_file import read_metrics
from dist_plm.spec.schema_finetune import FinetuneConfig
from dist_plm.train.data import open_run
from tests.cli.glue.archive import make_archive
from tests.cli.sweeps.test_local_sweep import environment
from tests.data.labelled.words import write_vocabulary
from tests.ranks.selection import covering

SCRIPT = str(Path(__file__).resolve().parents[3] / "launch" / "finetune.py")
SMALL = [
    *("model=bert_tiny", "model.hidden=32", "model.heads=2", "model.layers=1", "data.tokenizer=words"),
    *("data.sequence_length=24", "train.global_batch=8", "train.micro_batch=8", "data.loader_workers=0"),
]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("glue")
    write_vocabulary(folder / "words")
    return make_archive(folder / "GLUE").parent


@pytest.mark.parametrize("recipe", covering(RECIPES, ["bert_base", "roberta_large", "electra_small"]))
def test_every_recipe_of_every_task_reads_its_files(archive, recipe, monkeypatch) -> None:
    monkeypatch.chdir(archive)
    asked = ["experiment=glue", "glue.data=GLUE", f"glue.recipe={recipe}", "glue.seeds=1", *SMALL]
    cells = cells_of(*settings_of(asked))
    assert [cell.task for cell in cells] == list(TASKS)
    for cell in cells:
        config, _ = app.load(FinetuneConfig, "finetune", cell.overrides)
        assert set(cell.glue.measures) <= set(config.task.measures)
        if recipe == "bert_base":  # all read the same files
            _, data = open_run(config, 1)
            assert data.samples["train"].num_windows == 24
        kept = config.checkpoint.keep_best
        assert kept == (
            None if "roberta" not in recipe else {"cola": "matthews", "stsb": "pearson"}.get(cell.task, "accuracy")
        )
        published = RECIPES[recipe].published
        assert set(published.get(cell.task, ())) <= {*cell.glue.measures, "mismatched"}
        assert cell.task == "wnli" or cell.task in published


def tune(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, "experiment=glue", "glue.data=GLUE", *SMALL, *words]
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, check=False, timeout=600
    )


@pytest.mark.ranks
def test_the_table_tells_what_single_runs_reached_and_finished_runs_are_kept(archive) -> None:
    stops = (
        "train.early_stopping.patience=1",
        "train.early_stopping.threshold=1",
    )  # of an accuracy: no second one is enough
    asked = ("glue.tasks=[mnli]", "glue.seeds=1", "glue.recipe=roberta_base", "train.epochs=5", "run.name=try", *stops)
    first = tune(archive, *asked)
    assert first.returncode == 0, first.stdout + first.stderr
    run = archive / "runs" / "try-mnli-1"
    records = [record for record in read_metrics(run / "metrics.jsonl") if "eval/accuracy" in record]
    assert len(records) == 2
    best = max(record["eval/accuracy"] for record in records)
    other = json.loads((run / "mismatched.json").read_text())
    assert other["data"].endswith("MNLI/dev_mismatched.tsv")
    step = next(record["step"] for record in records if record["eval/accuracy"] == best)
    assert f"step_{step:08d}" in other["model"]
    told = first.stdout.splitlines()
    number, mismatched = f"{100 * best:.2f}", f"{100 * other['results']['accuracy']:.2f}"
    assert [re.split(r"\s{2,}", line) for line in told if line.startswith("mnli ")] == [
        ["mnli", "accuracy", number, number, number, "1", "87.60"],
        ["mnli", "mismatched", mismatched, mismatched, mismatched, "1", "-"],
    ]
    before = (run / "metrics.jsonl").stat()
    again = tune(archive, *asked)
    assert again.returncode == 0, again.stderr
    assert "run 1 of 1: try-mnli-1, finished before" in again.stdout
    assert "run 1 of 1: try-mnli-1, finished before" in again.stdout.splitlines()
    otherwise = tune(archive, *asked, "train.epochs=7", "optim.lr=0.5", "glue.show=false")
    assert otherwise.returncode == 0, otherwise.stderr
    (line,) = [line for line in otherwise.stdout.splitlines() if line.startswith("run 1 of 1: ")]
    assert line.startswith("run 1 of 1: try-mnli-1, finished before with optim.lr = ")
    assert "train.epochs = 5" in line
    assert line.endswith(": another run.name makes it anew")
    assert (run / "metrics.jsonl").stat() == before
    table = json.loads((archive / "runs" / "try-glue.json").read_text())
    assert table["rows"][0]["runs"] == {"1": 100 * best}


@pytest.mark.ranks
def test_runs_that_diverge_do_not_keep_the_others_from_being_made(archive) -> None:
    asked = ("glue.tasks=[rte,wnli]", "glue.seeds=1", "train.epochs=2", "run.name=wild", "optim.lr=1e30")
    result = tune(archive, *asked, "schedule.warmup_ratio=0", "train.max_skipped=2")
    assert result.returncode == 2, result.stdout + result.stderr
    assert "run 2 of 2: wild-wnli-1" in result.stdout
    assert "2 of 2 runs are not finished" in result.stdout
    assert "2 of 2 runs ended with 2, for what is told above: wild-rte-1, wild-wnli-1. The same" in result.stderr


@pytest.mark.parametrize(
    ("losses", "is_finished"), [([3.0, 2.0], False), ([3.0, 2.0, 2.0, None], True), ([3.0, 2.0, 1.0, 0.5], True)]
)
def test_a_run_is_finished_at_its_last_step_or_where_it_stopped_early(tmp_path, losses, is_finished) -> None:
    stops = {"patience": 2, "threshold": 0.0, "metric": "loss", "greater_is_better": False}
    settings = {"train": {"steps": 4 if len(set(losses)) == 4 else 9, "early_stopping": stops}}
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    lines = [{"step": i + 1, "loss": 1.0, "eval/loss": loss} for i, loss in enumerate(losses)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert (reached(tmp_path) is not None) == is_finished


def test_a_job_is_submitted_for_each_run_that_is_not_finished(archive, capsys, monkeypatch) -> None:
    monkeypatch.chdir(archive)
    monkeypatch.setenv("PATH", str(archive))  # without commands of Slurm
    asked = ["command=finetune", "experiment=glue", "glue.data=GLUE", "glue.tasks=[rte,stsb]", "glue.seeds=2", *SMALL]
    assert submit([*asked, "train.micro_batch=2", "cluster=example_cpu", "submit.dry_run=true"]) == EXIT_FINISHED
    out = capsys.readouterr().out
    names = [f"bert_base-{task}-{seed}" for task in ("stsb", "rte") for seed in (1, 2)]
    together = ["bert_base-glue", "bert_base-table"]
    assert re.findall(r"^#SBATCH --job-name=(\S+)", out, re.MULTILINE) == [*names, *together]
    assert re.findall(r"^#SBATCH --(array|dependency)=(\S+)", out, re.MULTILINE) == [
        ("array", "0-3"),
        ("dependency", "afterany:ARRAY"),
    ]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["glue.tasks=[mrcp]"], "glue.tasks names 'mrcp', which is no task of GLUE; did you mean mrpc?"),
        (["glue.data=nowhere"], "glue.data = nowhere lacks nowhere/CoLA/train.tsv"),
        (["glue.recipe=bert"], "glue.recipe = 'bert' is not allowed"),
        (["glue.seed=3"], "did you mean"),
    ],
)
def test_what_is_not_there_is_refused(archive, monkeypatch, words, part) -> None:
    monkeypatch.chdir(archive)
    with pytest.raises(ConfigError) as refused:
        settings_of(["experiment=glue", "glue.data=GLUE", *words])
    assert part in str(refused.value)
