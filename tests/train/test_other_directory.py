"""A run that was given relative paths is opened from another directory, and after it was moved, as from its own."""

import os
import shutil
from pathlib import Path

import pytest

from dist_plm.config.decode import decode
from dist_plm.spec.samples_shown.schema import SamplesShownConfig
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.spec.schema_finetune import FinetuneConfig
from dist_plm.tasks.convert.convert import convert
from dist_plm.tasks.evaluate.evaluate import measured
from dist_plm.tasks.samples.show_samples import show_samples
from dist_plm.train.startup.named_run import tokenizer_of_run
from tests.ranks.pool import World
from tests.ranks.ports import free_port
from tests.tasks.inference.models import evaluate_config, opened
from tests.train.finetuning import make_rows, settings
from tests.train.running import run_case

pytestmark = pytest.mark.ranks


def run_in(world: World, folder: Path, config: FinetuneConfig, port: int) -> int:
    here = os.getcwd()
    os.chdir(folder)
    try:
        return run_case(world, config, port)
    finally:
        os.chdir(here)


def measure(world, config):
    return measured(config, opened(world, config))


@pytest.fixture(scope="module")
def tree(ranks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with rows, a tokenizer and a run that was started in it."""
    folder = tmp_path_factory.mktemp("tree")
    (folder / "rows").mkdir()
    make_rows(folder / "rows")
    changes = {"model__activation": "gelu", "model__norm_placement": "post", "train__epochs": 1}
    config = settings(Path("rows"), Path("runs/tuned"), **changes)
    assert ranks.run(1, run_in, folder, config, free_port()) == [0]
    return folder


@pytest.mark.parametrize("moved", ["nothing", "all", "the run"])
def test_it_finds_its_tokenizer_and_its_rows(ranks, tree: Path, tmp_path: Path, monkeypatch, moved: str) -> None:
    run, data = tree / "runs" / "tuned", tree
    if moved == "all":
        data = Path(shutil.copytree(tree, tmp_path / "moved"))
        tree.rename(tmp_path / "away")
        run = data / "runs" / "tuned"
    elif moved == "the run":
        run = Path(shutil.copytree(run, tmp_path / "of mine"))
    monkeypatch.chdir(tmp_path)
    try:
        assert tokenizer_of_run(str(run)) == f"{data}/rows/vocabulary"
        assert "the film" in show_samples(SamplesShownConfig(run=str(run), step=1, limit=8))
        asked = {"from": str(run), "to": "exported", "format": "hf", "verify": False}
        convert(decode(ConvertConfig, asked))
        assert Path("exported/vocab.txt").read_bytes() == (data / "rows/vocabulary/vocab.txt").read_bytes()
        config = evaluate_config(run, data={"rows": str(data / "rows/dev.jsonl")}, on="task")
        assert ranks.run(1, measure, config)[0]["results"]["rows"] == 21
    finally:
        if moved == "all":
            (tmp_path / "away").rename(tree)
