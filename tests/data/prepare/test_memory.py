"""Limits of address space, as ulimit -v sets them: a message, whatever they are."""

import resource

import pytest

from dist_plm.core.errors import DataError
from dist_plm.core.out_of_memory import check_room, is_lack_of_memory, lack_of_memory
from dist_plm.data.prepare import pool as pools
from dist_plm.data.prepare.pool import Pool
from dist_plm.data.prepare.prepare import prepare
from tests.data.preparing import configuration, contents, in_a_process_of_its_own, run

pytestmark = pytest.mark.usefixtures("many_units")
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_AS, ({size}, resource.RLIM_INFINITY))"
LEFT = "int(open('/proc/self/statm').read().split()[0]) * 4096 + {left}"


def test_too_little_room_is_said_before_work_begins(tmp_path):
    done = in_a_process_of_its_own(tmp_path / "store", LIMIT.format(size=LEFT.format(left=50 * 10**6)))
    assert "DataError: ulimit -v allows this process" in done.stderr
    assert "raise it (ulimit -v unlimited), or lower tokenizer.memory_mb and data.workers" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", [0, 2 * 10**6])
def test_what_runs_out_later_is_said_too(tmp_path, expected, left):
    """The limit comes when the documents are read, after what can be known has been looked at."""
    limit = LIMIT.format(size=LEFT.format(left=left))
    late = f"""
        def limited(*arguments, real=prepare.collect_rejected, **keywords):
            {limit}
            return [bytearray(10**5) for _ in range(10**3)] and real(*arguments, **keywords)
        prepare.collect_rejected = limited
    """
    done = in_a_process_of_its_own(tmp_path / "store", late)
    assert "DataError: cannot prepare data: ulimit -v allows" in done.stderr
    assert "what is finished is kept" in done.stderr
    run(tmp_path / "store")
    assert contents(tmp_path / "store") == expected


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread")])
def test_lack_of_memory_anywhere_is_a_refusal(tmp_path, monkeypatch, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(pools.Pool, "run", fail)
    with pytest.raises(DataError, match="cannot prepare data: the machine has not enough memory left"):
        prepare(configuration(tmp_path / "store"), print)


def test_other_errors_are_not_taken_for_it():
    assert not is_lack_of_memory(RuntimeError("stop here"))
    assert "not enough memory" in str(lack_of_memory(MemoryError()))
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
    check_room(10**15)


def test_a_pool_whose_thread_cannot_be_started_is_closed(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    pool = Pool(2)
    monkeypatch.setattr("threading.Thread.start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        pool.run(print, [1, 2], print)
    pool.close()
