import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dist_plm.cli.app import front
from dist_plm.config.decode import decode
from dist_plm.core.errors import EXIT_INTERRUPTED, EXIT_REFUSED, EXIT_REQUEUE, DataError
from dist_plm.spec.prepare.schema import PrepareConfig
from dist_plm.spec.schema import PretrainConfig
from tests.core.test_parsing import BOMB

REPOSITORY = Path(__file__).resolve().parents[2]

#: Wrong command lines of pretrain.py, each with what the message has to say.
WRONG = [
    # Keys that do not exist, with and without the prefixes that let Hydra add them.
    (["optim.lrr=1e-4"], ["optim.lrr = 0.0001 is not a setting", "did you mean optim.lr?"]),
    (["+optim.lrr=1e-4"], ["optim.lrr = 0.0001 is not a setting", "did you mean optim.lr?"]),
    (["++optim.lrr=1e-4"], ["optim.lrr = 0.0001 is not a setting", "did you mean optim.lr?"]),
    (["lr=1e-4"], ["lr = 0.0001 is not a setting", "did you mean optim.lr?"]),
    (["train.lr=1e-4"], ["train.lr", "did you mean optim.lr?"]),
    (["optimizer.lr=1e-4"], ["optimizer.lr", "did you mean optim.lr?"]),
    (["optim.learning_rate=1e-4"], ["optim.learning_rate", "did you mean optim.lr?"]),
    (["parallel.tp=2"], ["parallel.tp = 2", "did you mean parallel.tensor?"]),
    (["+parallel.tensor_model_parallel_size=2"], ["did you mean parallel.tensor?"]),
    (["train.batch_size=8"], ["did you mean train.global_batch or train.micro_batch?"]),
    (["+a.b.c=1"], ["a.b.c = 1 is not a setting", "the configuration has: run, model"]),
    (["+optim.lr.x=1"], ["optim.lr = {'x': 1} is not allowed", "a number"]),
    # Choices that do not exist.
    (["model=gpt2_smal"], ["model = 'gpt2_smal' is not a choice", "did you mean gpt2_small", "gpt3_175b"]),
    (["model=bert"], ["model = 'bert' is not a choice", "conf/model has ", "bert_base", "gpt2_large"]),
    (["optimizer=adamw"], ["optimizer is not a group", "did you mean optim=adamw?"]),
    (["modle=gpt2_small"], ["modle is not a group", "did you mean model=gpt2_small?"]),
    (["tokenizer=bpe"], ["tokenizer is not a group of pretrain", "model, objective, data"]),
    (["experiment=quikstart"], ["experiment = 'quikstart'", "did you mean quickstart or quickstart_t5?"]),
    (["track=[wandb,tensorbord]"], ["track = 'tensorbord' is not a choice", "did you mean tensorboard"]),
    (["optim=null"], ["optim = null is not a choice", "conf/optim has ", "adamw"]),
    (["model=3"], ["model = 3 is not a choice"]),
    (["model@other=gpt2_small"], ["model@other=gpt2_small is not of the form group=choice"]),
    # Words that are no overrides.
    (["optim.lr"], ["optim.lr is not of the form key=value"]),
    (["optim.lr", "3e-4"], ["optim.lr is not of the form key=value", "3e-4 is not of the form key=value"]),
    (["--optim.lr=3e-4"], ["--optim.lr=3e-4 is not an option", "without dashes, as in optim.lr=3e-4"]),
    (["--chek"], ["--chek is not an option", "did you mean --check or --help?"]),
    (["--config-dir", "nowhere"], ["--config-dir nowhere is not a directory"]),
    (["--config-dir", ".", "--frozen", "x.yaml"], ["--config-dir has no effect with --frozen x.yaml"]),
    (["optim.lr=1e-4,3e-4"], ["optim.lr=1e-4,3e-4 gives several values", "a run takes one", "add --multirun"]),
    (["train.seed=range(1,5)"], ["train.seed=range(1,5) gives several values"]),
    (["run.name=a b]"], ["run.name=a b] cannot be read", """'run.name="a b]"'"""]),
    (["=3"], ["=3 begins with no name of a setting"]),
    (["model.=3"], ["model.=3 begins with no name of a setting"]),
    ([""], ["is not of the form key=value"]),
    (["run.root=~/runs"], ["run.root=~/runs begins with ~", "run.root=$HOME/runs"]),
    (["~optim.lrr"], ["~optim.lrr takes back nothing", "did you mean optim.lr?"]),
    (["~model"], ["model is missing: choose one of its files with model=NAME"]),
    (["hydra.run.dir=x"], ["Hydra's own settings do nothing here", "run.dir"]),
    (["run.name=${nowhere}"], ["run.name = '${nowhere}' cannot be resolved", "nowhere"]),
    (
        ["model=t5_tiny", "objective=span", "data=store", "data.path=x"],
        ["data.sequence_length = ", "model.max_positions", "give data.sequence_length a value of its own"],
    ),
    (["run.name=${oc.env:NOT_SET_ANYWHERE}"], ["run.name", "NOT_SET_ANYWHERE"]),
    (["--cfg", "hydra"], ["--cfg", "job"]),
    (["--check", "--world-size", "0"], ["--world-size 0 is not allowed"]),
    (["--world-size", "2"], ["--world-size belongs to --check and --origin"]),
    # Values of the wrong kind.
    (["train.steps=1e3"], ["train.steps = 1000.0", "a whole number, at least 1", "write 1000"]),
    (["train.steps=ten"], ["train.steps = 'ten' is not allowed"]),
    (["train.steps=-1"], ["train.steps = -1 is not allowed", "at least 1"]),
    (["optim.lr=0"], ["optim.lr = 0 is not allowed", "more than 0"]),
    (["model.bias=1"], ["model.bias = 1", "true or false", "write true"]),
    (["run.name=2024"], ["run.name = 2024", """'run.name="2024"'"""]),
    (["precision.name=bf8"], ["precision.name = 'bf8'", "fp32, bf16, fp16"]),
    (["optim.betas=0.9"], ["optim.betas = 0.9", "a list of 2"]),
    (["track.to=wandb"], ["track.to = 'wandb'", "write [wandb]"]),
    (["train.seed=null"], ["train.seed = null is not allowed", "a whole number"]),
    (["data=store", "model=gpt2_small"], ["data.path is missing: give data.path=…"]),
    # Values that do not fit each other; one process runs here.
    (["parallel.tensor=2"], ["parallel.tensor = 2", "multiple of 2 processes", "this run has 1"]),
    (["parallel.data=2"], ["parallel.data = 2", "1 process"]),
    (["parallel.context=2"], ["parallel.context = 2", "multiple of 2 processes", "this run has 1"]),
    (["train.micro_batch=3"], ["train.global_batch = 16", "train.micro_batch = 3"]),
    (["schedule.power=2"], ["schedule.power = 2 is not a setting of schedule.name = 'cosine', but of polynomial"]),
    (["schedule.warmup_steps=5", "schedule.warmup_ratio=0.1"], ["warmup_steps = 5 and schedule.warmup_ratio = 0.1"]),
    (["precision.initial_loss_scale=2"], ["precision.initial_loss_scale = 2.0 has no effect"]),
    (["model=gpt2_small", "data.sequence_length=2048"], ["data.sequence_length = 2048", "model.max_positions = 1024"]),
    (["train.resume=latest"], ["train.resume = 'latest'", "./latest"]),
    # Items of lists that there are not.
    (["track.to.x=1"], ["track.to.x=1 names no item: track.to is a list"]),
    (["optim.betas.x=1"], ["optim.betas.x=1 names no item: optim.betas is a list"]),
    (["checkpoint.signals.x=1"], ["checkpoint.signals.x=1 names no item: checkpoint.signals is a list"]),
    (["optim.betas.7=1"], ["optim.betas.7=1 cannot be applied"]),
    (["optim.betas.0.x.y=1"], ["optim.betas[0] = {'x': {'y': 1}} is not allowed"]),
    # Numbers beyond any use, and in other digits.
    (
        ["train.steps=" + "1" * 400],
        ["train.steps = 11111111111111111111… (400 digits) is too large", "9223372036854775807"],
    ),
    (["optim.lr=" + "1" * 400], ["optim.lr = 11111111111111111111… (400 digits) is not allowed"]),
    (["train.seed=" + "9" * 5000], ["no number of more than 4,300 digits is read"]),
    (["model.vocab_size=9223372036854775808"], ["model.vocab_size = 9223372036854775808 is too large"]),
    (
        ["train.batch_rampup={start: 1, increment: 1, samples: 99999999999999999999}"],
        ["batch_rampup.samples = 99999999"],
    ),
    (["train.seed=9223372036854775808"], ["at least 0 and at most 9223372036854775807"]),
    (["cluster.timeout_minutes=1e300"], ["cluster.timeout_minutes = 1e+300", "at most 525600"]),
    (["train.hang_minutes=1e17"], ["train.hang_minutes = 1e+17", "at most 525600"]),
    (["train.hang_factor=1e300"], ["train.hang_factor = 1e+300", "at most 1000000"]),
    (["train.steps='١٢'"], ["train.steps = '١٢' is not allowed", "with the digits 0 to 9, as in 12"]),
    (["optim.lr='٣'"], ["optim.lr = '٣' is not allowed", "with the digits 0 to 9, as in 3"]),
    (["--check", "--world-size", "１"], ["--world-size １ is not allowed"]),
    (["--check", "--world-size", "9" * 5000], ["is not allowed: it must be a whole number"]),
    # What is taken back must be as it is said to be.
    (
        ["~parallel.sequence_parallel=5"],
        ["parallel.sequence_parallel is false, not 5", "write ~parallel.sequence_parallel"],
    ),
    (["~parallel.sequence_parallel=0"], ["parallel.sequence_parallel is false, not 0"]),
    (["~optim.lr=1e-3"], ["1 problem", "optim.lr is 0.0006, not 0.001"]),
    # Keys given twice, keys in other letters, depth.
    (["data.blend=[{path: a, path: b}]"], ["gives path twice: keep one of them"]),
    (["optim={lr: 1, lr: 1}"], ["gives lr twice"]),
    (["trаin.steps=5"], ["holds а, cyrillic small letter a: names of settings are written in the letters a to z"]),
    (["optim.lr\u03bf=5"], ["holds ο, greek small letter omicron"]),
    (["模型=5"], ["holds 模, cjk unified ideograph"]),
    (["optim.betas=" + "[" * 2000 + "]" * 2000], ["nests too deeply"]),
    # Paths that there cannot be.
    (["run.name=" + "n" * 300], ["run.name = 'nnn", "is longer than a directory's name may be"]),
    (["run.name='" + "语" * 100 + "'"], ["is longer than a directory's name may be"]),
    (["data.path=" + "a/" * 3000], ["data.path = 'a/a/", "is longer than a path may be"]),
    (["run.root=" + "a" * 250], ["run.root = 'aaa", "holds a name longer than there can be"]),
    (["run.dir='a\nb'"], [r"run.dir = 'a\nb' holds a line break or another control character"]),
    (["run.root='a\x1bb'"], [r"run.root = 'a\x1bb' holds a line break"]),
    (["checkpoint.dir='a\u2028b'"], [r"checkpoint.dir = 'a\u2028b' holds a line break"]),
    (["data.path='a\0b'"], ["data.path = 'a\\x00b' is not allowed", "without the character NUL"]),
    (["data.path='a\udcff'"], ["data.path = 'a\\udcff' is not allowed", "in UTF-8"]),
    (["checkpoint.dir=nosuch://x/y"], ["checkpoint.dir = 'nosuch://x/y' is of no protocol that fsspec knows"]),
    (["checkpoint.dir=s3://x/y"], ["checkpoint.dir = 's3://x/y' needs what is not installed here: Install s3fs"]),
    (["checkpoint.dir=http://x/y"], ["checkpoint.dir = 'http://x/y' ", "http"]),
    (["checkpoint.dir=zip://x::memory://y"], ["checkpoint.dir = 'zip://x::memory://y' can be read alone"]),
    (["train.resume=nosuch://x/y"], ["train.resume = 'nosuch://x/y' is of no protocol"]),
    (["train.init_from=gs://x"], ["train.init_from = 'gs://x' needs what is not installed here"]),
    (["data.path=s3://x"], ["data.path = 's3://x' is a URL", "give a path"]),
    (["model.init_from=hf://a/b"], ["model.init_from = 'hf://a/b' is a URL"]),
    # Measures that no evaluation gives, or none before the end.
    (
        ["checkpoint.keep_best=nope"],
        ["checkpoint.keep_best = 'nope' is no measure", "it has loss, perplexity, accuracy"],
    ),
    (["checkpoint.keep_best=los", "train.eval_every=5"], ["did you mean loss?"]),
    (["checkpoint.keep_best=eval/loss", "train.eval_every=5"], ["did you mean loss?"]),
]

