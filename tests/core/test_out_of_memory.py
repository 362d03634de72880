import signal

import pytest

from dist_plm.core import out_of_memory
from dist_plm.core.out_of_memory import MemoryGroup, memory_groups, why_killed

GIB = 2**30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A process in a job of 2 GiB, in a user's slice without limit, under either version of control groups."""

    def make(version: int, kills: int = 0):
        base = tmp_path / "mounted" if version == 2 else tmp_path / "mounted" / "memory"
        job = base / "slice" / "job"
        job.mkdir(parents=True, exist_ok=True)
        names = ("memory.max", "memory.events") if version == 2 else ("memory.limit_in_bytes", "memory.oom_control")
        for place, limit in ((job, str(2 * GIB)), (base / "slice", "max" if version == 2 else str(2**63 - 4096))):
            (place / names[0]).write_text(f"{limit}\n")
            (place / names[1]).write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n")
        own = tmp_path / "own"
        own.write_text("0::/slice/job\n" if version == 2 else "5:cpu:/x\n4:cpuset,memory:/slice/job\n0::/\n")
        monkeypatch.setattr(out_of_memory, "memory_groups", lambda: memory_groups(own, tmp_path / "mounted"))
        return job

    return make


@pytest.mark.parametrize("version", [1, 2])
def test_a_kill_that_the_kernel_counts_names_the_limit(machine, version):
    job = machine(version)
    before = out_of_memory.memory_groups()
    assert [(group.path, group.limit_bytes) for group in before] == [(job, 2 * GIB), (job.parent, None)]
    told = why_killed(-signal.SIGKILL, before)
    assert "by somebody or for lack of memory" in told
    machine(version, kills=1)
    told = why_killed(-signal.SIGKILL, before)
    assert told == (
        f"was ended by the kernel for lack of memory (SIGKILL): all processes in {job} together may have 2 GiB"
    )
    assert why_killed(-signal.SIGSEGV, before) == "was ended by SIGSEGV"


@pytest.mark.parametrize("content", ["", "0::/nowhere\n", "garbage\n"])
def test_what_cannot_be_read_is_no_reason_to_fail(tmp_path, content):
    (tmp_path / "own").write_text(content)
    assert memory_groups(tmp_path / "own", tmp_path / "mounted") == []
    assert memory_groups(tmp_path / "nowhere", tmp_path) == []


def test_this_process_has_groups_with_limits_that_make_sense():
    for group in memory_groups():
        assert isinstance(group, MemoryGroup)
        assert group.limit_bytes is None or group.limit_bytes > 0
