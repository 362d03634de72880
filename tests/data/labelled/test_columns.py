import json

import pytest

from dist_plm.core.errors import DataError
from dist_plm.data.labelled.columns import find_columns
from dist_plm.data.labelled.rows import RowFile
from dist_plm.spec.tasks import TASKS
from dist_plm.train.labelled import columns_of, names_in

CLASSIFY = TASKS["classify"].columns


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("idx", "sentence", "label"), {"text": "sentence", "label": "label"}),  # SST-2
        (("sentence1", "sentence2", "label"), {"text": "sentence1", "pair": "sentence2", "label": "label"}),  # RTE
        (("question", "sentence", "label"), {"text": "question", "pair": "sentence", "label": "label"}),  # QNLI
        (
            ("question1", "question2", "is_duplicate"),
            {"text": "question1", "pair": "question2", "label": "is_duplicate"},
        ),
        (("Quality", "#1 String", "#2 String"), {"text": "#1 String", "pair": "#2 String", "label": "Quality"}),
        (("premise", "hypothesis", "label"), {"text": "premise", "pair": "hypothesis", "label": "label"}),
    ],
)
def test_usual_names_are_known(names, found) -> None:
    assert find_columns(CLASSIFY, {}, names, "f") == found


def test_given_names_go_before_usual_ones() -> None:
    names = ("text", "body", "stars", "label")
    assert find_columns(CLASSIFY, {"text": "body", "label": "stars"}, names, "f") == {"text": "body", "label": "stars"}


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({}, "f has no column for label by a usual name (label, labels, class, category, …), it has 'text', 'stars'"),
        ({"label": "star"}, "data.columns.label = 'star': f has no such column, did you mean stars"),
    ],
)
def test_a_missing_column_is_refused(given, part) -> None:
    with pytest.raises(DataError) as refused:
        find_columns(CLASSIFY, given, ("text", "stars"), "f")
    assert part in str(refused.value).replace("; did you", ", did you")


@pytest.mark.parametrize("sign", [";", "\t", "|"])
def test_another_delimiter_is_named(sign) -> None:
    with pytest.raises(DataError) as refused:
        find_columns(CLASSIFY, {}, (f"text{sign}label",), "f.csv")
    assert str(refused.value).endswith(f": its columns are parted by {sign!r}: a .csv has commas there, a .tsv tabs")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_column_that_the_first_row_lacks_is_found(name, tmp_path) -> None:
    rows = [{"sentence1": "a", "label": "x"}, {"sentence1": "b", "sentence2": "c", "label": "y", "meta": {"id": 3}}]
    text = json.dumps(rows) if name == "a.json" else "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / name).write_text(text)
    file = RowFile("data.train", str(tmp_path / name), "train")
    assert names_in(file) == ["sentence1", "label", "sentence2", "meta", "meta.id"]
    assert columns_of(file, TASKS["classify"](), {}) == {"text": "sentence1", "pair": "sentence2", "label": "label"}
