"""Shows runs while they go on, in a browser or, with `view=terminal`, in the terminal.

python launch/watch.py runs/quickstart
python launch/watch.py runs/first runs/second port=8800
python launch/watch.py runs/quickstart view=terminal
"""

import argparse
import getpass
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from dist_plm.cli.run_words import say, split_settings
from dist_plm.core.errors import EXIT_FINISHED, UserError
from dist_plm.core.parsing import whole_number
from dist_plm.core.streams import code_of, leave, open_standard_streams, tell, visible
from dist_plm.monitor.live.serve import PORT, WatchServer, serve

_VIEWS = ("browser", "terminal")


def execute(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="watch.py",
        description="Shows runs while they go on: the page of launch/report.py, which follows them, on this machine's loopback "
        "alone and read-only, with the line that brings it to another machine by ssh; or a view in the terminal.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help="a run directory, e.g. runs/quickstart")
    parser.add_argument("port", nargs="?", metavar="port=PORT", help=f"where to listen ({PORT}, or a free one)")
    parser.add_argument("view", nargs="?", metavar="view=terminal", help="instead of a browser")
    words = parser.parse_args(arguments).runs
    return code_of(lambda: _watch(words), say)


def _watch(words: Sequence[str]) -> int:
    settings, paths = split_settings(words, ("port", "view"))
    view, port = settings.get("view", "browser"), _port(settings.get("port"))
    if view not in _VIEWS:
        raise UserError(f"view={view} is none of {', '.join(_VIEWS)}")
    with suppress(KeyboardInterrupt):  # how one stops watching
        if view == "terminal":
            _show(paths)
        else:
            serve(paths, port, lambda server: _tell(server, paths))
    return EXIT_FINISHED


def _port(text: str | None) -> int | None:
    port = whole_number(text)
    if text is not None and (port is None or not 0 < port < 2**16):
        raise UserError(f"port={text} is no port: give a number from 1 to 65535")
    return port


def _show(paths: Sequence[Path]) -> None:
    from rich.console import Console  # for those alone who look at it

    from dist_plm.monitor.live.terminal import watch_in_terminal

    watch_in_terminal(paths, Console(highlight=False, markup=False))


def _tell(server: WatchServer, paths: Sequence[Path]) -> None:
    port = server.server_port
    lines = [
        f"watching {', '.join(map(str, paths))}",
        f"  here:                 open {server.address}",
        f"  on another machine:   ssh -N -L {port}:localhost:{port} {_user()}{socket.gethostname()}",
        "                        and open the same address there",
        "Whoever knows the address can read these runs. Ctrl-C stops watching; the runs go on.",
    ]
    tell(visible("\n".join(lines)))


def _user() -> str:
    """Gives `user@`; nothing where this user has no name, as in containers, and ssh takes that of whoever calls it."""
    try:
        return f"{getpass.getuser()}@"
    except (KeyError, OSError):  # OSError from Python 3.13 on
        return ""


def main() -> NoReturn:
    """Runs the command that `sys.argv` holds, and exits."""
    open_standard_streams()
    leave(execute(sys.argv[1:]))


if __name__ == "__main__":
    main()
