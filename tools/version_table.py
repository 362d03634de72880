"""Writes the table of versions of docs/support.md from tools/versions_tried.csv."""

import csv
from pathlib import Path

FILE = Path(__file__).resolve().parent / "versions_tried.csv"
#: Heads of the columns of the file, in its order.
COLUMNS = ("Python", "PyTorch", "Megatron-core", "DeepSpeed", "tried on", "what", "result")


def tried() -> list[dict[str, str]]:
    """Reads what was tried."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def render() -> str:
    """Writes the table in Markdown."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---|---|---|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row[name] for name in COLUMNS)} |" for row in tried())])
