import subprocess
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
