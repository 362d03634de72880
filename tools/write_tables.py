"""Writes the generated tables of docs/ anew: `python -m tools.write_tables`."""

from collections.abc import Callable
from pathlib import Path

from tools import plan_tables, support_models, support_tables, version_table

DOCS = Path(__file__).resolve().parents[1] / "docs"
#: What stands between the two comments of each name.
TABLES: dict[str, Callable[[], str]] = {
    "table of models": support_models.render,
    "support table": support_tables.render,
    "table of versions": version_table.render,
    "table of GPUs": plan_tables.gpus,
    "published runs": plan_tables.published_runs,
}
#: Where they stand, but for those of docs/support.md.
PAGES = {"table of GPUs": "plan.md", "published runs": "plan.md"}


def page_of(name: str) -> Path:
    """Finds the page that shows a table."""
    return DOCS / PAGES.get(name, "support.md")


def parts(name: str) -> tuple[str, str, str]:
    """Splits the page into what stands before, between and after the two comments of a table."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    page = page_of(name)
    text = page.read_text(encoding="utf-8")
    assert begin in text, f"{page} lacks the comment {begin}"
    assert end in text, f"{page} lacks the comment {end}"
    before, _, rest = text.partition(begin)
    table, _, after = rest.partition(end)
    return before + begin, table, end + after


if __name__ == "__main__":
    for name, render in TABLES.items():
        before, _, after = parts(name)
        page_of(name).write_text(f"{before}{render().strip()}\n{after}", encoding="utf-8")
