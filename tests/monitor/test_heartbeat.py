import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.monitor import heartbeat
from dist_plm.monitor.heartbeat import MAX_LINES, Sighting, ranks_text, summary


def seen(rank, *, hung=True, doing="in step 7", collective="gloo:all_reduce number 12 of group data", start=1):
    node = f"node{rank // 2 + 1}"
    return Sighting(
        rank=rank, node=node, pid=100 + rank, start=start, time=time.time(), doing=doing, hung=hung, collective=collective
    )  # fmt: skip


def test_written_and_read_by_start(tmp_path: Path) -> None:
    heartbeat.write(tmp_path, seen(0, start=1))
    heartbeat.write(tmp_path, seen(1, start=1))
    later = seen(1, start=2, doing="evaluating after step 9")
    heartbeat.write(tmp_path, later)
    heartbeat.write(tmp_path, later)
    assert heartbeat.read(tmp_path, range(3), 2) == {1: later}
    assert list(heartbeat.read(tmp_path, range(3), 1)) == [0, 1]
    heartbeat.forget(tmp_path, before=2)
    assert heartbeat.read(tmp_path, range(3), 1) == {}
    assert heartbeat.read(tmp_path, range(3), 2) == {1: later}


def test_what_is_torn_is_not_seen(tmp_path: Path) -> None:
    heartbeat.write(tmp_path, seen(0))
    (path,) = tmp_path.rglob("rank_*.json")
    path.write_text(path.read_text()[:20])
    assert heartbeat.read(tmp_path, [0], 1) == {}


def test_silent_ranks_come_first_with_their_last_place() -> None:
    places = {rank: seen(rank) for rank in range(4)} | {2: seen(2, hung=False, doing="in step 6", collective=None)}
    lines = summary(places, 5, 60).splitlines()
    assert lines[0] == "no progress for 60 s: 3 of 5 ranks wait, ranks 2, 4 said nothing"
    assert lines[1].startswith("  rank 2: last seen on node2, process 102, at ")
    assert lines[1].endswith("in step 6")
    assert lines[2] == "  rank 4: not seen since the run started"
    assert lines[3:] == ["  ranks 0-1, 3 (node1, node2): in step 7, last in gloo:all_reduce number 12 of group data"]


def test_ranks_elsewhere_than_most_are_told_apart() -> None:
    places = {rank: seen(rank) for rank in range(6)}
    places[3] = seen(3, collective="gloo:broadcast number 3 of group tensor")
    places[5] = seen(5, doing="waiting for the data of step 7")
    lines = summary(places, 6, 60).splitlines()
    assert lines[0] == "no progress for 60 s: 6 of 6 ranks wait"
    assert lines[1:3] == [
        "  rank 3 (node2): in step 7, last in gloo:broadcast number 3 of group tensor -- differs",
        "  rank 5 (node3): waiting for the data of step 7, last in gloo:all_reduce number 12 of group data -- differs",
    ]
    assert lines[3].startswith("  ranks 0-2, 4 (node1, node2, node3): in step 7")
    assert not lines[3].endswith("differs")


def test_a_thousand_ranks_fit_on_a_screen() -> None:
    lines = summary({rank: seen(rank, collective=f"number {rank}") for rank in range(500)}, 1000, 60).splitlines()
    assert len(lines) <= 2 * MAX_LINES + 2
    assert all(len(line) < 200 for line in lines)


@given(st.sets(st.integers(0, 40), min_size=1))
def test_ranks_text_names_each_rank_once(ranks: set[int]) -> None:
    spans = ranks_text(ranks).partition(" ")[2].split(", ")
    named = [rank for span in spans for rank in range(int(span.split("-")[0]), int(span.split("-")[-1]) + 1)]
    assert named == sorted(ranks)


@pytest.mark.parametrize(("ranks", "text"), [([3], "rank 3"), ([0, 1, 2, 5], "ranks 0-2, 5"), ([1, 0], "ranks 0-1")])
def test_ranks_text(ranks: list[int], text: str) -> None:
    assert ranks_text(ranks) == text
