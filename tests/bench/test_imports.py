"""Scripts of bench/ ask the package for names that it has: most of them run for minutes, and nobody else would notice."""

import ast
import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "bench").glob("*.py"))


def asked_of_the_package(script: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in ("dist_plm", "tools"):
            yield from ((node.module, alias.name) for alias in node.names)


def has(module: str, name: str) -> bool:
    return hasattr(importlib.import_module(module), name) or importlib.util.find_spec(f"{module}.{name}") is not None


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_what_a_script_imports_is_there(script: Path) -> None:
    assert [asked for asked in asked_of_the_package(script) if not has(*asked)] == []


def test_scripts_do_ask_for_something() -> None:
    assert sum(1 for script in SCRIPTS for _ in asked_of_the_package(script)) > 100
