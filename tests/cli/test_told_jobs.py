import os
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
