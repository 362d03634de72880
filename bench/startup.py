"""What commands cost before they do anything: seconds of a processor, and what they import.

    python bench/startup.py
    python bench/startup.py --rounds 5

Each command runs in a process of its own, in turns. Seconds are those of the processor, which others on the machine move less
than the clock; medians of the rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
#: What takes long to import, and is told of.
HEAVY = ("torch", "megatron.core", "torch._dynamo", "sympy", "transformers", "hydra", "numpy", "pyarrow", "tokenizers")
_REPORT = """
import json, runpy, sys, time
sys.argv = sys.argv[1:]
report = sys.argv.pop()
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as ending:
    code = ending.code
told = {"seconds": time.process_time(), "modules": list(sys.modules), "code": code}
open(report, "w").write(json.dumps(told))
"""


class Start(NamedTuple):
    seconds: float
    modules: set[str]
    code: int


def start(script: str, *arguments: str, root: Path = ROOT) -> Start:
    """Runs a command of launch/ to its end."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-c", _REPORT, str(root / "launch" / f"{script}.py"), *arguments, str(report)]
        env = os.environ | {"PYTHONPATH": str(root), "PYTHONWARNINGS": "ignore"}
        subprocess.run(command, cwd=folder, env=env, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        told = json.loads(report.read_text())
    return Start(told["seconds"], set(told["modules"]), told["code"] or 0)


#: Commands by what stands in the table. Those of a run want one: --run.
COMMANDS = {
    "pretrain --help": ("pretrain", "--help"),
    "submit --help": ("submit", "--help"),
    "pretrain --check": ("pretrain", "--check", "data.path=STORE", "model.vocab_size=256"),
    "submit dry_run": (
        "submit",
        "submit.dry_run=true",
        "data.path=STORE",
        "model.vocab_size=256",
        "cluster=example_cpu",
    ),
    "report RUN": ("report", "RUN"),
    "convert inspect=": ("convert", "inspect=RUN"),
}


def main() -> None:
    args = arguments()
    places = {"RUN": args.run, "STORE": args.store}
    found: dict[str, list[Start]] = {name: [] for name in COMMANDS}
    for _ in range(args.rounds):
        for name, words in COMMANDS.items():
            for place, path in places.items():
                words = tuple(word.replace(place, path) for word in words)
            found[name].append(start(*words))
    print(f"{'':20}{'seconds':>8}{'modules':>9}  exit  of them")
    for name, starts in found.items():
        last, seconds = starts[-1], statistics.median(one.seconds for one in starts)
        heavy = ", ".join(module for module in HEAVY if module in last.modules)
        print(f"{name:20}{seconds:8.2f}{len(last.modules):9}{last.code:6}  {heavy}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", default=str(ROOT / "tests/fixtures/before/run"), help="a run to report and inspect")
    parser.add_argument("--store", default=str(ROOT / "corpus/quickstart/store/text"), help="a prepared corpus")
    return parser.parse_args()


if __name__ == "__main__":
    main()
