"""A run that has diverged neither ends well nor takes its good checkpoints with it."""

import math
import shutil
from itertools import count
from unittest.mock import patch

import pytest

from dist_plm.checkpoint.storage import LocalStorage
from dist_plm.engines.megatron.engine import MegatronEngine
from dist_plm.monitor.metrics_file import read_metrics
from tests.checkpoint.poison import poison
from tests.monitor.read_back import only_mlflow_run
from tests.ranks.pool import RanksError
from tests.ranks.ports import free_port
from tests.train.running import make_store, run_case, settings, signalled_case

pytestmark = pytest.mark.ranks

LONG = {"train__steps": 60, "checkpoint__every": 5, "train__max_skipped": 12}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "tokens")


@pytest.fixture(scope="module")
def good(ranks, store, tmp_path_factory):
    """A run whose checkpoints 15 and 20 are there."""
    run_dir = tmp_path_factory.mktemp("good")
    assert ranks.run(1, run_case, settings(store, run_dir, **LONG, train__stop_at=20), free_port()) == [0]
    assert LocalStorage(run_dir / "checkpoints").steps() == [15, 20]
    return run_dir


def go_on(ranks, store, run_dir, num_ranks=1, **changes):
    config = settings(store, run_dir, **{**LONG, **changes})
    return ranks.run(num_ranks, run_case, config, free_port())


def diverges(ranks, store, run_dir, num_ranks=1, **changes):
    """What the run that begins with a rate that explodes ends with."""
    with pytest.raises(RanksError, match="Diverged") as told:
        go_on(ranks, store, run_dir, num_ranks, **{"optim__lr": 1e20, **changes})
    return str(told.value)


def latest(run_dir):
    return (run_dir / "checkpoints" / "latest").read_text().strip()


def in_mlflow(run_dir):
    """How the one run there has ended, and its artifacts."""
    client, run = only_mlflow_run(run_dir)
    return run.info.status, [one.path for one in client.list_artifacts(run.info.run_id)]


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_good_checkpoints_stay_and_a_sane_rate_goes_on_from_them(ranks, store, good, tmp_path, num_ranks):
    run_dir = shutil.copytree(good, tmp_path / "run")
    said = diverges(ranks, store, run_dir, num_ranks, checkpoint__every=10, track__to=["mlflow", "csv"])
    assert in_mlflow(run_dir) == ("FAILED", ["report.html"])
    assert (run_dir / "report.html").read_text().startswith("<!doctype html>")
    assert "12 updates in a row were skipped" in said
    assert f"The last good step is 21; the newest good checkpoint is {run_dir}/checkpoints/step_00000020" in said
    assert "lower optim.lr" in said
    assert LocalStorage(run_dir / "checkpoints").steps() == [15, 20]
    assert latest(run_dir) == "step_00000020"
    assert go_on(ranks, store, run_dir, num_ranks, train__stop_at=30, track__to=["mlflow"]) == [0] * num_ranks
    assert in_mlflow(run_dir) == ("FINISHED", ["report.html"])
    assert "the loss is nan, its update is skipped" in (run_dir / "log" / "rank_00000.log").read_text()


def test_a_run_without_a_single_update_does_not_end_well(ranks, store, tmp_path):
    """Its losses are finite, and its last checkpoint would be what it began with."""
    fp16 = {"precision__name": "fp16", "precision__initial_loss_scale": 1e30, "train__steps": 5}
    with pytest.raises(RanksError, match="none of its 5 updates could be made, as no gradient was finite"):
        ranks.run(1, run_case, settings(store, tmp_path, **fp16), free_port())
    assert not LocalStorage(tmp_path / "checkpoints").steps()


def test_one_that_stops_while_the_loss_scale_still_falls_goes_on_with_it(ranks, store, tmp_path):
    scaling = {"initial_loss_scale": 2.0**22, "loss_scale_hysteresis": 1}
    fp16 = {"precision__name": "fp16", **{f"precision__{name}": value for name, value in scaling.items()}}
    for name, starts in {"whole": (8,), "stopped": (2, 8)}.items():
        for stop_at in starts:
            config = settings(store, tmp_path / name, **fp16, train__steps=8, train__stop_at=stop_at)
            assert ranks.run(1, run_case, config, free_port()) == [0]
    whole, stopped = (
        [[record[key] for key in ("step", "loss", "loss_scale", "skipped")] for record in read_metrics(path)]
        for path in (tmp_path / name / "metrics.jsonl" for name in ("whole", "stopped"))
    )
    assert stopped == whole
    assert [record[3] for record in whole[:3]] == [1, 1, 1], "it stops before its first update"
    assert whole[-1][3] == 0


def test_a_checkpoint_saved_by_the_update_that_broke_the_weights_is_not_gone_on_from(ranks, store, good, tmp_path):
    run_dir = shutil.copytree(good, tmp_path / "run")
    said = diverges(ranks, store, run_dir, checkpoint__every=1, checkpoint__keep=1)
    assert "the newest good checkpoint is" in said
    assert "step_00000020, from which" in said
    assert LocalStorage(run_dir / "checkpoints").steps() == [20]
    assert latest(run_dir) == "step_00000020"
    assert go_on(ranks, store, run_dir, train__stop_at=25) == [0]
    assert LocalStorage(run_dir / "checkpoints").steps() == [20, 25]


