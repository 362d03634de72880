"""What is said on import of Megatron-core."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import dist_plm.distributed
import megatron.core.models.gpt, megatron.core.optimizer, megatron.core.distributed
import warnings
warnings.warn("Apex is not installed. Falling back to something of our own", UserWarning)
warnings.warn("something else", UserWarning)
"""


def test_only_the_fallbacks_of_megatron_are_silenced():
    command = [sys.executable, "-W", "default::UserWarning", "-c", SCRIPT]
    result = subprocess.run(command, cwd=Path(__file__).parents[2], check=True, stderr=subprocess.PIPE, text=True)
    said = [line for line in result.stderr.splitlines() if "Warning:" in line]
    assert [line.split("Warning: ")[1] for line in said] == [
        "Apex is not installed. Falling back to something of our own",
        "something else",
    ]
