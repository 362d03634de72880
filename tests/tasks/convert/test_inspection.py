import math
from dataclasses import replace

import pytest

from dist_plm.checkpoint import train_state
from dist_plm.core.errors import CheckpointError
from dist_plm.tasks.convert.inspection import inspect
from tests.checkpoint.poison import poison
from tests.checkpoint.saving import save_case
from tests.ranks.training import configure

pytestmark = pytest.mark.ranks


def test_says_what_a_checkpoint_holds_and_what_is_wrong_with_it(ranks, tmp_path):
    directory = tmp_path / "checkpoints"
    ranks.run(2, save_case, configure(2, train__steps=2), directory, 1)
    for path in (tmp_path, directory, directory / "latest", directory / "step_00000001"):
        text, sound = inspect(str(path))
        assert sound
        lines = text.splitlines()
        assert f"checkpoint       {directory}/step_00000001" in lines
        assert "samples seen     8" in lines
        assert any("embedding.word.weight" in line and line.endswith("[211, 64]") for line in lines)
        assert "exp_avg, exp_avg_sq" in text
    (directory / "step_00000001" / "__1_0.distcp").unlink()
    text, sound = inspect(str(directory))
    assert not sound
    assert "__1_0.distcp is missing" in text
    with pytest.raises(CheckpointError, match=r"there is nothing at .*nowhere"):
        inspect(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no checkpoint\.json"):
        inspect(str(tmp_path / "empty"))


def test_says_which_numbers_are_not_finite(ranks, tmp_path):
    directory = tmp_path / "checkpoints"
    ranks.run(2, save_case, configure(2, train__steps=2), directory, 1)
    poison(directory / "step_00000001", "model.final_norm.weight")
    poison(directory / "step_00000001", "optimizer.exp_avg.embedding.word.weight", math.inf)
    text, sound = inspect(str(directory))
    assert not sound
    assert "not finite, so nothing goes on from it:" in text
    assert "model.final_norm.weight: 1 of its numbers" in text
    assert "optimizer.exp_avg.embedding.word.weight: 1 of its numbers" in text


def test_says_each_change_of_several_at_one_step(ranks, tmp_path):
    directory = tmp_path / "checkpoints"
    ranks.run(2, save_case, configure(2, train__steps=2), directory, 1)
    path = directory / "step_00000001" / "checkpoint.json"
    acts = [
        "back from step 5: the loss is nan",
        "back from step 9: the loss is 40",
        "back from step 9: the loss is nan",
    ]
    history = [{"step": 1, "changes": [act, "samples are skipped"]} for act in acts]
    saved = train_state.decode(path.read_bytes(), str(path))
    path.write_bytes(train_state.encode(replace(saved, history=history)))
    lines = inspect(str(directory))[0].splitlines()
    told = [line for line in lines if line.startswith("changed at step 1  ")]
    assert told == [f"changed at step 1  {act}; samples are skipped" for act in acts]
