"""Conversions, as a user starts them, whose files grow beyond what the disk, or a limit, allows."""

import itertools
import resource
import subprocess
import sys

import pytest

from dist_plm.core.errors import EXIT_REFUSED
from tests.ranks.selection import covering
from tests.tasks.convert.hf_dirs import save
from tests.train.conftest import ROOT


def convert(*settings, limit=None):
    """As a program whose files may have `limit` bytes."""

    def confine():
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    argv = [sys.executable, "launch/convert.py", *settings]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, preexec_fn=confine, timeout=300, check=False)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Of Hugging Face, and a checkpoint of them."""
    theirs, ours = tmp_path_factory.mktemp("theirs"), tmp_path_factory.mktemp("ours") / "imported"
    save("gpt2", theirs)
    done = convert(f"from={theirs}", f"to={ours}")
    assert done.returncode == 0, done.stderr
    return {"canonical": theirs, "hf": ours}


@pytest.mark.parametrize(
    ("form", "limit"),
    covering(
        itertools.product(["canonical", "hf"], [100, 5_000, 20_000]),
        [("canonical", 20_000), ("hf", 100), ("hf", 5_000)],
    ),
)
def test_a_file_that_cannot_grow_is_one_message_and_leaves_nothing(weights, tmp_path, form, limit):
    done = convert(f"from={weights[form]}", f"to={tmp_path}/out", f"format={form}", limit=limit)
    assert done.returncode == EXIT_REFUSED, done.stderr
    assert f"to = {tmp_path}/out cannot be written: " in done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
