import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from dist_plm.data.pool import run_tasks
from dist_plm.errors import DataError


def refuse(task):
    raise DataError(f"task {task} is no good")


def die(task):
    os.kill(os.getpid(), signal.SIGKILL)


def note(path):
    with open(path, "w") as file:
        file.write(f"{os.getpid()} {os.environ['TOKENIZERS_PARALLELISM']}")


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_runs_once_with_one_thread(tmp_path, workers, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    tasks, done = [tmp_path / str(i) for i in range(5)], []
    run_tasks(note, tasks, workers, done.append)
    assert sorted(done) == tasks
    noted = [path.read_text().split() for path in tasks]
    assert {threads for _, threads in noted} == {"false"}
    assert (str(os.getpid()) in {pid for pid, _ in noted}) == (workers == 1)
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_refusal_arrives_as_itself(workers):
    with pytest.raises(DataError, match=r"^task 7 is no good$"):
        run_tasks(refuse, [7, 7], workers, print)


def test_a_death_is_reported():
    with pytest.raises(
        DataError, match="one of the 2 processes that prepare data was killed, perhaps for lack of memory"
    ):
        run_tasks(die, [0, 1], 2, print)


def test_no_tasks_start_no_process():
    run_tasks(die, [], 4, print)


def test_workers_do_not_outlive_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent("""
        import os, signal, time
        from dist_plm.data.pool import run_tasks

        if __name__ == "__main__":
            run_tasks(time.sleep, [0.0, 60.0, 60.0], 2, lambda task: os.kill(os.getpid(), signal.SIGKILL))
        """)
    )
    began = time.monotonic()
    # The pipe to the workers closes when the last of them ends.
    result = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, timeout=50)
    assert result.returncode == -signal.SIGKILL
    assert time.monotonic() - began < 40
