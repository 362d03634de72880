import subprocess
import sys

import pytest

from dist_plm.cli import refusals
from dist_plm.core.errors import ConfigError, DataError, NodeError, PreflightError, UserError

MEETING = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
#: Starts a rank whose own command line may differ, as an environment or a file of one node makes it.
ONE_DIFFERS = 'exec "$0" -m dist_plm pretrain run.dir="$1" $(test $RANK = 1 && echo optim.lrr=1)'


def as_rank(rank: int, refusal: UserError, monkeypatch) -> None:
    """Reports as one of four ranks on two nodes."""
    places = {"RANK": rank, "WORLD_SIZE": 4, "LOCAL_RANK": rank % 2, "LOCAL_WORLD_SIZE": 2}
    for name, value in {**MEETING, **places}.items():
        monkeypatch.setenv(name, str(value))
    refusals.report(refusal)


@pytest.fixture
def waited(monkeypatch) -> list[float]:
    """Gives the seconds of each wait, which does not take place."""
    waits: list[float] = []
    monkeypatch.setattr(refusals.time, "sleep", waits.append)
    return waits


@pytest.mark.parametrize(
    ("refusal", "told_by", "waiting"),
    [
        (ConfigError(["a"]), [0, 1, 2, 3], [1, 2, 3]),
        (PreflightError(["a"]), [0], []),
        (NodeError(["a"]), [0, 1, 2, 3], [1, 3]),
        (DataError("a"), [0, 1, 2, 3], [1, 3]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_who_may_be_alone_speaks(refusal, told_by, waiting, monkeypatch, capsys, waited) -> None:
    """What all ranks know is left to rank 0; with anything else a rank may be the only one, if nobody ends it first."""
    for rank in range(4):
        waited.clear()
        as_rank(rank, refusal, monkeypatch)
        told = capsys.readouterr().err
        assert bool(told) == (rank in told_by)
        assert (f", rank {rank}: " in told) == (rank in told_by and rank > 0)
        assert bool(waited) == (rank in waiting)


def test_of_ranks_that_wait_together_on_a_node_one_speaks(monkeypatch, capsys, waited) -> None:
    """Where no launcher ends them."""
    monkeypatch.setattr(
        refusals.time, "sleep", lambda seconds: waited.append(seconds) or as_rank_once(waited, monkeypatch)
    )
    as_rank(3, ConfigError(["a"]), monkeypatch)
    assert capsys.readouterr().err.count("rank 3") == 1
    assert len(waited) == 2
    assert waited[1] > waited[0]


def as_rank_once(waited: list[float], monkeypatch) -> None:
    if len(waited) == 1:
        as_rank(3, ConfigError(["a"]), monkeypatch)


@pytest.mark.ranks
def test_a_rank_that_is_refused_alone_is_heard(tmp_path) -> None:
    launcher = [sys.executable, "-m", "dist_plm.cluster.torchrun", "--standalone", "--nproc-per-node", "2"]
    words = ["--no-python", "bash", "-c", ONE_DIFFERS, sys.executable, str(tmp_path / "run")]
    done = subprocess.run([*launcher, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("did you mean optim.lr?") == 1
    assert ", rank 1: configuration refused" in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_keyboard_ends_the_wait(monkeypatch, capsys) -> None:
    def pressed(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(refusals.time, "sleep", pressed)
    as_rank(1, ConfigError(["a"]), monkeypatch)
    assert capsys.readouterr().err.count("rank 1") == 1
