"""The report of one run and of several, through the script a person starts, and every way a run can be unusable."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dist_plm.core.errors import UserError
from dist_plm.monitor.formatting import ASCII_RAMP
from dist_plm.monitor.metrics_file import MetricsWriter
from dist_plm.monitor.report import load_run, render_report
from tests.core.test_parsing import BOMB
from tests.monitor.make import record

SCRIPT = Path(__file__).parents[2] / "launch" / "report.py"


def make_run(path: Path, num_steps: int = 40, settings: str | None = None, **changes) -> Path:
    path.mkdir(parents=True)
    with MetricsWriter(path / "metrics.jsonl") as writer:
        for step in range(1, num_steps + 1):
            evaluation = {"loss": 4.0, "perplexity": 54.6} if step == num_steps else {}
            writer.write(record(step, evaluation=evaluation, **changes))
    if settings is not None:
        (path / "run.yaml").write_text(settings)
    return path


def report(*arguments, **environment) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"} | environment,
        check=False,
    )


def test_one_run_in_detail(tmp_path):
    run = make_run(tmp_path / "small", settings="optim: {lr: 0.001}\n")
    done = report(run)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"run                  {run}"
    assert "loss                 10 -> 0.25" in lines
    curve = next(line for line in lines if line.startswith("loss █"))
    assert curve.endswith("▁")
    header = lines.index("step  tokens    loss     lr  grad norm  tokens/s    MFU  held-out perplexity")
    assert [line.split()[0] for line in lines[header + 1 :]] == [
        "1",
        "5",
        "10",
        "14",
        "18",
        "23",
        "27",
        "31",
        "36",
        "40",
    ]
    assert lines[-1] == "40     20.5k    0.25  0.001        1.5     2.05k  40.0%                 54.6"


def test_whoever_reads_it_may_stop_early(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        command = [sys.executable, SCRIPT, make_run(tmp_path / "run")]
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")


def test_several_side_by_side(tmp_path):
    settings = "run: {{name: {0}}}\noptim: {{lr: {1}, name: adamw}}\nmodel: {{layers: 2{2}}}\n"
    first = make_run(tmp_path / "first", settings=settings.format("first", 0.001, ""))
    second = make_run(
        tmp_path / "second", 20, settings=settings.format("second", 0.002, ", bias: true"), mfu=None, skipped=1
    )
    done = report(first, second)
    assert done.returncode == 0
    rows = {line.split("  ")[0]: line.split() for line in done.stdout.splitlines()}
    assert rows["run"][1:] == [str(first), str(second)]
    assert rows["steps"][1:] == ["40", "20"]
    assert rows["MFU"][1:] == ["40.0%", "-"]
    assert rows["skipped updates"][2:] == ["0", "(0.00%)", "20", "(100.00%)"]
    assert rows["optim.lr"][1:] == ["0.001", "0.002"]
    assert rows["model.bias"][1:] == ["-", "true"]
    assert not {"run.name", "optim.name", "model.layers"} & rows.keys()


def test_runs_with_the_same_settings_show_none(tmp_path):
    runs = [load_run(make_run(tmp_path / name, 2)) for name in ("a", "b")]
    assert "settings" not in render_report(runs)


def test_evaluated_steps_are_among_the_rows(tmp_path):
    run = make_run(tmp_path / "run", 0)
    with MetricsWriter(run / "metrics.jsonl") as writer:
        for step in range(1, 1001):
            writer.write(record(step, evaluation={"perplexity": 1.0 + step} if step in (250, 777) else {}))
    lines = render_report([load_run(run)]).splitlines()
    assert [line.split()[0] for line in lines if line.endswith(("  251", "  778"))][-2:] == ["250", "777"]


@pytest.mark.parametrize("num_steps", [1, 2, 11])
def test_short_runs(tmp_path, num_steps):
    text = render_report([load_run(make_run(tmp_path / "run", num_steps))])
    assert text.splitlines()[-1].startswith(f"{num_steps} ")


def test_a_diverged_run_is_shown(tmp_path):
    run = make_run(tmp_path / "run", 3, loss=float("nan"), grad_norm=None, mfu=None)
    lines = render_report([load_run(run)]).splitlines()
    assert "loss                 nan -> nan" in lines
    assert "loss !!!" in lines


def test_a_torn_last_line_is_no_obstacle(tmp_path):
    run = make_run(tmp_path / "run", 3)
    path = run / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    done = report(run)
    assert done.returncode == 0
    assert "steps     2 " in done.stdout


def test_without_unicode_the_curve_is_ascii(tmp_path):
    done = report(make_run(tmp_path / "run"), PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    curve = next(line for line in done.stdout.splitlines() if line.startswith(f"loss {ASCII_RAMP[-1]}"))
    assert curve.endswith(ASCII_RAMP[0])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda run: None, "missing/run is no directory"),
        (lambda run: run.mkdir(parents=True), "metrics.jsonl is missing"),
        (lambda run: (run / "metrics.jsonl").mkdir(parents=True), "cannot be read (Is a directory)"),
        (lambda run: make_run(run, 0), "holds no step yet"),
        (lambda run: (make_run(run, 0) / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n'), "lacks grad_norm"),
        (lambda run: make_run(run, settings="- a\n"), "run.yaml is no mapping"),
        (lambda run: make_run(run, settings="a: [1\n"), "run.yaml cannot be read"),
        (lambda run: (make_run(run) / "run.yaml").write_bytes(b"\xff\xfe\xfa"), "run.yaml cannot be read"),
    ],
)
def test_an_unusable_run_is_refused(tmp_path, spoil, said):
    run = tmp_path / "missing" / "run"
    spoil(run)
    with pytest.raises(UserError) as refusal:
        load_run(run)
    assert said in str(refusal.value)


def test_a_refusal_is_one_message_and_exit_code_2(tmp_path):
    done = report(make_run(tmp_path / "good", 2), tmp_path / "bad")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{tmp_path / 'bad'} is no directory; name a run directory such as runs/quickstart\n"


def test_help_and_missing_arguments():
    assert "runs/quickstart" in report("--help").stdout
    assert report("--help").returncode == 0
    assert report().returncode == 2


def with_line(run: Path, **changes: object) -> None:
    """A run whose last record has other values."""
    make_run(run, 2)
    path = run / "metrics.jsonl"
    last = json.loads(path.read_text().splitlines()[-1])
    with path.open("a") as file:
        file.write(json.dumps({**last, "step": 3, **changes}) + "\n")


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "abc"},
        {"loss": None},
        {"loss": [1]},
        {"loss": True},
        {"loss": 10**400},
        {"lr": {}},
        {"grad_norm": "1"},
        {"mfu": "high"},
        {"tokens_seen": -1},
        {"tokens_seen": None},
        {"step_seconds": 1e308},
        {"step_seconds": float("inf")},
        {"skipped": float("nan")},
        {"tokens_per_second": []},
        {"eval/perplexity": "x"},
        {"step": 10**30},
    ],
)
def test_a_value_that_is_no_number_is_refused_by_name(tmp_path, changes):
    with_line(tmp_path / "run", **changes)
    (name,) = changes
    with pytest.raises(UserError, match=rf"metrics.jsonl, step \d+: {name} = .* is no (number|count or time)"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize(
    "changes", [{"loss": 1e308}, {"loss": float("inf")}, {"loss": -1e308}, {"mfu": None}, {"extra": "x"}, {"lr": 0}]
)
def test_odd_numbers_are_shown(tmp_path, changes):
    with_line(tmp_path / "run", **changes)
    with_line(tmp_path / "other", loss=-1e308)
    runs = [load_run(tmp_path / "run"), load_run(tmp_path / "other")]
    assert render_report(runs[:1]).splitlines()[-1].startswith("3 ")
    assert "loss curve" in render_report(runs)


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "9" * 5000,
        '{"step": true}',
        '{"step": -1}',
        '{"step": "1"}',
        '{"step": 1e99}',
        "null",
        '{"step": 3, "nonfinite": 5}',
        '{"step": 3, "nonfinite": {"loss": [1]}}',
        '{"step": 3, "nonfinite": {"loss": "x"}}',
        '{"step": 3, "nonfinite": null}',
        "",
        "\0\0",
        '"\\ud800"',
    ],
    ids=range(15),
)
def test_lines_that_are_no_records_are_left_out(tmp_path, line):
    run = make_run(tmp_path / "run", 2)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    assert len(load_run(run).records) == 2


@pytest.mark.parametrize(
    "settings", ["[" * 50_000, "a: " + "9" * 5000, "a: &a [*a]", "a: 1\na: 2", 'a: "\\ud800"', BOMB]
)
def test_settings_that_are_no_plain_yaml_are_refused(tmp_path, settings):
    with pytest.raises(UserError, match=r"run.yaml cannot be read"):
        load_run(make_run(tmp_path / "run", settings=settings))


@pytest.mark.parametrize("name", ["metrics.jsonl", "run.yaml"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    run = make_run(tmp_path / "run", 2)
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    with pytest.raises(UserError, match="it is a pipe, not a file"):
        load_run(run)


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "/dev/null"])
def test_names_that_no_directory_has(path):
    with pytest.raises(UserError, match="is no directory"):
        load_run(Path(path))


def test_a_report_does_not_wait_for_torch():
    program = "import sys, dist_plm.monitor.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
