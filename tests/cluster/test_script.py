import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dist_plm.cluster.script import render

SLURM = Path(__file__).resolve().parents[2] / "slurm"

TEMPLATE = """\
#!/usr/bin/env bash
# What it is.
# How to use it.
#SBATCH --nodes=2
#SBATCH --time=24:00:00
set -eu

# ---- settings
run_dir=runs/one
# ---- end of settings

echo "$run_dir"
"""

RENDERED = """\
#!/usr/bin/env bash
# Another thing.
#
# Of two lines.
#SBATCH --nodes=8
set -eu

# ---- settings
run_dir=runs/two
other=\\1
# ---- end of settings

echo "$run_dir"
"""


def test_replaces_head_directives_and_settings_and_nothing_else() -> None:
    settings = ["run_dir=runs/two", "other=\\1"]
    assert (
        render(TEMPLATE, head="Another thing.\n\nOf two lines.", directives=["--nodes=8"], settings=settings)
        == RENDERED
    )


def test_a_rendered_script_is_a_template_again() -> None:
    again = render(
        RENDERED,
        head="What it is.\nHow to use it.",
        directives=["--nodes=2", "--time=24:00:00"],
        settings=["run_dir=runs/one"],
    )
    assert again == TEMPLATE


@pytest.mark.parametrize("path", sorted(SLURM.glob("*.sbatch")), ids=lambda path: path.name)
def test_templates_can_be_filled_and_are_shell(path: Path) -> None:
    template = path.read_text()
    settings = template.partition("# ---- settings\n")[2].partition("# ---- end of settings\n")[0].splitlines()
    options = [line.removeprefix("#SBATCH ") for line in template.splitlines() if line.startswith("#SBATCH ")]
    head = "\n".join(line[2:] for line in template.partition("#SBATCH")[0].splitlines()[1:])
    assert render(template, head=head, directives=options, settings=settings) == template
    subprocess.run(["bash", "-n", str(path)], check=True)


def shell(program: str, *arguments: str, **told: str) -> subprocess.CompletedProcess[str]:
    """Runs `program` where common.sh was sourced, in an environment that has what is `told` too."""
    text = f"set -euo pipefail\nsource {SLURM}/common.sh\ntrap - EXIT\n{program}"
    env = {**os.environ, "SLURM_JOB_ID": "7", **told}
    return subprocess.run(
        ["bash", "-c", text, "script", *arguments], capture_output=True, text=True, env=env, check=False
    )


def test_what_another_job_has_of_memory_and_cores_is_not_handed_on_to_steps() -> None:
    told = {"SLURM_MEM_PER_CPU": "100", "SLURM_MEM_PER_GPU": "1", "SLURM_MEM_PER_NODE": "200", "SLURM_CPU_BIND": "none"}
    left = "env | grep -cE '^SLURM_(MEM|CPU_BIND)' || true"
    assert shell(left, **told).stdout == "1\n", "what a user sets stays"
    assert shell(left, **told, SLURM_CPU_BIND_LIST="0x1", SLURM_STEP_ID="0").stdout == "0\n"


def test_srun_would_tell_a_crash_before_a_refusal_before_a_wish_to_be_started_again() -> None:
    program = """
        for code in "$@"; do
            bash -euc "$ranked" task bash -c "exit $code" && told=0 || told=$?
            echo "$code $told $(unranked $told)"
        done
    """
    codes = [*range(80), 124, 130, 137, 138, 139, 143, 254, 255]
    rows = [tuple(map(int, line.split())) for line in shell(program, *map(str, codes)).stdout.splitlines()]
    told = {code: as_told for code, as_told, _ in rows}
    assert list(told) == codes
    assert {code: back for code, _, back in rows if back != code} == {
        code: 255 for code in range(63, 79) if code not in (74, 75)
    } | {254: 62}
    crashes = [as_told for code, as_told in told.items() if code not in (0, 2, 74, 75, 138)]
    assert 2 not in told.values(), "srun tells it of what it found nowhere, and of what is run in no container"
    assert shell("unranked 2").stdout == "127\n"
    assert told[0] < told[75] < told[138] < told[2] < told[74] < min(crashes)


@pytest.mark.parametrize(("template", "name"), [("pretrain.sbatch", "node"), ("pretrain_srun.sbatch", "rank")])
@pytest.mark.parametrize(("during", "code"), [("network_interface", 75), ("script", 0)])
def test_a_task_hears_usr1_before_its_python_is_there(
    template: str, name: str, during: str, code: int, tmp_path: Path
) -> None:
    """It and all that it runs get it, of which the Python that trains outlives it until it has a handler of its own."""
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/bash\n[[ $* != *{during}* ]] || {{ : >{tmp_path}/begun; sleep 2; }}\n"
        '[[ $* != *network_interface* ]] || echo "127.0.0.1 lo"\n'
    )
    python.chmod(0o755)
    program = f"""
        eval "$(sed -n "/^{name}='/,/^'/p" {SLURM}/{template})"
        python={python} MASTER_ADDR=127.0.0.1 MASTER_PORT=1 nodes=1 ranks_per_node=1 restarts_in_job=0 SLURM_NODEID=0
        export python MASTER_ADDR MASTER_PORT nodes ranks_per_node restarts restarts_in_job SLURM_NODEID
        set -m
        bash -c "${name}$ranked" task script & task=$!
        until [[ -e {tmp_path}/begun ]]; do sleep 0.05; done
        kill -USR1 -- "-$task"
        wait $task && echo "ended with 0" || echo "ended with $?"
    """
    done = shell(program)
    assert done.stdout == f"ended with {code}\n", done.stderr


def test_a_task_that_gets_term_waits_for_its_rank() -> None:
    """As when scancel, or Slurm that needs the node, tells every process of the step."""
    stop = "lambda *_: (time.sleep(0.5), sys.exit(75))"
    rank = f"import signal, sys, time; signal.signal(15, {stop}); print(1, flush=True); time.sleep(60)"
    program = f"""
        bash -euc "$ranked" task {shlex.quote(sys.executable)} -c {shlex.quote(rank)} >"$1" & task=$!
        until [[ -s $1 ]]; do sleep 0.05; done
        kill -TERM $task $(pgrep -P $task)
        wait $task || echo "ended with $?"
    """
    with tempfile.TemporaryDirectory() as place:
        assert shell(program, f"{place}/out").stdout == "ended with 75\n"


@pytest.mark.parametrize(
    ("spare", "picked", "told"),
    [(9, "x,c,b,a", 0), (3, "x,c,b", 0), (2, "x,c", 0), (1, "", 1), (0, "", 1)],
    ids=lambda value: str(value),
)
def test_so_many_slow_nodes_are_left_out_as_slurm_can_do_without(
    spare: int, picked: str, told: int, tmp_path: Path
) -> None:
    """One more is left out by the user."""
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "exclude_asked").write_text("x\n")
    (tmp_path / "slurm" / "slow_nodes").write_text("a\nb\nc\na b\n")
    program = f"""
        run_dir={tmp_path} exclude_slow=1
        sbatch() {{
            (($(tr , '\\n' <<<"${{2#*=}}" | wc -l) <= {spare})) && return
            echo "allocation failure: Requested node configuration is not available" && return 1
        }}
        pick_slow_nodes >"$run_dir/told"
        echo "picked $slow"
    """
    done = shell(program)
    assert done.stdout == f"picked {picked}\n", done.stderr
    assert (tmp_path / "told").read_text().count("not enough other nodes than x,c:") == told
