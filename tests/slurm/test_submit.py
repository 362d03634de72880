"""launch/submit.py as a user runs it, on a real Slurm: a tiny GPT trained over nodes."""

import json
import re

import pytest

from dist_plm.cluster.job import hydra_text
from dist_plm.monitor.metrics_file import read_metrics
from tests.slurm.jobs import REPOSITORY, submit
from tests.slurm.user import STEPS, User, wait_for_steps
from tests.train.conftest import TINY

pytestmark = pytest.mark.slurm
#: A quarter of the passes, as nothing here happens in the middle of a step.
QUICK = "train.micro_batch=8"


def test_four_nodes_by_srun_train_like_one_process(user: User, alone: list[float]) -> None:
    grid = ["nodes=4", "cluster.ranks_per_node=1", "parallel.tensor=2", "cluster.launcher=srun", QUICK]
    printed, (job,) = user.submit(*grid, "run.name=by_srun")
    assert job.wait() == "COMPLETED", job.log()
    assert user.losses("by_srun") == pytest.approx(alone, rel=2e-5)
    assert (user.home / "runs" / "by_srun" / "run.yaml").exists()
    assert f"scancel {job.number}" in printed
    # One file a rank, whose lines all name node and rank.
    nodes = [(job.run_dir / "log" / f"rank_{rank:05d}.log").read_text() for rank in range(4)]
    assert all(f"node{rank + 1} rank {rank} " in line for rank, text in enumerate(nodes) for line in text.splitlines())
    assert "preflight: 4 nodes, 4 ranks" in job.log()
    assert "links between nodes: 6 measured" in job.log()
    assert len(job.log().splitlines()) < 60, "the console is to be short"


@pytest.mark.slow
def test_four_nodes_by_torchrun_train_like_one_process(user: User, alone: list[float]) -> None:
    _, (job,) = user.submit("nodes=4", "cluster.ranks_per_node=1", "parallel.tensor=2", "run.name=four_by_torchrun")
    assert job.wait() == "COMPLETED", job.log()
    assert user.losses("four_by_torchrun") == pytest.approx(alone, rel=2e-5)


def test_two_nodes_by_torchrun_continue_when_submitted_again_and_when_signalled(user: User, alone: list[float]) -> None:
    name = "run.name=by_torchrun"
    two = ("nodes=2", "cluster.ranks_per_node=2", "parallel.tensor=2", "train.stop_at=3", QUICK)
    _, (first,) = user.submit(name, *two, "cluster.options=['--hold']")  # or it might have ended when the next comes
    refused, _ = user.submit(name, "nodes=2", code=2)
    assert f"belongs to job {first.number}" in refused
    user.cluster.run("scontrol", "release", first.number)
    assert first.wait() == "COMPLETED", first.log()
    assert len(user.losses("by_torchrun")) == 3

    # The signal reaches the processes that read samples too.
    held = f"export HOLD_AT_STEP=4 PYTHONPATH={REPOSITORY}/tests/slurm/ranks_of_jobs/held:$PYTHONPATH"
    one = ("nodes=2", "cluster.ranks_per_node=1", "data.loader_workers=1", f"cluster.setup=['{held}']", QUICK)
    watching = user.watch(name, *one)
    with watching as (printed, again):
        wait_for_steps(again, 4)
        user.cluster.run("scancel", "--signal=USR1", again.number)
        assert again.wait() == "COMPLETED", again.log()
    assert again.facts()["Restarts"] == "1"
    assert "stopped by a signal, or before its time limit, after a complete checkpoint" in again.log(), again.log()
    assert again.log().count(": start ") == 2
    assert user.losses("by_torchrun") == pytest.approx(alone, rel=2e-5)

    text = printed.read_text()
    assert "changed since it was started: parallel.tensor: 2 -> 1" in text
    assert "continues from step_00000003" in text
    watched = [line.split("  ")[1] for line in text.splitlines() if re.match(r"\d\d:\d\d:\d\d  ", line)]
    assert [line for line in watched if line.startswith("step")] == [f"step {n}" for n in range(4, STEPS + 1)], text
    assert watched[-1] == f"COMPLETED {again.facts()['NodeList']}, restart 1, exit code 0"


