"""Starts a command by its name: `dist-plm pretrain …`, or `python -m dist_plm pretrain …`.

A command is a module of dist_plm/cli/commands, or of a folder in it, with a `main()` that reads `sys.argv`; the first line of
its docstring is what `dist-plm --help` shows.
"""

import ast
import importlib
import sys
from pathlib import Path
from typing import NoReturn

from dist_plm import __version__
from dist_plm.config.suggest import did_you_mean, near
from dist_plm.core.early_signals import hear_early
from dist_plm.core.errors import EXIT_FINISHED, EXIT_REFUSED
from dist_plm.core.installed import as_typed

COMMANDS = Path(__file__).parent / "commands"
#: Names that are typed more often than the module's own.
_ALIASES = {"prepare": "prepare_data"}
#: Those that train, which are stopped by a signal and started again.
_TRAINING = ("pretrain", "finetune")


def main() -> NoReturn:
    """Runs the command that the first word of `sys.argv` names, with the others, and exits."""
    name, rest = (sys.argv[1] if len(sys.argv) > 1 else "--help"), sys.argv[2:]
    if name in ("--help", "-h", "help"):
        print(help_text())
        sys.exit(EXIT_FINISHED)
    if name == "--version":
        print(__version__)
        sys.exit(EXIT_FINISHED)
    module = module_of(name)
    if module is None:
        known = list(commands())
        print(
            f"{name} is not a command{did_you_mean(near(name, known))}; the commands are {', '.join(known)}",
            file=sys.stderr,
        )
        sys.exit(EXIT_REFUSED)
    if name in _TRAINING:
        hear_early()
    sys.argv = [f"dist-plm {name}", *rest]
    importlib.import_module(module).main()
    raise AssertionError(f"{module}.main() returned: it must exit")


def module_of(name: str) -> str | None:
    """Finds the module of a command by its name, written with dashes or underscores; None where there is none."""
    stem = name.replace("-", "_")
    path = {path.stem: path for path in files()}.get(_ALIASES.get(stem, stem))
    return None if path is None else ".".join(path.relative_to(COMMANDS.parents[2]).with_suffix("").parts)


def files() -> list[Path]:
    """Lists the files of the commands, by their names."""
    return sorted(COMMANDS.rglob("[!_]*.py"), key=lambda path: path.stem)


def commands() -> dict[str, str]:
    """Lists the commands with the first line of their docstrings, read without importing them."""
    shorter = {module: alias for alias, module in _ALIASES.items()}
    found = {}
    for path in files():
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found[shorter.get(path.stem, path.stem).replace("_", "-")] = doc.partition("\n")[0]
    return found


def help_text() -> str:
    """Builds what `dist-plm --help` prints."""
    listed = commands()
    width = max(map(len, listed))
    return "\n".join(
        [
            "dist-plm COMMAND [SETTING=VALUE …]: pretraining and fine-tuning of language models.",
            "",
            *(f"  {name:{width}}  {as_typed(line)}" for name, line in listed.items()),
            "",
            "dist-plm COMMAND --help shows a command's settings. Several processes: torchrun --nproc-per-node 4 -m dist_plm",
            "COMMAND …, or srun python -m dist_plm COMMAND … In a checkout launch/COMMAND.py is the same command.",
        ]
    )
