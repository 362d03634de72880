"""Serves a page of runs that go on, to this machine's users who know its address, and lets them read only.

Other users of a login node may connect to its loopback as well: so the address holds a word that nobody guesses. A page of
elsewhere may have a name of its own resolve to this machine (DNS rebinding): so the Host that is asked must be a loopback's.
"""

import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from dist_plm.core.errors import UserError
from dist_plm.core.parsing import whole_number
from dist_plm.monitor.live.follow import FollowedRun
from dist_plm.monitor.report_page.build import overview_of, page_of
from dist_plm.monitor.report_page.packed_columns import MOST_VALUES, columns_of
from dist_plm.monitor.report_page.run_facts import events_of, facts_of, samples_of, starts_of
from dist_plm.monitor.report_page.run_tables import PROFILES, STEP_PARTS, tables_of
from dist_plm.monitor.report_page.worst_samples import worst_samples

LOOPBACK, PORT = "127.0.0.1", 8765
#: Between two questions of a page, and between two overviews, which read all records.
POLL_SECONDS, OVERVIEW_SECONDS = 2.0, 10.0
#: A connection that says nothing is closed.
_PATIENCE_SECONDS = 30
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class WatchedRuns:
    """Runs that pages ask about, from several threads."""

    def __init__(self, paths: Sequence[Path], *, poll_seconds: float = POLL_SECONDS) -> None:
        """Raises UserError where a path is no run's directory."""
        self._runs = [FollowedRun(path) for path in paths]
        self._poll_seconds = poll_seconds
        self._lock = threading.Lock()
        # What is told beside the curves, counted from 1, and of which state of the files it is.
        self._overview: dict[str, Any] = {"number": 0}
        self._overview_of: list[Any] = []
        self._next_overview = 0.0
        for run in self._runs:
            run.update()

    def page(self) -> str:
        """The page with all that is known now."""
        with self._lock:
            facts = []
            for run in self._runs:
                run.update()
                known = {"generation": run.generation, "records": len(run.records)}
                facts.append({**facts_of(run.run(), most_values=MOST_VALUES // len(self._runs)), **known})
            self._next_overview = 0.0
            return page_of(facts, self._newest_overview(), {"seconds": self._poll_seconds})

    def news(self, number: int, generation: int, first: int, overview: int | None = None) -> dict[str, Any] | None:
        """Tells what a page lacks of a run: of records from number `first` of a generation; None where there is no such run.

        Args:
            overview: the number of the overview that the page has; None: it gets one with records alone.
        """
        with self._lock:
            if number >= len(self._runs):
                return None
            run = self._runs[number]
            run.update()
            whole = generation != run.generation or first > len(run.records)
            first = 0 if whole else first
            answer: dict[str, Any] = {"generation": run.generation, "records": len(run.records), "whole": whole}
            if whole or first < len(run.records):
                answer["columns"] = columns_of(run.records[first:], seconds=run.seconds[first:])
                told = {
                    "starts": starts_of(run.path),
                    "events": events_of(run.records),
                    "samples": [*worst_samples(run.path, run.records, None), *samples_of(run.path)],
                }
                answer["facts"] = told
            if overview is not None or "columns" in answer:
                newest = self._newest_overview()
                if newest["number"] != overview:
                    answer["overview"] = newest
            return answer

    def _newest_overview(self) -> dict[str, Any]:
        """The overview, made anew where something has changed since and the one before is old enough. All pages share it."""
        if time.monotonic() < self._next_overview:
            return self._overview
        found = [[run.generation, len(run.records), *_changed(run.path)] for run in self._runs]
        if found != self._overview_of:
            known = [run.run() for run in self._runs]
            tables = [tables_of(run.path) for run in known]
            self._overview = {**overview_of(known), "tables": tables, "number": self._overview["number"] + 1}
            self._overview_of, self._next_overview = found, time.monotonic() + OVERVIEW_SECONDS
        return self._overview


def _changed(run_dir: Path) -> list[int | None]:
    """When what an overview shows beside records was last written; None where it is not there."""
    found: list[int | None] = []
    for name in ("run.yaml", STEP_PARTS, PROFILES):
        try:
            found.append((run_dir / name).stat().st_mtime_ns)
        except OSError:
            found.append(None)
    return found


class _Handler(BaseHTTPRequestHandler):
    server: "WatchServer"
    server_version, sys_version = "dist_plm", ""
    timeout = _PATIENCE_SECONDS
    _answers: ClassVar[dict[str, str]] = {"": "text/html; charset=utf-8", "news": "application/json"}

    def do_GET(self) -> None:
        if not is_local(self.headers.get_all("Host") or []):
            return self._say(HTTPStatus.FORBIDDEN, "ask for localhost")
        place = urlsplit(self.path)
        word, _, name = place.path.lstrip("/").partition("/")
        if not hmac.compare_digest(word.encode(), self.server.word.encode()) or name not in self._answers:
            return self._say(HTTPStatus.NOT_FOUND, "open the address that launch/watch.py printed")
        try:
            content = self._content(name, place.query)
        except UserError as error:
            return self._say(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        if content is None:
            return self._say(HTTPStatus.BAD_REQUEST, "no such run")
        return self._say(HTTPStatus.OK, content, self._answers[name])

    def do_HEAD(self) -> None:
        self.do_GET()

    def _content(self, name: str, query: str) -> str | None:
        if name == "":
            return self.server.runs.page()
        asked = {key: whole_number(values[-1]) for key, values in parse_qs(query).items()}
        number, generation, first = (asked.get(key) for key in ("run", "generation", "from"))
        if number is None or generation is None or first is None:
            return None
        news = self.server.runs.news(number, generation, first, asked.get("overview"))
        return None if news is None else json.dumps(news, allow_nan=False)

    def refuse(self) -> None:
        """Answers whatever is neither GET nor HEAD."""
        self._say(HTTPStatus.METHOD_NOT_ALLOWED, "this page can only be read", Allow="GET, HEAD")

    def _say(self, status: HTTPStatus, text: str, kind: str = "text/plain; charset=utf-8", **headers: str) -> None:
        content = text.encode(errors="replace")
        self.send_response(status)
        told = {**_HEADERS, **headers, "Content-Type": kind, "Content-Length": str(len(content))}
        for name, value in told.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: what is asked for holds the word of the address."""


for _method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"):
    setattr(_Handler, f"do_{_method}", _Handler.refuse)


class WatchServer(ThreadingHTTPServer):
    """Listens on loopback alone."""

    daemon_threads = True

    def __init__(self, runs: WatchedRuns, port: int) -> None:
        """Raises OSError where the port is taken; 0 takes a free one."""
        self.runs, self.word = runs, secrets.token_urlsafe(16)
        super().__init__((LOOPBACK, port), _Handler)

    @property
    def address(self) -> str:
        """Gives what a browser on this machine opens."""
        return f"http://localhost:{self.server_port}/{self.word}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of browsers that went away."""


def is_local(hosts: Sequence[str]) -> bool:
    """Whether a request names this machine, and it once, by a name that no other machine has; through ssh the port differs."""
    if len(hosts) != 1:
        return False
    name, colon, port = hosts[0].rpartition(":") if not hosts[0].endswith("]") else (hosts[0], "", "")
    return (name if colon else hosts[0]).lower() in _LOCAL_NAMES and (not colon or whole_number(port) is not None)


def serve(paths: Sequence[Path], port: int | None, started: Callable[[WatchServer], None]) -> None:
    """Serves runs until it is interrupted.

    Args:
        port: None takes `PORT`, or a free one where that is taken.
        started: called once it listens.
    Raises:
        UserError: a path is no run's directory, or the port is taken.
    """
    runs = WatchedRuns(paths)
    try:
        server = WatchServer(runs, PORT if port is None else port)
    except (OSError, OverflowError):
        if port is not None:
            raise UserError(f"port={port} cannot be listened on: name another one, or none") from None
        server = WatchServer(runs, 0)
    with server:
        started(server)
        server.serve_forever()
