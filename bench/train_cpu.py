"""Training on a CPU beside its peers: ours, nanoGPT's loop (eager and compiled), and Hugging Face's bare loop and Trainer.

    python bench/train_cpu.py            some twenty minutes
    python bench/train_cpu.py --quick    a few minutes: smaller batches, nothing compiled
    python bench/train_cpu.py --cases 'gpt bf16' --sides nanogpt

All that train a case live at once, in processes of their own, and make their steps in turns (ten a turn of the smallest
model, in which waking up would be a large part of one), in an order that moves on each round, so that what else the machine
does falls on all alike.
Prints medians of a step by the clock and in seconds of processors, and the median over the rounds of the peer's seconds over
ours in the same round: above 1 we are faster. Beside them stand the rates of a matrix product of 1536³, of PyTorch's default
and of oneDNN, of the same minutes. Last come two runs of ours at once on the same cores. Trainer needs `accelerate`.
"""

import argparse
import os
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial

import torch
import transformers
from gpu_timing import seconds_of
from train_cpu_apart import Apart, be_a_rank
from train_cpu_sides import Case, Cost, Side, has_trainer

from dist_plm.cli.busy_machine import SPINS
from dist_plm.distributed import machine_cache
from dist_plm.distributed.cpu_products import WORTHWHILE, speeds_of

GPT = Case("gpt", "bf16")
BERT = Case("bert", "bf16", vocab=30_592)
TINY = Case("gpt", "fp32", layers=2, hidden=64, heads=2, vocab=1024, length=64, rows=4, steps=10)
CASES = [
    replace(case, precision=precision, dropout=dropout)
    for case in (GPT, BERT)
    for precision in ("bf16", "fp32")
    for dropout in (0.0, 0.1)
]
#: Rounds that do not count.
WARM_UP = 2


def sides_of(case: Case, args: argparse.Namespace) -> dict[str, Callable[[], Apart]]:
    """What builds each side of a table, by its name."""
    names = ["ours"]
    if case.family == "gpt":
        names += ["nanogpt"] * (case.dropout == 0.0)
        names += ["ours compiled", "nanogpt compiled"] * (not args.quick)
    names += ["transformers"]
    if has_trainer() and case.dropout == 0.0:
        names += ["Trainer"]
    calls = args.rounds + WARM_UP
    sides = {name: partial(Apart, case, name, threads=args.threads, calls=calls) for name in names}
    if case.dropout == 0.0 and not args.quick:
        sides["ours, 2 processes"] = partial(Apart, case, "ours", ranks=2)
    return sides


def tiny_sides(args: argparse.Namespace) -> dict[str, Callable[[], Apart]]:
    """What a step costs that computes next to nothing: on one rank beside an eager loop, and on two."""
    return {
        "ours": partial(Apart, TINY, "ours", threads=args.threads),
        "nanogpt": partial(Apart, TINY, "nanogpt", threads=args.threads),
        "ours, data 2": partial(Apart, TINY, "ours", ranks=2),
        "ours, tensor 2": partial(Apart, TINY, "ours", ranks=2, tensor=2),
        "ours, pipeline 2": partial(Apart, TINY, "ours", ranks=2, pipeline=2),
    }


def at_once(case: Case, args: argparse.Namespace) -> None:
    """Two processes that train on the same cores, each with as many threads as there are. One that a command begins beside
    another has its threads sleep soon; libgomp's own look for work."""
    waits = {"sleep soon": {"GOMP_SPINCOUNT": SPINS}, "libgomp's own": {}}
    sizes = f"{case.name}, {case.layers} layers of {case.hidden}"
    print(f"\n{sizes}: ms of a step alone, and of two runs at once on the same {args.threads} cores")
    for name, environment in waits.items():
        first, second = (Apart(case, "ours", threads=args.threads, environment=one) for one in ({}, environment))
        alone, together = list[float](), list[float]()
        for side in (first, second):
            side.ready()
        for _ in range(args.rounds + WARM_UP):
            alone.append(first().wall)
            first.begin()
            second.begin()
            together.append(max(first.end().wall, second.end().wall))
        one, two = (statistics.median(found[WARM_UP:]) * 1e3 for found in (alone, together))
        print(f"  the second's {name:14}{one:9.1f}{two:9.1f}{two / one:9.2f} times as long", flush=True)
        first.close()
        second.close()


