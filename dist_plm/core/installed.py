"""Finds what comes with the code: at the top of the repository in a checkout, inside the package in a wheel."""

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
        relative: to the top of the repository, as a person types them.
    """
    if _IN_WHEEL:
        return ["-m", "dist_plm", command]
    script = Path("launch", f"{command}.py")
    return [str(script if relative else _PACKAGE.parent / script)]


def typed(command: str) -> str:
    """Gives the start of a command line as a person types it."""
    return f"dist-plm {command}" if _IN_WHEEL else f"python launch/{command}.py"
