import shlex
import subprocess
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.cluster.job import JobDirectories, batch_script, directives, hydra_text, settings
from dist_plm.core.errors import ConfigError
from dist_plm.spec.schema import SubmissionConfig
from tests.cluster.make import submission

PLACE = JobDirectories(working=Path("/home/u/project"), run=Path("/home/u/project/runs/one"))
REPOSITORY = Path(__file__).resolve().parents[2]


def directives_of(asked: SubmissionConfig, place: JobDirectories) -> list[str]:
    return directives(asked.run.name, asked.cluster, place, nodes=asked.nodes, min_nodes=asked.min_nodes)


def settings_of(asked: SubmissionConfig, place: JobDirectories) -> list[str]:
    return settings(asked.cluster, asked.checkpoint.dir, place)


TORCHRUN = """\
#!/usr/bin/env bash
# Run one, made by launch/submit.py from slurm/pretrain.sbatch.
# The settings, frozen in config.yaml beside it: experiment=gpt2_small 'run.name="one"'
# Start it again by hand: sbatch /home/u/project/runs/one/slurm/run.sbatch
#SBATCH --job-name=one
#SBATCH --partition=gpu
#SBATCH --account=lab
#SBATCH --nodes=1-2
#SBATCH --gpus-per-node=a100:4
#SBATCH --cpus-per-task=32
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --chdir=/home/u/project
#SBATCH --output=/home/u/project/runs/one/log/slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --exclusive
signalled=0
trap 'signalled=1' USR1
set -euo pipefail

# ---- settings
source {repository}/slurm/common.sh
run_dir=/home/u/project/runs/one
max_restarts=5
restarts_in_job=2
ranks_per_node=4
node_counts=(2 1)
python=/home/u/venv/bin/python
script=(
    {repository}/launch/pretrain.py
    --frozen
    /home/u/project/runs/one/slurm/config.yaml
)
container=(apptainer exec --nv "$HOME/image.sif")
set +u
module load cuda/12.8
set -u
export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-8}}
export GLOO_SOCKET_IFNAME=ib0 NCCL_SOCKET_IFNAME==ib0
export TMPDIR="/scratch/$SLURM_JOB_ID"
# ---- end of settings
"""

SRUN = """\
#!/usr/bin/env bash
# Run one, made by launch/submit.py from slurm/pretrain_srun.sbatch.
# Start it again by hand: sbatch /home/u/project/runs/one/slurm/run.sbatch
#SBATCH --job-name=one
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=16
#SBATCH --signal=USR1@300
#SBATCH --chdir=/home/u/project
#SBATCH --output=/home/u/project/runs/one/log/slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
signalled=0
trap 'signalled=1' USR1
set -euo pipefail

# ---- settings
source {repository}/slurm/common.sh
run_dir=/home/u/project/runs/one
max_restarts=100
ranks_per_node=2
python=/home/u/venv/bin/python
script=(
    {repository}/launch/pretrain.py
    --frozen
    /home/u/project/runs/one/slurm/config.yaml
)
container=()
export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-16}}
# ---- end of settings
"""


def test_exact_text_with_torchrun():
    asked = submission(
        nodes=2,
        min_nodes=1,
        run__name="one",
        cluster__partition="gpu",
        cluster__account="lab",
        cluster__gpus_per_node=4,
        cluster__gpu_type="a100",
        cluster__cpus_per_rank=8,
        cluster__memory="0",
        cluster__time="24:00:00",
        cluster__signal_seconds=120,
        cluster__max_restarts=5,
        cluster__options=["--exclusive"],
        cluster__python="/home/u/venv/bin/python",
        cluster__container='apptainer exec --nv "$HOME/image.sif"',
        cluster__setup=["module load cuda/12.8"],
        cluster__interface="ib0",
        cluster__scratch="/scratch/$SLURM_JOB_ID",
    )
    text = batch_script(asked, ["experiment=gpt2_small", 'run.name="one"'], PLACE, [2, 1])
    head, machinery = text[: text.index("\n# Of USR1 Python")], text[text.index("\n# Of USR1 Python") :]
    assert head == TORCHRUN.format(repository=REPOSITORY)
    assert (REPOSITORY / "slurm" / "pretrain.sbatch").read_text().endswith(machinery)


def test_exact_text_with_srun():
    asked = submission(
        nodes=3,
        run__name="one",
        cluster__launcher="srun",
        cluster__ranks_per_node=2,
        cluster__cpus_per_rank=16,
        cluster__python="/home/u/venv/bin/python",
    )
    text = batch_script(asked, [], PLACE)
    head, machinery = text[: text.index("\n# Of USR1 Python")], text[text.index("\n# Of USR1 Python") :]
    assert head == SRUN.format(repository=REPOSITORY)
    assert (REPOSITORY / "slurm" / "pretrain_srun.sbatch").read_text().endswith(machinery)