WRONG_PREPARE = [
    ([], ["data.sources is missing", "data.out is missing"]),
    (["data.sources=texts/*.txt", "data.out=x"], ["data.sources = 'texts/*.txt'", "a list in brackets"]),
    (["data.sources=[]", "data.out=x"], ["data.sources is empty", "data.sources=[{path: texts/*.txt}]"]),
    (["data.sources=[{path: a}]", "data.out=x", "tokenizer=file"], ["tokenizer.path is missing"]),
    (["data.sources=[{path: a}]", "data.output=x", "data.out=y"], ["data.output = 'x'", "did you mean data.out?"]),
    (["data.sources=[{path: a}]", "data.out=x", "model=gpt2_small"], ["model is not a group of prepare_data"]),
    (["data.sources=[{path: a}]", "data.out=x", "data=store"], ["data is not a group of prepare_data"]),
]


@pytest.fixture(autouse=True)
def _outside_of_any_job(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_")) or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            monkeypatch.delenv(name)


def never(config, origins):
    raise AssertionError("a refused configuration must not run")


def pretrain(*arguments: str, run=never) -> int:
    return front(arguments, PretrainConfig, "pretrain", run, "What it does.")


def script(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "launch" / "pretrain.py"), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        check=False,
        timeout=600,
    )


