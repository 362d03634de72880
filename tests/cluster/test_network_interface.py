import socket
import subprocess
import sys

import psutil
import pytest

from dist_plm.cluster.network_interface import route
from dist_plm.core.errors import UserError

OWN = [
    (entry.address, interface)
    for interface, entries in psutil.net_if_addrs().items()
    for entry in entries
    if entry.family == socket.AF_INET and psutil.net_if_stats()[interface].isup
]


@pytest.mark.parametrize(("address", "interface"), OWN)
def test_the_way_to_itself_is_the_interface_that_has_the_address(address: str, interface: str) -> None:
    assert route(address) == (address, interface)


def test_takes_names() -> None:
    assert route("localhost")[0] in ("127.0.0.1", "::1")


def test_says_which_host_is_unknown() -> None:
    with pytest.raises(UserError, match=r"no-such-host\.invalid cannot be reached"):
        route("no-such-host.invalid")


def test_prints_what_a_shell_reads() -> None:
    argv = [sys.executable, "-m", "dist_plm.cluster.network_interface"]
    done = subprocess.run([*argv, "127.0.0.1"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "127.0.0.1"
    failed = subprocess.run([*argv, "no-such-host.invalid"], capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert "Traceback" not in failed.stderr
