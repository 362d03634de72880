"""Memory of an evaluation on labelled rows holds their tokens and what was answered, not the scores."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from tests.data.labelled.words import WORDS, write_vocabulary
from tests.tasks.inference.models import small_bert
from tests.train.conftest import ROOT

#: Words of a row, and tags: scores of a row are so many fp32.
LENGTH, TAGS = 40, 100
#: Three and two times as many as are read at once (train/labelled.py), which takes as much of either.
MANY, FEW = 24_576, 16_384
#: The command, which tells the most memory that it had.
MEASURED = """
import atexit, resource, sys
atexit.register(lambda: print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
from dist_plm.cli.commands.evaluate import main
main()
"""


@pytest.fixture(scope="module")
def tagger(tmp_path_factory) -> Path:
    directory = write_vocabulary(tmp_path_factory.mktemp("tagger"))
    names = [f"B-{number}" for number in range(TAGS)]
    tagger = small_bert(transformers.BertForTokenClassification, directory, names, layers=1, positions=LENGTH + 2)
    tagger.save_pretrained(directory)
    return directory


def peak(tagger: Path, folder: Path, count: int) -> int:
    """Bytes, of so many rows."""
    draw, path = random.Random(5), folder / f"{count}.jsonl"
    words = [word for word in WORDS if not word.startswith("#")]
    with path.open("w") as file:
        for _ in range(count):
            tags = [f"B-{draw.randrange(TAGS)}" for _ in range(LENGTH)]
            file.write(json.dumps({"tokens": draw.choices(words, k=LENGTH), "tags": tags}) + "\n")
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, f"from={tagger}", "on=task", f"data.rows={path}", "batch_size=64"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count:,}" in done.stdout
    return int(done.stdout.split("peak")[1].split()[0])


@pytest.mark.slow
def test_scores_are_not_kept(tagger, tmp_path) -> None:
    more = peak(tagger, tmp_path, MANY) - peak(tagger, tmp_path, FEW)
    tokens, scores = (rows * LENGTH * 4 for rows in (MANY - FEW, (MANY - FEW) * TAGS))
    assert more < 20 * tokens < scores / 2, f"{more / 2**20:.1f} MiB more"
