"""A run that heals itself equals one that was told from the start to leave out the samples that it skips."""

import functools

import pytest

from dist_plm.checkpoint import train_state as state_file
from dist_plm.checkpoint.storage import LocalStorage
from dist_plm.monitor.metrics_file import read_metrics
from tests.ranks.pool import RanksError
from tests.ranks.ports import free_port
from tests.train.healing.faults import Fault, faulty_case, killed_in_rollback_case
from tests.train.running import make_store, run_case, settings, timeless

pytestmark = pytest.mark.ranks

#: A batch of 8 samples. What is bad at step 10 began with step 9: samples 64 to 79 are skipped.
FAULT = Fault("gradient", at=77, rank=1)
SKIPPED = [[64, 80]]
HEAL = {"train__heal": {"mode": "on"}, "checkpoint__every": 4, "train__steps": 16, "train__eval_every": 4}
HEAL |= {"model__hidden_dropout": 0.1, "checkpoint__keep": 9}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "tokens")


def records(run_dir):
    """What does not depend on the clock, and is not told of healing alone."""
    found = read_metrics(run_dir / "metrics.jsonl")
    return [{k: v for k, v in timeless(r).items() if not k.startswith("heal/")} for r in found]


def state_of(run_dir, step):
    storage = LocalStorage(run_dir / "checkpoints")
    return state_file.decode(storage.read(f"step_{step:08d}", state_file.NAME), "")


def tensors(run_dir, step):
    """Checksums of the files that hold weights and moments."""
    return {name: file.checksum for name, file in state_of(run_dir, step).files.items() if name.endswith(".distcp")}


def told_from_the_start(ranks, store, run_dir, num_ranks, **changes):
    changes = {**HEAL, "train__heal": {}, "data__skip_samples": SKIPPED, **changes}
    assert ranks.run(num_ranks, run_case, settings(store, run_dir, **changes), free_port()) == [0] * num_ranks
    return run_dir


@pytest.fixture(scope="module")
def told(ranks, store, tmp_path_factory):
    return told_from_the_start(ranks, store, tmp_path_factory.mktemp("told"), 2)


def check_same(run_dir, told, steps=(4, 8, 12, 16)):
    assert records(run_dir) == records(told)
    for step in steps:
        assert tensors(run_dir, step) == tensors(told, step), step
        assert tensors(told, step)


def test_a_healed_run_equals_one_that_was_told(ranks, store, tmp_path, told):
    config = settings(store, tmp_path, **HEAL)
    assert ranks.run(2, faulty_case, config, free_port(), FAULT) == [0, 0]
    check_same(tmp_path, told)
    (act,) = state_of(tmp_path, 16).history
    assert act["skipped"] == SKIPPED
    assert act["step"] == 8
    assert "step 10: the gradient is not finite; went back to step 8, samples 64 to 79" in act["changes"][0]
    healed = {k: v for r in read_metrics(tmp_path / "metrics.jsonl") for k, v in r.items() if k.startswith("heal/")}
    worst = {name: healed.pop(f"heal/worst_{name}") for name in ("loss", "first_sample", "last_sample")}
    assert healed == {"heal/rollbacks": 1, "heal/noticed": 10, "heal/step": 8, "heal/skipped_samples": 16}
    assert worst["first_sample"] in (72, 74, 76, 78), "of the microbatches of step 10"
    assert "healing: step 10" in (tmp_path / "log" / "rank_00000.log").read_text()


#: The newest checkpoint before the bad steps is that of step 6, the newest copy that of step 8.
COPIES = {**HEAL, "train__heal": {"mode": "on", "memory_every": 4}, "checkpoint__every": 6}


def check_went_back_to_a_copy(run_dir, told):
    check_same(run_dir, told, steps=(12, 16))
    (act,) = state_of(run_dir, 16).history
    assert (act["step"], act["skipped"]) == (6, SKIPPED)
    assert "went back to step 8, samples 64 to 79" in act["changes"][0]


def test_a_run_that_goes_back_to_a_copy_in_memory_equals_one_that_was_told(ranks, store, tmp_path, told):
    assert ranks.run(2, faulty_case, settings(store, tmp_path, **COPIES), free_port(), FAULT) == [0, 0]
    check_went_back_to_a_copy(tmp_path, told)
    (step,) = [record["heal/step"] for record in read_metrics(tmp_path / "metrics.jsonl") if "heal/step" in record]
    assert step == 8
    assert "went back to the copy in memory of step 8" in (tmp_path / "log" / "rank_00000.log").read_text()


