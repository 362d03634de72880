"""Finds what comes with the code: at the top of the repository in a checkout, inside the package in a wheel."""

import re
import shlex
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
#: A checkout keeps conf/ beside the package, a wheel inside it.
_IN_WHEEL = (_PACKAGE / "conf").is_dir()


def shipped(folder: str) -> Path:
    """Finds a folder that a wheel carries too: conf or slurm."""
    return (_PACKAGE if _IN_WHEEL else _PACKAGE.parent) / folder


def start_words(command: str, *, relative: bool = False) -> list[str]:
    """Gives the words that start a command after `python` or after torchrun's own options.

    Args:
        command: module of dist_plm/cli/commands.
        relative: as a person types them, which is short at the top of the repository.
    """
    if _IN_WHEEL:
        return ["-m", "dist_plm", command]
    script, top = Path("launch", f"{command}.py"), _PACKAGE.parent
    return [str(script if relative and Path.cwd() == top else top / script)]


def typed(command: str) -> str:
    """Gives the start of a command line as a person types it."""
    return f"dist-plm {command}" if _IN_WHEEL else shlex.join(["python", *start_words(command, relative=True)])


def as_typed(text: str, *, in_wheel: bool = _IN_WHEEL) -> str:
    """Writes the commands in a text for people as they are typed here: a wheel has no launch/."""
    if not in_wheel:
        return text
    text = re.sub(r"(torchrun\b[^\n]*? )launch/(\w+)\.py", r"\1-m dist_plm \2", text)
    return re.sub(r"(?:python )?launch/(\w+)\.py", r"dist-plm \1", text)
