import os
import signal
import subprocess
import sys

import pytest

from dist_plm.cli.submitting.told_jobs import told
from dist_plm.cluster.submit import Submission
from tests.cluster.make import submission


def test_a_reader_that_is_gone_keeps_no_further_job_from_being_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    config = submission(run__dir="runs/one")
    with os.fdopen(writer, "w") as unread:
        monkeypatch.setattr(sys, "stdout", unread)
        assert told(Submission(config, config, ()), "7", {}).number == "7"


def test_watching_ends_quietly_when_its_reader_is_gone() -> None:
    body = (
        "from dist_plm.cli.submitting import told_jobs\n"
        "told_jobs.watch = lambda jobs, say: [say('step 1') for _ in range(10**6)]\n"
        "told_jobs.watched([])\n"
    )
    with subprocess.Popen([sys.executable, "-c", body], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert watching.stdout.readline() == b"step 1\n"
        watching.stdout.close()
        assert watching.stderr.read() == b""
    assert watching.returncode == -signal.SIGPIPE
