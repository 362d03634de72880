"""A network of its own for each node: a bridge on this machine, a cable to each node, plugged in or not."""

import contextlib
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

#: Brings up the node's end of its cable, takes its name and starts slurmd. Runs as process 1 of the node.
BOOT = """\
set -eu
hostname {name}
mount --bind {directory}/hosts /etc/hosts
# A name server that cannot be reached costs 10 to 20 seconds at every look-up.
mount --bind {directory}/nsswitch.conf /etc/nsswitch.conf
ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
ip addr add {address}/24 dev eth0
ip link set eth0 up
slurmd -D -f {directory}/slurm.conf &
# Process 1 reaps what others leave behind, and the node outlives its slurmd.
while :; do wait || :; sleep 1; done
"""


@dataclass(frozen=True, slots=True)
class Network:
    """A bridge and its addresses, 10.77.`number`.0/24; this machine is .1."""

    number: int

    @property
    def bridge(self) -> str:
        return f"plm{self.number}"

    @property
    def address(self) -> str:
        return f"10.77.{self.number}.1"

    def address_of(self, index: int) -> str:
        return f"10.77.{self.number}.{11 + index}"

    def cable(self, index: int) -> str:
        """Names this machine's end of the cable to a node."""
        return f"plm{self.number}n{index}"

    def connect(self, index: int, pid: int) -> None:
        """Lays the cable to the node whose network namespace process `pid` makes."""
        here = os.readlink("/proc/self/ns/net")
        deadline = time.monotonic() + 120
        while os.readlink(f"/proc/{pid}/ns/net") == here:
            assert time.monotonic() < deadline, f"process {pid} made no network namespace"
            time.sleep(0.01)
        cable = self.cable(index)
        # That of a node which died may still be there: the kernel takes its time over the network of a node that is gone.
        with contextlib.suppress(RuntimeError):
            ip("link", "del", cable)
        ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        ip("link", "set", cable, "master", self.bridge, "up")

    def plug(self, index: int, *, plugged_in: bool) -> None:
        """Cuts a node off, or connects it again; nothing is closed on either side."""
        ip("link", "set", self.cable(index), "up" if plugged_in else "down")


def create() -> Network:
    """A bridge with addresses that no other cluster on this machine uses.

    Raises:
        RuntimeError: not allowed here.
    """
    for number in range(1, 255):
        network = Network(number)
        # A cable may outlive its bridge for a while: the kernel takes its time over the network of a node that is gone.
        links = Path("/sys/class/net")
        if not (links / network.bridge).exists() and not any(links.glob(f"{network.bridge}n*")):
            try:
                ip("link", "add", network.bridge, "type", "bridge")
            except RuntimeError as error:
                if "File exists" in str(error):
                    continue
                raise
            ip("addr", "add", f"{network.address}/24", "dev", network.bridge)
            ip("link", "set", network.bridge, "up")
            return network
    raise RuntimeError("254 local clusters have a network already: end some of them")


def ip(*arguments: str) -> None:
    """Runs ip; what it says on failure is raised."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def isolated(script: Path) -> list[str]:
    """Runs a shell script as process 1 of a machine of its own; when the outer process is killed, all of it dies."""
    namespaces = ["--net", "--uts", "--mount", "--ipc", "--pid", "--fork", "--mount-proc", "--kill-child=SIGKILL"]
    return ["unshare", *namespaces, "bash", str(script)]


def why_not() -> str | None:
    """Why nodes cannot have a network of their own on this machine, or None where they can."""
    probe = subprocess.run(isolated(Path("/dev/null")), capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        return f"namespaces are not allowed here: {probe.stderr.strip()}"
    try:
        network = create()
    except (RuntimeError, OSError) as error:
        return f"no bridge can be made here: {error}"
    ip("link", "del", network.bridge)
    return None
