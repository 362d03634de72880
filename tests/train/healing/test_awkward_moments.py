"""A fault at an awkward moment: the run ends as one that was told from the start, or with exit code 2 and one message."""

import contextlib
import errno
import os
import re
import shutil
import signal
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from dist_plm.checkpoint.saver import CheckpointWriter
from dist_plm.checkpoint.storage import LocalStorage
from dist_plm.data.store.store import TokenStoreWriter
from dist_plm.train.healing.memory_copies import MemoryCopies
from tests.ranks.pool import RanksError
from tests.ranks.ports import free_port
from tests.train.healing.faults import Fault, faulty_case
from tests.train.healing.test_equivalence import HEAL, check_same, records, state_of, tensors, told_from_the_start
from tests.train.running import before, make_store, settings
from tests.train.test_rampup import RAMP

pytestmark = pytest.mark.ranks

COPIES = {"train__heal": {"mode": "on", "memory_every": 1}}
#: 68 windows: an epoch ends within step 9.
FEW = {"data__path": "few"}
#: The first of two stores gives half an epoch, and so ends at sample 68.
BLEND = {
    "data__path": None,
    "data__blend": [{"path": "few", "weight": 0.5, "max_epochs": 0.5}, {"path": "many", "weight": 0.5}],
}
DEEPSPEED = {"engine__name": "deepspeed", "engine__zero_stage": 2}

CASES = {
    "first-step": ({}, Fault("gradient", at=5, rank=1), [[0, 8]]),
    "first-step-copies": (COPIES, Fault("gradient", at=5, rank=1), [[0, 8]]),
    "second-step-copies": (COPIES, Fault("gradient", at=13, rank=1), [[0, 16]]),
    "accumulation": ({"train__micro_batch": 1}, Fault("gradient", at=79, rank=1), [[64, 80]]),
    "growing-batch": (RAMP | COPIES, Fault("gradient", at=30, rank=1), [[12, 32]]),
    "growing-batch-ends": (RAMP | COPIES, Fault("gradient", at=41, rank=1), [[20, 44]]),
    "end-of-an-epoch": (FEW, Fault("gradient", at=77, rank=1), [[64, 80]]),
    "end-of-a-source": (BLEND, Fault("gradient", at=69, rank=1), [[56, 72]]),
    "last-step": (COPIES, Fault("gradient", at=127, rank=1), [[112, 128]]),
}
QUICK = ("growing-batch",)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    root = tmp_path_factory.mktemp("stores")
    make_store(root / "many")
    draw = np.random.default_rng(1)
    with TokenStoreWriter(root / "few", np.dtype(np.uint16)) as writer:
        for _ in range(40):
            writer.add_document(np.cumsum(draw.integers(0, 5, 34)) % 97)
    return root


def placed(stores, changes):
    """Names stores by their paths."""
    changes = dict(changes)
    if changes.get("data__path", "") is not None:
        changes["data__path"] = str(stores / changes.get("data__path", "many"))
    if "data__blend" in changes:
        changes["data__blend"] = [{**one, "path": str(stores / one["path"])} for one in changes["data__blend"]]
    return changes


@pytest.mark.parametrize(
    ("changes", "fault", "skipped"),
    [pytest.param(*case, id=name, marks=[] if name in QUICK else pytest.mark.slow) for name, case in CASES.items()],
)
@pytest.mark.parametrize(
    "engine", [pytest.param({}, id="megatron"), pytest.param(DEEPSPEED, id="deepspeed", marks=pytest.mark.slow)]
)
def test_it_ends_as_one_that_was_told(ranks, stores, tmp_path, engine, changes, fault, skipped):
    changes = {**engine, **placed(stores, changes)}
    config = settings(stores / "many", tmp_path / "healed", **{**HEAL, **changes})
    assert ranks.run(2, faulty_case, config, free_port(), fault) == [0, 0]
    (act,) = state_of(tmp_path / "healed", config.train.steps).history
    assert act["skipped"] == skipped
    told = {**changes, "train__heal": {}, "data__skip_samples": skipped}
    told_from_the_start(ranks, stores / "many", tmp_path / "told", 2, **told)
    assert records(tmp_path / "healed") == records(tmp_path / "told")
    last = config.train.steps
    assert tensors(tmp_path / "healed", last) == tensors(tmp_path / "told", last)


