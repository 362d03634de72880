"""Starts a local cluster: addresses, files, keeper, daemons, in this order."""

import contextlib
import json
import os
import pwd
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from tools.slurm_cluster import keeper, network
from tools.slurm_cluster.cluster import START_SECONDS, ClusterError, LocalCluster, Mode, path
from tools.slurm_cluster.network import Network
from tools.slurm_cluster.settings import Node, Settings, gres_conf, slurm_conf

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "munged", "ip", "unshare")
#: Below what jobs of dist_plm derive from their number, and below what Linux gives to outgoing connections.
PORTS = range(4000, 12000)


def why_not(mode: Mode = "local") -> str | None:
    """Why no cluster can start on this machine, or None where one can."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=path()) is None]
    if missing:
        return f"{', '.join(missing)} not installed: run tools/install_slurm_debian.sh"
    return network.why_not() if mode == "netns" else None


def start(
    num_nodes: int = 4,
    mode: Mode = "local",
    *,
    settings: Settings | None = None,
    owner: int | None = None,
    directory: Path | None = None,
) -> LocalCluster:
    """A cluster whose nodes are all idle.

    Args:
        owner: id of the process with which the cluster ends, however that ends; None: it runs until it is stopped.
        directory: of all its files, made for it, below a temporary directory unless given.
    Raises:
        ClusterError: it cannot start; nothing is left of it.
    """
    if reason := why_not(mode):
        raise ClusterError(reason)
    settings = settings or Settings()
    directory = directory or Path(tempfile.mkdtemp(prefix="slurm_"))
    net = network.create() if mode == "netns" else None
    controller, nodes = _addresses(num_nodes, net)
    cluster = LocalCluster(directory, mode, nodes, net.number if net else None)
    try:
        _write_files(cluster, controller, settings)
        _start_keeper(cluster, owner)
        if net:
            cluster.ask(at_end={"run": ["ip", "link", "del", net.bridge]})
        cluster.ask(at_end={"remove": str(directory)})
        cluster.start_process("munged", _munged(directory / "munge"))
        _await(lambda: _answers(directory / "munge" / "socket"), "munged did not start", cluster)
        cluster.start_process("slurmctld", ["slurmctld", "-D", "-f", str(cluster.conf)])
        for node in nodes:
            cluster.start_node(node.name)
        cluster.wait("idle")
    except BaseException:
        cluster.stop()
        raise
    return cluster


def _addresses(num_nodes: int, net: Network | None) -> tuple[Node, tuple[Node, ...]]:
    """The controller, and the nodes. Slurm knows the controller by the machine's short name."""
    host = socket.gethostname().split(".")[0]
    ports = _free_ports()
    controller = Node("controller", host, net.address if net else "127.0.0.1", next(ports))
    names = [f"node{i + 1}" for i in range(num_nodes)]
    if net:
        return controller, tuple(Node(name, name, net.address_of(i), 6818) for i, name in enumerate(names))
    return controller, tuple(Node(name, host, "127.0.0.1", next(ports)) for name in names)


def _free_ports() -> Iterator[int]:
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            yield port


def _write_files(cluster: LocalCluster, controller: Node, settings: Settings) -> None:
    directory = cluster.directory
    # munged wants every user to reach its socket, and nobody else to write beside it.
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    for name in ("munge", "state", "spool", "log"):
        (directory / name).mkdir(mode=0o755)
    key = directory / "munge" / "key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    for gpu in range(settings.gpus):
        (directory / f"gpu{gpu}").symlink_to("/dev/null")  # any character device serves
    # Ports derived from job numbers differ between clusters on one machine.
    first_job = random.randrange(1, 60_000) * 1000
    text = slurm_conf(
        directory, controller, cluster.nodes, settings, user=pwd.getpwuid(os.geteuid()).pw_name, first_job=first_job
    )
    cluster.conf.write_text(text)
    (directory / "gres.conf").write_text(gres_conf(directory, cluster.nodes, settings))
    names = [("127.0.0.1", "localhost"), *((node.address, node.host) for node in (controller, *cluster.nodes))]
    (directory / "hosts").write_text("".join(f"{address} {name}\n" for address, name in names))
    (directory / "nsswitch.conf").write_text("hosts: files\npasswd: files\ngroup: files\n")
    facts = {"mode": cluster.mode, "network_number": cluster.network_number}
    facts["nodes"] = [asdict(node) for node in cluster.nodes]
    (directory / "cluster.json").write_text(json.dumps(facts))


def _munged(directory: Path) -> list[str]:
    files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    return ["munged", "--foreground", *(f"--{option}={directory / name}" for option, name in files.items())]


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(OSError):
        connection.connect(str(path))
        return True
    return False


def _start_keeper(cluster: LocalCluster, owner: int | None) -> None:
    directory = cluster.directory
    argv = [sys.executable, keeper.__file__, str(directory / "keeper.socket")]
    if owner is not None:
        argv += ["--owner", str(owner)]
    with open(directory / "log" / "keeper.log", "ab") as log:
        # A session of its own: Ctrl-C in the terminal is for those who use the cluster.
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    process.returncode = 0
    (directory / "keeper.pid").write_text(str(process.pid))
    _await(cluster.is_running, "the keeper did not start", cluster)


def _await(condition: Callable[[], bool], failure: str, cluster: LocalCluster) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"{failure}\n{cluster.logs()}")
        time.sleep(0.02)
