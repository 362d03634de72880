"""Settings that lie in a checkpoint, read within bounds: whoever made it may have made its checksums too."""

from pathlib import Path
from typing import cast

import pytest

from dist_plm.checkpoint.lookup import candidates
from dist_plm.checkpoint.open_checkpoint import Checkpoint
from dist_plm.checkpoint.storage import LocalStorage
from dist_plm.checkpoint.train_state import TrainState
from dist_plm.core.errors import CheckpointError
from tests.core.test_parsing import BOMB


def checkpoint(place: Path, text: bytes) -> Checkpoint:
    (place / "step_00000001").mkdir()
    (place / "step_00000001" / "run.yaml").write_bytes(text)
    return Checkpoint(LocalStorage(place), "step_00000001", cast(TrainState, None))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (BOMB.encode(), "aliases repeat themselves"),
        (b"[" * 5000, "nests more than 50 levels"),
        (b"a: &a [*a]", "contains itself"),
        (b"a: 1\na: 2", "duplicate key"),
        (b"\xff\xfe", "can't decode"),
        (b"- 1", "holds no settings"),
        (b"", "holds no settings"),
        (b"a: !!python/name:os.system", "could not determine a constructor"),
    ],
    ids=range(8),
)
def test_what_is_no_plain_mapping_is_refused_by_name(tmp_path: Path, text: bytes, part: str) -> None:
    with pytest.raises(CheckpointError, match=r"step_00000001/run.yaml ") as caught:
        checkpoint(tmp_path, text).settings("run.yaml")
    assert part in str(caught.value)


def test_settings_are_read(tmp_path: Path) -> None:
    assert checkpoint(tmp_path, b"a: {b: 1}\n").settings("run.yaml") == {"a": {"b": 1}}


def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint(tmp_path, b"").settings("model.yaml")


def test_a_directory_in_place_of_latest_is_refused(tmp_path: Path) -> None:
    found = checkpoint(tmp_path, b"")
    (tmp_path / "latest").mkdir()
    with pytest.raises(CheckpointError, match="latest cannot be read"):
        candidates(found.storage)