def test_directories_with_blanks_and_percents():
    place = JobDirectories(working=Path("/a b"), run=Path("/a b/100%j/it's"))
    lines = directives_of(submission(), place)
    assert "--chdir='/a b'" in lines
    (output,) = [line for line in lines if line.startswith("--output=")]
    assert shlex.split(output) == ["--output=/a b/100%%j/it's/log/slurm-%j.log"]
    assert str(place.log_of("17_2")) == "/a b/100%j/it's/log/slurm-17_2.log"


def test_settings_are_shell_that_gives_the_words_back():
    place = JobDirectories(working=Path("/a b"), run=Path("/a b/it's"))
    lines = settings_of(submission(cluster__setup=["echo $unset"]), place)
    assert lines.pop(0).startswith("source ")
    program = "\n".join(["set -eu", *lines, 'printf "%s\\n" "${script[@]}" "$run_dir"'])
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[2:] == ["--frozen", "/a b/it's/slurm/config.yaml", "/a b/it's"]


def words_of(lines: list[str], expression: str) -> list[str]:
    """What bash makes of `expression` after settings, in a shell where HOME is /home/u."""
    program = "\n".join(["set -eu", *lines[1:], f'printf "%s\\0" {expression}'])
    env = {"HOME": "/home/u", "PATH": "/nowhere"}
    done = subprocess.run(["/bin/bash", "-c", program], capture_output=True, text=True, check=True, env=env)
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize(
    ("container", "words"),
    [
        ('apptainer exec --nv "$HOME/image.sif"', ["apptainer", "exec", "--nv", "/home/u/image.sif"]),
        ("run ${HOME}/x 'two words'", ["run", "/home/u/x", "two words"]),
        ("run ) ; rm -rf x ; (", ["run", ")", ";", "rm", "-rf", "x", ";", "("]),
        ("run a;b c&d e|f <g >h *", ["run", "a;b", "c&d", "e|f", "<g", ">h", "*"]),
        ("run #x {a,b}", ["run", "#x", "{a,b}"]),
    ],
)
def test_a_container_is_words_and_variables_alone(container, words):
    lines = settings_of(submission(cluster__container=container), PLACE)
    assert words_of(lines, '"${container[@]}"') == words


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=20))
def test_whatever_a_run_is_called_is_one_word(name):
    place = JobDirectories(working=Path("/w"), run=Path("/w") / name)
    lines = settings_of(submission(checkpoint__dir=name), place)
    assert words_of(lines, '"$run_dir" "$checkpoints"') == [str(place.run), name]
    assert all("\n" not in line for line in [*lines, *directives_of(submission(run__name=name), PLACE)])


@pytest.mark.parametrize("sign", ["\n", "\r", "\x0b", "\x1b", "\u2028", "\x85", "\0"])
def test_what_would_break_a_line_of_the_script_is_refused(sign):
    with pytest.raises(ConfigError, match="goes into the batch script and holds a line break"):
        settings_of(submission(), JobDirectories(working=Path("/w"), run=Path(f"/w/a{sign}touch pwned")))
    with pytest.raises(ConfigError, match="goes into the batch script and holds a line break"):
        directives_of(submission(), JobDirectories(working=Path(f"/w{sign}touch pwned"), run=Path("/w/a")))


def test_a_backslash_would_keep_slurm_from_numbering_the_log():
    with pytest.raises(ConfigError, match="holds a backslash"):
        directives_of(submission(), JobDirectories(working=Path("/w"), run=Path("/w/a\\b")))


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--exclusive", "--exclusive"),
        ("--constraint=a100&ib", "--constraint='a100&ib'"),
        ("--comment='two words'", "--comment='two words'"),
        ('--comment="it is"', "--comment='it is'"),
        ("--comment=$(id)", "--comment='$(id)'"),
    ],
)
def test_options_are_one_word_each(option, line):
    assert directives_of(submission(cluster__options=[option]), PLACE)[-1] == line


@given(st.text(st.characters(min_codepoint=32, exclude_characters="$")) | st.text("/a0.-_'\\\" "))
def test_any_text_is_read_back_by_hydra(text):
    (override,) = OverridesParser.create().parse_overrides([f"run.dir={hydra_text(text)}"])
    assert override.value() == text


@pytest.mark.parametrize("text", ["/home/u/runs/one", "/a-b_c.d"])
def test_plain_text_stays_plain(text):
    assert hydra_text(text) == text