@pytest.mark.parametrize(
    ("changes", "at"),
    [
        *(pytest.param(HEAL, at, id=f"to-a-checkpoint-{at}", marks=pytest.mark.slow) for at in (1, 3)),
        pytest.param(HEAL, 2, id="to-a-checkpoint-2"),
        *(pytest.param(COPIES, at, id=f"to-a-copy-{at}", marks=pytest.mark.slow) for at in (1, 2)),
        pytest.param(COPIES, 3, id="to-a-copy-3"),
    ],
)
def test_killed_in_a_rollback_it_ends_in_the_same_way(ranks, store, tmp_path, told, changes, at):
    config = settings(store, tmp_path, **changes)
    with pytest.raises(RanksError):
        ranks.run(2, killed_in_rollback_case, config, free_port(), FAULT, at)
    assert ranks.run(2, faulty_case, config, free_port(), FAULT) == [0, 0]
    check_same(tmp_path, told, steps=(12, 16) if changes is COPIES else (4, 8, 12, 16))
    assert len(state_of(tmp_path, 16).history) == 1
    (found,) = [record for record in read_metrics(tmp_path / "metrics.jsonl") if "heal/rollbacks" in record]
    assert (found["heal/noticed"], found["heal/skipped_samples"]) == (10, 16)


DEEPSPEED = {"engine__name": "deepspeed"}
BF16 = {"precision__name": "bf16"}
OVERLAP = {"engine__overlap_param_gather": True, "engine__overlap_grad_reduce": True}
LAMB = {"optim__name": "lamb"}


CELLS = {
    "deepspeed-2": {**DEEPSPEED, "engine__zero_stage": 2, **BF16},
    "deepspeed-3": {**DEEPSPEED, "engine__zero_stage": 3, **LAMB},
    "deepspeed-0": {**DEEPSPEED, "engine__zero_stage": 0},
    "deepspeed-pipeline": {**DEEPSPEED, "engine__zero_stage": 1, "parallel__pipeline": 2},
    "megatron-overlap": {**OVERLAP, **BF16, **LAMB},
    "megatron-tensor": {"engine__zero_stage": 0, "parallel__tensor": 2},
    "megatron-pipeline": {"parallel__pipeline": 2, "optim__name": "adafactor"},
    "megatron-muon": {"optim__name": "muon"},
}


@pytest.fixture(scope="module")
def told_in_cell(ranks, store, tmp_path_factory):
    @functools.cache
    def told(name):
        return told_from_the_start(ranks, store, tmp_path_factory.mktemp(name), 2, **CELLS[name])

    return told


def quick(*quick_ones):
    """All cells, of which the others are slow."""
    return [pytest.param(name, marks=[] if name in quick_ones else pytest.mark.slow) for name in CELLS]


@pytest.mark.parametrize("cell", quick("deepspeed-2", "megatron-overlap", "megatron-pipeline"))
def test_so_it_is_on_other_engines_and_grids(ranks, store, tmp_path, told_in_cell, cell):
    config = settings(store, tmp_path, **HEAL, **CELLS[cell])
    assert ranks.run(2, faulty_case, config, free_port(), FAULT) == [0, 0]
    check_same(tmp_path, told_in_cell(cell))


@pytest.mark.parametrize("cell", quick("deepspeed-2"))
def test_so_it_is_with_copies_in_memory(ranks, store, tmp_path, told_in_cell, cell):
    config = settings(store, tmp_path, **COPIES, **CELLS[cell])
    assert ranks.run(2, faulty_case, config, free_port(), FAULT) == [0, 0]
    check_went_back_to_a_copy(tmp_path, told_in_cell(cell))


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "steps"), [(HEAL, (4, 8, 12, 16)), (COPIES, (12, 16))], ids=["file", "copy"])
@pytest.mark.parametrize("cell", CELLS)
def test_killed_in_a_rollback_of_other_engines_and_grids(ranks, store, tmp_path, told_in_cell, cell, changes, steps):
    """The last rank, before it loads weights."""
    config = settings(store, tmp_path, **changes, **CELLS[cell])
    with pytest.raises(RanksError, match="died with exit code -9"):
        ranks.run(2, killed_in_rollback_case, config, free_port(), FAULT, 3, 1)
    assert ranks.run(2, faulty_case, config, free_port(), FAULT) == [0, 0]
    check_same(tmp_path, told_in_cell(cell), steps=steps)
    assert len(state_of(tmp_path, 16).history) == 1


