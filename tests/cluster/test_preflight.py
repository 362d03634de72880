import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dist_plm.cluster.checkpoint_space import CheckpointSpace, checkpoint_problems, needed_bytes
from dist_plm.cluster.preflight import preflight
from dist_plm.cluster.rank_facts import RankFacts, _data, differing, shared_devices
from dist_plm.core.errors import PreflightError
from dist_plm.distributed.launch_env import LaunchEnv
from dist_plm.distributed.world import host_group
from dist_plm.spec.derived import checkpoint_bytes
from dist_plm.spec.flops import num_parameters
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema import PretrainConfig
from dist_plm.spec.schema_run import CheckpointConfig
from dist_plm.train.startup.start import other_settings
from tests.ranks.pool import World
from tests.ranks.times import LONG
from tests.train.conftest import TINY, launch, store  # noqa: F401
from tests.train.running import make_store, settings

SAME = {"code": "2", "data": "3", "Python": "3.11.7"}
PACKAGES = {"torch": "2.13.0", "numpy": "2.2.0"}


def on(rank: int, **changes: object) -> RankFacts:
    return replace(RankFacts(rank=rank, node=f"node{rank // 2 + 1}", same=SAME, packages=PACKAGES), **changes)


def test_equal_nodes_pass_and_later_ranks_of_a_node_need_not_look() -> None:
    everyone = [on(0), on(1, same={"Python": "3.11.7"}, packages={}), on(2), on(3, same={}, packages={})]
    assert list(differing(everyone)) == []


@pytest.mark.parametrize("name", SAME)
def test_what_differs_is_told_with_its_node(name: str) -> None:
    (problem,) = differing([on(0), on(1), on(2, same=SAME | {name: "other"}), on(3)])
    assert problem.startswith(f"{name} is not the same everywhere: node2 has another than node1, rank 0")


def test_packages_that_differ_are_told_with_both_versions() -> None:
    (problem,) = differing([on(0), on(2, packages={"torch": "2.12.0", "numpy": "2.2.0", "scipy": "1.0"})])
    assert "on node2 are others than on node1 (in brackets): scipy 1.0 (absent), torch 2.12.0 (2.13.0): " in problem


def test_ranks_that_share_a_gpu_are_told() -> None:
    everyone = [on(0, device_id="GPU-1"), on(1, device_id="GPU-1"), on(2, device_id="GPU-1"), on(3, device_id="GPU-2")]
    (problem,) = shared_devices(everyone)
    assert problem.startswith("ranks [0, 1] on node1 would share the GPU GPU-1")
    assert list(shared_devices([on(0), on(1)])) == []


