import json
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dist_plm.core.errors import DataError
from dist_plm.data.prepare import worker_group
from dist_plm.data.prepare.worker_group import WorkerGroup
from dist_plm.distributed.launch_env import LaunchEnv


@dataclass(frozen=True)
class Note:
    path: Path
    num_bytes: int = 1

    @property
    def is_complete(self):
        return self.path.exists()


def write(task):
    task.path.write_text(threading.current_thread().name)


def member(rank, world_size=3, patience_seconds=300.0):
    launch = LaunchEnv(rank=rank, world_size=world_size, node_name=f"node{rank}")
    return WorkerGroup(launch, 1, patience_seconds)


def together(function, ranks):
    """Runs `function` for each rank in a thread of its own; returns what each returned or raised."""
    results = {}

    def run(rank):
        try:
            results[rank] = function(rank)
        except DataError as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), name=str(rank)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_tasks_are_shared_and_everybody_waits_for_all(tmp_path):
    tasks = [Note(tmp_path / f"task{i}") for i in range(8)]
    tasks[4].path.write_text("before")
    folder = tmp_path / "ranks"

    def work(rank):
        one = member(rank)
        if rank:
            one.meet(folder)
        with one.at_work(folder):
            one.lead(tmp_path / "decision", lambda: (tmp_path / "decision").write_text(str(rank)))
            assert (tmp_path / "decision").read_text() == "0"
            done, _ = one.run(write, tasks, "write")
            assert all(task.is_complete for task in tasks)
        return done

    assert together(work, range(3)) == {0: 3, 1: 2, 2: 2}
    assert [task.path.read_text() for task in tasks] == ["0", "1", "2", "0", "before", "2", "0", "1"]
    assert not folder.exists()


def test_the_last_words_of_a_rank_end_the_others(tmp_path):
    folder = tmp_path / "ranks"

    def work(rank):
        one = member(rank, 2)
        if rank:
            one.meet(folder)
        with one.at_work(folder):
            if rank:
                raise DataError("no such file")
            one.run(write, [Note(tmp_path / "a"), Note(tmp_path / "b")], "write")

    errors = together(work, range(2))
    assert "rank 1 ended (no such file), and rank 0 waits for its share of 'write'" in str(errors[0])


def test_a_rank_that_is_silent_is_named(tmp_path):
    folder = tmp_path / "ranks"
    one = member(0, 2, patience_seconds=0.2)
    with (
        pytest.raises(DataError, match=r"(?s)rank 0 on node0 waits .* no sign of life .*data\.rank_timeout"),
        one.at_work(folder),
    ):
        one.run(write, [Note(tmp_path / "a"), Note(tmp_path / "b")], "write")


@dataclass(frozen=True)
class CountingNote(Note):
    """A note that keeps in `asked` how often its file was looked for."""

    asked: list = field(default_factory=list)

    @property
    def is_complete(self):
        self.asked.append(0)
        return super().is_complete


def test_while_a_rank_waits_it_looks_for_the_first_task_of_each_other_that_is_not_done(tmp_path):
    tasks = [CountingNote(tmp_path / f"task{i}") for i in range(30)]
    one = member(0, 3, patience_seconds=0.5)
    with pytest.raises(DataError, match="no sign of life"), one.at_work(tmp_path / "ranks"):
        one.run(write, tasks, "write")
    asked = [len(task.asked) for task in tasks]
    assert min(asked[1:3]) > 2
    assert asked[:1] + asked[3:] == [1] * 28


def test_tasks_that_are_done_in_any_order_are_waited_for(tmp_path):
    tasks = [CountingNote(tmp_path / f"task{i}") for i in range(12)]
    others = [task for i, task in enumerate(tasks) if i % 3]
    last, waits = others.pop(0), []
    one = member(0)

    def waiting(owing, what, stale=""):
        for task in reversed(others):
            write(task)
        waits.append(set(owing()))
        waits.append(set(owing()))
        write(last)
        waits.append(set(owing()))

    one.wait = waiting
    one.run(write, tasks, "write")
    assert waits == [{1}, {1}, set()]


def test_a_rank_that_has_not_come_is_told_of_soon_and_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(worker_group, "_ABSENT_SECONDS", 0.05)
    one = member(0, 3, patience_seconds=0.3)
    with pytest.raises(DataError, match="no sign of life"), one.at_work(tmp_path / "ranks"):
        one.run(write, [Note(tmp_path / name) for name in "abc"], "write")
    said = capsys.readouterr().err
    assert said.startswith("rank 0 of 3 on node0 waits for rank 1, which has not come yet, for up to 0.3 s")
    assert "neither RANK nor WORLD_SIZE" in said
    assert said.count("has not come yet") == 1


@pytest.mark.parametrize("state", ["working", "DataError: the disk is full"])
def test_leftovers_do_not_count_as_rank_0_at_work(tmp_path, state):
    folder = tmp_path / "ranks"
    folder.mkdir()
    (folder / "000000").write_text(json.dumps({"node": "n0", "state": state, "beat": 1}))
    with pytest.raises(DataError, match="no sign of life"):
        member(1, 2, patience_seconds=0.2).meet(folder)

    def work(rank):
        one = member(rank, 2)
        if rank:
            one.meet(folder)
        else:
            time.sleep(0.2)
        with one.at_work(folder):
            pass

    assert together(work, range(2)) == {0: None, 1: None}


def test_alone_nothing_is_written(tmp_path):
    one = member(0, 1)
    with one.at_work(tmp_path / "ranks"):
        assert one.run(write, [Note(tmp_path / "a")], "write")[0] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_beats_stop_with_the_block(tmp_path, monkeypatch):
    monkeypatch.setattr(worker_group, "_BEAT_SECONDS", 0.01)
    before = set(threading.enumerate())

    def work():
        with member(0, 2).at_work(tmp_path / "ranks"):
            time.sleep(0.05)
            raise DataError("stop")

    with pytest.raises(DataError, match="stop"):
        work()
    assert set(threading.enumerate()) <= before
    assert json.loads((tmp_path / "ranks" / "000000").read_text())["state"] == "stop"


def test_of_many_ranks_some_are_looked_at_in_each_poll(tmp_path, monkeypatch):
    for name in ("_SHORTEST_POLL_SECONDS", "_LONGEST_POLL_SECONDS"):
        monkeypatch.setattr(worker_group, name, 0.0)
    for rank in range(1, 41):
        (tmp_path / f"{rank:06}").write_text(json.dumps({"node": "n", "state": "working" if rank < 40 else "an error"}))
    one, looks, polls = member(0, 41), [], []
    one._folder, look = tmp_path, one._look
    monkeypatch.setattr(one, "_look", lambda rank: looks.append(rank) or look(rank))

    def owing():
        polls.append(len(looks))
        return range(1, 41)

    with pytest.raises(DataError, match="rank 40 ended"):
        one.wait(owing, "its share")
    assert polls == [0, 16, 32]
    assert looks == list(range(1, 41))
