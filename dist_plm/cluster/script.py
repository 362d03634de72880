"""A batch script made from a template of slurm/: the template with its own directives and settings put in place."""

import re
from collections.abc import Sequence

#: Between these lines of a template stand the settings of a run, as shell.
SETTINGS_BEGIN, SETTINGS_END = "# ---- settings", "# ---- end of settings"


def render(template: str, *, head: str, directives: Sequence[str], settings: Sequence[str]) -> str:
    """The script.

    Args:
        template: text of a file of slurm/.
        head: what the script is, in place of the template's opening comment.
        directives: options of sbatch, "--nodes=2" each, in place of the template's.
        settings: lines of shell, in place of the template's.
    """
    shebang, _, rest = template.partition("\n")
    _, found, rest = rest.partition("#SBATCH ")
    assert shebang.startswith("#!"), "the template is not a script"
    assert found, "the template has no directives"
    body = re.sub(r"\A(?:.*\n#SBATCH )*.*\n", "", rest)
    assert "#SBATCH" not in body, "the template has directives in two places"
    before, begin, rest = body.partition(f"{SETTINGS_BEGIN}\n")
    _, end, after = rest.partition(f"{SETTINGS_END}\n")
    assert begin, "the template has no settings"
    assert end, "the template's settings have no end"
    comment = [f"# {line}".rstrip() for line in head.splitlines()]
    lines = [shebang, *comment, *(f"#SBATCH {option}" for option in directives)]
    return "\n".join(lines) + "\n" + before + begin + "".join(f"{line}\n" for line in settings) + end + after
