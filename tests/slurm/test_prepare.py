"""Preparation by slurm/prepare.sbatch: ranks over nodes share the work, and one may die."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.slurm.jobs import REPOSITORY, UNFINISHED, Job, submit
from tools.slurm_cluster.cluster import LocalCluster

# The jobs that wait to be started again wait from here on.
pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("endings")]

TEXTS = REPOSITORY / "tests" / "data" / "texts"
SETTINGS = ["dedup=minhash", "clean=basic", "tokenizer.vocab_size=400", "data.split=[0.8,0.1,0.1]"]
MIB = 2**20


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough for several units: reading shares no less than a MiB."""
    path = tmp_path_factory.mktemp("raw") / "text.txt"
    lines = [line for name in sorted(TEXTS.glob("*.txt")) for line in name.read_text().splitlines() if line.strip()]
    with path.open("w") as file:
        number = 0
        while file.tell() < 2.5 * MIB:
            file.write(f"{number} {lines[number % len(lines)]} {lines[number * 7 % len(lines)]}\n")
            number += 1
    return path


def script(text: Path, out: Path, *more: str) -> list[str]:
    sources = f"data.sources=[{{path: {text}, document: line}}]"
    return ["launch/prepare_data.py", sources, f"data.out={out}", *SETTINGS, *more]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def expected(text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process makes."""
    out = tmp_path_factory.mktemp("alone") / "store"
    subprocess.run([sys.executable, *script(text, out)], check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    return contents(out)


def prepare(cluster: LocalCluster, text: Path, place: Path, *more: str) -> Job:
    options = ["--cpus-per-task=1", "--ntasks-per-node=2", "--no-requeue"]
    return submit(cluster, "prepare.sbatch", place, script(text, place / "store", *more), nodes=2, options=options)


def test_ranks_over_nodes_make_what_one_process_makes(
    cluster: LocalCluster, text: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    """A warning by USR1, to the script and to all that it runs, ends nothing."""
    job = prepare(cluster, text, tmp_path)
    deadline = time.monotonic() + 300
    while not (tmp_path / "store.partial").exists():
        assert time.monotonic() < deadline, job.log()
        time.sleep(0.05)
    cluster.run("scancel", "--full", "--signal=USR1", job.number)
    assert job.wait() == "COMPLETED", job.log()
    assert contents(tmp_path / "store") == expected
    assert job.log().count("trained a tokenizer") == 1


def rank_process(rank: int, out: Path) -> int | None:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        mine = command.startswith(sys.executable.encode()) and f"data.out={out}".encode() in command
        if mine and f"SLURM_PROCID={rank}".encode() in environment:
            return int(process.name)
    return None


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "stage"), [(1, "documents"), (3, "signatures"), (2, "tokens"), (0, "pairs")])
def test_a_rank_that_is_killed_is_named_and_the_next_start_ends_the_same(
    cluster: LocalCluster, text: Path, expected: dict[str, bytes], tmp_path: Path, rank: int, stage: str
) -> None:
    out = tmp_path / "store"
    job = prepare(cluster, text, tmp_path, "data.rank_timeout_seconds=5")
    deadline = time.monotonic() + 120
    while not (tmp_path / "store.partial" / "work" / stage).exists():
        assert time.monotonic() < deadline, job.log()
        assert job.facts()["JobState"] in UNFINISHED, job.log()
        time.sleep(0.01)
    pid = rank_process(rank, out)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert job.wait() != "COMPLETED"
    assert not out.exists()
    # Its node is named too, where it had said so before.
    assert re.search(rf" of rank {rank}( on node{1 + rank // 2})?, which has shown no sign of life for 5 s", job.log())
    again = prepare(cluster, text, tmp_path, "data.rank_timeout_seconds=60")
    assert again.wait() == "COMPLETED", again.log()
    assert contents(out) == expected
