"""Samples shown are those that the run's loader takes, whatever it skips."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from dist_plm.checkpoint import train_state as state_file
from dist_plm.checkpoint.storage import LATEST, LocalStorage, name_of
from dist_plm.config import runfile
from dist_plm.core.errors import ConfigError, UserError
from dist_plm.data.loader.batch_plan import BatchPlan
from dist_plm.data.loader.skipped_samples import SkippedSamples
from dist_plm.spec.batch_sizes import BatchSizes
from dist_plm.spec.rules.finalize import check_samples_shown, finalize
from dist_plm.spec.samples_shown.schema import SamplesShownConfig
from dist_plm.spec.schema_finetune import FinetuneTrainConfig
from dist_plm.tasks.samples.numbers_of_step import places_of
from dist_plm.tasks.samples.show_samples import show_samples
from dist_plm.train.data import open_run
from tests.train.running import make_store, settings

SKIPPED = [[8, 16], [19, 20]]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "tokens")


@pytest.fixture
def run(store, tmp_path):
    """A run of 6 steps on 2 ranks, of which steps 2 and 4 were recorded, that has skipped samples."""
    config = finalize(settings(store, tmp_path, train__log_every=2), world_size=2, vocab_size=None)
    runfile.write(config, tmp_path / "run.yaml")
    lines = [json.dumps({"step": step, "samples_seen": 8 * step}) for step in (2, 4)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    storage = LocalStorage(tmp_path / "checkpoints")
    history = [{"step": 0, "changes": ["healed"], "skipped": SKIPPED}]
    saved = state_file.TrainState(step=4, samples_seen=32, engine={}, stream={}, history=history)
    (tmp_path / "checkpoints" / name_of(4)).mkdir(parents=True)
    storage.write(state_file.encode(saved), name_of(4), state_file.NAME)
    storage.write(f"{name_of(4)}\n".encode(), LATEST)
    return config, tmp_path


def shown(**asked):
    return show_samples(check_samples_shown(SamplesShownConfig(**asked)))


@pytest.mark.parametrize("step", [1, 2, 3, 6])
def test_a_step_shows_what_its_ranks_took(run, step):
    config, run_dir = run
    text = shown(run=str(run_dir), step=step, limit=8)
    plans = [
        BatchPlan(
            step - 1,
            step,
            rank,
            global_batch=8,
            micro_batch=2,
            data_size=2,
            skipped=SkippedSamples.of(SKIPPED),
        )
        for rank in (0, 1)
    ]
    numbers = np.concatenate([number for plan in plans for number in plan])
    assert [int(line.split()[-1]) for line in text.splitlines() if line.startswith("--- sample")] == numbers.tolist()
    dataset = open_run(config, 2)[1].samples["train"]
    for tokens in dataset.read(numbers).tokens:
        assert " ".join(map(str, tokens[:-1])) in text
    assert "skipped by the run: samples 8 to 15, 19 to 19" in text


def test_no_sample_is_counted_that_is_not_shown(run):
    assert shown(run=str(run[1]), samples=(0, 2**62), limit=1).count("--- sample") == 1


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (
            lambda run: (run / "checkpoints" / name_of(4) / state_file.NAME).write_text("{}"),
            "damaged: .* has skipped: mend",
        ),
        (lambda run: (run / "metrics.jsonl").unlink() or os.mkfifo(run / "metrics.jsonl"), "it is a pipe, not a file"),
        (
            lambda run: (run / "metrics.jsonl").write_text('{"step": 2, "samples_seen": "8"}\n'),
            "step 2, tells no number",
        ),
        (lambda run: (run / "metrics.jsonl").write_text('{"step": 2}\n'), "step 2, tells no number of samples"),
    ],
)
def test_what_would_show_other_samples_is_refused(run, broken, told):
    broken(run[1])
    with pytest.raises(UserError, match=told):
        shown(run=str(run[1]), step=3)


def test_numbers_show_what_was_skipped(run):
    text = shown(run=str(run[1]), samples=(8, 16), limit=3)
    assert text.startswith("these are samples 8 to 15; the first 3 are shown (limit=3)")
    assert text.count("--- sample") == 3


def test_a_run_without_checkpoints_has_skipped_nothing(store, tmp_path):
    runfile.write(finalize(settings(store, tmp_path), world_size=1, vocab_size=None), tmp_path / "run.yaml")
    assert "samples 0 to 7" in shown(run=str(tmp_path), step=1)


def test_what_is_not_there_is_refused(run, tmp_path):
    with pytest.raises(UserError, match=r"step = 7 is not made yet: the last step in .*metrics\.jsonl is 4"):
        shown(run=str(run[1]), step=7)
    with pytest.raises(UserError, match=r"run\.yaml cannot be read .*name the directory of a run"):
        shown(run=str(tmp_path / "none"), step=1)
    Path(run[1] / "run.yaml").write_text("task: {name: [")
    with pytest.raises(UserError, match=r"run\.yaml cannot be read"):
        shown(run=str(run[1]), step=1)


RAMP = {"start": 2, "increment": 2, "samples": 20}


@pytest.mark.parametrize("log_every", [1, 2, 5])
@pytest.mark.parametrize(("begun", "seen", "ramp"), [(3, 12, None), (3, 6, RAMP), (1, 0, RAMP), (4, 30, RAMP)])
def test_a_run_from_another_ones_checkpoint_has_its_own_batches(store, tmp_path, begun, seen, ramp, log_every):
    """As train.resume=OTHER/checkpoints/… begins one, `seen` samples after which the other had taken other batches."""
    config = settings(store, tmp_path, train__log_every=log_every, train__batch_rampup=ramp)
    sizes, taken = BatchSizes.of(config.train), {begun: seen}
    for step in range(begun + 1, 13):
        taken[step] = taken[step - 1] + sizes.at(taken[step - 1])
    logged = [step for step in taken if step > begun and (step % log_every == 0 or step == begun + 1)]
    logged = logged if log_every < 5 else logged[1:]
    lines = [json.dumps({"step": step, "samples_seen": taken[step]}) for step in logged]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "resumes.jsonl").write_text(f'{{"id": "a", "step": {begun}}}\n{{"id": "b", "step": {begun + 4}}}\n')
    for step in range(begun + 1, 13):
        assert places_of(step, config.train, tmp_path, []) == (taken[step - 1], taken[step])
    with pytest.raises(UserError, match=f"step = {begun} is none of .* goes on from step {begun} of another run's"):
        places_of(begun, config.train, tmp_path, [])


def test_a_short_last_step_tells_what_was_taken_before(tmp_path):
    train = FinetuneTrainConfig(global_batch=8, log_every=9, num_samples=43)
    (tmp_path / "metrics.jsonl").write_text('{"step": 6, "samples_seen": 43}\n')
    (tmp_path / "resumes.jsonl").write_text('{"id": "a", "step": 3}\n')
    assert [places_of(step, train, tmp_path, []) for step in (4, 5, 6)] == [(24, 32), (32, 40), (40, 43)]


def test_steps_before_a_change_of_the_stream_are_refused(run):
    config, run_dir = run
    (run_dir / "metrics.jsonl").write_text('{"step": 2, "samples_seen": 8}\n{"step": 5, "samples_seen": 28}\n')
    changes = [
        {"step": 0, "changes": ["begun with the weights of x"]},
        {"step": 3, "changes": ["train.global_batch: 4 -> 8"]},
        {"step": 4, "changes": ["dropout.stream: 1 -> 2"]},
        {"step": 5, "changes": ["step 6: the loss is nan"], "heal": {}},
    ]
    with pytest.raises(
        UserError, match=r"step = 3 was made over another stream .* step 3 \(train.global_batch: 4 -> 8"
    ):
        places_of(3, config.train, run_dir, changes)
    assert places_of(4, config.train, run_dir, changes) == (12, 20)
    assert places_of(6, config.train, run_dir, changes) == (28, 36)
    changes.append({"step": 5, "changes": ["data.sequence_length: 16 -> 8"]})
    assert places_of(6, config.train, run_dir, changes) == (28, 36)
    changes.append({"step": 6, "changes": ["data.sequence_length: 8 -> 16"]})
    with pytest.raises(UserError, match="the samples of step = 7 are known once the run has logged it"):
        places_of(7, config.train, run_dir, changes)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, "run is missing.*\n.*step is missing"),
        ({"run": "a", "step": 1, "samples": (1, 2)}, "step and samples are both given"),
        ({"run": "a", "samples": (2, 2)}, r"samples = \[2, 2\] holds no sample"),
    ],
)
def test_what_makes_no_sense_is_refused(asked, told):
    with pytest.raises(ConfigError, match=told):
        shown(**asked)
