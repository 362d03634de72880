"""Rows with choices, in the columns that published sets have them in, become pairs of which one is right."""

from typing import Any

import numpy as np
import pytest

from dist_plm.core.errors import DataError
from dist_plm.data.labelled.columns import find_columns
from dist_plm.data.labelled.dataset import Collation, LabelledDataset
from dist_plm.data.labelled.table import Ragged
from dist_plm.objectives.build import build_task
from dist_plm.spec.tasks.choice import ChoiceConfig
from tests.objectives.tasks.test_tasks import rows


class Pairs:
    """Keeps the texts of pairs."""

    by_likelihood = False

    def texts(self, first, second):
        self.pairs = list(zip(first, second, strict=True))
        return {"tokens": Ragged.of([[1] * (i + 1) for i in range(len(first))])}


def encode(*values: dict[str, Any], **settings: Any):
    """The body of the task, the pairs that it read, and the table."""
    encoder, body = Pairs(), build_task(ChoiceConfig(**settings))
    table = body.encode(rows(*values), find_columns(body.config.columns, {}, values[0], "f"), encoder)
    return body, encoder.pairs, table


@pytest.mark.parametrize(
    ("value", "pairs", "label"),
    [
        (  # SWAG
            {"sent1": "S.", "sent2": "He", "ending0": "a", "ending1": "b", "ending2": "c", "ending3": "d", "label": 2},
            [("S.", "He a"), ("S.", "He b"), ("S.", "He c"), ("S.", "He d")],
            2,
        ),
        (  # RACE, with a gap and without
            {"article": "A.", "question": "It is _ .", "options": ["x", "y"], "answer": "B"},
            [("A.", "It is x ."), ("A.", "It is y .")],
            1,
        ),
        (
            {"article": "A.", "question": "Why?", "options": ["x", "y"], "answer": "A"},
            [("A.", "Why? x"), ("A.", "Why? y")],
            0,
        ),
        (  # COPA of SuperGLUE
            {"premise": "P.", "choice1": "x", "choice2": "y", "question": "effect", "idx": 0, "label": 1},
            [("P.", "What happened as a result? x"), ("P.", "What happened as a result? y")],
            1,
        ),
        (  # ARC, OpenBookQA, CommonsenseQA
            {"question_stem": "Q", "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, "answerKey": "3"},
            [("Q", "x"), ("Q", "y"), ("Q", "z")],
            2,
        ),
        ({"ctx": "C", "endings": ["x", "y"], "label": "1"}, [("C", "x"), ("C", "y")], 1),  # HellaSwag
    ],
)
def test_published_sets_are_read_as_they_are(value, pairs, label) -> None:
    _, found, table = encode(value)
    assert found == pairs
    assert table["choice_labels"].tolist() == [label]


@pytest.mark.parametrize(
    ("question", "answered"),
    [
        ("The capital is ____ .", "The capital is a b ."),
        ("He works as a_.", "He works as aa b."),  # RACE has both, and Transformers' example fills both
        ("_ is true, and _ too", "a b is true, and a b too"),
        ("他____去，她_。", "他a b去，她a b。"),
        ("What does max_len mean?", "What does max_len mean? a b"),
        ("What does __init__ do?", "What does __init__ do? a b"),
        ("With max_len=3 it is __.", "With max_len=3 it is a b."),
    ],
)
def test_a_choice_goes_into_a_gap_and_into_no_name(question: str, answered: str) -> None:
    _, found, _ = encode({"article": "A.", "question": question, "options": ["a b", "\\1"], "answer": "A"})
    assert found == [("A.", answered), ("A.", answered.replace("a b", "\\1"))]


def test_numbers_may_count_from_one() -> None:
    value = {
        "context": "C",
        "question": "Q",
        "answerA": "x",
        "answerB": "y",
        "answerC": "z",
        "label": "3",
    }  # Social IQa
    assert encode(value, first_choice=1)[2]["choice_labels"].tolist() == [2]


def test_the_choices_of_a_row_stay_together() -> None:
    values = [{"ctx": "C", "endings": ["x", "y", "z"], "label": i} for i in (2, 0, 1)]
    _, _, table = encode(*values)
    dataset = LabelledDataset(table, None, "f")
    assert dataset.num_windows == 3
    assert dataset.describe() == "3 examples of f, 3 rows of 5.0 tokens each"
    batch = Collation(9, {})(dataset.read(np.array([5, 1])))
    assert batch["lengths"].tolist() == [7, 8, 9, 4, 5, 6]
    assert batch["choice_labels"].tolist() == [1, 0]
    assert batch["samples"].tolist() == [15, 16, 17, 3, 4, 5]
    assert batch["tokens"].shape == (6, 9)


def test_accuracy() -> None:
    body, _, table = encode(*({"ctx": "C", "endings": ["x", "y"], "label": i} for i in (1, 0, 1)))
    scorer = body.scorer(table)
    scorer.add(np.array([2, 0]), np.array([[0.0, 1.0], [1.0, 0.0]]))
    scorer.add(np.array([1]), np.array([[3.0, 1.0]]))
    assert scorer.measures() == {"accuracy": pytest.approx(2 / 3)}
    assert [line["choice"] for line in scorer.predictions()["predictions.jsonl"]] == [0, 0, 1]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (
            {"label": 2},
            "holds '2', which is none of the 2 choices (0 to 1, or A, B, …): mend the row, or set",
        ),
        ({"label": "C"}, "holds 'C', which is none"),
        ({"label": None}, "has no label"),
        ({"endings": ["x", " "]}, "column 'endings' holds a choice without text"),
        ({"endings": {"text": ["x", "y"], "label": ["A"]}}, "holds 2 choices and 1 label of them"),
        (
            {"endings": "['x' 'y']"},
            "column 'endings' holds \"['x' 'y']\", which is no list as JSON or Python writes one",
        ),
        (
            {"endings": "{'text': array(['x', 'y'], dtype=object), 'label': array(['A', 'B'])}"},
            "column 'endings' holds \"{'text': array(['x', 'y'], dtype=object)\"…, which is of numpy's arrays",
        ),
        ({"endings": ["x"]}, "column 'endings' holds no list of two or more texts"),
        ({"endings": ["x", "y", "z"]}, "line 2: 3 choices where other rows have 2"),
        ({"ctx": ""}, "column 'ctx' is empty"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place(changes, part) -> None:
    value = {"ctx": "C", "endings": ["x", "y"], "label": 0}
    with pytest.raises(DataError) as refused:
        encode(value, {**value, **changes})
    assert "line 2: " in str(refused.value)
    assert part in str(refused.value)


def test_choices_in_a_column_within_a_column_or_in_more_than_ten() -> None:
    body, texts = build_task(ChoiceConfig()), [f"text {number}" for number in range(12)]
    many = {f"option{number}": text for number, text in reversed(list(enumerate(texts)))}
    (nested, numbered) = rows({"q": {"options": texts}}, many)
    assert body._choices(nested, {"choices": "q.options"}) == (texts, [])
    assert body._choices(numbered, {}) == (texts, [])


@pytest.mark.parametrize("text", ["['x', \"it's\"]", '["x", "it\'s"]'])
def test_choices_that_a_table_has_as_text(text) -> None:
    assert encode({"ctx": "C", "endings": text, "label": 0})[1] == [("C", "x"), ("C", "it's")]


@pytest.mark.parametrize(
    "text", ["{'text': ['x', \"it's\"], 'label': ['A', 'B']}", '{"text": ["x", "it\'s"], "label": ["A", "B"]}']
)
def test_named_choices_that_a_table_has_as_text(text) -> None:
    """As pandas.to_csv writes AI2's question sets."""
    _, texts, table = encode({"ctx": "C", "endings": text, "label": "B"})
    assert texts == [("C", "x"), ("C", "it's")]
    assert table["choice_labels"].tolist() == [1]


def test_choices_that_are_nowhere() -> None:
    with pytest.raises(DataError, match=r"line 1: no column holds choices: give a list"):
        encode({"ctx": "C", "label": 0, "ending0": "x"})
    with pytest.raises(DataError, match="line 1: nothing stands before the choices"):
        encode({"choices": ["x", "y"], "label": 0})
