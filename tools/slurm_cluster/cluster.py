"""Starts, drives and ends a real Slurm on this machine: munged, slurmctld and a slurmd a node, below one directory."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tools.slurm_cluster import keeper, network
from tools.slurm_cluster.network import Network
from tools.slurm_cluster.settings import Node

Mode = Literal["local", "netns"]

#: For all nodes to be idle; 32 nodes take 2 seconds.
START_SECONDS = 300.0
STOP_SECONDS = 120.0
#: In the environment of the daemons: the directory of their cluster.
MARK = "LOCAL_SLURM_CLUSTER"


class ClusterError(RuntimeError):
    """A local cluster cannot start, or no longer runs."""


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """A cluster that runs, known by its directory. Any process may drive it.

    `nodes` are in their order. In mode local all are at 127.0.0.1; in mode netns each has a network, host name and
    processes of its own, and can be killed or cut off like a machine.
    """

    directory: Path
    mode: Mode
    nodes: tuple[Node, ...]
    network_number: int | None = None

    @property
    def conf(self) -> Path:
        return self.directory / "slurm.conf"

    @property
    def env(self) -> dict[str, str]:
        """The environment in which Slurm's commands reach this cluster and no other."""
        others = ("SLURM_", "SBATCH_", "SRUN_", "SCONTROL_", "SINFO_", "SQUEUE_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(others)}
        return kept | {"SLURM_CONF": str(self.conf), "PATH": path()}

    def run(self, *argv: str, check: bool = True) -> str:
        """Returns what a command of Slurm prints.

        Raises:
            ClusterError: it failed, and `check` is true.
        """
        done = subprocess.run(argv, env=self.env, capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            raise ClusterError(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def states(self) -> dict[str, str]:
        """Reads the state of each node, as sinfo abbreviates it: idle, mix, alloc, down, down*."""
        lines = self.run("sinfo", "--noheader", "--Node", "--format=%N %t", check=False).splitlines()
        return dict(line.split() for line in lines)

    def wait(self, state: str = "idle", *, nodes: Sequence[str] | None = None, seconds: float = START_SECONDS) -> None:
        """Waits until `nodes`, all unless given, are in a state.

        Raises:
            ClusterError: they are not, in time.
        """
        wanted = [node.name for node in self.nodes] if nodes is None else list(nodes)
        deadline = time.monotonic() + seconds
        while any(state != self.states().get(name, "").rstrip("*") for name in wanted):
            if time.monotonic() > deadline:
                raise ClusterError(f"nodes are not {state} after {seconds:.0f} s: {self.states()}\n{self.logs()}")
            time.sleep(0.1)

    def kill_node(self, name: str) -> None:
        """Ends a node's slurmd: in mode netns the machine dies with it, in mode local its jobs live on."""
        self.ask(kill=self._node(name).name)

    def start_node(self, name: str) -> None:
        """Starts a node, for the first time or after it died."""
        node = self._node(name)
        if self.mode == "local":
            self.start_process(name, ["slurmd", "-D", "-N", name, "-f", str(self.conf)])
            return
        script = self.directory / f"{name}.sh"
        script.write_text(network.BOOT.format(name=name, directory=self.directory, address=node.address))
        pid = self.start_process(name, network.isolated(script))
        self._network.connect(self.nodes.index(node), pid)

    def cut_off(self, name: str) -> None:
        """Cuts a node's network cable: nothing is closed, packets are lost. Mode netns alone."""
        self._network.plug(self.nodes.index(self._node(name)), plugged_in=False)

    def reconnect(self, name: str) -> None:
        self._network.plug(self.nodes.index(self._node(name)), plugged_in=True)

    def stop(self) -> None:
        """Ends every process of the cluster, jobs and what they started among them, and removes its directory."""
        pid_file = self.directory / "keeper.pid"
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            keeper_fd = os.pidfd_open(int(pid_file.read_text()))
            with contextlib.suppress(OSError):  # Only a keeper that answers is ours to signal.
                keeper.ask(self.directory / "keeper.socket")
                signal.pidfd_send_signal(keeper_fd, signal.SIGTERM)
                select.select([keeper_fd], [], [], STOP_SECONDS)
            os.close(keeper_fd)
        if self.directory.exists():
            self._sweep()

    def logs(self, lines: int = 15) -> str:
        """The ends of the daemons' logs."""
        parts = []
        for path in sorted(self.directory.glob("log/*.log")):
            tail = path.read_text(errors="replace").splitlines()[-lines:]
            parts += [f"--- {path.name}", *tail]
        return "\n".join(parts)

    @property
    def _network(self) -> Network:
        if self.network_number is None:
            raise ClusterError("nodes have no network of their own in mode local: start with --netns")
        return Network(self.network_number)

    def _node(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise ClusterError(f"{name} is not a node; there are {', '.join(n.name for n in self.nodes)}")

    def is_running(self) -> bool:
        with contextlib.suppress(ClusterError):
            self.ask()
            return True
        return False

    def ask(self, **request: object) -> dict[str, object]:
        """Returns what the keeper of the cluster's processes answers."""
        try:
            return keeper.ask(self.directory / "keeper.socket", **request)
        except OSError as error:
            raise ClusterError(f"no cluster runs in {self.directory}: {error}") from error

    def start_process(self, name: str, argv: list[str]) -> int:
        """Starts a daemon of the cluster and returns its id."""
        log = str(self.directory / "log" / f"{name}.log")
        env = self.env | {MARK: str(self.directory)}
        pid = self.ask(start={"name": name, "argv": argv, "env": env, "log": log})["pid"]
        assert isinstance(pid, int)
        return pid

    def _sweep(self) -> None:
        """Removes what a keeper that was itself killed has left: jobs' processes, a bridge, the directory."""
        # What is forked behind the scan, or caught in the middle of an exec, is seen by the next.
        quiet, deadline = 0, time.monotonic() + STOP_SECONDS
        while quiet < 2 and time.monotonic() < deadline:
            quiet = 0 if self._kill_what_is_ours() else quiet + 1
            time.sleep(0.05)
        if self.network_number is not None:
            with contextlib.suppress(RuntimeError):
                network.ip("link", "del", self._network.bridge)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _kill_what_is_ours(self) -> bool:
        """Whether a process was found, by its environment, and killed."""
        daemon, client = f"{MARK}={self.directory}".encode(), f"SLURM_CONF={self.conf}".encode()
        found = False
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                env = path.read_bytes().split(b"\0")
                # A person's shell is a client too; what runs on a node has the node's name beside.
                if daemon in env or (client in env and any(v.startswith(b"SLURMD_NODENAME=") for v in env)):
                    os.kill(int(path.parent.name), signal.SIGKILL)
                    found = True
        return found


def find(conf: Path) -> LocalCluster:
    """The cluster that `conf`, its slurm.conf, belongs to.

    Raises:
        ClusterError: there is none.
    """
    try:
        facts = json.loads((conf.parent / "cluster.json").read_text())
    except OSError as error:
        raise ClusterError(f"{conf} is not of a local cluster: {error}") from error
    nodes = tuple(Node(**node) for node in facts["nodes"])
    return LocalCluster(conf.parent, facts["mode"], nodes, facts["network_number"])


def path() -> str:
    """Daemons lie where a user's PATH need not lead."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