def assert_refused(code: int, error: str, parts: list[str]) -> None:
    assert code == EXIT_REFUSED
    assert error.startswith("configuration refused, ")
    assert "Traceback" not in error
    for part in parts:
        assert part in error


@pytest.mark.parametrize(("arguments", "parts"), WRONG, ids=lambda value: " ".join(value))
def test_wrong_configurations_are_refused(arguments, parts, capsys):
    code = pretrain(*arguments)
    output = capsys.readouterr()
    assert_refused(code, output.err, parts)
    assert output.out == ""


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[" * 5000 + "]" * 5000, ["nests more than 50 levels deep"]),
        ("train: " + "{a: " * 60 + "1" + "}" * 60, ["nest more than 50 levels deep"]),
        ("train: &a {steps: *a}", ["contains itself", "line 1"]),
        ("train:\n  seed: " + "9" * 5000, ["4,300 digits"]),
        (BOMB, ["aliases repeat themselves"]),
        ("train:\n  seed: 1\n  seed: 1", ["duplicate key seed", "line 3"]),
        ("train: {steps: 010}", ["010 is not the same number to every reader"]),
        ("train: {steps: 1:30}", ["1:30 is not the same number"]),
        ("train: {steps: 1_0}", ["1_0 is not the same number"]),
        ('run: {name: "\\udcff"}', ["half a surrogate pair"]),
        ("run: {name: a\0b}", ["special characters are not allowed"]),
        ("- 1", ["holds no configuration"]),
        ("? {a: 1}\n: 2", ["keys are names"]),
        ("1: 2", ["1 = 2 is not a setting"]),
        ("run: 2001-01-01", ["run = '2001-01-01' is not allowed"]),
        ("run: {name: !!binary aaaa}", ["run.name = b"]),
    ],
    ids=range(16),
)
def test_frozen_files_that_are_no_configuration_are_refused(text, parts, capsys, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    code = pretrain("--frozen", str(path))
    assert_refused(code, capsys.readouterr().err, parts)


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "/", "/dev/zero", "nowhere"], ids=range(5))
def test_what_is_no_file_is_no_frozen_configuration(path, capsys):
    assert_refused(pretrain("--frozen", path), capsys.readouterr().err, ["cannot be read"])


