"""What the runs of a sweep reached, by what they are compared by."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import yaml

from dist_plm.cli.sweeps.run_end import run_end
from dist_plm.cli.sweeps.sweep_table import SweptRun, table_of


def run(folder: Path, own: list[str], values: list[float | None], **settings) -> SweptRun:
    """A run of two evaluations; settings by section__key."""
    run_dir = folder / "_".join(own).replace("=", "-")
    run_dir.mkdir()
    found = {"train": {"steps": 4}}
    for path, value in settings.items():
        section, _, key = path.partition("__")
        found.setdefault(section, {})[key] = value
    (run_dir / "run.yaml").write_text(yaml.safe_dump(found))
    records = [{"step": 2 * n + 2, "loss": 1.0, "eval/loss": 2.0 - n, "eval/accuracy": a} for n, a in enumerate(values)]
    (run_dir / "metrics.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return SweptRun(own, run_dir)


def rows_of(table: str) -> dict[tuple[str, str], list[str]]:
    lines = [line.split("  ") for line in table.splitlines()[1:]]
    told = [[word.strip() for word in line if word.strip()] for line in lines]
    return {(line[0], line[1]): line[2:] for line in told}


def test_mean_and_spread_over_seeds(tmp_path: Path) -> None:
    reached = {("1e-5", seed): [0.1, accuracy] for seed, accuracy in ((1, 0.5), (2, 0.6), (3, 0.8))}
    reached |= {("2e-5", 1): [0.9, 0.7]}
    runs = [
        run(tmp_path, [f"optim.lr={rate}", f"train.seed={seed}"], values) for (rate, seed), values in reached.items()
    ]
    rows = rows_of(table_of(runs))
    deviation = f"{statistics.stdev([0.5, 0.6, 0.8]):.3g}"
    assert rows["optim.lr=1e-5", "accuracy"] == ["0.63333", deviation, "0.5", "0.8", "3"]
    assert rows["optim.lr=1e-5", "loss"] == ["1", "0", "1", "1", "3"]
    assert rows["optim.lr=2e-5", "accuracy"] == ["0.7", "-", "0.7", "0.7", "1"]
    assert len(rows) == 4


def test_measures_of_tasks_are_results_and_parts_of_the_loss_are_not(tmp_path: Path) -> None:
    runs = [run(tmp_path, [f"optim.lr={rate}"], [0.5, 0.7]) for rate in (1, 2)]
    for swept in runs:
        metrics = swept.run_dir / "metrics.jsonl"
        records = [json.loads(line) for line in metrics.read_text().splitlines()]
        told = ("lambada/accuracy", "law/loss", "initial/loss", "initial/law/loss", "loss/mlm", "accuracy/mlm")
        records[-1] |= {f"eval/{name}": 0.5 for name in (*told, "perplexity/mlm")}
        metrics.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    measures = [measure for setting, measure in rows_of(table_of(runs)) if setting == "optim.lr=1"]
    assert measures == ["loss", "accuracy", "lambada/accuracy", "law/loss"]


def test_the_best_evaluation_counts_where_it_is_kept(tmp_path: Path) -> None:
    best = {"checkpoint__keep_best": "accuracy", "checkpoint__best_is": "highest"}
    runs = [run(tmp_path, [f"train.seed={seed}"], [0.9, 0.1 * seed], **best) for seed in (1, 2)]
    assert rows_of(table_of(runs))["all", "accuracy"] == ["0.9", "0", "0.9", "0.9", "2"]


def test_a_measure_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    best = {"checkpoint__keep_best": "accuracy", "checkpoint__best_is": "lowest"}
    runs = [run(tmp_path, [f"train.seed={seed}"], [None, 0.1 * seed], **best) for seed in (1, 2)]
    assert rows_of(table_of(runs))["all", "accuracy"][2:] == ["0.1", "0.2", "2"]


def test_what_is_not_finished_is_left_out(tmp_path: Path) -> None:
    runs = [run(tmp_path, [f"train.seed={seed}"], [0.5] * seed) for seed in (1, 2)]  # of the first one evaluation
    assert table_of(runs) == ""
    assert table_of([]) == ""


def test_runs_that_stopped_early_are_told_without_tensors(tmp_path: Path) -> None:
    """Importing PyTorch and Megatron-core took four of the five seconds in which a finished sweep told its table."""
    (tmp_path / "runs").mkdir()
    stops = {"patience": 1, "threshold": 0.0, "metric": "accuracy", "greater_is_better": True}
    stopped = run(tmp_path / "runs", ["optim.lr=1"], [0.5, 0.4], train__steps=9, train__early_stopping=stops)
    program = "import sys; from pathlib import Path; from dist_plm.cli.sweeps.run_end import run_end; "
    program += "print(run_end(Path(sys.argv[1])).step, {'torch', 'megatron.core'} & {*sys.modules} or 'no tensors')"
    command = [sys.executable, "-c", program, str(stopped.run_dir)]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.stdout == "4 no tensors\n", done.stderr


def test_an_evaluation_that_is_no_number_is_not_the_best(tmp_path: Path) -> None:
    swept = run(tmp_path, ["optim.lr=1"], [0.5, 0.8], checkpoint__keep_best="accuracy", checkpoint__best_is="highest")
    metrics = swept.run_dir / "metrics.jsonl"
    first, second = map(json.loads, metrics.read_text().splitlines())
    first |= {"eval/accuracy": None, "nonfinite": {"eval/accuracy": "nan"}}
    metrics.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    reached = run_end(swept.run_dir)
    assert reached is not None
    assert (reached.step, reached.measures["accuracy"]) == (4, 0.8)
