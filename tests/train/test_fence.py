from pathlib import Path

import pytest

from dist_plm.checkpoint.storage import open_storage
from dist_plm.config.launchenv import LaunchEnv
from dist_plm.observe.metrics import MetricsWriter, StepRecord
from dist_plm.train.fence import SupersededError, claim

FACTS = {"lr": 0.1, "grad_norm": 1.0, "tokens_seen": 1, "samples_seen": 1, "tokens_per_second": 1.0}
RECORD = StepRecord(step=1, loss=1.0, step_seconds=1.0, mfu=None, loss_scale=None, skipped=0, **FACTS)


def test_starts_are_numbered_and_the_last_one_holds(tmp_path: Path) -> None:
    first = claim(tmp_path / "run", LaunchEnv(node_name="node1"), {})
    first.check()
    second = claim(tmp_path / "run", LaunchEnv(node_name="node2"), {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"})
    assert (first.start, second.start) == (1, 2)
    second.check()
    with pytest.raises(
        SupersededError, match=r"taken over by start 2 .* on node2, job 7 restart 1.*: this one, start 1"
    ):
        first.check()


def test_a_superseded_start_changes_no_file(tmp_path: Path) -> None:
    fence = claim(tmp_path, LaunchEnv(), {})
    metrics = MetricsWriter(tmp_path / "metrics.jsonl", guard=fence.check)
    metrics.write(RECORD)
    storage = open_storage(str(tmp_path / "checkpoints"))
    storage.guard, storage.mark = fence.check, ".1"
    directory = storage.begin("step_00000001")
    storage.writer(directory)
    claim(tmp_path, LaunchEnv(), {})

    before = {path: path.read_bytes() if path.is_file() else b"" for path in tmp_path.rglob("*")}
    for change in (
        lambda: metrics.write(RECORD),
        lambda: storage.begin("step_00000002"),
        lambda: storage.writer(directory),
        lambda: storage.write(b"", directory, "file"),
        lambda: storage.commit("step_00000001"),
        lambda: storage.remove("step_00000001"),
    ):
        with pytest.raises(SupersededError):
            change()
    assert {path: path.read_bytes() if path.is_file() else b"" for path in tmp_path.rglob("*")} == before
    metrics.close()


def test_two_starts_write_the_same_checkpoint_in_different_places(tmp_path: Path) -> None:
    directories = []
    for start in (1, 2):
        storage = open_storage(str(tmp_path))
        storage.mark = f".{start}"
        directories.append(storage.begin("step_00000001"))
    assert directories[0] != directories[1]
    assert all((tmp_path / directory).is_dir() for directory in directories)
    storage.clean()
    assert list(tmp_path.iterdir()) == []
