"""launch/submit.py command=evaluate and command=generate where there is no Slurm: what it refuses, and what it would submit."""

from pathlib import Path

import pytest

from dist_plm.cli.app import front, load
from dist_plm.cli.commands.submit import command_of
from dist_plm.cli.commands.submit import execute as main
from dist_plm.cluster.submission.inference_job import InferenceJob, placed
from dist_plm.cluster.submit import lay_out
from dist_plm.core.errors import EXIT_FINISHED, EXIT_REFUSED, ConfigError
from dist_plm.core.installed import start_words
from dist_plm.spec.inference.schema import EvaluateConfig
from dist_plm.spec.inference.submissions import InferenceSubmission, asked_by
from tests.launch.frozen_files import frozen_words, script_of
from tests.tasks.inference.models import save

EVALUATE = ["command=evaluate", "from=gpt2", "data.text=gpt2/*.txt"]
GENERATE = ["command=generate", "from=gpt2", "prompts=gpt2/text0.txt"]
ASKED = {"evaluate": EVALUATE, "generate": GENERATE}
DRY = ["cluster=example_cpu", "submit.dry_run=true"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a model, gpt2, and a run of which there are metrics alone."""
    place = tmp_path_factory.mktemp("place")
    (place / "gpt2").mkdir()
    save("gpt2", place / "gpt2")
    (place / "runs/one/checkpoints/step_00000002").mkdir(parents=True)
    (place / "runs/one/metrics.jsonl").touch()
    return place


@pytest.fixture(autouse=True)
def at_home(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the model, without commands of Slurm."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("PATH", str(place))


def loaded(*overrides: str) -> InferenceSubmission:
    kind, root = command_of(overrides)
    config, _ = load(kind, root, overrides)
    assert not isinstance(config, EvaluateConfig) or config.command == "evaluate"
    return config  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize(("launcher", "template"), [("torchrun", "pretrain.sbatch"), ("srun", "pretrain_srun.sbatch")])
@pytest.mark.parametrize("command", ASKED)
def test_the_script_starts_the_command_anew_three_times_at_most(capsys, place, command, launcher, template):
    before = sorted(place.rglob("*"))
    grid = ["parallel.tensor=2", "nodes=3", "min_nodes=1", f"cluster.launcher={launcher}", "cluster.exclude_slow=true"]
    # Shorter than cluster.signal_seconds: nothing is told before it ends.
    assert main([*DRY, *ASKED[command], *grid, "cluster.time='2'"]) == EXIT_FINISHED
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    job = f"{place}/runs/{command}/gpt2/1"
    assert lines[1] == f"# Job {command}-gpt2, made by launch/submit.py from slurm/{template}."
    directives = [line for line in lines if line.startswith("#SBATCH ")]
    assert {f"#SBATCH --job-name={command}-gpt2", "#SBATCH --nodes=1-3", "#SBATCH --requeue"} <= set(directives)
    assert f"#SBATCH --output={job}/log/slurm-%j.log" in directives
    assert not [line for line in directives if "--signal" in line]
    words = [*start_words(command), "--frozen", f"{job}/slurm/config.yaml", ")"]
    assert lines[lines.index("script=(") + 1 :][: len(words)] == words
    assert {f"run_dir={job}", "max_restarts=3", "anew=1", "node_counts=(3 2 1)"} <= set(lines)
    assert ("restarts_in_job=0" in lines) == (launcher == "torchrun")
    assert "exclude_slow=1" not in lines
    (told,) = [line for line in lines if line.startswith("# The settings, ")]
    assert "command" not in told
    assert "nodes" not in told
    assert sorted(place.rglob("*")) == before


def test_fewer_nodes_are_those_on_which_the_ranks_make_a_grid(capsys):
    grid = ["parallel.tensor=4", "cluster.ranks_per_node=2", "nodes=4", "min_nodes=2", "cluster.max_restarts=7"]
    assert main([*DRY, *EVALUATE, *grid]) == EXIT_FINISHED
    out = capsys.readouterr().out
    assert "node_counts=(4 2)\n" in out
    assert "max_restarts=7\n" in out


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([*EVALUATE, "from=gpt3"], "there is nothing at gpt3: give the path of a checkpoint, a run or"),
        ([*EVALUATE, "data.text=nowhere/*.txt"], "no file matches 'nowhere/*.txt'"),
        ([*EVALUATE, "stride=99", "window=9"], "stride = 99 exceeds window = 9"),
        ([*EVALUATE, "parallel.tensor=4"], "needs a multiple of 4 processes, but this run has 2"),
        ([*EVALUATE, "from=away", "submit.check_data=false", "parallel.tensor=4"], "needs a multiple of 4 processes"),
        ([*EVALUATE, "parallel.tensor=4", "nodes=2", "min_nodes=1"], "on min_nodes = 1: parallel.tensor = 4"),
        ([*EVALUATE, "nodes=1", "min_nodes=2"], "min_nodes = 2 exceeds nodes = 1"),
        ([*EVALUATE, "out=nowhere/out.json"], "there is no directory nowhere: make it"),
        ([*EVALUATE, "submit.dir=gpt2/text0.txt/job"], "text0.txt is no directory: name another with submit.dir=DIR"),
        ([*EVALUATE, "submit.dir='s3://a/job'"], "submit.dir = 's3://a/job' is a URL"),
        ([*EVALUATE, "submit.rehearse=true"], "submit.rehearse = true has no effect with command = 'evaluate'"),
        ([*EVALUATE, "submit.force=true"], "which trains nothing: leave it at its default, submit.force=false"),
        ([*EVALUATE, "submit.nodes=2"], "did you mean nodes?"),
        ([*EVALUATE, "optim.lr=1"], "optim.lr = 1 is not a setting"),
        ([*EVALUATE, "cluster.time=1h"], "is not a time limit"),
        ([*EVALUATE, "cluster.options=['--array=0-3']"], "--array is given already"),
        ([*EVALUATE, "from=gpt2,gpt3", "-m"], "--multirun is for commands that train"),
        ([*EVALUATE, "experiment=glue"], "experiment=glue is of fine-tuning"),
        ([*EVALUATE, "submit.dry_run=false"], "is not installed here: submit from a login node"),
        ([*GENERATE, "prompts=nowhere.txt"], "prompts = nowhere.txt cannot be read"),
        ([*GENERATE, "prompts=null"], "there is no prompt: give one"),
        ([*GENERATE, "prompts=null", "chat=true"], "which a job has none of: give prompts=FILE"),
        ([*GENERATE, "max_new_tokens=0"], "max_new_tokens = 0"),
        ([*GENERATE, "command=generat"], "did you mean generate?"),
    ],
)
def test_refuses_with_one_message_and_code_2(capsys, place, overrides, words):
    before = sorted(place.rglob("*"))
    assert main([*DRY, *overrides]) == EXIT_REFUSED
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("command", ASKED)
def test_a_frozen_file_is_the_job_that_is_submitted(capsys, tmp_path, command):
    settings = [*DRY, *ASKED[command], "nodes=2"]
    frozen = frozen_words(capsys, settings, tmp_path / "job.yaml")
    assert script_of(capsys, frozen) == script_of(capsys, settings)


def test_check_says_where_results_go(capsys):
    assert main([*DRY, *GENERATE, "nodes=2", "--check"]) == EXIT_FINISHED
    assert capsys.readouterr().out == (
        "ok\n  job    runs/generate/gpt2/1\n  out    runs/generate/gpt2/1/answers.jsonl\n"
        "  Slurm  2 nodes of 2 ranks, partition cpu, at most 24:00:00\n"
    )


@pytest.mark.parametrize("path", ["runs/one", "runs/one/checkpoints", "runs/one/checkpoints/step_00000002"])
def test_a_run_gets_directories_of_its_evaluations(place, path):
    given = loaded("command=evaluate", f"from={path}", "data.path=store")
    job = InferenceJob(placed(given), (), is_new=True)
    assert job.place.run == place / "runs/one/evaluate/1"
    assert job.config.out == f"{place}/runs/one/evaluate/1/results.json"
    assert "--job-name=evaluate-one" in job.script
    named = placed(loaded("command=evaluate", f"from={path}", "data.path=store", "out=a.json", "submit.dir=jobs/b"))
    assert (named.out, named.submit.dir) == ("a.json", "jobs/b")


def test_each_job_has_its_own_directory_and_starts_what_was_asked(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = loaded(*EVALUATE, f"from={place}/gpt2", f"data.text={place}/gpt2/*.txt", "parallel.tensor=2", "samples=3")
    first, same = (InferenceJob(placed(given), ("samples=3",), is_new=True) for _ in range(2))
    lay_out(first)
    with pytest.raises(ConfigError, match="was made meanwhile, by another submission: submit this one again"):
        lay_out(same)
    second = InferenceJob(placed(given), ("samples=3",), is_new=True)
    assert [job.place.run.relative_to(tmp_path).as_posix() for job in (first, second)] == [
        "runs/evaluate/gpt2/1",
        "runs/evaluate/gpt2/2",
    ]
    started = []
    arguments = ["--frozen", str(first.place.frozen)]
    assert front(arguments, EvaluateConfig, "evaluate", lambda config, _: started.append(config) or 0, "") == 0
    assert started == [asked_by(first.config)]
    assert (started[0].samples, started[0].out) == (3, "runs/evaluate/gpt2/1/results.json")
    assert first.place.script.read_text() == first.script
    assert not (first.place.run / "run.yaml").exists(), "a job's directory is no run's"