def test_room_for_the_checkpoints_that_stay_and_the_one_being_written(tmp_path: Path) -> None:
    config = finalize(
        settings(tmp_path, tmp_path, checkpoint__every=4, checkpoint__keep=3), world_size=1, vocab_size=None
    )
    one = num_parameters(config.model) * 12

    def needed_by(checkpoint: CheckpointConfig, existing: int) -> int:
        return needed_bytes(checkpoint, config.model, config.optim, config.train, existing)

    needed = [needed_by(config.checkpoint, existing) for existing in (0, 2, 3, 9)]
    assert needed == [4 * one, 2 * one, one, one]
    best = replace(config.checkpoint, keep_best="loss", keep_every=2)
    assert needed_by(best, 0) == (4 + 1 + config.train.steps // 2) * one
    off = replace(config.checkpoint, every=0, at_end=False)
    assert needed_by(off, 0) == 0


def test_nothing_is_remembered_of_what_is_not_trained(tmp_path: Path) -> None:
    weights, sizes = 0, {}
    for name, changes in {
        "all": {},
        "frozen": {"train__freeze": ["layers"]},
        "adapters": {"model__lora": {"rank": 2}},
    }.items():
        config = finalize(settings(tmp_path, tmp_path, **changes), world_size=1, vocab_size=None)
        weights = 4 * num_parameters(config.model)
        sizes[name] = checkpoint_bytes(config.model, config.optim, config.train.freeze)
    assert sizes["all"] > sizes["frozen"] > sizes["adapters"]
    assert weights < sizes["adapters"] < 1.2 * weights


def test_a_checkpoint_is_as_large_as_what_its_optimizer_remembers(tmp_path: Path) -> None:
    sizes = {}
    for name in ("adamw", "lamb", "sgd", "adafactor"):
        config = finalize(settings(tmp_path, tmp_path, optim__name=name), world_size=1, vocab_size=None)
        sizes[name] = checkpoint_bytes(config.model, config.optim, ()) / num_parameters(config.model)
    assert (sizes["adamw"], sizes["lamb"], sizes["sgd"]) == (12, 12, 8)
    assert 4 < sizes["adafactor"] < 5


def look_case(world: World, config: PretrainConfig, nodes: list[str], other_dir: str | None) -> list[str] | str:
    """What the ranks, as if each on a node of its own, find."""
    launch = LaunchEnv(rank=world.rank, world_size=world.size, node_name=nodes[world.rank])
    if other_dir is not None and world.rank == 1:
        config = replace(config, checkpoint=replace(config.checkpoint, dir=other_dir))
    try:
        return preflight(config, launch, world.device, host_group(LONG), whole=True)
    except PreflightError as error:
        return str(error)


@pytest.fixture
def config(tmp_path: Path) -> PretrainConfig:
    given = settings(make_store(tmp_path / "tokens"), tmp_path / "run")
    return finalize(given, world_size=2, vocab_size=None)


def test_rows_that_differ_are_told_apart(tmp_path: Path) -> None:
    """A file by its content, a saved dataset by its files, a bare pair by its sizes."""
    for name in ("one", "two"):
        (tmp_path / name / "saved").mkdir(parents=True)
        (tmp_path / name / "rows.csv").write_text(f"text,label\n{name},1\n")
        (tmp_path / name / "saved" / "data.arrow").write_bytes(b"x" * len(name + "s" * (name == "two")))
        for end in (".idx", ".bin"):
            (tmp_path / name / f"pair{end}").write_bytes(b"x" * (3 + (name == "two")))
    for what in ("rows.csv", "saved", "pair", "pair.bin"):
        first, second = (_data(tmp_path / name / what) for name in ("one", "two"))
        assert first != second
        assert first == _data(tmp_path / "one" / what)


def settings_case(world: World, elsewhere: list[Path], given: list[dict]) -> str | None:
    here = os.getcwd()
    os.chdir(elsewhere[world.rank])
    try:
        return other_settings(given[world.rank], LaunchEnv(rank=world.rank, world_size=2), host_group(LONG))
    finally:
        os.chdir(here)


@pytest.mark.ranks
def test_settings_are_compared_and_not_where_ranks_stand(ranks, tmp_path: Path) -> None:
    (tmp_path / "mounted").mkdir()
    places = [tmp_path, tmp_path / "mounted"]
    assert ranks.run(2, settings_case, places, [{"optim": {"lr": 1.0}}] * 2) == [None, None]
    told = ranks.run(2, settings_case, places, [{"optim": {"lr": 1.0}}, {"optim": {"lr": 2.0}}])
    assert told[0] == told[1]
    assert "rank 1" in told[0]
    assert "optim.lr" in told[0]


@pytest.mark.ranks
def test_real_ranks_print_a_table_and_leave_nothing(ranks, config: PretrainConfig, tmp_path: Path) -> None:
    lines, other = ranks.run(2, look_case, config, ["node1", "node2"], None)
    text = "\n".join(lines)
    assert "preflight: 2 nodes, 2 ranks" in text
    assert "all-reduce of 16 MiB: " in text
    assert "links between nodes: 1 measured" in text
    assert "the same everywhere: code " in text
    assert other[1:3] == lines[1:3]
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


@pytest.mark.ranks
def test_a_directory_that_is_another_on_one_node_is_told_to_all(ranks, config: PretrainConfig, tmp_path: Path) -> None:
    told = ranks.run(2, look_case, config, ["node1", "node2"], str(tmp_path / "elsewhere"))
    assert told[0] == told[1]
    assert "on node2: " in told[0]
    assert "is not the directory that rank 0 writes into" in told[0]
    assert (
        "the configuration is not the same everywhere: rank 1 on node2 has another than rank 0 (checkpoint.dir: "
        in told[0]
    )


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "full"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.ranks
def test_a_disk_that_is_full_or_too_small_is_refused(ranks, config: PretrainConfig, full_disk: Path) -> None:
    checkpoints = replace(config.checkpoint, dir=str(full_disk))
    config = replace(config, checkpoint=checkpoints, model=replace(config.model, hidden=256))
    (little, _) = ranks.run(2, look_case, config, ["node1", "node2"], None)
    assert "on node1, node2: " in little
    assert re.search(
        r"has [1-9][0-9.]* [KM]iB free, and the checkpoints that the run keeps need [1-9][0-9.]* MiB: ", little
    )
    with pytest.raises(OSError, match="No space"):
        (full_disk / "filler").write_bytes(bytes(2**21))
    (nothing, _) = ranks.run(2, look_case, config, ["node1", "node2"], None)
    assert f"checkpoints cannot be written to {full_disk} (No space left on device)" in nothing
    subprocess.run(["mount", "-o", "remount,ro", full_disk], check=True)
    (problem,) = checkpoint_problems(LaunchEnv(), None, CheckpointSpace(str(full_disk), needed=1, free=1))
    assert f"checkpoints cannot be written to {full_disk} (Read-only file system): " in problem


@pytest.mark.ranks
def test_data_that_one_node_cannot_reach_is_refused_by_all(store: Path, tmp_path: Path) -> None:  # noqa: F811
    wrapper = tmp_path / "rank.py"
    wrapper.write_text(
        "import os, runpy, sys\n"
        f"path = {str(store)!r} if os.environ['RANK'] == '0' else {str(tmp_path / 'not_mounted')!r}\n"
        "sys.argv = ['launch/pretrain.py', f'data.path={path}', *sys.argv[1:]]\n"
        "runpy.run_path('launch/pretrain.py', run_name='__main__')\n"
    )
    start = [sys.executable, "-m", "dist_plm.cluster.torchrun", "--standalone", "--local-addr=127.0.0.1"]
    done = launch([*start, "--nproc-per-node=2", str(wrapper), f"run.dir='{tmp_path}/run'", *TINY])
    assert done.returncode == 2, done.stderr
    assert "the run cannot start here, 1 problem:" in done.stderr
    assert "not_mounted" in done.stderr
