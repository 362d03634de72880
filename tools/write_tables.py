"""Writes the tables of docs/support.md anew from the rules: `python -m tools.write_tables`."""

from collections.abc import Callable
from pathlib import Path

from tools import support_models, support_tables

PAGE = Path(__file__).resolve().parents[1] / "docs" / "support.md"
#: What stands between the two comments of each name.
TABLES: dict[str, Callable[[], str]] = {
    "table of models": support_models.render,
    "support table": support_tables.render,
}


def parts(name: str) -> tuple[str, str, str]:
    """Splits the page into what stands before, between and after the two comments of a table."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    text = PAGE.read_text(encoding="utf-8")
    assert begin in text, f"{PAGE} lacks the comment {begin}"
    assert end in text, f"{PAGE} lacks the comment {end}"
    before, _, rest = text.partition(begin)
    table, _, after = rest.partition(end)
    return before + begin, table, end + after


if __name__ == "__main__":
    for name, render in TABLES.items():
        before, _, after = parts(name)
        PAGE.write_text(f"{before}{render().strip()}\n{after}", encoding="utf-8")
