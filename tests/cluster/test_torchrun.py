import subprocess
import sys
from pathlib import Path

import pytest

from dist_plm.cluster.torchrun import exit_code


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([75, 75], 75),
        ([0, 75], 75),
        ([2, 2], 2),
        ([75, 2], 2),
        ([75, 1], 1),
        ([75, -15], 75),
        ([75, -10, -15], 75),
        ([-15], 143),
        ([1, -9, -15], 137),
        ([-6, 75], 134),
        ([-11, -6], 134),
    ],
)
def test_one_exit_code_for_all_ranks(codes: list[int], expected: int) -> None:
    assert exit_code(codes) == expected
    assert exit_code(reversed(codes)) == expected


@pytest.mark.ranks
@pytest.mark.parametrize("codes", [(0, 0), (75, 75), (0, 2)])
def test_real_ranks(tmp_path: Path, codes: tuple[int, int]) -> None:
    rank = tmp_path / "rank.py"
    rank.write_text(f"import os, sys\nsys.exit({codes}[int(os.environ['RANK'])])\n")
    argv = [sys.executable, "-m", "dist_plm.cluster.torchrun", "--standalone", "--local-addr=127.0.0.1"]
    done = subprocess.run([*argv, "--nproc-per-node=2", str(rank)], capture_output=True, text=True, check=False)
    assert done.returncode == max(codes), done.stderr
    assert "Traceback" not in done.stderr
