"""Sets what a plan says beside what published runs measured, and beside Calculon's equations; needs neither GPU nor network.

    python bench/planner.py                    tables, in a minute
    python bench/planner.py --quick            without leaving sources out
    python bench/planner.py --write            also writes bench/planner_predictions.csv, a row for each run
    python bench/planner.py --runs other.csv   runs of another file with the same columns

The runs and their sources are in bench/published_runs.csv; tools/published_runs.py says how a row becomes a configuration.
"""

import argparse
import csv
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import calculon  # noqa: E402
from planner_calibration import (  # noqa: E402
    calibrated,
    in_common,
    mean_error,
    nearest,
    pairs_of,
    predicted,
    shares_without,
)
from planner_fit import Fit  # noqa: E402

from dist_plm.cli.app import load  # noqa: E402
from dist_plm.cluster.check import check_run, run_of  # noqa: E402
from dist_plm.plan.search import search  # noqa: E402
from dist_plm.plan.verdict import make_plan  # noqa: E402
from dist_plm.spec.gpus import GPUS  # noqa: E402
from dist_plm.spec.schema import PlanConfig  # noqa: E402
from tools.published_runs import FILE, Published, published  # noqa: E402

PREDICTIONS = ROOT / "bench" / "planner_predictions.csv"
#: Configurations whose planning is timed, each with its ranks.
TIMED = (
    (["experiment=bert_large_lamb"], 256),
    (["experiment=gpt3_175b"], 1024),
    (["model=llama3_70b", "data=store", "precision=bf16", "train.global_batch=2048", "model.vocab_size=128256"], 512),
)
#: The run whose ranks are rehearsed.
REHEARSED = (
    *("model=gpt3_175b", "parallel=tensor8_pipeline16", "data=store", "data.path=x", "model.vocab_size=51200"),
    *("--world-size", "1024", "--ranks", "worst"),
)

Errors = Mapping[tuple[str, str], list[float]]


def by_cluster(runs: Sequence[Published], seconds: Callable[[Published], float | None]) -> Errors:
    """Groups predicted seconds over measured ones, less 1, by source and GPU; None leaves a run out."""
    found: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for run in runs:
        if run.seconds and (predicted := seconds(run)) is not None:
            found[run.cluster].append(predicted / run.seconds - 1)
    return found


def left_out(runs: Sequence[Published], fit: Fit) -> dict[int, float]:
    """Predicts each source with efficiencies that were fitted without it."""
    found = dict[int, float]()
    for family in sorted({run.family for run in runs}):
        found |= predicted(runs, fit, family, [family])
    return found


def regrets(runs: Sequence[Published], seconds: Mapping[int, float]) -> Iterator[tuple[str, int, float]]:
    """Yields of each job that a source measured on several grids: its name, how many, and how much slower than the best the
    one is that is predicted to be the fastest."""
    jobs: defaultdict[tuple, list[Published]] = defaultdict(list)
    for run in runs:
        if run.seconds:
            config = run.config
            same = config.train.global_batch, config.data.sequence_length, run.recipe, run.world_size
            jobs[run.source, run.name, run.gpu, same].append(run)
    for (_, name, gpu, (batch, *_, world)), measured in jobs.items():
        grids = {(run.config.parallel, run.config.train.micro_batch, run.config.model.recompute) for run in measured}
        if len(grids) > 1:
            pick = min(measured, key=lambda run: seconds[run.row])
            best = min(run.seconds or 0.0 for run in measured)
            yield f"{name}, batch {batch}, {world} {gpu}", len(grids), (pick.seconds or 0.0) / best - 1


def table(columns: Mapping[str, Errors]) -> Iterator[str]:
    """Writes mean, median and worst error, and the mean with its sign, of each cluster and column."""
    yield "| source | GPU | runs | " + " | ".join(columns) + " |"
    yield "|---|---|---|" + "---|" * len(columns)
    first = next(iter(columns.values()))
    for cluster in first:
        cells = [_cell(errors.get(cluster, [])) for errors in columns.values()]
        yield f"| {cluster[0]} | {cluster[1]} | {len(first[cluster])} | {' | '.join(cells)} |"
    whole = [[error for errors in column.values() for error in errors] for column in columns.values()]
    yield f"| all | | {len(whole[0])} | {' | '.join(map(_cell, whole))} |"


def _cell(errors: Sequence[float]) -> str:
    if not errors:
        return ""
    sizes = [abs(error) for error in errors]
    mean, median, most = statistics.mean(sizes), statistics.median(sizes), max(sizes)
    return f"{mean:.1%} / {median:.1%} / {most:.0%} ({statistics.mean(errors):+.0%})"


def peer(run: Published) -> float | None:
    """Calculon's seconds, where it knows the model and the GPU."""
    return calculon.step_seconds(run.config, run.gpu) if calculon.can_express(run.config, run.gpu) else None


def memory(runs: Sequence[Published]) -> Errors:
    """Predicted GiB over measured ones, less 1."""
    found: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for run in runs:
        if run.gib:
            found[run.cluster].append(run.predicted_gib() / run.gib - 1)
    return found


