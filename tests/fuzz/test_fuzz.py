"""A bounded look with the same cases each time; `python -m tests.fuzz.run --seconds 600 --seed N` looks for new ones."""

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.areas import AREAS
from tests.fuzz.mutate import mutate_json

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("cases", [6, pytest.param(12, marks=pytest.mark.slow)])
def test_broken_files_and_settings_are_refused_with_one_message_or_read_right(tmp_path: Path, cases: int) -> None:
    """Of each area some cases, in processes of their own: a library that aborts, hangs or eats memory is found too."""
    command = [sys.executable, "-m", "tests.fuzz.run", f"--cases={cases}", "--seconds=40", f"--keep={tmp_path}"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("area", AREAS)
def test_every_area_says_what_it_breaks(area: str) -> None:
    assert (AREAS[area].__doc__ or "").strip()


def test_cases_are_the_same_each_time() -> None:
    data = b'{"a": [1, {"b": "c"}], "d": null}'
    made = [mutate_json(data, Random(f"x {seed}")) for seed in range(200)]
    assert made == [mutate_json(data, Random(f"x {seed}")) for seed in range(200)]
    assert len(set(made)) > 100
