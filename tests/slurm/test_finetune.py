"""launch/submit.py command=finetune on a real Slurm: signalled, queued again, and at the end of an uninterrupted run."""

import pytest

from dist_plm.monitor.metrics_file import read_metrics
from tests.slurm.jobs import REPOSITORY
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
