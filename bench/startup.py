"""What commands cost before they do anything: seconds of a processor, and what they import.

    python bench/startup.py
    python bench/startup.py --rounds 5

Each command runs in a process of its own, in turns. Seconds are those of the processor, which others on the machine move less
than the clock; medians of the rounds. A run makes one step of a model of next to nothing; of two ranks the slower one counts.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from dist_plm.data.store.store import TokenStoreWriter

ROOT = Path(__file__).parents[1]
#: Runs: one with a checkpoint, and one with records of its steps.
CHECKPOINTED, RECORDED = ROOT / "tests/fixtures/before/run", ROOT / "tests/monitor/report_page/tiny"
#: What takes long to import, and is told of.
HEAVY = ("torch", "megatron.core", "torch._dynamo", "sympy", "transformers", "hydra", "numpy", "pyarrow", "tokenizers")
_REPORT = """
import json, os, runpy, sys, time
sys.argv = sys.argv[1:]
report = sys.argv.pop() + os.environ.get("RANK", "0")
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as ending:
    code = ending.code
told = {"seconds": time.process_time(), "modules": list(sys.modules), "code": code}
open(report, "w").write(json.dumps(told))
"""
MODEL = ("model=gpt_tiny", "model.layers=1", "model.hidden=32", "model.heads=2", "model.vocab_size=256")
RUN = (*MODEL, "data.path=STORE", "data.sequence_length=16", "train.global_batch=8", "train.steps=1")
STEP = (*RUN, "train.eval_every=0", "checkpoint.at_end=false", "run.dir=run", "cluster.device=cpu")


class Command(NamedTuple):
    script: str
    words: Sequence[str]
    ranks: int = 1


class Start(NamedTuple):
    seconds: float
    modules: set[str]
    code: int


COMMANDS = {
    "pretrain --help": Command("pretrain", ["--help"]),
    "submit --help": Command("submit", ["--help"]),
    "pretrain --check": Command("pretrain", ["--check", *RUN]),
    "plan": Command("plan", [*RUN, "cluster.gpu=h100"]),
    "submit dry_run": Command("submit", ["submit.dry_run=true", "cluster=example_cpu", *RUN]),
    "report RUN": Command("report", ["RECORDED"]),
    "convert inspect=": Command("convert", ["inspect=CHECKPOINTED"]),
    "pretrain, a step": Command("pretrain", STEP),
    "the same, 2 ranks": Command("pretrain", STEP, ranks=2),
}


def start(command: Command, places: Mapping[str, str] = MappingProxyType({}), bytecode: str | None = None) -> Start:
    """Runs a command of launch/ to its end; of several ranks gives the one that took longest.

    Args:
        places: what stands for words such as STORE.
        bytecode: a folder that keeps it.
    """
    words = list(command.words)
    for place, path in places.items():
        words = [word.replace(place, path) for word in words]
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        free.close()
        line = [sys.executable, "-c", _REPORT, str(ROOT / "launch" / f"{command.script}.py"), *words, f"{folder}/told"]
        env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        if bytecode is not None:
            env |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": bytecode}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        running = []
        for rank in range(command.ranks):
            own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": command.ranks, "LOCAL_WORLD_SIZE": command.ranks}
            more = meeting | {name: str(value) for name, value in own.items()} if command.ranks > 1 else {}
            running.append(subprocess.Popen(line, cwd=folder, env=env | more, **quiet))
        for process in running:
            process.wait()
        told = [json.loads(Path(f"{folder}/told{rank}").read_text()) for rank in range(command.ranks)]
    slowest = max(told, key=lambda one: one["seconds"])
    return Start(slowest["seconds"], set(slowest["modules"]), slowest["code"] or 0)


def write_store(prefix: Path) -> None:
    """A small corpus of nothing."""
    draw = np.random.default_rng(0)
    with TokenStoreWriter(prefix, np.dtype(np.uint16)) as writer:
        for _ in range(500):
            writer.add_document(draw.integers(0, 256, 60))


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as folder:
        write_store(Path(folder, "store"))
        places = {"CHECKPOINTED": args.checkpointed, "RECORDED": args.recorded, "STORE": f"{folder}/store"}
        found: dict[str, list[Start]] = {name: [] for name in COMMANDS}
        for _ in range(args.rounds + 1):
            for name, command in COMMANDS.items():
                found[name].append(start(command, places, f"{folder}/bytecode"))
    print(f"{'':20}{'seconds':>8}{'modules':>9}  exit  of them")
    for name, (_, *starts) in found.items():  # the first compiled what it imported
        last, seconds = starts[-1], statistics.median(one.seconds for one in starts)
        heavy = ", ".join(module for module in HEAVY if module in last.modules)
        print(f"{name:20}{seconds:8.2f}{len(last.modules):9}{last.code:6}  {heavy}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--checkpointed", default=str(CHECKPOINTED), help="a run to inspect")
    parser.add_argument("--recorded", default=str(RECORDED), help="a run to report")
    return parser.parse_args()


if __name__ == "__main__":
    main()
