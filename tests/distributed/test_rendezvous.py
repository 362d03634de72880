"""Ranks that wait for others say so soon, and end with one message that says who did not come."""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch._C._distributed_c10d import TCPStore

from dist_plm.core.errors import EXIT_HUNG, NotMetError
from dist_plm.distributed import rendezvous
from dist_plm.distributed.launch_env import LaunchEnv
from dist_plm.distributed.rendezvous import meet
from tests.ranks.ports import free_port


def launch(rank: int, world_size: int, port: int, local_rank: int = 0) -> LaunchEnv:
    size = {"world_size": world_size, "local_world_size": local_rank + 1}
    return LaunchEnv(rank=rank, local_rank=local_rank, master_port=port, **size)


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(rendezvous, "FIRST_SECONDS", 0.2)


@pytest.mark.parametrize(("rank", "missing"), [(0, "ranks 1, 2"), (2, "rank 0")])
def test_a_rank_says_for_whom_it_waits_and_where_before_it_gives_up(soon, capfd, rank, missing):
    port = free_port()
    with pytest.raises(NotMetError, match=rf"waited 0.02 minutes .* at 127.0.0.1:{port} for {missing} in vain"):
        meet(launch(rank, 3, port), timedelta(seconds=1.2))
    said = capfd.readouterr().err
    assert said.startswith(f"rank {rank} of 3 waits at 127.0.0.1:{port} for {missing}, for up to 0.02 minutes")
    assert said.count("\n") == 1, said
    assert "neither RANK nor WORLD_SIZE" in said


def test_other_ranks_of_a_node_leave_it_to_the_first(soon, capfd):
    with pytest.raises(NotMetError):
        meet(launch(1, 2, free_port(), local_rank=1), timedelta(seconds=1))
    assert capfd.readouterr().err == ""


def test_many_ranks_are_not_all_named(soon, capfd):
    with pytest.raises(NotMetError, match=r"for ranks 1, 2, 3, 4, 5, 6, 7, 8 and 991 more in vain"):
        meet(launch(0, 1000, free_port()), timedelta(seconds=1))


def test_a_rank_that_waits_asks_for_few_keys_however_many_ranks_there_are(soon, monkeypatch):
    """The one store answers every rank."""
    asked = []

    class CountedStore(TCPStore):
        def check(self, keys):
            asked.extend(keys)
            return super().check(keys)

        def add(self, key, amount):
            asked.append(key)
            return super().add(key, amount)

        def get(self, key):
            asked.append(key)
            return super().get(key)

    monkeypatch.setattr(rendezvous, "TCPStore", CountedStore)
    with pytest.raises(NotMetError, match="and 991 more in vain"):
        meet(launch(0, 1000, free_port()), timedelta(seconds=1.2))
    assert 2 < len(asked) < 50, "every twentieth of a second, and for two messages"


def test_looks_become_rare():
    assert [rendezvous._pause(waited) for waited in (0.0, 0.1, 4.0, 600.0)] == [0.05, 0.05, 0.4, 1.0]


def test_ranks_that_are_started_again_wait_for_each_other_anew(monkeypatch):
    """In the store of torchrun, which remembers who came before; one that comes twice is one."""
    agent = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")

    def meets(rank, seconds):
        return meet(launch(rank, 3, agent.port), timedelta(seconds=seconds))

    for _ in range(2):
        with pytest.raises(NotMetError, match="for ranks 0, 2 in vain"):
            meets(1, 0.2)
    with ThreadPoolExecutor() as threads:
        list(threads.map(meets, range(3), [60] * 3))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(NotMetError, match="for ranks 1, 2 in vain"):
        meets(0, 0.2)


def test_a_port_that_another_program_holds_is_named(soon):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            NotMetError, match=rf"port {port} of 127.0.0.1.* is held by another program: set MASTER_PORT"
        ):
            meet(launch(0, 2, port), timedelta(seconds=5))


def test_variables_left_over_in_a_shell_end_in_one_message(tmp_path):
    """As a whole program: the rank that they speak of never comes."""
    left_over = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    environment = {**os.environ, **left_over, "MASTER_PORT": str(free_port())}
    command = [sys.executable, "launch/preflight.py", f"run.root={tmp_path}", "cluster.device=cpu"]
    command += ["cluster.timeout_minutes=0.02"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == EXIT_HUNG, done.stderr
    assert "for rank 1 in vain" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
