"""Owns the processes of a local cluster and ends them all, whatever becomes of those who asked for them.

    python keeper.py SOCKET [--owner PID] [--at-end JSON]

Whatever a child leaves behind, jobs of Slurm among it, becomes a child of the keeper (it is a subreaper), so that "no
children left" means "no process left". It ends on SIGTERM, or when the owner has ended, however that happened.
Requests come over a Unix socket, one line of JSON each: {"start": {"name", "argv", "env", "log"}}, {"kill": NAME} and
{"at_end": {"run": ARGV} or {"remove": DIRECTORY}}; {} asks whether it lives. The answer is a line of JSON: {"pid": …},
{} or {"error": …}.
"""

import argparse
import contextlib
import ctypes
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True)


def ask(socket_path: Path, **request: Any) -> dict[str, Any]:
    """Sends one request to a keeper and gives its answer.

    Raises:
        OSError: nobody listens, or not any more.
        RuntimeError: the keeper could not do it.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(300)
        connection.connect(str(socket_path))
        connection.sendall(json.dumps(request).encode() + b"\n")
        line = connection.makefile().readline()
    if not line:
        raise ConnectionResetError("the keeper is gone")
    answer = json.loads(line)
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer


def serve(socket_path: Path, owner: int | None) -> None:
    """Answers requests until a signal or the end of `owner`; then ends everything."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    keeper = _Keeper()
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(str(socket_path))
        listener.listen()
        selector.register(listener, selectors.EVENT_READ, "request")
        selector.register(_signals(signal.SIGTERM, signal.SIGINT, signal.SIGCHLD), selectors.EVENT_READ, "signal")
        if owner is not None:
            selector.register(os.pidfd_open(owner), selectors.EVENT_READ, "owner")
        try:
            while not keeper.is_over:
                for key, _ in selector.select():
                    if key.data == "request":
                        keeper.answer(listener)
                    elif key.data == "signal":
                        keeper.take_signals(os.read(key.fd, 512))
                    else:
                        keeper.is_over = True
        finally:
            keeper.end()


def _signals(*numbers: signal.Signals) -> int:
    """A file descriptor that yields one byte for each of these signals that comes."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, lambda *_: None)
    return read


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


class _Keeper:
    def __init__(self) -> None:
        self.is_over = False
        self._pids: dict[str, int] = {}
        self._at_end: list[dict[str, Any]] = []

    def answer(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(BrokenPipeError):
            connection.settimeout(60)
            try:
                answer = self._do(json.loads(connection.makefile().readline()))
            except (OSError, ValueError, KeyError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            connection.sendall(json.dumps(answer).encode() + b"\n")

    def take_signals(self, numbers: bytes) -> None:
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self.is_over = True
        self._reap()

    def end(self) -> None:
        """Children are killed by ids that nobody else can have while they are not reaped; theirs then become ours."""
        while self._reap():
            for pid in _children():
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        for action in self._at_end:
            if "run" in action:
                subprocess.run(action["run"], check=False, stderr=subprocess.DEVNULL)
            else:
                shutil.rmtree(action["remove"], ignore_errors=True)

    def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        if "start" in request:
            return {"pid": self._start(**request["start"])}
        if "kill" in request:
            self._kill(request["kill"])
        elif "at_end" in request:
            self._at_end.append(request["at_end"])
        return {}

    def _start(self, name: str, argv: list[str], env: dict[str, str], log: str) -> int:
        self._reap()
        if name in self._pids:
            raise ValueError(f"{name} runs already")
        with open(log, "ab") as output:
            process = subprocess.Popen(
                argv,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                # Holds even if the keeper is killed, and then for this one process.
                preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
            )
        self._pids[name] = process.pid
        process.returncode = 0  # reaped here, not by subprocess
        return process.pid

    def _kill(self, name: str) -> None:
        if name in self._pids:
            os.kill(self._pids[name], signal.SIGKILL)
        while name in self._pids:
            self._reap()
            time.sleep(0.01)

    def _reap(self) -> bool:
        """Takes note of children that ended; False when there are none left."""
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._pids.clear()
                return False
            if pid == 0:
                return True
            self._pids = {name: known for name, known in self._pids.items() if known != pid}


def _children() -> list[int]:
    me, found = str(os.getpid()), []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # "pid (command) state parent …", and the command may hold anything.
            if path.read_text(errors="replace").rpartition(")")[2].split()[1] == me:
                found.append(int(path.parent.name))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("socket", type=Path)
    parser.add_argument("--owner", type=int)
    options = parser.parse_args()
    serve(options.socket, options.owner)


if __name__ == "__main__":
    sys.exit(main())
