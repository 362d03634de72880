"""Reads what a run gave MLflow, with MLflow's own client."""

import os
from pathlib import Path
from typing import Any

import pytest


def only_mlflow_run(run_dir: Path) -> tuple[Any, Any]:
    """The client of a run directory's store, and the one run in it."""
    mlflow = pytest.importorskip("mlflow")
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    client = mlflow.MlflowClient(tracking_uri=(run_dir / "mlflow").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("dist_plm").experiment_id])
    return client, run