@pytest.mark.parametrize(("arguments", "parts"), WRONG_PREPARE, ids=lambda value: " ".join(value))
def test_wrong_preparations_are_refused(arguments, parts, capsys):
    code = front(arguments, PrepareConfig, "prepare_data", never, "")
    assert_refused(code, capsys.readouterr().err, parts)


def test_problems_of_composing_and_decoding_come_together(capsys):
    arguments = ["model=nope", "optim.lr=1,2", "data.path=${x}", "run.nam=a", "train.steps=0", "~zzz.y"]
    code = pretrain(*arguments)
    assert_refused(
        code, capsys.readouterr().err, ["6 problems", "nope", "1,2", "${x}", "run.nam", "train.steps", "zzz.y"]
    )


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["+optim.lrr=1"], ["did you mean optim.lr?"]),
        (["model=gpt2_smal", "run.name=a b]"], ["2 problems", "gpt2_small"]),
        (["parallel.tensor=2"], ["multiple of 2 processes"]),
        (["--origin", "parallel.tensor=2"], ["multiple of 2 processes"]),
    ],
)
def test_the_script_itself_refuses(arguments, parts):
    done = script(*arguments)
    assert_refused(done.returncode, done.stderr, parts)


def test_ranks_but_the_first_say_who_they_are_and_none_leaves_anything_behind(tmp_path, monkeypatch):
    """Where no launcher has ended them meanwhile: each may be the only one at fault."""
    monkeypatch.chdir(tmp_path)
    rank = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    first = script("optim.lrr=1", RANK="0", LOCAL_RANK="0", **rank)
    second = script("optim.lrr=1", RANK="1", LOCAL_RANK="1", **rank)
    assert_refused(first.returncode, first.stderr, ["optim.lr"])
    assert (second.returncode, second.stdout) == (EXIT_REFUSED, "")
    assert second.stderr.endswith(f", rank 1: {first.stderr}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", ["--help", "--cfg job", "--origin", "--check data.path=elsewhere", "optim.lrr=1"])
