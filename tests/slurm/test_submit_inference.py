"""launch/submit.py command=evaluate and command=generate on a real Slurm: a trained model is asked on nodes."""

import json
from pathlib import Path

import pytest

from tests.slurm.user import User

pytestmark = pytest.mark.slurm


def words(user: User, command: str, *overrides: str) -> list[str]:
    """Of a job that asks the run `alone`, which the tests have made."""
    prompts = user.home / "prompts.txt"
    prompts.write_text("The king\nA letter\n")
    asked = {
        "evaluate": [f"data.path={user.store}", "data.split=validation"],
        "generate": [f"prompts={prompts}", "max_new_tokens=8"],
    }
    return [f"command={command}", "from=runs/alone", "cluster=slurm_local", *asked[command], *overrides]


def test_each_job_waits_in_a_directory_of_its_own(user: User, alone: list[float]) -> None:
    grid = ["parallel.tensor=2", "nodes=2"]
    asked = words(user, "evaluate", *grid, "cluster.options=['--hold']", "submit.check_data=false")
    (printed, (first,)), (_, (second,)) = user.submit_words(asked), user.submit_words(asked)
    above = user.home / "runs/alone/evaluate"
    assert [job.run_dir for job in (first, second)] == [above / "1", above / "2"]
    assert f"\n  out     {above}/1/results.json\n" in printed
    assert "report" not in printed
    facts = first.facts()
    assert (facts["JobState"], facts["JobName"], facts["NumNodes"]) == ("PENDING", "evaluate-alone", "2-2")
    refused, _ = user.submit_words([*asked, f"submit.dir={above}/1"], code=2)
    assert f"submit.dir = '{above}/1' belongs to job {first.number}" in refused
    for job in (first, second):
        user.cluster.run("scancel", job.number)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["cluster.partition=other"], "sbatch refused: invalid partition specified: other"),
        (["nodes=64"], "nodes = 64 exceeds what partition test gives a job, 4"),
        (["cluster.time=1-12"], "1-00:00:00: ask for less, or name another with cluster.partition"),
        (["parallel.tensor=8", "nodes=4"], "model.heads = 2 is not a multiple of parallel.tensor = 8"),
    ],
)
def test_what_cannot_run_never_reaches_the_queue(
    user: User, alone: list[float], overrides: list[str], told: str
) -> None:
    printed, jobs = user.submit_words(words(user, "generate", *overrides), code=2)
    assert told in printed
    assert "Traceback" not in printed
    assert jobs == []
    assert "generate-alone" not in user.queue()


@pytest.mark.slow
def test_what_was_lost_begins_anew_and_tells_what_one_process_does(
    user: User, alone: list[float], tmp_path: Path
) -> None:
    grid = ["nodes=2", "cluster.ranks_per_node=1", "parallel.tensor=2"]
    held = "cluster.setup=['echo setting up','((restarts > 0)) || sleep 600']"
    answers = tmp_path / "answers.jsonl"
    asked = {
        "lost": words(user, "evaluate", *grid, held, "cluster.launcher=torchrun"),
        "written": words(user, "generate", *grid, "cluster.launcher=srun", f"out={answers}"),
        "given up": words(user, "generate", *grid, held, "cluster.max_restarts=0"),
        "crashed": words(user, "evaluate", *grid, "cluster.setup=['export GLOO_SOCKET_IFNAME=none']"),
    }
    jobs = {name: user.submit_words(one)[1][0] for name, one in asked.items()}
    for name in ("lost", "given up"):
        jobs[name].wait_for_log("setting up")
        user.cluster.run("scontrol", "requeue", jobs[name].number)
    one = {name: tmp_path / f"{name}_of_one" for name in ("evaluate", "generate")}
    for name, out in one.items():
        given = [word for word in words(user, name) if not word.startswith(("command=", "cluster="))]
        done = user.start(f"launch/{name}.py", *given, f"out={out}")
        assert done.returncode == 0, done.stderr

    assert jobs["written"].wait() == "COMPLETED", jobs["written"].log()
    assert answers.read_text() == one["generate"].read_text()
    assert jobs["crashed"].wait() == "FAILED", jobs["crashed"].log()
    assert "not started again, as it would begin anew" in jobs["crashed"].log()
    assert jobs["lost"].wait() == "COMPLETED", jobs["lost"].log()
    assert jobs["lost"].facts()["Restarts"] == "1"
    told, expected = (json.loads(path.read_text()) for path in (jobs["lost"].run_dir / "results.json", one["evaluate"]))
    assert told["results"] == pytest.approx(expected["results"])
    assert jobs["given up"].wait() == "FAILED", jobs["given up"].log()
    assert "given up after 0 restarts; submit it again to begin anew" in jobs["given up"].log()
