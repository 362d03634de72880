"""Commands that only look answer at once, as they import little: told by modules, as seconds are others each time."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.running import make_store

REPOSITORY = Path(__file__).parents[2]
#: Each takes a twentieth of a second or more, and none is needed for what is asked here.
HEAVY = {
    "torch",
    "megatron",
    "transformers",
    "datasets",
    "pyarrow",
    "sentencepiece",
    "google.protobuf",
    "tqdm",
    "wandb",
}
OWN = ("model=gpt_tiny", "model.vocab_size=97", "model.max_positions=64", "data.sequence_length=16", "train.steps=1")
COMMANDS = {
    "convert": ("inspect=RUN",),
    "pretrain": ("--check", "data.path=STORE", *OWN),
    "submit": ("submit.dry_run=true", "cluster=example_cpu", "data.path=STORE", *OWN),
}
PROGRAM = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    print("", end.code, *sys.modules, sep="\\n")
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    store = make_store(tmp_path_factory.mktemp("store") / "tokens")
    return {"RUN": str(REPOSITORY / "tests/fixtures/before/run"), "STORE": str(store)}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_only_looks_imports_nothing_heavy(command, places):
    text = "\n".join(COMMANDS[command])
    for name, path in places.items():
        text = text.replace(name, path)
    start = [sys.executable, "-c", PROGRAM, f"launch/{command}.py", *text.split("\n")]
    done = subprocess.run(start, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    said = done.stdout.split("\n")
    assert "0" in said, (said, done.stderr)
    modules = set(said[said.index("0") :])
    assert "numpy" in modules, "it has looked at the data"
    assert not modules & HEAVY