def in_turns(sides: Mapping[str, Side], rounds: int) -> dict[str, list[Cost]]:
    costs: dict[str, list[Cost]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds + WARM_UP):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            costs[name].append(sides[name]())
    return {name: found[WARM_UP:] for name, found in costs.items()}


def table(case: Case, builders: dict[str, Callable[[], Apart]], args: argparse.Namespace, rounds: int) -> None:
    wanted = {name: build for name, build in builders.items() if name == "ours" or args.sides in name}
    sides = {name: build() for name, build in wanted.items()}
    for side in sides.values():
        side.ready()
    costs = in_turns(sides, rounds)
    print(
        f"\n{case.name}: {case.layers} layers of {case.hidden}, {case.rows} x {case.length}, vocabulary {case.vocab:,}"
    )
    print(f"  {'':20}{'ms':>9}{'cpu ms':>9}{'tokens/s':>10}{'ours faster':>13}{'by cpu':>8}")
    for name, found in costs.items():
        wall, processor = (statistics.median(getattr(cost, key) for cost in found) for key in Cost._fields)
        ratios = [ratio(found, costs["ours"], key) for key in Cost._fields]
        rate = case.rows * case.length / wall
        print(
            f"  {name:20}{wall * 1e3:9.1f}{processor * 1e3:9.1f}{rate:10,.0f}{ratios[0]:13.2f}{ratios[1]:8.2f}",
            flush=True,
        )
    for side in sides.values():
        side.close()


def ratio(theirs: Sequence[Cost], ours: Sequence[Cost], key: str) -> float:
    return statistics.median(getattr(one, key) / getattr(own, key) for one, own in zip(theirs, ours, strict=True))


def ceiling() -> str:
    """Rates of products of 1536³, GFLOP/s."""
    size, cpu = 1536, torch.device("cpu")
    told = []
    for dtype in (torch.float32, torch.bfloat16):
        x, y = (torch.randn(size, size).to(dtype) for _ in range(2))
        kernels = {"default": torch.nn.functional.linear}
        if dtype == torch.float32:
            kernels["oneDNN"] = lambda x, y: torch.ops.mkldnn._linear_pointwise(x, y, None, "none", [], "")
        for name, kernel in kernels.items():
            seconds = seconds_of(lambda kernel=kernel, x=x, y=y: kernel(x, y), cpu, warm=2, budget=0.4)
            told.append(f"{str(dtype)[6:]} {name} {2 * size**3 / seconds / 1e9:.0f}")
    return "products: " + ", ".join(told) + " GFLOP/s"


def main() -> None:
    args = arguments()
    warnings.filterwarnings("ignore")
    if args.rank:
        return be_a_rank(args.rank)
    torch.set_num_threads(args.threads)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{date.today()}, {machine_cache.cpu_model()}, {args.threads} threads, {versions}")
    crawls = speeds_of(torch.bfloat16, machine_cache.user_cache_dir())[0] >= WORTHWHILE
    for case in CASES:
        if args.quick:
            case = replace(case, rows=2)
        if not (case.name in args.cases if args.cases else not (args.quick and case.dropout)):
            continue
        if case.precision == "bf16" and crawls and not args.cases:
            print(f"\n{case.name}: only by --cases, as peers take minutes a step where a CPU does not multiply 16 bits")
            continue
        print("\n" + ceiling())
        table(case, sides_of(case, args), args, args.rounds)
    if not args.cases or "tiny" in args.cases:
        table(TINY, tiny_sides(args), args, 4 * args.rounds)
    if "at once" in args.cases if args.cases else not args.quick:
        for case in (TINY, GPT, replace(BERT, precision="fp32", dropout=0.1)):
            at_once(case, args)
    return None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cases", nargs="*", help="such as 'gpt bf16', 'bert fp32, dropout 0.1', tiny or 'at once'")
    parser.add_argument("--sides", default="", help="those whose name has this in it, beside ours")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