def write(runs: Sequence[Published], seconds: Mapping[int, float]) -> None:
    """Writes a row for each run."""
    with PREDICTIONS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = "row source model gpu gpus data tensor pipeline virtual context zero micro_batch global_batch recompute"
        writer.writerow([*names.split(), "seconds", "predicted", "calculon", "gib", "predicted_gib"])
        for run in runs:
            config, parallel = run.config, run.config.parallel
            other = peer(run)
            grid = parallel.data, parallel.tensor, parallel.pipeline, parallel.virtual_pipeline, parallel.context
            batches = config.train.micro_batch, config.train.global_batch, config.model.recompute
            times = run.seconds and f"{run.seconds:.4g}", f"{seconds[run.row]:.4g}", other and f"{other:.4g}"
            sizes = run.gib and f"{run.gib:.1f}", f"{run.predicted_gib():.1f}"
            row = run.row, run.source, run.name, run.gpu, run.world_size, *grid, config.engine.zero_stage
            writer.writerow([*row, *batches, *times, *sizes])


def speed() -> Iterator[str]:
    """Times planning, and a search over 1,024 GPUs."""
    for words, world in TIMED:
        words = [*words, "data.path=x", "cluster.gpu=h100", "cluster=example"]
        began = _clocks()
        config, _ = load(PlanConfig, "plan", words)
        given = run_of(config)
        make_plan(check_run(given, world, with_data=False, with_weights=False), world)
        yield f"planning {words[0]} on {world} GPUs: {_since(began)}"
        if world == 1024:
            began = _clocks()
            found = search(given, world, GPUS["h100"])
            yield f"searching {words[0]} on {world} GPUs: {_since(began)}, {len(found)} grids fit"


def rehearsing() -> str:
    """Rehearses the worst ranks of 1,024, in a process of its own as a user does."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, ROOT / "launch/rehearse.py", *REHEARSED], capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        return f"rehearsing {REHEARSED[0]} fails: {done.stderr.strip()}"
    told = [line for line in done.stdout.splitlines() if line.startswith(("process groups", "took"))]
    return "\n".join([f"rehearsing {REHEARSED[0]}, the worst of 1024 ranks: {seconds:.1f} s", *told])


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(began: tuple[float, float]) -> str:
    now = _clocks()
    return f"{now[0] - began[0]:.2f} s, {now[1] - began[1]:.2f} s of a processor"


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=FILE)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    runs, why_not = published(args.runs)
    seconds = {run.row: run.step().seconds for run in runs}
    columns = {"as shipped": by_cluster(runs, lambda run: seconds[run.row])}
    pairs, shares, told = pairs_of(runs), None, "not estimated"
    most_alike = nearest(runs), nearest(runs, least=1.0)
    if not args.quick:
        fit = Fit(runs)
        unseen, shares, priors = left_out(runs, fit), shares_without(runs, pairs, fit), fit.priors()
        columns["priors, nothing fitted"] = by_cluster(runs, priors.seconds)
        columns["fitted without the source"] = by_cluster(runs, lambda run: unseen[run.row])
        told = f"{in_common(pairs, unseen):.2f}, without one source {min(shares.values()):.2f} to {max(shares.values()):.2f}"
    columns["as shipped, calibrated on one run"] = calibrated(pairs, seconds, shares)
    if not args.quick:
        columns["fitted without, calibrated"] = calibrated(pairs, unseen, shares)
    columns["Calculon"] = by_cluster(runs, peer)
    print("Seconds of a step: mean / median / worst error (mean with its sign)\n")
    print("\n".join(table(columns)))
    print("\nAfter the run of the cluster that is most like it, and the most like at least a doubling away:")
    print(f"  as shipped {' and '.join(f'{mean_error(one, seconds, shares):.1%}' for one in most_alike)}")
    if not args.quick:
        print(f"  fitted without {' and '.join(f'{mean_error(one, unseen, shares):.1%}' for one in most_alike)}")
    print(f"\nIn common to what runs of a cluster are off by: {told}")
    same = [run for run in runs if peer(run) is not None]
    ours = [abs(error) for errors in by_cluster(same, lambda run: seconds[run.row]).values() for error in errors]
    print(f"\nOurs on the {len(ours)} runs that Calculon can express: {statistics.mean(ours):.1%} mean")
    print("\nGiB of a rank\n")
    print("\n".join(table({"as shipped": memory(runs)})))
    print("\nRegret of the grid that is predicted to be the fastest\n")
    found = list(regrets(runs, seconds))
    print("\n".join(f"  {name}: {count} grids, {regret:.1%}" for name, count, regret in found))
    print(f"  mean {statistics.mean(regret for *_, regret in found):.1%}" if found else "  no source measured several")
    print("\nLeft out\n")
    print("\n".join(f"  {count:4} {reason}" for reason, count in sorted(why_not.items(), key=lambda item: -item[1])))
    print()
    print("\n".join(speed()))
    print(rehearsing())
    if args.write:
        write(runs, seconds)


if __name__ == "__main__":
    main()
