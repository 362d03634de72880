"""Damage to any file of a checkpoint is seen and named, and never loaded."""

import re
import shutil

import pytest
import torch.distributed as dist

from dist_plm.checkpoint.open_checkpoint import find
from dist_plm.checkpoint.storage import LocalStorage
from dist_plm.core.errors import CheckpointError
from tests.checkpoint.saving import engine_of, save_case, train_state_of, writer_for
from tests.ranks.training import configure

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def original(ranks, tmp_path_factory):
    """Two complete checkpoints by two ranks."""
    directory = tmp_path_factory.mktemp("original")
    config = configure(2, train__steps=3)
    for at in (1, 2):
        ranks.run(2, save_case, config, directory, at)
    return directory


@pytest.fixture
def directory(original, tmp_path):
    return shutil.copytree(original, tmp_path / "checkpoints")


def find_case(world, directory, resume, verify=True):
    """The step found, or what was refused: the same on all ranks."""
    group = dist.group.WORLD
    assert group is not None
    try:
        found = find(resume, LocalStorage(directory), group, verify=verify)
    except CheckpointError as error:
        return str(error)
    return found.train_state.step if found is not None else None


def look(ranks, directory, resume="auto", verify=True):
    results = ranks.run(2, find_case, directory, str(resume), verify)
    assert results[0] == results[1], "ranks disagree"
    return results[0]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip(path, where=0.5):
    data = bytearray(path.read_bytes())
    data[int(len(data) * where)] ^= 1
    path.write_bytes(bytes(data))


#: Empty: it says whose the directory is, and nothing of what it holds.
MARK = ".dist_plm.checkpoint"
DAMAGE = {
    "truncated": truncate,
    "halved": cut_in_half,
    "emptied": empty,
    "flipped": flip,
    "removed": lambda p: p.unlink(),
}


def all_damaged_in_turn(world, directory, damages):
    """One case for all files and kinds of damage: what each search said."""
    said = {}
    checkpoint = directory / "step_00000002"
    for file in sorted(path.name for path in checkpoint.iterdir() if path.name != MARK):
        for kind in damages:
            if world.rank == 0:
                backup = (checkpoint / file).read_bytes()
                DAMAGE[kind](checkpoint / file)
            dist.barrier()
            said[file, kind] = (find_case(world, directory, str(checkpoint)), find_case(world, directory, "auto"))
            dist.barrier()
            if world.rank == 0:
                (checkpoint / file).write_bytes(backup)
            dist.barrier()
    return said


def test_each_file_damaged_in_turn_is_named_and_passed_over(ranks, directory):
    files = {path.name for path in (directory / "step_00000002").iterdir()}
    assert files == {MARK, ".metadata", "__0_0.distcp", "__1_0.distcp", "checkpoint.json"}
    files.remove(MARK)
    results = ranks.run(2, all_damaged_in_turn, directory, sorted(DAMAGE))
    assert results[0] == results[1]
    assert set(results[0]) == {(file, kind) for file in files for kind in DAMAGE}
    for (file, kind), (explicit, auto) in results[0].items():
        assert isinstance(explicit, str), (file, kind)
        assert file in explicit, (file, kind, explicit)
        assert str(directory / "step_00000002") in explicit
        assert "train.resume" in explicit
        assert auto == 1, (file, kind, auto)


def test_sizes_are_compared_even_where_checksums_are_not(ranks, directory):
    file = directory / "step_00000002" / "__1_0.distcp"
    flip(file)
    assert look(ranks, directory, verify=False) == 2
    truncate(file)
    assert look(ranks, directory, verify=False) == 1


def test_every_damaged_file_is_named(ranks, directory):
    """By whichever rank looks at it."""
    for file in ("__1_0.distcp", "__0_0.distcp"):
        flip(directory / "step_00000002" / file)
    (directory / "step_00000002" / ".metadata").unlink()
    message = look(ranks, directory, directory / "step_00000002")
    found = re.findall(r"(\S+) is (missing|not what was written)", message)
    assert found == [(".metadata", "missing"), *((f"__{n}_0.distcp", "not what was written") for n in (0, 1))]


def test_nothing_usable_is_refused_not_started_anew(ranks, directory):
    for step in (1, 2):
        (directory / f"step_{step:08d}" / ".metadata").unlink()
    message = look(ranks, directory)
    assert "step_00000001" in message
    assert "step_00000002" in message
    assert "train.resume=none" in message


def test_latest_may_be_lost(ranks, directory):
    (directory / "latest").unlink()
    assert look(ranks, directory) == 2
    (directory / "latest").write_bytes(b"\xff\x00")
    assert look(ranks, directory) == 2


def test_checkpoints_that_are_gone_are_missed(ranks, directory):
    for step in (1, 2):
        shutil.rmtree(directory / f"step_{step:08d}")
    message = look(ranks, directory)
    assert f"{directory}/latest names step_00000002, and no checkpoint is there" in message
    assert "train.resume=none" in message
    assert look(ranks, directory, "none") is None


def test_latest_counts_where_the_run_was_taken_back(ranks, directory):
    (directory / "latest").write_text("step_00000001\n")
    assert look(ranks, directory) == 1


def test_where_to_resume_from(ranks, directory, tmp_path):
    assert look(ranks, directory, "none") is None
    assert look(ranks, tmp_path / "nothing") is None
    assert look(ranks, tmp_path, directory) == 2, "a directory of checkpoints"
    assert look(ranks, directory, tmp_path) == 2, "the directory of a run"
    assert look(ranks, tmp_path, f"{directory}/step_00000001/") == 1
    shutil.move(directory / "step_00000001", tmp_path / "mine")
    assert look(ranks, directory, tmp_path / "mine") == 1, "under any name"
    assert "there is nothing at" in look(ranks, directory, tmp_path / "other")
    (tmp_path / "other").mkdir()
    assert "no checkpoint.json" in look(ranks, directory, tmp_path / "other")


def load_into_another(world, directory, config):
    groups, engine, shard_specs = engine_of(world, config)
    found = find("auto", LocalStorage(directory), groups.world)
    try:
        found.check_model(shard_specs, groups.world)
        engine.load_parameter_states(found.read)
    except CheckpointError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__hidden": 32}, ["embedding.word.weight: [211, 64] in the checkpoint, [211, 32] here"]),
        ({"model__layers": 2}, ["layers.2", "absent here"]),
        ({"model__tied_embeddings": False}, ["absent in the checkpoint"]),
    ],
)
def test_another_model_is_refused_on_every_rank(ranks, directory, changes, words):
    messages = ranks.run(2, load_into_another, directory, configure(2, **changes))
    assert messages[0] == messages[1]
    assert all(word in messages[0] for word in [*words, "model.*"]), messages[0]


def save_weights_alone(world, directory, config):
    groups, engine, _ = engine_of(world, config)
    states = ((shard_spec, {"weight": tensors["weight"]}) for shard_spec, tensors in engine.parameter_states())
    writer_for(directory, groups).save(states, train_state_of(0, engine))


def test_a_missing_moment_is_named(ranks, tmp_path):
    config = configure(2)
    ranks.run(2, save_weights_alone, tmp_path, config)
    for message in ranks.run(2, load_into_another, tmp_path, config):
        assert "optimizer.exp_avg" in message
        assert "optim" in message
