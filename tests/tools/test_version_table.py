"""The table of versions says what was tried, and no release is promised of which nothing was."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from tools.version_table import COLUMNS, render, tried
from tools.write_tables import parts

ROOT = Path(__file__).resolve().parents[2]


def promised(name: str) -> Requirement:
    """What pyproject.toml asks for on Linux."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    found = [Requirement(line) for line in wanted]
    on_linux = [one for one in found if one.marker is None or one.marker.evaluate({"sys_platform": "linux"})]
    return next(one for one in on_linux if one.name == name)


def test_what_is_allowed_was_tried():
    rows = tried()
    assert rows
    for row in rows:
        assert list(row) == [*COLUMNS]
        assert all(row.values()), row
        assert promised("torch").specifier.contains(row["PyTorch"])
        assert promised("deepspeed").specifier.contains(row["DeepSpeed"])
    minors = {_numbers(row["Megatron-core"])[1] for row in rows}
    allowed = {minor for minor in range(100) if promised("megatron-core").specifier.contains(f"0.{minor}.99")}
    assert allowed <= minors
    major, minor = min(_numbers(row["PyTorch"]) for row in rows)[:2]
    assert not promised("torch").specifier.contains(f"{major}.{minor - 1}.99")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split("."))


def test_the_page_shows_it():
    """`python -m tools.write_tables` writes it."""
    assert parts("table of versions")[1].strip() == render().strip()
