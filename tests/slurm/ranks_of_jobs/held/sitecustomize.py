"""Python runs this first where PYTHONPATH leads here: rank 0 of a job's first start waits, once HOLD_AT_STEP steps are in its
record, until it gets a signal. One that a test sends then comes in time however slow the test is, and the run how quick.
"""

import os
import signal
import sys
import threading
from pathlib import Path


def hold_until_signalled(step: int) -> None:
    """As the run looks into the file of its starts, which it does before each record."""
    heard, told = os.pipe()
    os.set_blocking(told, False)

    def look(event: str, arguments: tuple[object, ...]) -> None:
        if event != "open" or not str(arguments[0]).endswith("/starts.jsonl"):
            return
        if threading.current_thread() is threading.main_thread():  # Python hears signals there alone
            signal.set_wakeup_fd(told, warn_on_full_buffer=False)
            if num_lines(Path(str(arguments[0])).with_name("metrics.jsonl")) >= step:
                os.read(heard, 1)
                os.write(told, b"\0")  # from now on nothing is held

    sys.addaudithook(look)


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


is_first_start = os.environ.get("SLURM_RESTART_COUNT", "0") == "0"
is_first = os.environ.get("RANK", os.environ.get("SLURM_PROCID")) == "0"
if is_first_start and is_first and any(word.endswith(("pretrain.py", "finetune.py")) for word in sys.orig_argv):
    hold_until_signalled(int(os.environ["HOLD_AT_STEP"]))
