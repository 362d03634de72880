"""Finds what comes with the code: at the top of the repository in a checkout, inside the package in a wheel. Writes commands as
a person types them."""

import re
import shlex
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
#: A checkout keeps conf/ beside the package, a wheel inside it.
_IN_WHEEL = (_PACKAGE / "conf").is_dir()
#: What Hydra reads as text without quotes of its own.
_PLAIN = re.compile(r"(/|\.{1,2}/)?[A-Za-z_][A-Za-z0-9_./:-]*( [A-Za-z0-9_./:-]+)*")
#: Hydra takes them for no text, in whatever letters.
_WORDS_OF_HYDRA = ("true", "false", "null", "nan", "inf")


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


def typed_setting(key: str, text: str) -> str:
    """Writes a setting that holds text as a person types it: one word of shell, in which Hydra reads that text."""
    is_plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS_OF_HYDRA
    quoted = text if is_plain else hydra_quoted(text, '"')
    return shlex.quote(f"{key}={quoted}")


def hydra_quoted(text: str, sign: str = "'") -> str:
    """Puts text between quotes in Hydra's grammar of overrides. Backslashes count there before a quote alone."""
    quoted = re.sub(rf"(\\*){sign}", rf"\1\1\\{sign}", text)
    return sign + re.sub(r"(\\+)$", r"\1\1", quoted) + sign


def as_typed(text: str, *, in_wheel: bool = _IN_WHEEL) -> str:
    """Writes the commands in a text for people as they are typed here: a wheel has no launch/."""
    if not in_wheel:
        return text
    text = re.sub(r"(torchrun\b[^\n]*? )launch/(\w+)\.py", r"\1-m dist_plm \2", text)
    return re.sub(r"(?:python )?launch/(\w+)\.py", r"dist-plm \1", text)
