"""Runs tests/gpu, several tests at once on a GPU where pytest-xdist is there: most of their time is the host's, which starts
processes and compiles. `GPU_TESTS_AT_ONCE` says how many; arguments go to pytest.

    tools/gpu_python.sh tools/gpu_tests.py -k attention
"""

import importlib.util
import os
import sys

import pytest
import torch

#: Each has a process on the GPU for itself and one on the CPU.
CORES_OF_ONE = 2
MOST = 8


def at_once() -> int:
    """How many tests to run at once; 0 is one after the other, in this process."""
    if importlib.util.find_spec("xdist") is None or not torch.cuda.is_available():
        return 0
    return int(os.environ.get("GPU_TESTS_AT_ONCE") or min(MOST, len(os.sched_getaffinity(0)) // CORES_OF_ONE))


def main() -> int:
    # Each test's own compilation would otherwise start as many processes as there are cores.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(CORES_OF_ONE))
    spread = ["-n", str(number), "--dist", "worksteal"] if (number := at_once()) > 1 else []
    return pytest.main(["tests/gpu", "-rs", "--durations=10", *spread, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
