"""As much of a wandb server as a run asks for, on this machine: which steps of it are known, and what is sent after them."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROJECT = {"id": "P", "name": "project", "entity": {"id": "E", "name": "entity"}}


class Server(ThreadingHTTPServer):
    """Knows a run up to `last_step`; `sent` are the steps that it was given, in their order, and `summary` what is told beside.

    Args:
        status: of every answer: 401 where it does not know the key, 500 where it is broken.
    """

    def __init__(self, last_step: int, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.last_step, self.status = last_step, status
        self.sent: list[int] = []
        self.summary: dict[str, Any] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(last_step: int, status: int = 200) -> Iterator[Server]:
    server = Server(last_step, status)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self._answer({})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path.endswith("/graphql"):
            asked = json.loads(body)
            self._answer({"data": self._data(asked["query"], asked.get("variables") or {})})
        elif self.path.endswith("/file_stream"):
            files = json.loads(body).get("files", {})
            history = files.get("wandb-history.jsonl", {"content": []})
            for line in files.get("wandb-summary.json", {"content": []})["content"]:
                self.server.summary |= json.loads(line)
            self.server.sent += [json.loads(line)["_step"] for line in history["content"]]
            self._answer({"exitcode": None, "limits": {}})
        else:
            self._answer({})

    def _data(self, query: str, asked: dict[str, Any]) -> dict[str, Any]:
        if "RunResumeStatus" in query:
            return {"model": PROJECT | {"bucket": self._run(asked["name"])}}
        if "UpsertBucket" in query:
            return {"upsertBucket": {"bucket": {**self._run(""), "project": PROJECT}, "inserted": False}}
        if "CreateRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.server.url}/upload"} for name in asked["files"]]
            return {"createRunFiles": {"runID": "R", "uploadHeaders": [], "files": files}}
        return {}

    def _run(self, name: str) -> dict[str, Any]:
        last = json.dumps({"_step": self.server.last_step, "_runtime": 1})
        counts = {"logLineCount": 0, "historyLineCount": self.server.last_step, "eventsLineCount": 0}
        tails = {"historyTail": json.dumps([last]), "eventsTail": "[]", "summaryMetrics": last}
        told = {"id": "R", "name": name, "displayName": "run", "config": "{}", "wandbConfig": '{"t": 1}', "tags": []}
        return told | counts | tails | {"stopped": False}

    def _answer(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
