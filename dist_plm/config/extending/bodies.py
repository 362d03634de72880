"""Finds the bodies of named things, the modules that run, and says of one that is not as docs/extend.md has it what to do."""

import ast
import inspect
import symtable
import sys
import traceback
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from dist_plm.core.errors import ConfigError, UserError, described

_HOW = "docs/extend.md says how"


def body_problem(told: str, module: str) -> str | None:
    """Says what is wrong with a body, as far as its source tells: nothing is imported, as that may take seconds.

    Args:
        told: the thing's name, as in "optim.name = 'lamb'".
        module: that has `build`.
    """
    found = _file_of(module)
    if found is None:
        return f"{told} is registered without a body: write {place_of(module)}, with a function `build`; {_HOW}"
    wrong = _wrong_in(found) if found.suffix == ".py" and found.is_file() else None
    return None if wrong is None else f"{told}: {place_of(module)} {wrong}; {_HOW}"


def mentions(module: str, name: str) -> bool:
    """Tells whether the source of a module has the text `name`: whether, without an import, a table may have the key."""
    found = _file_of(module)
    return found is None or name in _texts_in(found)


def import_body(told: str, module: str) -> ModuleType:
    """Imports a body.

    Raises:
        ConfigError: it is missing, cannot be imported or has no `build`.
    """
    if module not in sys.modules and (problem := body_problem(told, module)):
        raise ConfigError([problem])
    try:
        body = import_module(module)
    except UserError:
        raise
    except Exception as error:
        # The library that an import lacks may stand in a file that the body imports.
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
        line = f" (line {frames[-1].lineno} of {frames[-1].filename})" if frames else ""
        reason = f"{place_of(module)} cannot be imported: {described(error)}{line}"
        raise ConfigError([f"{told}: {reason}: mend that, or install what it needs"]) from error
    if not callable(getattr(body, "build", None)):
        raise ConfigError([f"{told}: {place_of(module)} has no function `build`: give it one; {_HOW}"])
    return body


def build_from(told: str, module: str, *arguments: Any) -> Any:
    """Returns what the `build` of a body makes of its arguments.

    Raises:
        ConfigError: it is missing, cannot be imported, or its `build` does not take them.
    """
    build = import_body(told, module).build
    try:
        inspect.signature(build).bind(*arguments)
    except TypeError as error:
        wrong = f"`build` of {place_of(module)} is called with {len(arguments)} arguments: {error}"
        raise ConfigError([f"{told}: {wrong}; {_HOW}"]) from None
    return build(*arguments)


def place_of(module: str) -> str:
    """Names the file of a module as people look for it."""
    return f"{module.replace('.', '/')}.py"


def _file_of(module: str) -> Path | None:
    """Finds the file of a module."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:  # a folder above it
        return None
    return None if spec is None else Path(spec.origin or "")


@cache
def _wrong_in(file: Path) -> str | None:
    source = file.read_bytes()
    try:
        table = symtable.symtable(source, str(file), "exec")  # pyright: ignore[reportArgumentType]
    except (SyntaxError, ValueError) as error:  # a null byte
        line = f" (line {error.lineno})" if isinstance(error, SyntaxError) and error.lineno else ""
        return f"is no Python: {getattr(error, 'msg', error)}{line}: mend it"
    given = "build" in table.get_identifiers() and (
        table.lookup("build").is_assigned() or table.lookup("build").is_imported()
    )
    return None if given or b"import *" in source else "has no function `build`: give it one"


@cache
def _texts_in(file: Path) -> frozenset[str]:
    nodes = ast.walk(ast.parse(file.read_bytes()))
    return frozenset(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
