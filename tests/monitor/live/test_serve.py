"""What the server of a watched run answers, to whom, and what it refuses; and the page in a browser that follows the run."""

import http.client
import json
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from selenium.webdriver.common.keys import Keys

from dist_plm.core.errors import UserError
from dist_plm.monitor.live import serve as serving
from dist_plm.monitor.live.serve import WatchedRuns, WatchServer, is_local, serve
from dist_plm.monitor.metrics_file import MetricsWriter, read_metrics
from tests.monitor.make import record
from tests.monitor.report_page.test_packed_columns import unpacked

TINY = Path(__file__).parents[1] / "report_page" / "tiny"


@contextmanager
def watching(*paths: Path, poll_seconds: float = 0.1) -> Iterator[WatchServer]:
    with WatchServer(WatchedRuns(paths, poll_seconds=poll_seconds), 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server: WatchServer, path: str, method: str = "GET", host: str | None = "localhost:1") -> tuple[int, str, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.putrequest(method, path, skip_host=True)
    if host is not None:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, dict(answer.headers)


@pytest.fixture(scope="module")
def server() -> Iterator[WatchServer]:
    with watching(TINY) as server:
        yield server


def test_it_listens_on_loopback_alone(server):
    assert server.socket.getsockname()[0] == "127.0.0.1"
    assert server.address.startswith(f"http://localhost:{server.server_port}/")


def test_the_page_and_its_head(server):
    status, page, headers = ask(server, f"/{server.word}/")
    assert (status, headers["Cache-Control"]) == (200, "no-store")
    assert page.startswith("<!doctype html>")
    assert "connect-src &#x27;self&#x27;" in page
    status, text, headers = ask(server, f"/{server.word}/", "HEAD")
    assert (status, text, headers["Content-Length"]) == (200, "", str(len(page.encode())))
    assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_but_reading(server, method):
    status, _, headers = ask(server, f"/{server.word}/", method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "localhost.evil.example", "127.0.0.1.evil", "", None]
)
def test_a_name_that_was_made_to_resolve_here_gets_nothing(server, host):
    assert ask(server, f"/{server.word}/", host=host)[0] == 403
    assert ask(server, f"/{server.word}/news?run=0&generation=0&from=0", host=host)[0] == 403


@pytest.mark.parametrize(
    ("hosts", "local"),
    [
        (["localhost"], True),
        (["LOCALHOST:9000"], True),
        (["127.0.0.1:80"], True),
        (["[::1]"], True),
        (["[::1]:8765"], True),
        (["localhost", "evil"], False),
        ([], False),
        (["localhost:x"], False),
        (["localhost:"], False),
        (["a@localhost"], False),
    ],
)
def test_names_of_this_machine(hosts, local):
    assert is_local(hosts) is local


@pytest.mark.parametrize("path", ["/", "/news?run=0&generation=0&from=0", "/x/", "/../etc/passwd", "//x/", "/é/", "*"])
def test_who_does_not_know_the_address_gets_nothing(server, path):
    connection = socket.create_connection(("127.0.0.1", server.server_port))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    answer = b"".join(iter(lambda: connection.recv(65536), b""))
    connection.close()
    assert answer.startswith(b"HTTP/1.0 404 ")
    assert b"loss" not in answer


@pytest.mark.parametrize(
    "query", ["", "run=9&generation=0&from=0", "run=-1&generation=0&from=0", "run=x&generation=0&from=0"]
)
def test_a_question_without_sense_is_refused(server, query):
    assert ask(server, f"/{server.word}/news?{query}")[0] == 400
    assert ask(server, f"/{server.word}/other")[0] == 404


def test_news_are_what_is_new(tmp_path):
    run = shutil.copytree(TINY, tmp_path / "run")
    with watching(run) as server, MetricsWriter(run / "metrics.jsonl", resume_step=40) as writer:

        def news(generation: int, first: int) -> dict:
            return json.loads(ask(server, f"/{server.word}/news?run=0&generation={generation}&from={first}")[1])

        first = news(0, 40)
        generation = first["generation"]
        assert first["overview"]["summary"][1][1] == "40"
        assert news(generation, 40) == {"generation": generation, "records": 40, "whole": False}
        writer.write(record(41))
        told = news(generation, 40)
        columns = unpacked(told["columns"])
        assert (told["records"], columns["step"].tolist(), told["columns"]["rows"]) == (41, [41], 1)
        seconds = sum(one["step_seconds"] for one in read_metrics(run / "metrics.jsonl"))
        assert columns["seconds"][0] == pytest.approx(seconds), "counted from the beginning"
        other = news(generation + 1, 7)
        assert (other["whole"], other["columns"]["rows"]) == (True, 41)
        assert news(generation, 99)["whole"], "the page knows more than there is"