def test_nothing_imports_torch_before_a_run(arguments):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['pretrain.py', *{arguments.split()!r}]\n"
        "try:\n    runpy.run_path('launch/pretrain.py', run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'megatron', 'numpy'} & set(sys.modules)\n"
        "assert 'omegaconf' in sys.modules and not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, timeout=600)


def test_help_is_for_people(capsys):
    assert pretrain("--help", "nonsense=1") == 0
    text = capsys.readouterr().out
    assert text.startswith("What it does.")
    for part in ("gpt2_small", "experiment", "cosine*", "--origin", "--check", "--world-size", "Exit codes", "75"):
        assert part in text
    assert max(map(len, text.splitlines())) <= 120
    assert script("-h").stdout.startswith("Pretrains a language model")


def test_cfg_prints_what_can_be_read_back(capsys):
    assert pretrain("--cfg", "job", "optim.lr=1e-5", "track=[wandb,tensorboard]") == 0
    config = decode(PretrainConfig, yaml.safe_load(capsys.readouterr().out))
    assert config.optim.lr == 1e-5
    assert config.track.to == ("wandb", "tensorboard")


def test_origin_tells_file_command_line_default_and_derived(capsys):
    assert pretrain("--origin", "experiment=gpt2_small", "train.seed=7", "data.path=x", "--world-size", "4") == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["train.seed"].split()[1:] == ["7", "command", "line"]
    assert "conf/experiment/gpt2_small.yaml  (over conf/pretrain.yaml: 'pretrain')" in lines["run.name"]
    assert lines["model.layers"].split()[1:] == ["12", "conf/model/gpt2_small.yaml"]
    assert lines["train.log_every"].split()[1:] == ["1", "default"]
    assert lines["parallel.data"].split()[1:] == ["4", "derived"]
    assert lines["run.dir"].split()[1:] == ["'runs/gpt2_small'", "derived"]


def test_origin_is_shown_also_where_the_rules_refuse(capsys):
    assert pretrain("--origin", "parallel.tensor=2") == EXIT_REFUSED
    output = capsys.readouterr()
    assert "parallel.tensor" in output.out
    assert "multiple of 2 processes" in output.err


