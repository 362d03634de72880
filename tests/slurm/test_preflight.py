"""launch/preflight.py as a job, on nodes of which one cannot reach the data, one has no room and one has a slow cable."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.slurm.jobs import Job, submit
from tests.slurm.processes import processes_of
from tests.train.conftest import TINY
from tools.slurm_cluster.cluster import LocalCluster
from tools.slurm_cluster.network import Network

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

Start = Callable[..., Job]


@pytest.fixture
def start(cluster: LocalCluster, store: Path, tmp_path: Path) -> Start:
    if cluster.mode != "netns":
        pytest.skip("nodes have no mounts and cables of their own here")

    def start_one(script: str, name: str, nodelist: str, count: int, *overrides: str) -> Job:
        run_dir = tmp_path / name
        words = [script, f"data.path={store}", f"run.dir={run_dir}", *TINY, "train.steps=2", *overrides]
        options = [f"--nodelist={nodelist}"]
        return submit(cluster, "pretrain_srun.sbatch", run_dir, words, nodes=count, options=options)

    return start_one


@contextmanager
def another_disk(cluster: LocalCluster, node: str, place: Path) -> Iterator[list[str]]:
    """A small one, mounted at `place` on that node alone; and what runs a command there."""
    (pid,) = [p for p, argv in processes_of(cluster.directory).items() if f"unshare {node}.sh" in shorter(argv)]
    there = ["nsenter", f"--target={pid}", "--mount"]
    subprocess.run([*there, "mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)], check=True)
    try:
        yield there
    finally:
        subprocess.run([*there, "umount", str(place)], check=True)


def shorter(command: str) -> str:
    """Program and script alone."""
    words = command.split()
    return f"{words[0]} {Path(words[-1]).name}" if words else ""


def test_a_node_without_the_data_and_one_without_room_are_named(
    cluster: LocalCluster, store: Path, tmp_path: Path, start: Start
) -> None:
    (full := tmp_path / "checkpoints").mkdir()
    with another_disk(cluster, "node2", store), another_disk(cluster, "node4", full) as there:
        subprocess.run([*there, "dd", "if=/dev/zero", f"of={full}/filler"], capture_output=True, check=False)
        without_data = start("launch/pretrain.py", "without_data", "node[1-2]", 2)
        without_room = start("launch/pretrain.py", "without_room", "node[3-4]", 2, f"checkpoint.dir={full}")
        for job in (without_data, without_room):
            assert (job.wait(), job.facts()["ExitCode"]) == ("FAILED", "2:0"), job.log()
            assert "Traceback" not in job.log()
            assert not (job.run_dir / "metrics.jsonl").exists()
    assert "the run cannot start here, 1 problem:" in without_data.log()
    assert "on node2: " in without_data.log()
    assert str(store) in without_data.log()
    assert f"on node4: checkpoints cannot be written to {full} (No space left on device)" in without_room.log()


def test_a_slow_cable_is_named(cluster: LocalCluster, start: Start) -> None:
    cable = Network(cluster.network_number or 0).cable(2)
    slow = ["rate", "100mbit", "burst", "256kb", "latency", "400ms"]
    subprocess.run(["tc", "qdisc", "add", "dev", cable, "root", "tbf", *slow], check=True)
    try:
        job = start("launch/preflight.py", "slow", "node[1-3]", 3, "train.global_batch=6")
        assert job.wait() == "COMPLETED", job.log()
    finally:
        subprocess.run(["tc", "qdisc", "del", "dev", cable, "root"], check=True)
    assert "preflight: 3 nodes, 3 ranks" in job.log()
    assert "all-reduce of 16 MiB: " in job.log()
    assert "links between nodes: 3 measured" in job.log()
    assert "warning: every link of node3 is slow, " in job.log(), job.log()
