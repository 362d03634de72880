"""What fails after a run's records are open, and before its first step, is told to trackers as any other failure."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import dist_plm.train.build as build
from dist_plm.train.metrics_logger import MetricsLogger
from tests.monitor.read_back import only_mlflow_run
from tests.ranks.pool import RanksError
from tests.ranks.ports import free_port
from tests.train.running import before, make_store, run_case, settings

pytestmark = pytest.mark.ranks

#: A name: what fails, with what, and what a person is told.
FAULTS: dict[str, tuple[Any, str, type[Exception], str]] = {
    "no memory": (build, "build_checkpoints", torch.OutOfMemoryError, "ConfigError.* does not fit in the GPU's memory"),
    "a checkpoint that is none": (
        MetricsLogger,
        "load_state",
        KeyError,
        "CheckpointError.*`loop.recorder` is not what a run",
    ),
}


def failing_case(world, config, port, name: str) -> int:
    owner, function, error, _ = FAULTS[name]

    def fail() -> None:
        raise error("on purpose")

    with before(owner, function, 1, fail):
        return run_case(world, config, port)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store") / "tokens")


@pytest.fixture(scope="module")
def good(ranks, store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("good") / "run"
    assert ranks.run(1, run_case, settings(store, run_dir, train__stop_at=4), free_port()) == [0]
    return run_dir


@pytest.mark.parametrize(("name", "num_ranks"), [("no memory", 2), ("a checkpoint that is none", 1)])
def test_trackers_hear_of_it(ranks, store, good, tmp_path, name, num_ranks):
    run_dir = shutil.copytree(good, tmp_path / "run")
    config = settings(store, run_dir, track__to=["mlflow"])
    with pytest.raises(RanksError, match=f"(?s){FAULTS[name][3]}"):
        ranks.run(num_ranks, failing_case, config, free_port(), name)
    assert only_mlflow_run(run_dir)[1].info.status == "FAILED"
