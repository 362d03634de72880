"""A run that was interrupted, by a signal or a kill at any moment, ends with the records of one that was not, to the bit."""

import math
import time

import pytest

from dist_plm.checkpoint.storage import LocalStorage
from dist_plm.checkpoint.train_state import decode
from dist_plm.monitor.metrics_file import read_metrics
from dist_plm.monitor.report_page.run_facts import starts_of
from tests.ranks.pool import RanksError
from tests.ranks.ports import free_port
from tests.ranks.selection import covering
from tests.train.healing.test_equivalence import tensors
from tests.train.running import (
    counted_case,
    killed_case,
    make_store,
    run_case,
    settings,
    signalled_case,
    signalled_in_step_case,
    timeless,
)

pytestmark = pytest.mark.ranks

RANKS = 2
CHAOS = {"train__steps": 120, "train__eval_every": 7, "checkpoint__every": 3, "train__log_every": 1}
CHAOS |= {"model__hidden_dropout": 0.1, "model__attention_dropout": 0.1}

#: Engines that spread the weights of a checkpoint in ways of their own.
DRAWN = {
    "sharded_bf16": {"engine__zero_stage": 1, "precision__name": "bf16"},
    "whole_bf16": {"engine__zero_stage": 0, "precision__name": "bf16"},
    "overlap": {"engine__overlap_param_gather": True, "engine__overlap_grad_reduce": True},
    "pipeline": {"parallel__pipeline": 2},
    "adapters": {"model__lora": {"rank": 4}},
    "deepspeed3_frozen": {"engine__name": "deepspeed", "engine__zero_stage": 3, "train__freeze": ("embeddings",)},
    "deepspeed1_bf16": {"engine__name": "deepspeed", "engine__zero_stage": 1, "precision__name": "bf16"},
    "deepspeed0": {"engine__name": "deepspeed", "engine__zero_stage": 0},
    "deepspeed2": {"engine__name": "deepspeed", "engine__zero_stage": 2},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "tokens")


def records(run_dir):
    """What does not depend on the clock."""
    kept = [timeless(record) for record in read_metrics(run_dir / "metrics.jsonl")]
    assert all(math.isfinite(r["loss"]) for r in kept)
    return kept


def leftovers(run_dir):
    return sorted(path.name for path in (run_dir / "checkpoints").glob("*.tmp"))


@pytest.fixture(scope="module")
def whole_dir(ranks, store, tmp_path_factory):
    """The uninterrupted run's."""
    run_dir = tmp_path_factory.mktemp("whole")
    kept = {"checkpoint__every": 2, "checkpoint__keep": 1, "checkpoint__keep_every": 6}
    kept |= {"checkpoint__keep_best": "loss", "checkpoint__best_is": "highest"}
    assert ranks.run(RANKS, run_case, settings(store, run_dir, train__eval_every=4, **kept), free_port()) == [0, 0]
    return run_dir


@pytest.fixture(scope="module")
def whole(whole_dir):
    return records(whole_dir)


def test_those_checkpoints_stay_that_settings_say(whole_dir, whole):
    losses = {record["step"]: record["eval/loss"] for record in whole if "eval/loss" in record}
    assert set(losses) == {4, 8, 12}
    highest = max(losses, key=lambda step: losses[step])
    assert LocalStorage(whole_dir / "checkpoints").steps() == sorted({6, highest, 12})
    assert (whole_dir / "checkpoints" / "best").read_text().strip() == f"step_{highest:08d}"


@pytest.mark.parametrize(
    ("where", "at", "step"),
    [
        ("step", 3, 3),
        ("step", 12, 12),  # in the last step: its evaluation is made up for
        ("evaluation", 1, 0),  # the one before the first step
        ("evaluation", 4, 4),
        ("data", 9, 3),  # 2 of the first evaluation, then 2 of each step: a microbatch of step 4 never comes
    ],
)
def test_a_signal_saves_and_the_run_goes_on_to_the_bit(ranks, store, tmp_path, whole, where, at, step):
    config = settings(store, tmp_path, train__eval_every=4)
    outcomes = ranks.run(RANKS, signalled_case, config, free_port(), where, at)
    assert [code for code, _ in outcomes] == [75, 75]
    # Steps take milliseconds: what remains is a poll for data, a save, and a machine that may be very busy.
    assert outcomes[-1][1] < 300
    assert (tmp_path / "checkpoints" / "latest").read_text().strip() == f"step_{step:08d}"
    assert ranks.run(RANKS, run_case, config, free_port()) == [0, 0]
    assert records(tmp_path) == whole
    assert [start["step"] for start in starts_of(tmp_path)] == [0, step]
    assert leftovers(tmp_path) == []
    assert ranks.run(RANKS, run_case, config, free_port()) == [0, 0]
    assert records(tmp_path) == whole, "a finished run is left as it is"


