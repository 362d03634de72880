"""Finds the address and network interface of this node that lead to another: `python -m
dist_plm.cluster.network_interface HOST`.

Gloo and NCCL otherwise take what the host's own name resolves to, which on many machines is a loopback address.
"""

import socket
import sys

import psutil

from dist_plm.core.errors import EXIT_FINISHED, EXIT_REFUSED, UserError, reason_of


def route(host: str) -> tuple[str, str]:
    """Finds this node's address and interface on the way to `host`, which may be this node. Nothing is sent.

    Raises:
        UserError: `host` is unknown here, or no way leads there.
    """
    try:
        # The system picks the source address when a datagram socket is connected; no packet leaves.
        family, kind, _, _, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)
            address = probe.getsockname()[0]
    except (OSError, UnicodeError) as error:
        raise UserError(f"{host} cannot be reached from {socket.gethostname()}: {reason_of(error)}") from error
    for interface, entries in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == address for entry in entries):
            return address, interface
    raise UserError(f"{socket.gethostname()} reaches {host} from {address}, which is on none of its interfaces")


def main() -> int:
    try:
        print(*route(sys.argv[1]))
    except UserError as refusal:
        print(refusal, file=sys.stderr)
        return EXIT_REFUSED
    return EXIT_FINISHED


if __name__ == "__main__":
    sys.exit(main())