def test_a_run_whose_last_loss_is_not_finite_has_not_ended_well(ranks, store, good, tmp_path):
    """Before train.max_skipped is reached."""
    run_dir = shutil.copytree(good, tmp_path / "run")
    assert "after step 25 the loss is nan" in diverges(ranks, store, run_dir, train__stop_at=25)
    assert LocalStorage(run_dir / "checkpoints").steps() == [15, 20]
    assert [r["step"] for r in read_metrics(run_dir / "metrics.jsonl")][-1] == 25


def test_neither_has_one_whose_last_update_was_the_fatal_one(ranks, store, good, tmp_path):
    """As its held-out loss tells."""
    run_dir = shutil.copytree(good, tmp_path / "run")
    assert "after step 21 the loss is nan" in diverges(ranks, store, run_dir, train__stop_at=21)
    assert LocalStorage(run_dir / "checkpoints").steps() == [15, 20]


def overflowing_case(world, config, port):
    """A run in whose second step a moment of the optimizer overflows, which neither loss nor gradient shows."""
    steps, original = count(1), MegatronEngine.train_step

    def step(engine, *arguments):
        result = original(engine, *arguments)
        if next(steps) == 2:
            state = next(iter(engine._optimizer.optimizer.state.values()))
            state["exp_avg_sq"].view(-1)[0] = math.inf
        return result

    with patch.object(MegatronEngine, "train_step", step):
        return run_case(world, config, port)


@pytest.mark.parametrize("background", [True, False])
def test_weights_that_are_not_finite_are_never_saved(ranks, store, good, tmp_path, background):
    run_dir = shutil.copytree(good, tmp_path / "run")
    changes = {"checkpoint__every": 1, "checkpoint__background": background}
    with pytest.raises(
        RanksError, match=r"Diverged.*step_00000022 failed: optimizer\.exp_avg_sq\.\S+ hold numbers that are"
    ):
        ranks.run(1, overflowing_case, settings(store, run_dir, **{**LONG, **changes}), free_port())
    assert latest(run_dir) == "step_00000021"
    assert not list((run_dir / "checkpoints").glob("*.tmp"))


def test_a_signal_in_a_streak_saves_nothing(ranks, store, good, tmp_path):
    run_dir = shutil.copytree(good, tmp_path / "run")
    broken = settings(store, run_dir, **LONG, optim__lr=1e20)
    with pytest.raises(RanksError, match=r"Diverged: the run diverged: after step 2\d the loss is nan"):
        ranks.run(1, signalled_case, broken, free_port(), "step", 4)
    saving = settings(store, run_dir, **{**LONG, "checkpoint__every": 1}, optim__lr=1e20)
    ((code, _),) = ranks.run(1, signalled_case, saving, free_port(), "step", 4)
    assert code == 75, "it got further than it was"
    assert LocalStorage(run_dir / "checkpoints").steps() == [15, 20, 21]


def test_skipped_updates_put_a_save_off(ranks, store, tmp_path):
    """As under fp16, whose loss scale is looked for: the losses are finite."""
    fp16 = {"precision__name": "fp16", "precision__initial_loss_scale": 2.0**40, "checkpoint__keep": 9}
    fp16 |= {
        "precision__loss_scale_hysteresis": 1,
        "checkpoint__every": 2,
        "train__steps": 40,
        "train__max_skipped": 40,
    }
    assert go_on(ranks, store, tmp_path / "run", **fp16) == [0]
    skipped = [r["step"] for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if r["skipped"]]
    assert len(skipped) > 3
    steps = LocalStorage(tmp_path / "run" / "checkpoints").steps()
    expected, due = [], False
    for step in range(1, 41):
        due |= step % 2 == 0
        if due and step not in skipped:
            expected.append(step)
            due = False
    assert steps == expected[-9:]


@pytest.mark.parametrize("name", ["model.embedding.word.weight", "optimizer.exp_avg_sq.embedding.word.weight"])
def test_numbers_that_are_not_finite_are_not_resumed(ranks, store, good, tmp_path, name):
    run_dir = shutil.copytree(good, tmp_path / "run")
    poison(run_dir / "checkpoints" / "step_00000020", name, math.inf)
    with pytest.raises(RanksError, match=rf"holds numbers that are not finite, in {name}.*train\.resume=PATH"):
        go_on(ranks, store, run_dir, 2)
    back = {"train__resume": f"{run_dir}/checkpoints/step_00000015", "train__stop_at": 16}
    assert go_on(ranks, store, run_dir, **back) == [0]
    begin = {"train__init_from": f"{run_dir}/checkpoints/step_00000020", "train__steps": 2}
    with pytest.raises(RanksError, match=r"train\.init_from = .*numbers that are not finite"):
        go_on(ranks, store, tmp_path / "other", **begin)
