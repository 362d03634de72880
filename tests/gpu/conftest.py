"""Each test runs on the CPU, and the same body on a CUDA device where there is one: `make test-gpu`.

`on(n, fn, *args)` gives the results of `fn(world, *args)` on n ranks of the device at hand.
"""

import json
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ranks.pool import RankPool

#: Where `make test-gpu` wants the outcome of each test as JSON.
REPORT = "GPU_TEST_REPORT"
_HERE = "tests/gpu/"


def why_not(num: int = 1) -> str | None:
    """Says why `num` ranks cannot each compute on a CUDA device of this machine."""
    if torch.version.cuda is None:
        return f"no CUDA device: PyTorch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return f"no CUDA device: PyTorch {torch.__version__} finds none (look at nvidia-smi)"
    if torch.cuda.device_count() < num and os.environ.get("NCCL_MULTI_RANK_GPU_ENABLE") != "1":
        return f"{num} ranks need as many GPUs, this machine shows {torch.cuda.device_count()}"
    return None


def cuda(num: int = 1) -> Any:
    """CUDA as a parameter of a test of `num` ranks; its absence is shown as the reason of a skip."""
    reason = why_not(num)
    return pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(reason is not None, reason=reason or "")])


@pytest.fixture(params=["cpu", cuda()])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def cuda_ranks() -> Iterator[RankPool]:
    pool = RankPool(device="cuda", timeout_seconds=240.0)
    yield pool
    pool.close()


@pytest.fixture
def on(device: str, request: pytest.FixtureRequest) -> Callable[..., list[Any]]:
    """`RankPool.run` of the device at hand. A case that fails leaves its process, and what it did to the GPU, behind."""
    return request.getfixturevalue("ranks" if device == "cpu" else "cuda_ranks").run


_outcomes: list[dict[str, Any]] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.nodeid.startswith(_HERE) and (report.when == "call" or report.outcome != "passed"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext[-4000:]
        found = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 3)}
        _outcomes.append({**found, "why": reason} if report.outcome != "passed" else found)


def pytest_sessionfinish() -> None:
    if not (path := os.environ.get(REPORT)) or "PYTEST_XDIST_WORKER" in os.environ:  # whose outcomes its master has
        return
    facts = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
    if why_not() is None:
        facts["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps({"facts": facts, "tests": _outcomes}, indent=1) + "\n", encoding="utf-8")