@pytest.mark.slow
def test_a_blend_that_has_no_more_samples_ends_the_run_with_one_message(ranks, stores, tmp_path):
    """Without the samples of two steps; with fewer steps to make it is healed."""
    blend = placed(stores, {"data__path": None, "data__blend": [{"path": "few", "weight": 1, "max_epochs": 2}]})
    fault = Fault("gradient", at=77, rank=1)
    with pytest.raises(RanksError, match="failed on 2 of 2 ranks") as told:
        ranks.run(2, faulty_case, settings(stores / "many", tmp_path, **HEAL, **blend), free_port(), fault)
    said = "Diverged: the run diverged: step 10: the gradient is not finite, and no other samples are there to go on with: 144"
    assert str(told.value).count(f"{said} samples are asked of a blend whose sources end after 134") == 2
    assert state_of(tmp_path, 8).history == []
    config = settings(stores / "many", tmp_path, **HEAL, **blend, train__stop_at=14)
    assert ranks.run(2, faulty_case, config, free_port(), fault) == [0, 0]
    assert state_of(tmp_path, 14).history[0]["skipped"] == [[64, 80]]
    refused = r"PreflightError: .*\n  - on \S+: 144 samples are asked of a blend whose sources end after 134"
    with pytest.raises(RanksError, match=refused) as told:
        ranks.run(2, faulty_case, settings(stores / "many", tmp_path, **HEAL, **blend), free_port(), fault)
    assert "failed on 2 of 2 ranks" in str(told.value), "none waits for the other"


def damaged_case(world, config, port, fault, act):
    """A run to whose checkpoints something happens when it chooses one to go back to."""
    with before(
        CheckpointWriter, "is_whole", 1, lambda: act(Path(config.run.dir) / "checkpoints") if world.rank == 0 else None
    ):
        return faulty_case(world, config, port, fault)


def flip(checkpoints):
    file = max((checkpoints / "step_00000008").glob("*.distcp"), key=lambda file: file.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def remove(checkpoints):
    shutil.rmtree(checkpoints / "step_00000008")


@pytest.mark.parametrize("act", [flip, pytest.param(remove, marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_is_passed_over(ranks, stores, tmp_path, act):
    config, fault = settings(stores / "many", tmp_path / "healed", **HEAL), Fault("gradient", at=77, rank=1)
    assert ranks.run(2, damaged_case, config, free_port(), fault, act) == [0, 0]
    (done,) = state_of(tmp_path / "healed", 16).history
    assert (done["step"], done["skipped"]) == (4, [[64, 80]])
    said = (tmp_path / "healed" / "log" / "rank_00000.log").read_text()
    assert re.search(r"step_00000008.*; it is not gone back to$", said, re.MULTILINE)
    told_from_the_start(ranks, stores / "many", tmp_path / "told", 2)
    check_same(tmp_path / "healed", tmp_path / "told")


def no_room_case(world, config, port, fault):
    """A run whose disk is full when it goes back."""

    def fill():
        stack.enter_context(patch.object(LocalStorage, "write", no_room))

    with contextlib.ExitStack() as stack, before(CheckpointWriter, "rewind", 1, fill):
        return faulty_case(world, config, port, fault)


def no_room(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_run_that_has_no_room_to_go_back_says_so_and_goes_back_later(ranks, stores, tmp_path):
    config, fault = settings(stores / "many", tmp_path / "healed", **HEAL), Fault("gradient", at=77, rank=1)
    with pytest.raises(RanksError, match="failed on 2 of 2 ranks") as told:
        ranks.run(2, no_room_case, config, free_port(), fault)
    said = r"SaveFailedError: \S+step_00000008 cannot be made the latest, to go back to it: No space left on device; mend that"
    assert len(re.findall(said, str(told.value))) == 2
    assert ranks.run(2, faulty_case, config, free_port(), fault) == [0, 0]
    told_from_the_start(ranks, stores / "many", tmp_path / "told", 2)
    check_same(tmp_path / "healed", tmp_path / "told")


def signalled_in_rollback_case(world, config, port, fault):
    """A run of which one rank gets SIGTERM when it goes back."""
    with before(MemoryCopies, "forget", 1, lambda: os.kill(os.getpid(), signal.SIGTERM) if world.rank == 1 else None):
        return faulty_case(world, config, port, fault)


@pytest.mark.slow
@pytest.mark.parametrize("memory_every", [0, 1])
def test_a_signal_in_a_rollback_stops_the_run_healed(ranks, stores, tmp_path, memory_every):
    changes = {**HEAL, "train__heal": {"mode": "on", "memory_every": memory_every}, "checkpoint__every": 6}
    config = settings(stores / "many", tmp_path / "healed", **changes)
    fault = Fault("gradient", at=77, rank=1)
    assert ranks.run(2, signalled_in_rollback_case, config, free_port(), fault) == [75, 75]
    step = 8 if memory_every else 6
    assert (tmp_path / "healed" / "checkpoints" / "latest").read_text().strip() == f"step_{step:08d}"
    (act,) = state_of(tmp_path / "healed", step).history
    assert act["skipped"] == [[64, 80]]
    assert ranks.run(2, faulty_case, config, free_port(), fault) == [0, 0]
    told_from_the_start(ranks, stores / "many", tmp_path / "told", 2)
    check_same(tmp_path / "healed", tmp_path / "told", steps=(12, 16))
