import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.conftest import StartCluster
from tests.slurm.processes import processes_of, wait_until_none
from tools.slurm_cluster import network
from tools.slurm_cluster.cluster import ClusterError, LocalCluster
from tools.slurm_cluster.settings import Settings
from tools.slurm_cluster.start import start

# The job that waits for its time limit waits from here on.
pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("limited")]

WHERE = "echo $SLURMD_NODENAME $SLURM_PROCID"
#: A job whose processes do all to outlive it: sessions of their own, deaf to polite signals, parents gone.
STUBBORN = "trap '' TERM HUP INT USR1; (setsid sleep 1000 &); exec sleep 1000"


def submit(cluster: LocalCluster, command: str, *options: str) -> str:
    """The number of a job that runs `command` on each of its nodes."""
    argv = ["sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap=srun --ntasks-per-node=1 {command}"]
    return cluster.run(*argv).strip()


def wait_for(cluster: LocalCluster, command: str, count: int, seconds: float = 300) -> None:
    """Waits for processes that run `command`; the scripts and the srun that start them hold its words, too."""
    deadline = time.monotonic() + seconds
    # srun gives programs their whole path.
    while (
        sum(line.rpartition("/bin/")[2].strip() == command for line in processes_of(cluster.directory).values()) < count
    ):
        assert time.monotonic() < deadline, f"{processes_of(cluster.directory)}\n{cluster.logs()}"
        time.sleep(0.05)


def runs(cluster: LocalCluster, words: str) -> bool:
    return any(words in line for line in processes_of(cluster.directory).values())


def wait_until(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("mode", ["local", "netns"])
def test_comes_up_with_idle_nodes_that_run_steps_and_goes_without_a_trace(
    start_cluster: StartCluster, mode: str
) -> None:
    cluster = start_cluster(4, mode)
    assert cluster.states() == {f"node{i}": "idle" for i in (1, 2, 3, 4)}
    lines = cluster.run("srun", "--nodes=4", "--ntasks-per-node=1", "bash", "-c", WHERE).splitlines()
    assert sorted(lines) == [f"node{i + 1} {i}" for i in range(4)]

    submit(cluster, f'bash -c "{STUBBORN}"', "--nodes=2")
    wait_for(cluster, "sleep 1000", 4)
    cluster.stop()
    assert processes_of(cluster.directory) == {}
    assert not cluster.directory.exists()
    if mode == "netns":
        assert not Path(f"/sys/class/net/{network.Network(cluster.network_number or 0).bridge}").exists()


def test_hands_out_gpus_by_number(cluster: LocalCluster) -> None:
    argv = ("srun", "--nodes=1", "--gpus-per-node=3", "bash", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert cluster.run(*argv) == "0,1,2\n"
    with pytest.raises(ClusterError, match="not available"):
        cluster.run("sbatch", "--gpus-per-node=5", "--wrap=true")


def test_clusters_do_not_meet(start_cluster: StartCluster) -> None:
    one, two = start_cluster(1, "local"), start_cluster(1, "local")
    jobs = submit(one, "sleep 1000"), submit(two, "sleep 1000")
    one.stop()
    assert two.run("squeue", "--noheader", "--format=%i").split() == [jobs[1]] != [jobs[0]]
    two.stop()


def test_ends_when_its_owner_is_killed(start_cluster: StartCluster, repository: Path) -> None:
    start_cluster(1, "local").stop()  # skips where none can start
    program = textwrap.dedent(
        """
        import os, time
        from tools.slurm_cluster.start import start
        cluster = start(1, "local", owner=os.getpid())
        cluster.run("sbatch", "--output=/dev/null", "--wrap=srun sleep 1000")
        print(cluster.directory, flush=True)
        time.sleep(1000)
        """
    )
    owner = subprocess.Popen([sys.executable, "-c", program], cwd=repository, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    directory = Path(owner.stdout.readline().strip())
    assert any("slurmctld" in line for line in processes_of(directory).values())
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert wait_until_none(directory) == {}
    assert not directory.exists()


def test_leaves_nothing_even_if_its_keeper_is_killed(start_cluster: StartCluster) -> None:
    cluster = start_cluster(1, "local")
    submit(cluster, f'bash -c "{STUBBORN}"')
    wait_for(cluster, "sleep 1000", 2)
    os.kill(int((cluster.directory / "keeper.pid").read_text()), signal.SIGKILL)
    cluster.stop()
    assert wait_until_none(cluster.directory) == {}
    assert not cluster.directory.exists()


def test_a_start_that_fails_says_why_and_leaves_nothing(start_cluster: StartCluster, tmp_path: Path) -> None:
    start_cluster(1, "local").stop()
    directory = tmp_path / "cluster"
    directory.mkdir()
    (directory / "munge").write_text("in the way")
    with pytest.raises(FileExistsError):
        start(1, directory=directory)
    assert not directory.exists()
    assert processes_of(directory) == {}


@pytest.mark.slow
def test_nodes_die_and_are_cut_off_like_machines(start_cluster: StartCluster) -> None:
    cluster = start_cluster(3, "netns", Settings(lost_seconds=5, answer_seconds=60))
    job = submit(cluster, "sleep 1000", "--nodes=1", "--nodelist=node1", "--requeue")
    wait_for(cluster, "sleep 1000", 1)
    # Killed, all of the node dies at once; cut off, its processes live and are merely out of reach.
    submit(cluster, "sleep 2000", "--nodes=1", "--nodelist=node2", "--no-requeue")
    wait_for(cluster, "sleep 2000", 1)
    cluster.kill_node("node1")
    cluster.cut_off("node2")
    wait_until(lambda: not runs(cluster, "sleep 1000"))
    cluster.wait("down", nodes=["node1", "node2"])
    assert runs(cluster, "sleep 2000")
    cluster.wait("idle", nodes=["node3"])
    wait_until(lambda: cluster.run("squeue", "--noheader", f"--jobs={job}", "--format=%T").split() == ["PENDING"])

    cluster.start_node("node1")
    cluster.reconnect("node2")
    cluster.wait("idle", nodes=["node2"])
    wait_for(cluster, "sleep 1000", 1)
    cluster.stop()


def test_command_line(start_cluster: StartCluster, repository: Path) -> None:
    start_cluster(1, "local").stop()
    argv = [sys.executable, str(repository / "tools" / "local_cluster.py")]
    up = subprocess.run([*argv, "up", "--nodes=2"], capture_output=True, text=True, check=True, cwd="/")
    assignment = up.stdout.splitlines()[0].removeprefix("export ")
    name, _, conf = assignment.partition("=")
    assert name == "SLURM_CONF"
    env = os.environ | {name: conf}
    state = subprocess.run([*argv, "state"], capture_output=True, text=True, check=True, env=env)
    assert state.stdout.replace("*", "") == "node1 idle\nnode2 idle\n"  # idle*: it was slow to answer just then
    cut = subprocess.run([*argv, "cut", "node1"], capture_output=True, text=True, check=False, env=env)
    assert (cut.returncode, cut.stderr) == (1, "nodes have no network of their own in mode local: start with --netns\n")
    # A shell that exported SLURM_CONF is not part of the cluster.
    shell = subprocess.Popen(["sleep", "1000"], env=env)
    subprocess.run([*argv, "down"], check=True, env=env)
    assert shell.poll() is None
    shell.kill()
    shell.wait()
    assert processes_of(Path(conf).parent) == {}
    gone = subprocess.run([*argv, "state"], capture_output=True, text=True, check=False, env=env)
    assert gone.returncode == 1
    assert gone.stderr.startswith(f"{conf} is not of a local cluster")