@pytest.mark.parametrize(
    ("engine", "stage", "step", "microbatch"),
    [("megatron", 1, 1, 2), ("megatron", 1, 3, 1), ("deepspeed", 2, 3, 3)],
)
def test_a_signal_while_gradients_add_up_ends_the_step_after_that_microbatch(
    ranks, store, tmp_path, engine, stage, step, microbatch
):
    changes = {
        "engine__name": engine,
        "engine__zero_stage": stage,
        "train__micro_batch": 1,  # four microbatches a step
        "train__eval_samples": 0,
        "train__steps": 5,
    }
    whole = settings(store, tmp_path / "whole", **changes)
    ranks.run(RANKS, run_case, whole, free_port())
    config = settings(store, tmp_path / "run", **changes)
    outcomes = ranks.run(RANKS, signalled_in_step_case, config, free_port(), step, microbatch, step > 1)
    assert outcomes == [(75, 4 * (step - 1) + microbatch)] * RANKS, "no rank began another forward pass"
    saved = LocalStorage(tmp_path / "run" / "checkpoints").steps()
    assert saved[-1] == step - 1, "the step that was left is not in the checkpoint"
    assert ranks.run(RANKS, run_case, config, free_port()) == [0, 0]
    assert records(tmp_path / "run") == records(tmp_path / "whole")


@pytest.mark.parametrize(
    ("where", "at", "place"), [("step", 12, "checkpoints"), ("evaluation", 1, "file://checkpoints")]
)
def test_what_a_signal_left_to_be_measured_is_added_to_its_checkpoint(ranks, store, tmp_path, where, at, place):
    """Its tensors are not written again: a kill meanwhile could cost them, which are the only ones."""
    keep = {"checkpoint__dir": place.replace("checkpoints", f"{tmp_path}/checkpoints"), "checkpoint__keep": 9}
    changes = {"train__eval_every": 12, "checkpoint__every": 20, "train__heal": {"mode": "on", "before": 1}}
    config = settings(store, tmp_path, **changes, **keep)
    assert ranks.run(1, signalled_case, config, free_port(), where, at)[0][0] == 75
    saved = max((tmp_path / "checkpoints").glob("step_*"))

    def content():
        files = [path for path in saved.iterdir() if path.name != "checkpoint.json"]
        return {path.name: path.stat().st_mtime_ns for path in files}, decode(
            (saved / "checkpoint.json").read_bytes(), ""
        )

    tensors, before = content()
    assert (before.evaluation, before.loop["evaluation_due"]) == ({}, True)
    assert ranks.run(1, run_case, config, free_port()) == [0]
    same, after = content()
    assert same == tensors
    assert ("loss" in after.evaluation, after.loop["evaluation_due"]) == (True, False)


@pytest.mark.parametrize("name", covering(DRAWN, ["sharded_bf16", "deepspeed3_frozen"]))
def test_a_run_that_goes_on_draws_no_weights(ranks, store, tmp_path, name):
    changes = {"train__steps": 4, "train__eval_samples": 0, "checkpoint__every": 2, **DRAWN[name]}
    whole = settings(store, tmp_path / "whole", **changes)
    assert all(code == 0 and drawn > 0 for code, drawn in ranks.run(RANKS, counted_case, whole, free_port()))
    ranks.run(RANKS, run_case, settings(store, tmp_path / "run", **changes, train__stop_at=2), free_port())
    config = settings(store, tmp_path / "run", **changes)
    assert ranks.run(RANKS, counted_case, config, free_port()) == [(0, 0)] * RANKS
    assert records(tmp_path / "run") == records(tmp_path / "whole")
    assert tensors(tmp_path / "run", 4) == tensors(tmp_path / "whole", 4)


@pytest.mark.parametrize("more", [{"model__layers": 3}, {"model__lora": {"rank": 4}}])
def test_a_run_goes_on_with_no_weights_that_its_checkpoint_lacks(ranks, store, tmp_path, more):
    ranks.run(RANKS, run_case, settings(store, tmp_path, train__steps=4, train__stop_at=2), free_port())
    with pytest.raises(RanksError, match=r"is of another model \(layers\.\S+: absent in the checkpoint"):
        ranks.run(RANKS, run_case, settings(store, tmp_path, train__steps=4, **more), free_port())
    assert LocalStorage(tmp_path / "checkpoints").steps() == [2]


