"""Programs whose standard streams are closed, full or gone."""

import subprocess
import sys

import pytest

HEAD = "from dist_plm.core.streams import leave, open_standard_streams, tell\nopen_standard_streams()\n"


def run(body: str, redirections: str = "") -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", f'exec "$0" -c "$1" {redirections}', sys.executable, HEAD + body]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_take_nothing_of_files_opened_later(tmp_path, closed):
    body = (
        "import os, sys\n"
        f"file = open({str(tmp_path / 'checkpoint')!r}, 'w')\n"
        "assert file.fileno() > 2, file.fileno()\n"
        "tell('well'); tell('ill', sys.stderr); os.write(2, b'of a library'); leave(0)\n"
    )
    assert run(body, closed).returncode == 0
    assert (tmp_path / "checkpoint").read_text() == ""


@pytest.mark.parametrize("code", [0, 2, 75])
def test_a_full_stdout_changes_no_exit_code(code):
    done = run(f"tell('summary'); print('after'); leave({code})", "> /dev/full")
    assert (done.returncode, done.stderr) == (code, "")


def test_a_full_stderr_changes_no_exit_code():
    assert run("import sys; tell('refused', sys.stderr); leave(2)", "2> /dev/full").returncode == 2


def test_names_that_are_no_text_are_spelled_out():
    done = run(
        "from dist_plm.core.streams import visible\ntell(visible('a\\udcff\\x1b')); tell('b\\udcff'); leave(0)\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "a\\udcff\\x1b\nb\\udcff\n", "")


def test_it_ends_while_a_thread_works():
    body = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\nprint('said')\nleave(130)\n"
    done = run(body)
    assert (done.returncode, done.stdout) == (130, "said\n")


#: gloo's thread is left with the last reference to a tensor, and waits for the interpreter to drop it.
LEFT_WITH_THE_LAST = """
import sys, time
import torch, torch.distributed as dist
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(0.5)  # it gives the interpreter away, to who is then ended
sys.modules["slow"] = Slow()
print("said", flush=True)
sys.setswitchinterval(1000)
reduced = torch.ones(1)
dist.all_reduce(reduced, async_op=True)
del reduced
end = time.perf_counter() + 0.5
while time.perf_counter() < end:
    pass
"""


def test_a_failure_ends_without_a_way_past_the_threads_of_open_process_groups():
    """On the way Python would end the thread in a destructor, and C++ the program, with 134."""
    done = run(f"{LEFT_WITH_THE_LAST}leave(2)\n")
    assert (done.returncode, done.stdout, done.stderr) == (2, "said\n", "")
