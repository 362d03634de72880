"""A run goes on from its own newest checkpoint, however it began: train.resume=PATH and =none say how a new one begins."""

import shutil

import pytest

from dist_plm.checkpoint.storage import LocalStorage
from dist_plm.monitor.metrics_file import read_metrics
from tests.ranks.pool import RanksError
from tests.ranks.ports import free_port
from tests.train.running import make_store, run_case, settings

pytestmark = pytest.mark.ranks

LOG = "log/rank_00000.log"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "tokens")


@pytest.fixture(scope="module")
def first(ranks, store, tmp_path_factory):
    """A run of which 2 and 4 are kept."""
    run_dir = tmp_path_factory.mktemp("first")
    train(ranks, store, run_dir, train__stop_at=4)
    return run_dir


def train(ranks, store, run_dir, **changes):
    config = settings(store, run_dir, **{"checkpoint__every": 2, "checkpoint__keep": 9, **changes})
    assert ranks.run(1, run_case, config, free_port()) == [0]


def begun_at(run_dir):
    """The steps from which each start went on; 0 for a beginning."""
    lines = (run_dir / LOG).read_text().splitlines()
    starts = [line for line in lines if "training samples:" in line]
    resumed = [line.partition("resumed from ")[2].partition(":")[0] for line in lines if "resumed from /" in line]
    return len(starts), resumed


def test_a_run_that_began_with_a_path_goes_on_from_itself(ranks, store, first, tmp_path):
    begin = {"train__resume": str(first / "checkpoints/step_00000002")}
    train(ranks, store, tmp_path / "run", train__stop_at=6, **begin)
    train(ranks, store, tmp_path / "run", train__stop_at=8, **begin)
    assert begun_at(tmp_path / "run") == (
        2,
        [f"{first}/checkpoints/step_00000002", f"{tmp_path}/run/checkpoints/step_00000006"],
    )
    assert [r["step"] for r in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [3, 4, 5, 6, 7, 8]
    assert "train.resume says how this run began" in (tmp_path / "run" / LOG).read_text()


def test_it_does_so_when_the_path_is_gone_and_after_a_start_with_auto(ranks, store, first, tmp_path):
    begin = {"train__resume": str(shutil.copytree(first, tmp_path / "copy"))}
    train(ranks, store, tmp_path / "run", train__stop_at=6, **begin)
    train(ranks, store, tmp_path / "run", train__stop_at=8)
    shutil.rmtree(tmp_path / "copy")
    train(ranks, store, tmp_path / "run", train__stop_at=10, **begin)
    assert begun_at(tmp_path / "run")[1][1:] == [f"{tmp_path}/run/checkpoints/step_{step:08d}" for step in (6, 8)]


def test_a_run_that_began_anew_goes_on_from_itself(ranks, store, first, tmp_path):
    """Also where it began in the directory of an older run."""
    run_dir = shutil.copytree(first, tmp_path / "run")
    train(ranks, store, run_dir, train__stop_at=3, train__resume="none")
    train(ranks, store, run_dir, train__stop_at=6, train__resume="none")
    assert begun_at(run_dir) == (3, [f"{run_dir}/checkpoints/step_00000003"])
    assert [r["step"] for r in read_metrics(run_dir / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_a_run_goes_back_to_an_earlier_checkpoint_of_its_own_once(ranks, store, first, tmp_path):
    run_dir = shutil.copytree(first, tmp_path / "run")
    back = {"train__resume": str(run_dir / "checkpoints/step_00000002"), "optim__lr": 1e-3}
    train(ranks, store, run_dir, train__stop_at=3, **back)
    train(ranks, store, run_dir, train__stop_at=5, **back)
    assert begun_at(run_dir)[1] == [f"{run_dir}/checkpoints/step_{step:08d}" for step in (2, 3)]


def test_weights_alone_that_a_run_began_with_are_not_loaded_again(ranks, store, first, tmp_path):
    begin = {"train__init_from": str(first), "train__resume": "none"}
    train(ranks, store, tmp_path / "run", train__stop_at=3, **begin)
    train(ranks, store, tmp_path / "run", train__stop_at=4, **begin)
    logged = (tmp_path / "run" / LOG).read_text()
    assert logged.count("begun with the weights of") == 1
    assert begun_at(tmp_path / "run")[1] == [f"{tmp_path}/run/checkpoints/step_00000003"]


def test_its_own_damaged_checkpoints_do_not_send_it_back_to_the_path(ranks, store, first, tmp_path):
    begin = {"train__resume": str(first / "checkpoints/step_00000002")}
    train(ranks, store, tmp_path / "run", train__stop_at=3, **begin)
    (step,) = LocalStorage(tmp_path / "run" / "checkpoints").steps()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step_{step:08d}" / "__0_0.distcp", ignore_errors=True)
    (tmp_path / "run" / "checkpoints" / f"step_{step:08d}" / "__0_0.distcp").write_bytes(b"")
    with pytest.raises(RanksError, match=r"no checkpoint in .*run/checkpoints can be used"):
        train(ranks, store, tmp_path / "run", train__stop_at=4, **begin)


def test_a_run_whose_checkpoints_are_gone_begins_anew_only_where_it_is_told_to(ranks, store, first, tmp_path):
    run_dir = shutil.copytree(first, tmp_path / "run")
    for path in (run_dir / "checkpoints").glob("step_*"):
        shutil.rmtree(path)
    with pytest.raises(RanksError, match=r"latest names step_00000004, and no checkpoint is there"):
        train(ranks, store, run_dir, train__stop_at=6)
    assert [r["step"] for r in read_metrics(run_dir / "metrics.jsonl")] == [1, 2, 3, 4], "nothing is lost by that"
    train(ranks, store, run_dir, train__stop_at=2, train__resume="none")
    assert "no checkpoint is there: the run begins as train.resume=none says" in (run_dir / LOG).read_text()
    assert LocalStorage(run_dir / "checkpoints").steps() == [2]
