"""Values of rows that are no texts, words or numbers are refused with their place, whatever the task."""

import math

import pytest

from dist_plm.core.errors import DataError
from dist_plm.data.labelled.rows import LabelledRow
from dist_plm.objectives.tasks.base import text_of
from tests.objectives.tasks.test_tasks import TEXT, Letters, rows, task


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_no_text(value: float) -> None:
    with pytest.raises(DataError, match=f"line 1: column 't' is {value}, where the task reads a text"):
        text_of(*rows({"t": value}), "t")
    with pytest.raises(DataError, match="line 1: column 't' holds no list of tokens"):
        task("tag", labels=("O",)).encode(rows({"t": ["a", value]}), {"tokens": "t"}, Letters())
    assert text_of(LabelledRow("line 1", {"t": 10**400}), "t") == str(10**400)


@pytest.mark.parametrize("value", ["1_000", "٣"])
def test_numbers_are_written_in_digits(value: str) -> None:
    with pytest.raises(DataError, match=f"line 1: column 'l' holds '{value}', not a number to learn"):
        task("regress").encode(rows({"t": "a", "l": value}), TEXT, Letters())
    assert task("regress").encode(rows({"t": "a", "l": " -1.5e1 "}), TEXT, Letters())["targets"].tolist() == [-15]
