"""What launch/evaluate.py measures: each name has one spec and one body, and nobody else asks for the name."""

import ast
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from dist_plm.config.decode import decode
from dist_plm.core.errors import ConfigError
from dist_plm.spec.inference.evaluations import NamedSetConfig
from dist_plm.spec.inference.measurements import MEASUREMENTS, Measurement
from dist_plm.spec.inference.schema import EvaluateConfig
from dist_plm.spec.rules.finalize import check_evaluate

PACKAGE = Path(__file__).parents[2] / "dist_plm"


def choices(config):
    return set(get_args(get_type_hints(config)["on"]))


def test_each_choice_has_a_spec_and_a_body():
    from dist_plm.tasks.evaluate.evaluate import MEASURES

    assert choices(EvaluateConfig) == set(MEASUREMENTS)
    assert set(MEASURES) == {name for name, one in MEASUREMENTS.items() if one.runs_model}
    at_intervals = {name for name, one in MEASUREMENTS.items() if type(one).measured is not Measurement.measured}
    assert choices(NamedSetConfig) == at_intervals


def test_nobody_compares_the_name():
    found = [
        f"{file.relative_to(PACKAGE)}:{node.lineno}"
        for file in sorted(PACKAGE.rglob("*.py"))
        if ".on " in file.read_text()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Compare)
        and ast.unparse(node.left).endswith(".on")
        and any(isinstance(one, ast.Constant) for side in node.comparators for one in ast.walk(side))
    ]
    assert found == []


@pytest.mark.parametrize("on", sorted(set(MEASUREMENTS) - {"task"}))
def test_a_task_is_read_by_what_asks_for_one(on):
    settings = {"from": "x", "on": on, "task": {"name": "tag"}}
    with pytest.raises(ConfigError, match=f"task = 'tag' has no effect with on = '{on}': leave it out"):
        check_evaluate(decode(EvaluateConfig, settings))


@pytest.mark.parametrize(("on", "names"), [("task", "rows"), ("probe", "train_rows rows"), ("contamination", "rows")])
def test_a_header_is_for_files_that_may_lack_one(on, names):
    settings = {"on": on, "from": "x", "data": {"header": ["a", "b"]}}
    if on == "contamination":
        settings["data"]["against"] = settings.pop("from")

    def problems(kind):
        files = {name: f"{name}.{kind}" for name in names.split()}
        try:
            check_evaluate(decode(EvaluateConfig, {**settings, "data": {**settings["data"], **files}}))
        except ConfigError as error:
            return "\n".join(error.problems)
        return ""

    assert "data.header = ['a', 'b'] has no effect with" in problems("jsonl")
    assert problems("tsv.gz") == problems("csv") == ""
