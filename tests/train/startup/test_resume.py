"""Which settings make another stream of samples, beside what a checkpoint recorded."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dist_plm.checkpoint.train_state import TrainState
from dist_plm.core.errors import CheckpointError
from dist_plm.train.startup.resume import check_stream, stream_of
from tests.ranks.training import configure
from tests.train.finetuning import settings

BERT = {"model__family": "bert", "objective__name": "mlm"}


def changes(recorded: dict[str, Any], **now: Any) -> list[str]:
    """What is recorded as a change on going on from a checkpoint whose stream is that of the plain settings with others."""
    before, after = configure(1, **BERT), configure(1, **BERT | now)
    stream = stream_of(before.data, before.objective, before.train, None) | recorded
    state = TrainState(step=4, samples_seen=32, engine={}, stream={k: v for k, v in stream.items() if v != "absent"})
    found = cast("Any", SimpleNamespace(where="step_00000004", train_state=state))
    sections = after.model, after.objective
    stream = stream_of(after.data, after.objective, after.train, None)
    history = check_stream(found, *sections, stream, allow_change=True)
    if history:
        with pytest.raises(CheckpointError, match="another stream of samples"):
            check_stream(found, *sections, stream, allow_change=False)
    return [change for one in history for change in one["changes"]]


def test_settings_that_a_checkpoint_could_not_be_told_are_as_by_default():
    assert changes({"objective.mask_units": "absent", "objective.span_longest": "absent"}) == []
    told = changes({"objective.mask_units": "absent"}, objective__mask_units="words")
    assert told == ["objective.mask_units: tokens -> words"]


def test_settings_of_the_loss_change_no_sample():
    assert changes({}, objective__label_smoothing=0.1, objective__z_loss=1e-4) == []
    assert changes({"objective.label_smoothing": 0.1, "objective.z_loss": 0.0}) == []


def test_the_settings_of_a_task_are_told_as_they_are_given():
    tasks = ({"name": "seq2seq", "prefix": text} for text in ("a", "b"))
    before, after = (settings(Path("rows"), Path("run"), task=task) for task in tasks)
    recorded = stream_of(before.data, before.objective, before.train, None)
    assert recorded["objective.prefix"] == "a", "as checkpoints hold it"
    state = TrainState(step=4, samples_seen=32, engine={}, stream=recorded)
    found = cast("Any", SimpleNamespace(where="step_00000004", train_state=state))
    stream = stream_of(after.data, after.objective, after.train, None)
    with pytest.raises(CheckpointError) as refused:
        check_stream(found, after.model, after.objective, stream, allow_change=False)
    assert "(task.prefix: a -> b): give the same data.*, task.*, train.seed" in str(refused.value)
    assert "objective" not in str(refused.value)


def test_what_is_masked_is_another_stream():
    assert changes({}, objective__mask_rate=0.3) == ["objective.mask_rate: 0.15 -> 0.3"]
    assert changes({"objective.mask_rate": 0.3}) == ["objective.mask_rate: 0.3 -> 0.15"]
    assert changes({"objective.name": "mlm_nsp"}) == ["objective.name: mlm_nsp -> mlm"]