def test_a_run_ends_before_its_job_does(ranks, store, tmp_path, whole):
    config = settings(store, tmp_path, train__eval_every=4, train__stop_at=8)
    assert ranks.run(RANKS, run_case, config, free_port()) == [0, 0]
    config = settings(store, tmp_path, train__eval_every=4)
    almost_over = str(int(time.time()) + 1)
    assert ranks.run(RANKS, run_case, config, free_port(), almost_over) == [75, 75]
    assert len(records(tmp_path)) == 8
    assert (tmp_path / "checkpoints" / "latest").read_text().strip() == "step_00000008"
    assert ranks.run(RANKS, run_case, config, free_port(), str(int(time.time()) + 3600)) == [0, 0]
    assert records(tmp_path) == whole


def test_a_second_signal_ends_at_once_and_harms_nothing(ranks, store, tmp_path, whole):
    config = settings(store, tmp_path, train__eval_every=4)
    with pytest.raises(RanksError, match="exit code 143"):
        ranks.run(RANKS, signalled_case, config, free_port(), "step", 6, True)
    assert LocalStorage(tmp_path / "checkpoints").steps() == [4]
    assert ranks.run(RANKS, run_case, config, free_port()) == [0, 0]
    assert records(tmp_path) == whole


@pytest.mark.parametrize("kills", [5, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_like_the_uninterrupted_run(ranks, store, tmp_path, kills):
    assert ranks.run(RANKS, run_case, settings(store, tmp_path / "whole", **CHAOS), free_port()) == [0, 0]
    config = settings(store, tmp_path / "killed", **CHAOS)
    resumed_from = set()
    for seed in range(kills):
        victim, while_saving = seed % RANKS, seed % 3 > 0
        failure = ""
        try:
            ranks.run(RANKS, killed_case, config, free_port(), victim, seed, while_saving)
        except RanksError as error:
            failure = str(error)
        assert "exit code -9" in failure, failure
        assert len(leftovers(tmp_path / "killed")) <= 2, "what kills leave behind does not pile up"
        resumed_from |= {path.read_text() for path in (tmp_path / "killed").glob("checkpoints/latest")}
    assert len(resumed_from) >= 3, "kills came at different stages of the run"
    assert ranks.run(RANKS, run_case, config, free_port()) == [0, 0]
    assert records(tmp_path / "killed") == records(tmp_path / "whole")
    assert leftovers(tmp_path / "killed") == []
    assert LocalStorage(tmp_path / "killed" / "checkpoints").steps() == [117, 120]


def test_another_stream_of_samples_is_refused_or_recorded(ranks, store, tmp_path):
    ranks.run(RANKS, run_case, settings(store, tmp_path, train__stop_at=4), free_port())
    with pytest.raises(RanksError, match=r"train\.seed: 1234 -> 5.*data\.allow_change=true"):
        ranks.run(RANKS, run_case, settings(store, tmp_path, train__seed=5), free_port())
    allowed = {"train__seed": 5, "data__allow_change": True}
    assert ranks.run(RANKS, run_case, settings(store, tmp_path, **allowed), free_port()) == [0, 0]
    text = (tmp_path / "checkpoints" / "step_00000012" / "checkpoint.json").read_text()
    assert "train.seed: 1234 -> 5" in text
    assert '"step": 4' in text


def test_what_does_not_matter_is_allowed_and_logged(ranks, store, tmp_path, whole):
    ranks.run(RANKS, run_case, settings(store, tmp_path, train__eval_every=4, train__stop_at=8), free_port())
    changes = {"parallel__tensor": 2, "train__micro_batch": 4, "train__eval_every": 4, "checkpoint__keep": 5}
    assert ranks.run(RANKS, run_case, settings(store, tmp_path, **changes), free_port()) == [0, 0]
    assert [r["loss"] for r in records(tmp_path)] == pytest.approx([r["loss"] for r in whole], rel=1e-5)
    logged = (tmp_path / "log" / "rank_00000.log").read_text()
    assert "changed since the checkpoint: parallel.tensor: 1 -> 2" in logged
    assert "changed since the checkpoint: train.micro_batch: 2 -> 4" in logged
