import os
from itertools import count
from pathlib import Path

import pytest

from dist_plm.checkpoint.storage import Storage, name_of, open_storage
from dist_plm.core.errors import UserError
from dist_plm.distributed.launch_env import LaunchEnv
from dist_plm.monitor.metrics_file import MetricsWriter, StepRecord
from dist_plm.train.startup.lease import RunLease, SupersededError, claim

FACTS = {"lr": 0.1, "grad_norm": 1.0, "tokens_seen": 1, "samples_seen": 1, "tokens_per_second": 1.0}
RECORD = StepRecord(step=1, loss=1.0, step_seconds=1.0, mfu=None, loss_scale=None, skipped=0, **FACTS)


def test_starts_are_numbered_and_the_last_one_holds(tmp_path: Path) -> None:
    first = claim(tmp_path / "run", LaunchEnv(node_name="node1"), {})
    first.check()
    second = claim(tmp_path / "run", LaunchEnv(node_name="node2"), {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"})
    assert (first.start, second.start) == (1, 2)
    second.check()
    with pytest.raises(
        SupersededError, match=r"taken over by start 2 .* on node2, job 7 restart 1.*: this one, start 1"
    ):
        first.check()


def test_a_superseded_start_changes_no_file(tmp_path: Path) -> None:
    lease = claim(tmp_path, LaunchEnv(), {})
    metrics = MetricsWriter(tmp_path / "metrics.jsonl", guard=lease.check)
    metrics.write(RECORD)
    storage = open_storage(str(tmp_path / "checkpoints"))
    storage.guard, storage.mark = lease.check, ".1"
    directory = storage.begin("step_00000001")
    storage.writer(directory)
    claim(tmp_path, LaunchEnv(), {})

    before = {path: path.read_bytes() if path.is_file() else b"" for path in tmp_path.rglob("*")}
    for change in (
        lambda: metrics.write(RECORD),
        lambda: storage.begin("step_00000002"),
        lambda: storage.writer(directory),
        lambda: storage.write(b"", directory, "file"),
        lambda: storage.commit("step_00000001"),
        lambda: storage.remove("step_00000001"),
    ):
        with pytest.raises(SupersededError):
            change()
    assert {path: path.read_bytes() if path.is_file() else b"" for path in tmp_path.rglob("*")} == before
    metrics.close()


def test_of_two_lines_that_fall_onto_each_other_one_holds(tmp_path: Path) -> None:
    """As happens on network file systems, where each of two nodes adds where it saw the end."""
    first = claim(tmp_path, LaunchEnv(node_name="node1"), {})
    second = claim(tmp_path, LaunchEnv(node_name="node2"), {})
    first.path.write_bytes(second.line)
    assert (first.holds(), second.holds()) == (False, True)
    assert claim(tmp_path, LaunchEnv(node_name="node1"), {}).start == 2
    assert not second.holds()


def storage_of(place: Path, lease: RunLease) -> Storage:
    storage = open_storage(str(place / "checkpoints"))
    storage.guard, storage.mark = lease.check, f".{lease.start}"
    return storage


def save(storage: Storage, step: int, text: bytes) -> None:
    directory = storage.begin(name_of(step))
    storage.write(text, directory, "file")
    storage.commit(name_of(step))
    storage.write(name_of(step).encode(), "latest")


def content(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize("looks", range(1, 8))
@pytest.mark.parametrize("deed", ["save", "save again", "remove", "clean", "metrics"])
def test_a_start_that_stalls_between_look_and_deed_changes_nothing_of_the_next(
    tmp_path: Path, deed: str, looks: int
) -> None:
    """The next start goes through its beginning, and saves, after the first has looked for the `looks`-th time."""
    lease = claim(tmp_path, LaunchEnv(), {})
    storage, metrics = storage_of(tmp_path, lease), tmp_path / "metrics.jsonl"
    save(storage, 1, b"first")
    save(storage, 2, b"first")
    MetricsWriter(metrics).close()
    after: dict[str, bytes] = {}
    looked = count(1)

    def look_and_stall() -> None:
        lease.check()
        if next(looked) == looks:
            following = storage_of(tmp_path, claim(tmp_path, LaunchEnv(), {}))
            following.clean()
            with MetricsWriter(metrics) as writer:
                writer.write(RECORD)
            for step in (1, 2, 3):
                save(following, step, b"second")
            after.update(content(tmp_path))

    storage.guard = look_and_stall
    deeds = {
        "save": lambda: save(storage, 4, b"first"),
        "save again": lambda: save(storage, 2, b"first"),
        "remove": lambda: storage.remove(name_of(2)),
        "clean": storage.clean,
        "metrics": lambda: MetricsWriter(metrics, guard=look_and_stall).write(RECORD),
    }
    try:
        deeds[deed]()
    except (SupersededError, OSError):
        assert after, "nobody came between"
    now = content(tmp_path)
    assert {name: now.get(name) for name in after} == after
    storage_of(tmp_path, claim(tmp_path, LaunchEnv(), {})).clean()
    assert list(tmp_path.rglob("*.tmp")) == []


def test_two_starts_write_the_same_checkpoint_in_different_places(tmp_path: Path) -> None:
    directories = []
    for start in (1, 2):
        storage = open_storage(str(tmp_path))
        storage.mark = f".{start}"
        directories.append(storage.begin("step_00000001"))
    assert directories[0] != directories[1]
    assert all((tmp_path / directory).is_dir() for directory in directories)
    storage.clean()
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_starts_that_was_removed_is_made_anew(tmp_path: Path) -> None:
    lease = claim(tmp_path / "run", LaunchEnv(), {})
    lease.path.unlink()
    lease.check()
    assert lease.path.read_bytes() == lease.line
    lease.path.unlink()
    following = claim(tmp_path / "run", LaunchEnv(), {})
    following.check()
    with pytest.raises(SupersededError):
        lease.check()


def test_a_run_whose_directory_is_away_cannot_tell(tmp_path: Path) -> None:
    lease = claim(tmp_path / "run", LaunchEnv(), {})
    (tmp_path / "run").rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        lease.check()
    assert not (tmp_path / "run").exists()
    (tmp_path / "away").rename(tmp_path / "run")
    lease.check()


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "directory"])
def test_starts_are_not_added_to_what_is_not_a_file(tmp_path: Path, kind: str) -> None:
    path, elsewhere = tmp_path / "starts.jsonl", tmp_path / "elsewhere"
    if kind == "link":
        elsewhere.write_text("mine\n")
    if "link" in kind:
        path.symlink_to(elsewhere)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(UserError, match=r"starts\.jsonl cannot be written: .*; move it away"):
        claim(tmp_path, LaunchEnv(), {})
    assert not elsewhere.exists() or elsewhere.read_text() == "mine\n"


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"run\.dir = .* cannot be made"):
        claim(tmp_path / "file" / "run", LaunchEnv(), {})