def test_every_page_gets_the_summary_of_the_last_record(tmp_path, monkeypatch):
    run = shutil.copytree(TINY, tmp_path / "run")
    runs = WatchedRuns([run])
    now = [1000.0]
    monkeypatch.setattr(serving, "time", SimpleNamespace(monotonic=lambda: now[0]))
    assert re.search('"number": ?1}', runs.page())

    def ask_all() -> list[dict | None]:
        """What the pages are told beside the curves."""
        told = [runs.news(0, *known) for known in pages]
        for known, news in zip(pages, told, strict=True):
            known[:] = [news["generation"], news["records"], news.get("overview", {"number": known[2]})["number"]]
        return [news.get("overview") for news in told]

    pages = [[0, 40, 1], [0, 40, 1]]
    assert ask_all() == [None, None]
    with MetricsWriter(run / "metrics.jsonl", resume_step=40) as writer:
        ask_all()
        writer.write(record(41))
        assert ask_all() == [None, None], "too soon after the one before"
        now[0] += serving.OVERVIEW_SECONDS
        assert [one["summary"][1][1] for one in ask_all()] == ["41", "41"], "each gets it once it is due"
        assert ask_all() == [None, None]
    now[0] += serving.OVERVIEW_SECONDS
    (run / "step_parts.jsonl").write_text('{"step": 41, "nodes": ["n1"], "seconds": {"forward": [0.125]}}\n')
    (told, _) = ask_all()
    assert told["tables"][0][0]["rows"][1] == ["rank 0", "n1", "125.00"]


def test_a_port_that_is_taken(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port={port} cannot be listened on"):
            serve([TINY], port, lambda server: None)
        monkeypatch.setattr(serving, "PORT", port)
        ports = []

        def started(server: WatchServer) -> None:
            ports.append(server.server_port)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            serve([TINY], None, started)
    assert ports
    assert ports[0] != port


def test_the_summary_of_the_page_is_of_the_last_record(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "OVERVIEW_SECONDS", 1.0)
    run = shutil.copytree(TINY, tmp_path / "run")
    with watching(run) as server:
        browser.open(server.address)
        browser.wait_for("return document.getElementById('status').textContent.includes('step 40')")
        with MetricsWriter(run / "metrics.jsonl", resume_step=40) as writer:
            writer.write(record(41))
            browser.wait_for("return page.overview.number > 1")
            writer.write(record(1042))
        browser.wait_for("return document.getElementById('summary').textContent.includes('1,042')")


def test_what_becomes_rarer_than_half_is_no_longer_smoothed(browser, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.yaml").write_text("train: {steps: 99}\n")
    with watching(run) as server:
        browser.open(server.address)
        with MetricsWriter(run / "metrics.jsonl") as writer:
            for step in range(1, 5):
                writer.write(record(step, evaluation={"loss": 2.0}))
            browser.wait_for("return document.getElementById('status').textContent.includes('step 4')")
            browser.driver.find_element("id", "smoothing").send_keys(*[Keys.ARROW_RIGHT] * 30)
            assert "(smoothed " in browser.readout("eval/loss")
            for step in range(5, 13):
                writer.write(record(step))
            browser.wait_for("return document.getElementById('status').textContent.includes('step 12')")
            browser.wait_for(
                "return page.charts.find((one) => one.measure.title === 'Loss').curves[0].xs.length === 12"
            )
            assert browser.readout("eval/loss") == "2 at 4"
            assert "(smoothed " in browser.readout("loss")
        assert browser.problems() == []  # a page asks on, and complains, once nobody serves it


def test_the_page_follows_the_run_in_a_browser(browser, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.yaml").write_text("train: {steps: 9}\n")
    shown = "return [...(page.charts.find((one) => one.measure.title === 'Loss')?.plot?.data[0] ?? [])].join()"
    with watching(run) as server:
        browser.open(server.address)
        browser.wait_for("return document.getElementById('status').textContent.includes('no step logged yet')")
        with MetricsWriter(run / "metrics.jsonl") as writer:
            for step in (1, 2, 3):
                writer.write(record(step))
            browser.wait_for(f"{shown} === '1,2,3'")
            writer.write(record(4, evaluation={"loss": 2.0}))
            browser.wait_for(f"{shown} === '1,2,3,4'")
            browser.wait_for("return document.querySelector('[data-measure=\"eval/loss\"]') !== null")
        with MetricsWriter(run / "metrics.jsonl", resume_step=2) as writer:
            (run / "starts.jsonl").write_text('{"id": "a"}\n{"id": "b"}\n')
            (run / "resumes.jsonl").write_text('{"id": "b", "step": 2}\n')
            writer.write(record(3, loss=9.5))
            browser.wait_for(f"{shown} === '1,2,3'")
            told = browser.readout("loss")
            assert told == "9.5 at 3"
            assert browser.run("return page.runs[0].marks('step').length") == 1
            # The run heals itself: it gives up step 3, and says so with the next record.
            writer.rewind(2)
            worst = {"worst_first_sample": 8, "worst_last_sample": 9}
            healed = {"rollbacks": 1, "noticed": 3, "step": 2, "skipped_samples": 4, **worst}
            writer.write(record(3, loss=1.5, heal=healed))
            browser.wait_for("return document.getElementById('events').textContent.includes('rollback')")
            assert browser.readout("loss") == "1.5 at 3"
            browser.over("loss", 0.995).perform()
            browser.wait_for("return document.querySelector('.readout .mark') !== null")
            assert (
                "rollback: step 3 was bad, the run went back to step 2, 4 samples are left out so far"
                in browser.readout("loss")
            )
            assert "step 3, from which the run went back: samples 8 to 9" in browser.text("#samples")
            writer.write(record(4, observed={"step_parts/data": 0.5}))
            browser.wait_for("return document.querySelector('[data-measure=\"step_parts/data\"]') !== null")
            assert browser.run("return page.charts.find((one) => one.measure.title === 'Loss').curves[0].xs") == [
                1,
                2,
                3,
                4,
            ]
        assert all(url.startswith(server.address) for url in browser.asked())
        assert browser.problems() == []
    browser.wait_for("return document.getElementById('status').textContent.includes('is not followed any more')")
