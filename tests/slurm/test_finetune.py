"""launch/submit.py command=finetune on a real Slurm: signalled, queued again, and at the end of an uninterrupted run."""

import json
import re

import pytest

from dist_plm.monitor.metrics_file import read_metrics
from tests.cli.glue.archive import make_archive
from tests.data.labelled.words import write_vocabulary
from tests.slurm.jobs import REPOSITORY, Job
from tests.slurm.user import User, wait_for_steps
from tests.train.finetuning import make_rows
from tests.train.running import timeless

pytestmark = pytest.mark.slurm

SETTINGS = (
    *("task=tag", "model=bert_tiny", "model.layers=2", "model.hidden=32", "model.heads=2", "model.init_std=0.1"),
    *("data.train=rows/train.jsonl", "data.validation=rows/dev.jsonl", "data.tokenizer=rows/vocabulary"),
    *("data.sequence_length=16", "train.epochs=2", "train.global_batch=12", "train.micro_batch=2", "train.log_every=1"),
    *("optim.lr=5e-3", "optim.eps=1e-5", "checkpoint.keep_best=f1", "data.loader_workers=0", "cluster.peak_tflops=0.1"),
)


@pytest.mark.slow
def test_a_run_that_is_signalled_ends_like_one_process(user: User) -> None:
    (user.home / "rows").mkdir()
    make_rows(user.home / "rows")
    held = f"export HOLD_AT_STEP=4 PYTHONPATH={REPOSITORY}/tests/slurm/ranks_of_jobs/held:$PYTHONPATH"
    job_words = ["command=finetune", "cluster=slurm_local", "nodes=2", "cluster.ranks_per_node=1", "parallel.tensor=2"]
    job_words.append("cluster.launcher=srun")
    printed, jobs = user.submit_words([*job_words, *SETTINGS, "run.name=tagged", f"cluster.setup=['{held}']"])
    (job,) = jobs
    assert "2 x 1 ranks" in printed
    wait_for_steps(job, 4)
    user.cluster.run("scancel", "--signal=USR1", job.number)
    alone = user.start("launch/finetune.py", *SETTINGS, "run.name=tagged_alone")
    assert alone.returncode == 0, alone.stderr
    assert job.wait() == "COMPLETED", job.log()
    assert job.facts()["Restarts"] == "1"
    assert "stopped by a signal, or before its time limit, after a complete checkpoint" in job.log(), job.log()
    one, two = (list(read_metrics(user.home / "runs" / name / "metrics.jsonl")) for name in ("tagged_alone", "tagged"))
    assert [record["step"] for record in two] == list(range(1, 12))
    assert "eval/f1" in one[-1]
    for expected, record in zip(one, two, strict=True):
        assert record.keys() == expected.keys()
        for name in timeless(expected):
            near = expected[name] if expected[name] is None else pytest.approx(expected[name], rel=2e-5, abs=1e-6)
            assert record[name] == near, (record["step"], name)


GLUE = (
    *("command=finetune", "experiment=glue", "glue.data=GLUE", "glue.tasks=[mnli,rte]", "glue.seeds=2"),
    *("glue.recipe=roberta_base", "model=bert_tiny", "model.hidden=32", "model.heads=2", "model.layers=1"),
    *(
        "data.tokenizer=words",
        "data.sequence_length=24",
        "train.global_batch=8",
        "train.micro_batch=4",
        "train.epochs=2",
    ),
    *("data.loader_workers=0", "cluster=slurm_local", "cluster.ranks_per_node=1", "cluster.launcher=srun"),
    *("cluster.peak_tflops=0.1", "train.log_every=1", "run.name=small"),
)


@pytest.mark.slow
def test_glue_is_an_array_that_ends_with_the_table(user: User) -> None:
    write_vocabulary(user.home / "words")
    make_archive(user.home / "GLUE")
    held = f"export HOLD_AT_STEP=2 PYTHONPATH={REPOSITORY}/tests/slurm/ranks_of_jobs/held:$PYTHONPATH"
    printed, jobs = user.submit_words([*GLUE, f"cluster.setup=['{held}']"])
    array = jobs[0].number.partition("_")[0]
    assert [job.number for job in jobs] == [f"{array}_{task}" for task in range(4)]
    names = [f"small-{task}-{seed}" for task in ("mnli", "rte") for seed in (1, 2)]
    assert [job.run_dir.name for job in jobs] == names
    refused, _ = user.submit_words(GLUE, code=2)
    assert f"belongs to job {array}_" in refused
    number = re.findall(r"^job (\d+) makes the table", printed, re.MULTILINE)[0]
    table = Job(user.cluster, number, user.home / "runs" / "small-glue", f"log/slurm-{number}.log")
    for job in jobs:
        wait_for_steps(job, 2)
        user.cluster.run("scancel", "--signal=USR1", job.number)
    for job in jobs:
        assert job.wait() == "COMPLETED", job.log()
        assert job.log().count(": start ") == 2, (job.facts(), job.log())
        assert f"job {job.number}: finished" in job.log()
    assert table.wait() == "COMPLETED", table.log()
    assert table.facts()["Restarts"] == "0"
    assert table.log().count(": start ") == 1
    last = {job.run_dir.name: read_metrics(job.run_dir / "metrics.jsonl")[-1] for job in jobs}
    made = json.loads((user.home / "runs" / "small-glue.json").read_text())
    rows = {(row["task"], row["measure"]): row for row in made["rows"]}
    for task in ("mnli", "rte"):
        found = {str(seed): 100 * last[f"small-{task}-{seed}"]["eval/accuracy"] for seed in (1, 2)}
        assert rows[task, "accuracy"]["runs"] == pytest.approx(found)
    assert set(rows["mnli", "mismatched"]["runs"]) == {"1", "2"}, "measured by the job that makes the table"
    assert re.search(r"^rte +accuracy +[0-9.]+ +[0-9.]+ +[0-9.]+ +2 ", table.log(), re.MULTILINE), table.log()
    again, _ = user.submit_words(GLUE, code=2)
    assert "all 4 runs are finished" in again