@pytest.mark.parametrize(
    ("arguments", "env", "ranks"),
    [
        (["--world-size", "256"], {}, 256),
        ([], {"WORLD_SIZE": "128"}, 128),
        ([], {"SLURM_NTASKS": "384", "SLURM_JOB_ID": "1"}, 384),
    ],
)
def test_check_plans_for_the_processes_to_come(arguments, env, ranks, capsys, monkeypatch):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert pretrain("--check", "experiment=gpt3_175b", "data.path=x", *arguments) == 0
    text = capsys.readouterr().out
    assert text.startswith("ok\n")
    assert f"= {ranks} processes" in text
    for part in ("175 G parameters", "padded to 51200", "6 of 96 layers", "12 of 96 heads", "3.15 M tokens"):
        assert part in text


def test_check_counts_one_thing_as_one(capsys):
    least = [
        "model.layers=1",
        "train.steps=1",
        "train.global_batch=1",
        "train.micro_batch=1",
        "schedule.warmup_steps=1",
    ]
    assert pretrain("--check", "experiment=gpt2_small", "data.path=x", *least) == 0
    text = capsys.readouterr().out
    for part in (
        "of 1 layer,",
        "1 sample of 1024 =",
        "in 1 microbatch of 1 on",
        "1 step = 1.02 k",
        "1 step of them warm-up",
    ):
        assert part in text


def test_check_of_a_preparation(capsys):
    arguments = ["--check", "data.sources=[{path: a}]", "data.out=x"]
    assert front(arguments, PrepareConfig, "prepare_data", never, "") == 0
    assert capsys.readouterr().out == "ok\n"


def test_a_run_gets_its_configuration_and_origins_and_its_code_is_passed_on():
    seen = []

    def run(config, origins):
        seen.append((config, origins))
        return EXIT_REQUEUE

    assert pretrain("optim.lr=1e-4", run=run) == EXIT_REQUEUE
    ((config, origins),) = seen
    assert config.optim.lr == 1e-4
    assert config.parallel.data is None
    assert origins["optim.lr"].source == "command line"
    assert origins["run.dir"].source == "conf/pretrain.yaml"
    assert pretrain(run=lambda config, origins: None) == 0


def test_a_run_that_refuses_its_data_says_so_once_a_node(capsys, monkeypatch):
    def run(config, origins):
        raise DataError("corpus/x is not there")

    assert pretrain(run=run) == EXIT_REFUSED
    assert capsys.readouterr().err == "corpus/x is not there\n"
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "SLURMD_NODENAME": "n2"}.items():
        monkeypatch.setenv(name, value)
    assert pretrain(run=run) == EXIT_REFUSED
    assert capsys.readouterr().err == "n2, rank 1: corpus/x is not there\n"


def test_interruptions_are_quiet_and_crashes_are_not(capsys):
    def interrupted(config, origins):
        raise KeyboardInterrupt

    def crash(config, origins):
        raise RuntimeError("ours to mend")

    assert pretrain(run=interrupted) == EXIT_INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"
    with pytest.raises(RuntimeError, match="ours to mend"):
        pretrain(run=crash)


def test_a_half_set_environment_is_refused(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert_refused(pretrain(), capsys.readouterr().err, ["WORLD_SIZE=2", "torchrun or srun"])


def test_tracebacks_of_crashes_hold_no_credentials():
    program = (
        "import sys, threading\n"
        "from dist_plm.cli import app\n"
        "def crash(*arguments):\n"
        "    thread = threading.Thread(target=lambda: open('s3://user:HUNTER22@host/thread'))\n"
        "    thread.start(); thread.join()\n"
        "    raise OSError('s3://user:HUNTER22@host/x?secret=HUNTER22 is away')\n"
        "app._dispatch = crash\n"
        "app.main(object, 'pretrain', None, None)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 2
    assert "OSError: s3://user:***@host/x?secret=*** is away" in done.stderr
    assert "HUNTER22" not in done.stderr.replace("open('s3://user:HUNTER22@host/thread')", "")
