import base64
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import tokenizers

from dist_plm.core.errors import DataError
from dist_plm.data.prepare.pool import Pool


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
    pool = Pool(workers)
    pool.run(note, tasks[:3], done.append)
    pool.run(note, tasks[3:], done.append)  # on the same processes
    assert pool.bytes_read() > 0
    pool.close()
    assert sorted(done) == tasks
    noted = [path.read_text().split() for path in tasks]
    assert {threads for _, threads in noted} == {"false"}
    pids = {pid for pid, _ in noted}
    assert len(pids) <= workers
    assert (str(os.getpid()) in pids) == (workers == 1)
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_refusal_arrives_as_itself(workers):
    with pytest.raises(DataError, match=r"^task 7 is no good$"):
        Pool(workers).run(refuse, [7, 7], print)


def test_a_death_is_reported():
    with pytest.raises(
        DataError, match=r"one of the 2 processes that prepare data was ended by SIGKILL, .* for lack of memory"
    ):
        Pool(2).run(die, [0, 1], print)


def test_no_tasks_start_no_process():
    Pool(4).run(die, [], print)


def test_workers_do_not_outlive_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent("""
        import os, signal, time
        from dist_plm.data.prepare.pool import Pool

        if __name__ == "__main__":
            Pool(2).run(time.sleep, [0.0, 3600.0, 3600.0], lambda task: os.kill(os.getpid(), signal.SIGKILL))
        """)
    )
    # The pipe to the workers closes when the last of them ends.
    result = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, timeout=600)
    assert result.returncode == -signal.SIGKILL


def panic(task):
    """What the library tokenizers does with a broken map."""
    tokenizers.normalizers.Precompiled(base64.b64decode("BAAAAP////8=")).normalize_str("abc")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_panic_of_a_library_is_one_message(workers):
    pool = Pool(workers)
    with pytest.raises(DataError, match="a library gave up on a part of the data: index out of bounds"):
        pool.run(panic, [1, 2], lambda task: None)
    pool.close()