@pytest.mark.slow
def test_after_a_resume_there_is_no_copy_until_the_next_is_due(ranks, store, tmp_path, told):
    config = settings(store, tmp_path, **COPIES, train__stop_at=8)
    assert ranks.run(2, faulty_case, config, free_port(), FAULT) == [0, 0]
    config = settings(store, tmp_path, **COPIES)
    assert ranks.run(2, faulty_case, config, free_port(), FAULT) == [0, 0]
    check_same(tmp_path, told, steps=(16,))
    (act,) = state_of(tmp_path, 16).history
    assert act["step"] == 8
    assert "went back to step 8, samples 64 to 79" in act["changes"][0]


ZERO2, ZERO3 = {**DEEPSPEED, "engine__zero_stage": 2}, {**DEEPSPEED, "engine__zero_stage": 3}
TENSOR, PIPELINE = {"parallel__tensor": 2}, {"parallel__pipeline": 2}
#: Settings that a run begins with, on two ranks, and the ranks and settings that it goes on with.
MOVES = {
    "to-one": ({}, 1, {}),
    "data-to-tensor": ({}, 2, TENSOR),
    "data-to-pipeline": (ZERO2, 2, PIPELINE),
    "tensor-to-data": (TENSOR, 2, ZERO3),
    "pipeline-to-data": (PIPELINE, 2, ZERO2),
    "zero3-to-both": (ZERO3, 4, TENSOR),
}


@pytest.mark.parametrize(
    ("begun", "size", "moved"),
    [pytest.param(*one, id=name, marks=[] if name == "to-one" else pytest.mark.slow) for name, one in MOVES.items()],
)
def test_another_grid_goes_on_healed(ranks, store, tmp_path, told, begun, size, moved):
    config = settings(store, tmp_path, **HEAL, **begun, train__stop_at=12)
    assert ranks.run(2, faulty_case, config, free_port(), FAULT) == [0, 0]
    assert ranks.run(size, run_case, settings(store, tmp_path, **HEAL, **moved), free_port()) == [0] * size
    for mine, other in zip(records(tmp_path), records(told), strict=True):
        assert mine.keys() == other.keys()
        known = [name for name, value in other.items() if value is not None]
        assert [mine[name] for name in known] == pytest.approx([other[name] for name in known], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("memory_every", [0, 8])
def test_the_loss_scale_goes_back_with_the_weights(ranks, store, tmp_path, memory_every):
    """It grows every five steps: from the checkpoint to the bad step it has grown."""
    scaled = {"name": "fp16", "initial_loss_scale": 256.0, "loss_scale_window": 5}
    changes = {"precision": scaled, "train": {"steps": 48, "global_batch": 8, "micro_batch": 2, "eval_samples": 0}}
    changes = {f"{section}__{key}": value for section, values in changes.items() for key, value in values.items()}
    heal = {"mode": "on", "window": 16, "memory_every": memory_every}
    healing = {"train__heal": heal, "checkpoint__every": 10, **changes}
    healed, other = tmp_path / "healed", tmp_path / "told"
    config = settings(store, healed, **healing)
    assert ranks.run(2, faulty_case, config, free_port(), Fault("document", at=8 * 39)) == [0, 0]
    (act,) = state_of(healed, 48).history
    assert act["skipped"] == [[8 * 38, 8 * 40]]
    assert f"went back to step {32 if memory_every else 30}" in act["changes"][0]
    told = {**healing, "train__heal": {}, "data__skip_samples": act["skipped"]}
    assert ranks.run(2, run_case, settings(store, other, **told), free_port()) == [0, 0]
    scales = [record["loss_scale"] for record in read_metrics(healed / "metrics.jsonl")]
    assert scales[28] < scales[37]
    assert records(healed) == records(other)
    assert tensors(healed, 48) == tensors(other, 48)