@pytest.mark.slow
def test_a_finished_run_is_trained_further(user: User, alone: list[float]) -> None:
    """By slurm/finetune.sbatch, from the end of a run that the tests have made."""
    run_dir = user.home / "further"
    script = [
        "launch/pretrain.py",
        f"run.dir={run_dir}",
        f"data.path={user.store}",
        f"train.init_from={user.home}/runs/alone",
    ]
    script += ["train.init_optimizer=none", *TINY, "train.steps=2", "optim.lr=1e-4", "optim.layer_decay=0.9"]
    job = submit(user.cluster, "finetune.sbatch", run_dir, script)
    assert job.wait() == "COMPLETED", job.log()
    losses = [record["loss"] for record in read_metrics(run_dir / "metrics.jsonl")]
    assert losses[0] < alone[0] - 0.1, "it did not begin where the other ended"
    assert "begun with the weights of" in job.log()


@pytest.mark.slow
def test_a_model_is_measured_and_writes_on_two_nodes(user: User, alone: list[float]) -> None:
    """By slurm/evaluate.sbatch: what one process tells of the same run."""
    place = user.home / "measured"
    place.mkdir()
    prompts = place / "prompts.txt"
    prompts.write_text("The king\nA letter\n")
    run, grid = f"from={user.home}/runs/alone", ["parallel.tensor=2", "cluster.device=cpu"]
    asked = {
        "evaluate": [f"data.path={user.store}", "data.split=validation"],
        "generate": [f"prompts={prompts}", "max_new_tokens=8"],
    }
    jobs = {
        name: submit(
            user.cluster,
            "evaluate.sbatch",
            place / name,
            [f"launch/{name}.py", run, *words, f"out={place}/{name}_of_two.json", *grid],
            nodes=2,
        )
        for name, words in asked.items()
    }
    for name, words in asked.items():
        done = user.start(f"launch/{name}.py", run, *words, f"out={place}/{name}_of_one.json")
        assert done.returncode == 0, done.stderr
    for name, job in jobs.items():
        assert job.wait() == "COMPLETED", job.log()
        one, two = ((place / f"{name}_of_{count}.json").read_text() for count in ("one", "two"))
        assert (
            two == one
            if name == "generate"
            else json.loads(two)["results"] == pytest.approx(json.loads(one)["results"])
        )


def test_a_sweep_submits_a_job_for_each_run(user: User) -> None:
    _, jobs = user.submit("--multirun", "optim.lr=1e-3,2e-3", "run.name=sweep", "cluster.options=['--hold']")
    names = ["sweep-lr=0.001", "sweep-lr=0.002"]
    assert [queued for queued in sorted(user.queue()) if queued.startswith("sweep")] == names
    assert [job.run_dir.name for job in jobs] == names
    for job in jobs:
        assert job.facts()["JobState"] == "PENDING"
        user.cluster.run("scancel", job.number)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["parallel.tensor=3"], "model.heads = 2 is not a multiple of parallel.tensor = 3"),
        (["optim.lrr=1"], "did you mean optim.lr?"),
        (["data.path=nowhere"], "data.path = 'nowhere'"),
        (["cluster.partition=other"], "sbatch refused: invalid partition specified: other"),
        (["nodes=64"], "nodes = 64 exceeds what partition test gives a job, 4"),
        (["cluster.time=1-12"], "cluster.time = '1-12' exceeds the limit of partition test, 1-00:00:00"),
        (["cluster.gpus_per_node=5"], "sbatch refused: Batch job submission failed: Requested node"),
    ],
)
def test_a_wrong_configuration_never_reaches_the_queue(user: User, overrides: list[str], words: str) -> None:
    small = ["train.global_batch=256", "train.micro_batch=1"]
    printed, jobs = user.submit(*small, *overrides, "run.name=wrong", code=2)
    assert words in printed
    assert "Traceback" not in printed
    assert jobs == []
    assert "wrong" not in user.queue()


@pytest.mark.parametrize("name", ["two words 100%j", """it's "$(touch pwned)" `touch pwned` #1; touch pwned & 语"""])
def test_whatever_a_run_is_called_is_one_word(user: User, name: str) -> None:
    lines = "['echo \"$run_dir\"; ls pwned || exit 0']"
    printed, (job,) = user.submit(
        f"run.name={hydra_text(name)}", f"cluster.setup={lines}", "cluster.options=['--comment=\"a b\"']"
    )
    assert job.run_dir == user.home / "runs" / name
    assert job.wait() == "COMPLETED", job.log()
    assert f"\n  log     {job.run_dir}/log/slurm-{job.number}.log\n" in printed
    log, missing = job.log().splitlines()
    assert log == str(job.run_dir)
    assert "No such file" in missing
    assert job.facts()["Comment"] == "a"
