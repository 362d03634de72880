"""What this program and its peers make of a GPU, in one command of under 10 minutes; with --quick of under 6.

    make bench-gpu
    python bench/gpu.py --device cpu --quick

Ceilings of the device, our kernels beside PyTorch's own, whole training steps of bert_large, gpt2_medium and t5_base beside
`transformers` and nanoGPT's loop, profiles. Each part is a process of its own with a time limit, and each row is written
down as it is found, so that one that fails costs nothing but itself. Nothing is downloaded. --out gets gpu.json, gpu.md and
traces.

On a CPU the shapes are tiny: that shows that all of it runs, and says nothing of speed.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
#: Seconds that each part may take, and in --quick.
PARTS = {
    "ceilings": (30, 15),
    "kernels": (110, 60),
    "bert_large": (130, 90),
    "gpt2_medium": (130, 90),
    "profile": (90, 60),
    "t5_base": (130, 90),
}
#: Those that train models: their code is compiled side by side before any of them is timed.
MODELS = ("bert_large", "gpt2_medium", "t5_base")
#: Seconds for that.
PREPARING = (150, 90)
#: Seconds for all of them: what is left then is not begun.
WHOLE = (570, 330)
#: On a CPU of a few cores nothing is in time.
PATIENCE_ON_CPU = 10


def run_part(part: str, args: argparse.Namespace) -> None:
    """Measures one part, in a process of its own."""
    from gpu_kernels import ceilings, kernels
    from gpu_models import models, prepare
    from gpu_profile import profile
    from gpu_timing import Notes

    from dist_plm.distributed.device import choose
    from dist_plm.distributed.grid import Grid
    from dist_plm.distributed.groups import build_groups
    from dist_plm.distributed.launch_env import from_environment
    from dist_plm.distributed.world import init_process_group

    device, timeout = choose(args.device, 0), timedelta(minutes=10)
    init_process_group(from_environment({}), device, timeout)
    groups = build_groups(Grid(), device, timeout=timeout)
    notes, sizes = Notes(args.notes), {"quick": args.quick, "small": device.kind == "cpu"}
    if part == "ceilings":
        ceilings(notes, device.torch_device, **sizes)
    elif part == "kernels":
        kernels(notes, device.torch_device, **sizes)
    elif args.prepare:
        prepare(part, groups, **sizes)
    elif part == "profile":
        profile(notes, groups, args.out, **sizes)
    else:
        models(notes, part, groups, **sizes)
    # No goodbye to process groups: a part that got here has nothing left to lose.
    sys.stdout.flush()
    os._exit(0)


def attempt_part(part: str, args: argparse.Namespace, left: float, *, prepare: bool = False) -> dict[str, Any] | None:
    """Runs one part, or compiles what it will run; what ended it before its time."""
    limit = (PREPARING if prepare else PARTS[part])[args.quick] * (PATIENCE_ON_CPU if args.device == "cpu" else 1)
    if left < 5:
        return {"table": "parts", "name": part, "failed": "no time was left"}
    command = [sys.executable, __file__, "--part", part, "--device", args.device, "--out", str(args.out)]
    command += ["--notes", str(args.notes), *(["--quick"] if args.quick else [])]
    command += ["--prepare"] if prepare else []
    try:
        done = subprocess.run(
            command, timeout=min(limit, left), capture_output=True, text=True, errors="replace", check=False
        )
    except subprocess.TimeoutExpired:
        return {"table": "parts", "name": part, "failed": f"not done in {min(limit, left):.0f} seconds"}
    if done.returncode == 0:
        return None
    (args.out / f"{part}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return {"table": "parts", "name": part, "failed": f"exit code {done.returncode}: {last[:300]} (see {part}.log)"}


def compile_all(parts: list[str], args: argparse.Namespace, left: float) -> None:
    """Fills PyTorch's caches of compiled code; a part without is slower to start, and shows what fails."""
    print(f"compiling what {', '.join(parts)} will run …", flush=True)
    with ThreadPoolExecutor() as pool:
        for failure in pool.map(lambda part: attempt_part(part, args, left, prepare=True), parts):
            if failure:
                print(f"  {failure['name']}: {failure['failed']}", flush=True)


def facts(device: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "python": platform.python_version(),
    }
    for package in ("torch", "triton", "transformers", "megatron-core", "deepspeed"):
        found[package] = version_of(package)
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = (
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {torch.cuda.device_count()} of them"
        )
        found["cuda"] = torch.version.cuda
    else:
        found["cpu"] = f"{platform.machine()}, {torch.get_num_threads()} threads"
    return found


def version_of(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def as_markdown(told: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    lines = ["# Measured by bench/gpu.py", "", ", ".join(f"{key} {value}" for key, value in told.items() if value), ""]
    for table in dict.fromkeys(row["table"] for row in rows):
        own = [row for row in rows if row["table"] == table]
        columns = [
            c for c in dict.fromkeys(k for row in own for k in row) if c not in ("table", "name", "took_seconds")
        ]
        lines += [f"## {table}", "", f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
        for row in own:
            cells = " | ".join(shown(row.get(column)) for column in columns)
            lines.append(f"| {row['name']} | {cells} |".replace("\n", " "))
        lines.append("")
    return "\n".join(lines)


def shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "/")


def main() -> int:
    args = arguments()
    if args.part:
        run_part(args.part, args)
    args.out.mkdir(parents=True, exist_ok=True)
    args.notes = args.out / "notes.jsonl"
    args.notes.write_text("", encoding="utf-8")
    began, failures = time.monotonic(), []
    whole = WHOLE[args.quick] * (PATIENCE_ON_CPU if args.device == "cpu" else 1)
    if args.device == "cuda":
        compile_all([part for part in MODELS if part in args.parts], args, whole)
    for part in args.parts:
        print(f"{part} …", flush=True)
        if failure := attempt_part(part, args, whole - (time.monotonic() - began)):
            print(f"  {failure['failed']}", flush=True)
            failures.append(failure)
    rows = [json.loads(line) for line in args.notes.read_text(encoding="utf-8").splitlines()] + failures
    told = facts(args.device)
    (args.out / "gpu.json").write_text(json.dumps({"facts": told, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    text = as_markdown(told, rows)
    (args.out / "gpu.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\n{time.monotonic() - began:.0f} seconds; {args.out}/gpu.json, gpu.md")
    return 1 if failures or any("failed" in row for row in rows) else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--notes", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
