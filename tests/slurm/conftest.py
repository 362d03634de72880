"""A real Slurm for the tests of this folder, which say why they are skipped where none can start."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.slurm.endings import CASES, SHELL, STRANGE
from tests.slurm.jobs import Job, submit
from tests.slurm.user import LONG, SETTINGS, STEPS, User
from tools.slurm_cluster.cluster import LocalCluster, Mode
from tools.slurm_cluster.settings import Settings
from tools.slurm_cluster.start import start, why_not

StartCluster = Callable[..., LocalCluster]
#: No node, message or step is given up for being slow.
PATIENT = Settings(cpus=16, lost_seconds=300, answer_seconds=60, credential_seconds=10)


@pytest.fixture(scope="session")
def start_cluster() -> Iterator[StartCluster]:
    """Starts clusters that end with the tests, however these end: `start_cluster(2, "netns")`."""
    clusters: list[LocalCluster] = []

    def start_one(num_nodes: int, mode: Mode, settings: Settings | None = None) -> LocalCluster:
        if reason := why_not(mode):
            pytest.skip(f"no Slurm: {reason}")
        clusters.append(start(num_nodes, mode, settings=settings or PATIENT, owner=os.getpid()))
        return clusters[-1]

    yield start_one
    for cluster in clusters:
        cluster.stop()


@pytest.fixture(scope="session")
def cluster(start_cluster: StartCluster) -> LocalCluster:
    """4 nodes, each with its own network where this machine allows it."""
    return start_cluster(4, "local" if why_not("netns") else "netns")


@pytest.fixture(scope="session")
def one_address(start_cluster: StartCluster) -> LocalCluster:
    """2 nodes that share this machine's name and address, which do not resolve to each other's."""
    return start_cluster(2, "local")


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def store(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What slurm/prepare.sbatch made."""
    place = tmp_path_factory.mktemp("corpus")
    sources = "[{path: tests/data/texts/*.txt, max_chars: 512}, {path: tests/data/texts/*.jsonl}]"
    script = ["launch/prepare_data.py", f"data.sources={sources}", f"data.out={place}/store"]
    script += ["tokenizer.vocab_size=512", "data.split=[0.8,0.1,0.1]"]
    # As of a job that was submitted with --export=NONE, and by another job.
    settings, memory = ["export SLURM_EXPORT_ENV=NONE"], ["SLURM_MEM_PER_CPU=100", "SLURM_MEM_PER_NODE=200"]
    options = ["--cpus-per-task=2"]
    job = submit(cluster, "prepare.sbatch", place, script, options=options, settings=settings, environment=memory)
    assert job.wait() == "COMPLETED", job.log()
    return place / "store"


@pytest.fixture(scope="session")
def user(cluster: LocalCluster, store: Path, tmp_path_factory: pytest.TempPathFactory) -> User:
    return User(cluster, tmp_path_factory.mktemp("home"), store)


@pytest.fixture(scope="session")
def alone(user: User) -> list[float]:
    """Losses of one process without Slurm."""
    done = user.start("launch/pretrain.py", f"data.path={user.store}", *SETTINGS, "run.name=alone")
    assert done.returncode == 0, done.stderr
    losses = user.losses("alone")
    assert len(losses) == STEPS
    return losses


@pytest.fixture(scope="session")
def alone_long(user: User) -> list[float]:
    """The same with steps of about a second."""
    done = user.start("launch/pretrain.py", f"data.path={user.store}", *SETTINGS, *LONG, "run.name=alone_long")
    assert done.returncode == 0, done.stderr
    return user.losses("alone_long")


@pytest.fixture(scope="session")
def limited(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job that Slurm signals 30 to 90 seconds before its limit of 3 minutes, while other tests run. Its rank has the time
    until then to begin to listen."""
    run_dir = tmp_path_factory.mktemp("limited")
    script = ["tests/slurm/ranks_of_jobs/end_with.py", str(run_dir), "wait", "0"]
    return submit(cluster, "pretrain_srun.sbatch", run_dir, script, options=["--time=3", "--signal=USR1@30"])


@pytest.fixture(scope="session")
def endings(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    """A job for each case, all queued at once: they spend their time waiting for Slurm to start them again, while other tests
    run."""
    started = {}
    for name, (ways, max_restarts, *_) in CASES.items():
        run_dir = tmp_path_factory.mktemp(name.replace(" ", "_"))
        script = ["tests/slurm/ranks_of_jobs/end_with.py", str(run_dir), *ways]
        shell = SHELL if name == STRANGE else ()
        started[name] = submit(
            cluster, "pretrain_srun.sbatch", run_dir, script, nodes=2, max_restarts=max_restarts, environment=shell
        )
    return started
