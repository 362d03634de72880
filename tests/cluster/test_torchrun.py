import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from dist_plm.cluster.torchrun import check_meeting_place, exit_code, is_crash, main
from dist_plm.core.errors import EXIT_HUNG
from tests.ranks.ports import free_port


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([75, 75], 75),
        ([0, 75], 75),
        ([2, 2], 2),
        ([75, 2], 2),
        ([75, 1], 1),
        ([2, 124], 124),
        ([75, -15], 75),
        ([75, -10, -15], 75),
        ([-15], 143),
        ([1, -9, -15], 137),
        ([-6, 75], 134),
        ([-11, -6], 134),
    ],
)
def test_one_exit_code_for_all_ranks(codes: list[int], expected: int) -> None:
    assert exit_code(codes) == expected
    assert exit_code(reversed(codes)) == expected


@pytest.mark.parametrize(
    ("codes", "crash"),
    [
        ([1], True),
        ([75, 75], False),
        ([2], False),
        ([75, -15], False),
        ([2, 124], True),
        ([-9], True),
        ([138, -15], False),
    ],
)
def test_only_a_crash_is_a_reason_to_start_again(codes: list[int], crash: bool) -> None:
    assert is_crash(codes) == crash


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ["--master-addr=nosuch.invalid", "--node-rank=1"],
            "nosuch.invalid, where the nodes are to meet, has no address",
        ),
        (["--rdzv-backend=c10d", "--rdzv-endpoint=nosuch.invalid:29512"], "nosuch.invalid, where .* has no address"),
        (["--rdzv-backend=c10d", "--rdzv-endpoint=a..b:1"], "a..b, where .* has no address"),
        (["--rdzv-backend=c10d", "--rdzv-endpoint=host:x"], "host:x is no place to meet at: The port number"),
    ],
)
def test_says_at_once_which_host_is_unknown(options: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """PyTorch looks for it for minutes, with pages of warnings."""
    assert main(["--nnodes=2", "--nproc-per-node=1", *options, "nothing.py"]) == 2
    assert re.fullmatch(f".*{told}.*\n", capsys.readouterr().err)


def test_says_which_port_is_held() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        place = f"127.0.0.1:{holder.getsockname()[1]}"
        argv = [sys.executable, "-m", "dist_plm.cluster.torchrun", "--nnodes=2", "--rdzv-backend=c10d"]
        argv += [f"--rdzv-endpoint={place}", "--rdzv-conf=is_host=1", "nothing.py"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 124
    assert re.search(f"cannot meet.* at {place}: .*EADDRINUSE.*another port\n$", done.stderr)
    assert "Traceback" not in done.stderr


def test_takes_hosts_that_have_an_address() -> None:
    for given in ([], ["--standalone"], ["--nnodes=2", "--master-addr=127.0.0.1"], ["--rdzv-endpoint=localhost:1"]):
        check_meeting_place(get_args_parser().parse_args([*given, "nothing.py"]))


#: Ends with the code that its rank has at each start; w waits for a signal, and then checkpoints and wants to be requeued,
#: as soon as both ranks have: the first to end has torchrun signal the other.
RANK = """
import os, signal, sys, time
from pathlib import Path
begun = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
codes = {codes}[begun]
rank = int(os.environ["RANK"])
started = Path({place!r}, "started")
with started.open("a") as file:
    file.write(f"{{begun}}\\n")
def stop(number, frame):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    time.sleep(1)
    Path({place!r}, f"saved_{{rank}}").write_text(signal.Signals(number).name)
    while len(list(Path({place!r}).glob("saved_*"))) < 2:
        time.sleep(0.05)
    sys.exit(75)
if codes[rank] == "w":
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGUSR1, stop)
    Path({place!r}, f"waits_{{rank}}").touch()
    time.sleep(600)
if codes[rank] == "k":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(0.5 * (codes[rank] == 0))
sys.exit(codes[rank])
"""


def start(place: Path, codes: list[tuple[object, object]], max_restarts: int) -> subprocess.Popen[str]:
    rank = place / "rank.py"
    rank.write_text(RANK.format(codes=codes, place=str(place)))
    argv = [sys.executable, "-m", "dist_plm.cluster.torchrun", "--standalone", "--local-addr=127.0.0.1"]
    argv += ["--nproc-per-node=2", f"--max-restarts={max_restarts}", str(rank)]
    return subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("codes", "max_restarts", "code", "starts"),
    [
        ([(75, 75)], 3, 75, 1),
        ([(0, 2)], 3, 2, 1),
        pytest.param([(0, 1), (75, 75)], 3, 75, 2, marks=pytest.mark.slow),
        ([(0, 1), (1, 0)], 1, 1, 2),
        ([(0, "k")], 0, 137, 1),
    ],
)
def test_real_ranks(
    tmp_path: Path, codes: list[tuple[object, object]], max_restarts: int, code: int, starts: int
) -> None:
    process = start(tmp_path, codes, max_restarts)
    _, told = process.communicate(timeout=600)
    assert process.returncode == code, told
    # A rank that is slow to begin may be ended before it has.
    assert len(set((tmp_path / "started").read_text().splitlines())) == starts
    assert "Traceback" not in told
    if code == 137:
        assert re.search(r"rank 1, process \d+ on \S+, was ended by SIGKILL, .* lower train.micro_batch", told), told


@pytest.mark.parametrize(("late", "expected"), [(75, 75), pytest.param(1, EXIT_HUNG, marks=pytest.mark.slow)])
def test_a_node_whose_ranks_end_last_says_how(late: int, expected: int) -> None:
    """The torchrun that the others ask is the first node's, and ends with its ranks."""
    words = [
        sys.executable,
        "-m",
        "dist_plm.cluster.torchrun",
        "--nnodes=2",
        "--nproc-per-node=1",
        "--rdzv-backend=c10d",
    ]
    words += [f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--local-addr=127.0.0.1"]
    nodes = [
        subprocess.Popen([*words, f"--rdzv-conf=is_host={int(first)}", "--no-python", "bash", "-c", ends])
        for first, ends in ((True, "sleep 1; exit 75"), (False, f"sleep 3; exit {late}"))
    ]
    try:
        assert [node.wait(100) for node in nodes] == [75, expected]
    finally:
        for node in nodes:
            node.kill()


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal."""
    (caught,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt:")]
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


@pytest.mark.ranks
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_launcher_reaches_the_ranks_which_save(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, [("w", "w")], 3)
    deadline = time.monotonic() + 300
    # The launcher hears SIGUSR1 once it has started its ranks, which may be after they wait.
    while len(list(tmp_path.glob("waits_*"))) < 2 or not catches(process.pid, number):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    _, told = process.communicate(timeout=600)
    assert process.returncode == 75, told
    assert [(tmp_path / f"saved_{rank}").read_text() for rank in (0, 1)] == [number.name] * 2
    assert "Traceback" not in told
