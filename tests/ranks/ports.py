"""Ports at which ranks of tests meet."""

import secrets
import socket

#: Below those that Linux gives to whoever asks for any: nobody takes one between the look at it here and its use.
PORTS = range(20_000, 32_000)


def free_port(family: socket.AddressFamily = socket.AF_INET, host: str = "127.0.0.1") -> int:
    """One that nobody listens at.

    Raises:
        OSError: there is no such host.
    """
    for _ in range(1000):
        port = secrets.choice(PORTS)  # Hypothesis seeds the generator of `random`
        with socket.socket(family) as probe:
            try:
                probe.bind((host, port))
                return port
            except OSError as error:
                refused = error
    raise refused
