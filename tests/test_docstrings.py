"""Docstrings open with what a thing does: "Reads the …", "Holds the …"; ruff's D rules hold their form."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: Openings that leave the reader to find the verb, and sections without a summary before them.
RIDDLE = re.compile(r"(What|Which|Of)\b|(Args|Raises|Returns):")


@pytest.mark.parametrize("folder", ["dist_plm", "tools"])
def test_no_docstring_opens_with_a_riddle(folder):
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                doc = ast.get_docstring(node) or ""
                if RIDDLE.match(doc):
                    line = getattr(node, "lineno", 1)
                    found.append(f"{path.relative_to(ROOT)}:{line}: {doc.splitlines()[0]}")
    assert found == [], "open with a verb, as in Reads, Holds, Chooses"
