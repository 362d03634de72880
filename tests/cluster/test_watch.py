import json
from pathlib import Path

import pytest

from dist_plm.cluster.slurm import JobState
from dist_plm.cluster.watch import MetricsTail, describe_state, describe_step


def lines(*steps: int) -> str:
    return "".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in steps)


def append(run_dir: Path, text: str) -> None:
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(text)


def new(tail: MetricsTail) -> list[int]:
    return [record["step"] for record in tail.new()]


def test_tells_each_step_once_and_waits_for_whole_lines(tmp_path):
    tail = MetricsTail(tmp_path)
    assert new(tail) == []
    append(tmp_path, lines(1, 2) + lines(3)[:5])
    assert new(tail) == [1, 2]
    assert new(tail) == []
    append(tmp_path, lines(3)[5:] + lines(4))
    assert new(tail) == [3, 4]


def test_a_run_that_starts_again_does_not_repeat_its_steps(tmp_path):
    tail = MetricsTail(tmp_path)
    append(tmp_path, lines(1, 2, 3, 4))
    assert new(tail) == [1, 2, 3, 4]
    shorter = tmp_path / "shorter"
    shorter.write_text(lines(1, 2))
    shorter.replace(tmp_path / "metrics.jsonl")
    assert new(tail) == []
    append(tmp_path, lines(3, 4, 5))
    assert new(tail) == [5]


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_run_that_begins_anew_is_told_from_its_first_step(tmp_path, written):
    """`written`: records that are there before one looks again."""
    tail = MetricsTail(tmp_path)
    append(tmp_path, lines(1, 2, 3, 4))
    assert new(tail) == [1, 2, 3, 4]
    other = [line.replace("1.0", "0.5") for line in lines(1, 2, 3).splitlines(keepends=True)]
    fresh = tmp_path / "fresh"
    fresh.write_text("".join(other[:written]))
    fresh.replace(tmp_path / "metrics.jsonl")
    assert new(tail) == [1, 2][:written]
    append(tmp_path, "".join(other[written:]))
    assert new(tail) == [1, 2, 3][written:]


@pytest.mark.parametrize("kept", [1, 2])
def test_another_file_of_the_same_inode_is_read_from_its_beginning(tmp_path, kept):
    tail = MetricsTail(tmp_path)
    append(tmp_path, lines(1, 2, 3))
    assert new(tail) == [1, 2, 3]
    (tmp_path / "metrics.jsonl").write_text(lines(*range(1, kept + 1), *range(10, 14)))
    assert new(tail) == [10, 11, 12, 13]


def test_lines_that_are_no_records_are_passed_over(tmp_path):
    tail = MetricsTail(tmp_path)
    append(tmp_path, lines(1) + "garbage\n" + '{"loss": 1}\n[]\n' + '{"step": "7"}\n' + "[" * 50_000 + "\n" + lines(2))
    assert new(tail) == [1, 2]


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (JobState("PENDING", "(Resources)"), "PENDING (Resources)"),
        (JobState("RUNNING", "node[1-2]", 2), "RUNNING node[1-2], restart 2"),
        (JobState("FAILED", "node1", 0, 75), "FAILED node1, exit code 75"),
        (JobState("UNKNOWN"), "UNKNOWN"),
    ],
)
def test_states_in_words(state, text):
    assert describe_state(state) == text


def test_steps_in_words():
    record = {"step": 10, "loss": 2.5, "lr": 3e-4, "tokens_per_second": 12345.6, "grad_norm": None, "eval/loss": None}
    assert describe_step(record) == "step 10  loss 2.5000  lr 0.0003  tokens per second 12,346"
