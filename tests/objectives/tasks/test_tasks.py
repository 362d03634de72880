"""Rows become columns of numbers, and what a model says of them measures; what cannot be used is refused with its place."""

import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch

from dist_plm.core.errors import DataError
from dist_plm.data.labelled.dataset import Collation, LabelledDataset
from dist_plm.data.labelled.rows import LabelledRow
from dist_plm.data.labelled.table import Ragged
from dist_plm.models.heads.losses import score_classes
from dist_plm.objectives.base import IGNORED
from dist_plm.objectives.build import build_task
from dist_plm.spec.tasks import TASKS


class Letters:
    """A token for each letter; a word's first stands for it."""

    by_likelihood, length = False, 6

    def texts(self, first, second=None):
        return {"tokens": Ragged.of([[ord(letter) for letter in text] for text in first])}

    def words(self, rows):
        tokens = [[1, *(ord(letter) for word in row for letter in word)][:6] for row in rows]
        starts = [[-1, *(i if j == 0 else -1 for i, w in enumerate(row) for j in range(len(w)))][:6] for row in rows]
        return Ragged.of(tokens), Ragged.of(starts)


def rows(*values: dict[str, Any]) -> list[LabelledRow]:
    return [LabelledRow(f"line {number}", value) for number, value in enumerate(values, 1)]


def task(name: str, **settings: Any):
    return build_task(TASKS[name](**settings))


TEXT = {"text": "t", "label": "l"}
ONE = Ragged.of([[1]])


def test_labels_are_numbered_as_the_task_names_them() -> None:
    table = task("classify", labels=("no", "yes")).encode(
        rows({"t": "a", "l": "yes"}, {"t": "b", "l": "no"}), TEXT, Letters()
    )
    assert table["class_labels"].tolist() == [1, 0]


def test_several_labels_a_row() -> None:
    body = task("classify", labels=("a", "b", "c"), multi_label=True)
    table = body.encode(
        rows({"t": "x", "l": "a, c"}, {"t": "y", "l": []}, {"t": "z", "l": ["b", "b"]}), TEXT, Letters()
    )
    assert table["label_sets"].tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert body.labels(rows({"l": "a,b"}, {"l": ["c"]}), TEXT) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("name", "settings", "value", "column"),
    [
        ("classify", {"labels": ("a", "b", "c"), "multi_label": True}, ["a", "c"], "label"),
        ("classify", {"labels": ("a", "b")}, "b", "label"),
        ("regress", {}, 2.5, "label"),
        ("tag", {"labels": ("O", "B-X")}, ["B-X", "O"], "tags"),
    ],
)
def test_an_answer_in_a_column_within_a_column(name, settings, value, column) -> None:
    body, columns = task(name, **settings), {"text": "t", "tokens": "t", "label": "l", "tags": "l"}
    plain = body.encode(rows({"t": "a b", "l": value}), columns, Letters())
    nested = body.encode(rows({"t": "a b", "meta": {"l": value}}), {**columns, column: "meta.l"}, Letters())
    for key, values in plain.items():
        inner = [(one.values if isinstance(one, Ragged) else one).tolist() for one in (values, nested[key])]
        assert inner[0] == inner[1], key


def test_tags_stand_at_the_first_token_of_each_word() -> None:
    columns = {"tokens": "w", "tags": "n"}
    table = task("tag", labels=("O", "B-X")).encode(
        rows({"w": ["ab", "c"], "n": ["B-X", "O"]}, {"w": "a bcdefgh i", "n": "O B-X O"}), columns, Letters()
    )
    assert table["tags"][0].tolist() == [IGNORED, 1, IGNORED, 0]
    assert table["tags"][1].tolist() == [IGNORED, 0, 1, IGNORED, IGNORED, IGNORED]  # the third word was cut off


def flat(table: Any) -> dict[str, Any]:
    return {name: (one.values if isinstance(one, Ragged) else one).tolist() for name, one in table.items()}


@pytest.mark.parametrize("written", [str, json.dumps])
def test_lists_that_a_table_has_as_text_are_read(written) -> None:
    columns = {"tokens": "w", "tags": "n"}
    body, words, tags = task("tag", labels=("O", "B-X")), ["it's", 'a "b"', "é"], ["O", "B-X", "O"]
    plain = flat(body.encode(rows({"w": words, "n": tags}), columns, Letters()))
    assert flat(body.encode(rows({"w": written(words), "n": written(tags)}), columns, Letters())) == plain
    assert flat(body.encode(rows({"w": words, "n": written(tags)}), columns, Letters())) == plain
    assert flat(body.encode(rows({"w": written(words)}), {"tokens": "w"}, Letters()))["tokens"] == plain["tokens"]
    bracketed = body.encode(rows({"w": "[ a ]", "n": "O O B-X"}), columns, Letters())
    assert flat(bracketed)["num_words"] == [3]
    sets = task("classify", labels=("1", "b c", "it's"), multi_label=True)
    found = sets.encode(
        rows(*({"t": "x", "l": written(labels)} for labels in (["it's", "b c"], [], [1]))), TEXT, Letters()
    )
    assert found["label_sets"].tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]


def test_labels_are_sorted_as_people_count() -> None:
    assert TASKS["classify"]().with_labels({"10", "9", "-1"}).labels == ("-1", "9", "10")  # pyright: ignore
    assert TASKS["classify"]().with_labels({"b", "a", "3"}).labels == ("3", "a", "b")  # pyright: ignore
    for found in itertools.permutations(("nan", "1", "2")):  # the same on every rank, in whatever order it finds them
        assert TASKS["classify"]().with_labels(found).labels == ("1", "2", "nan")  # pyright: ignore


def test_measures_of_a_class() -> None:
    scorer = task("classify", labels=("no", "yes"), positive="no").scorer({"class_labels": np.array([0, 0, 1])})
    scorer.add(np.array([2, 0]), np.array([[0.0, 1.0], [2.0, 1.0]]))
    scorer.add(np.array([1]), np.array([[0.0, 1.0]]))
    assert scorer.measures()["accuracy"] == pytest.approx(2 / 3)
    assert scorer.measures()["f1"] == pytest.approx(2 / 3)  # of "no"
    said = scorer.predictions()["predictions.jsonl"]
    assert said == [{"row": row, "label": label} for row, label in enumerate(("no", "yes", "yes"))]


def test_measures_of_tags() -> None:
    table = {
        "tags": Ragged.of([[IGNORED, 1, IGNORED, 0], [IGNORED, 0]]),
        "words": Ragged.of([[-1, 0, -1, 1], [-1, 0]]),
        "num_words": np.array([2, 1]),
    }
    scorer = task("tag", labels=("O", "B-X", "I-X")).scorer(table)
    outputs = np.zeros((2, 4, 3))
    outputs[0, 1, 2] = outputs[0, 3, 0] = outputs[1, 1, 1] = 1.0
    scorer.add(np.array([0, 1]), outputs)
    measures = scorer.measures()
    assert measures["recall"] == 1.0, "conlleval takes the I after nothing for an entity's begin"
    assert measures["strict_recall"] == 0.0
    assert measures["accuracy"] == pytest.approx(1 / 3)
    assert scorer.predictions()["predictions.jsonl"] == [
        {"row": 0, "tags": ["I-X", "O"]},
        {"row": 1, "tags": ["B-X"]},
    ]


@pytest.mark.parametrize(
    ("name", "settings", "table"),
    [
        ("classify", {"labels": ("a", "b")}, {"class_labels": np.array([1])}),
        ("classify", {"labels": ("a", "b", "c")}, {"class_labels": np.array([1])}),
        ("classify", {"labels": ("a", "b"), "multi_label": True}, {"label_sets": np.ones((1, 2), np.float32)}),
        ("regress", {}, {"targets": np.zeros(1, np.float32)}),
        ("choice", {}, {"choice_labels": np.array([1])}),
        *(
            ("tag", {"labels": labels}, {"tags": ONE, "words": Ragged.of([[0]]), "num_words": np.array([1])})
            for labels in (("B-X", "O"), ("I-X", "O"), ("B", "I", "O"), ("DT", "NN"))
        ),
    ],
)
def test_what_is_measured_is_what_may_be_asked_for(name, settings, table) -> None:
    """Of answers to questions see test_qa.py, of texts tests/train/test_finetune.py."""
    body = task(name, **settings)
    scorer, shape = body.scorer(table), (1, 1, 3) if name == "tag" else (1, 1) if name == "regress" else (1, 2)
    scorer.add(np.array([0]), np.zeros((*shape[:-1], len(settings.get("labels", ())) or shape[-1]), np.float32))
    assert sorted(body.config.measured) == sorted(["loss", *scorer.measures()])


def test_labels_that_begin_no_entity_have_no_strict_measures() -> None:
    table = {"tags": Ragged.of([[1, 1, 0]]), "words": Ragged.of([[0, 1, 2]]), "num_words": np.array([3])}
    scorer = task("tag", labels=("O", "I-X")).scorer(table)
    scorer.add(np.array([0]), np.eye(2)[[[1, 1, 0]]])
    assert scorer.measures() == {"f1": 1.0, "precision": 1.0, "recall": 1.0, "accuracy": 1.0}


def test_a_word_without_a_token_has_no_tag_and_moves_none() -> None:
    columns, words = {"tokens": "w", "tags": "n"}, ["a", "", "b", "c"]
    body = task("tag", labels=("O", "B-X", "B-Y"))
    table = body.encode(rows({"w": words, "n": ["B-X", "O", "B-Y", "O"]}), columns, Letters())
    assert table["tags"][0].tolist() == [IGNORED, 1, 2, 0]
    scorer = body.scorer(table)
    scorer.add(np.array([0]), np.eye(3)[[[0, 1, 2, 0]]])
    assert scorer.predictions()["predictions.jsonl"] == [{"row": 0, "tags": ["B-X", None, "B-Y", "O"]}]
    assert scorer.measures()["f1"] == 1.0


def test_words_at_the_end_that_have_no_token_or_were_cut_off_have_no_tag() -> None:
    body = task("tag", labels=("O", "B-X"))
    values = (
        {"w": ["a", "b", ""], "n": ["B-X", "O", "O"]},
        {"w": "a bcdefgh i k", "n": "O B-X O O"},
        {"w": [""], "n": ["O"]},
    )
    table = body.encode(rows(*values), {"tokens": "w", "tags": "n"}, Letters())
    scorer = body.scorer(table)
    scorer.add(np.array([2, 1, 0]), np.eye(2)[[[0] * 6, [0, 0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0]]])
    told = [["B-X", "O", None], ["O", "B-X", None, None], [None]]
    assert scorer.predictions()["predictions.jsonl"] == [{"row": row, "tags": tags} for row, tags in enumerate(told)]


def test_predictions_of_label_sets_and_numbers() -> None:
    sets = task("classify", labels=("a", "b"), multi_label=True).scorer({"label_sets": np.zeros((3, 2), np.float32)})
    sets.add(np.array([2, 0]), np.array([[1.0, 2.0], [-1.0, 3.0]], dtype=np.float32))
    assert sets.predictions()["predictions.jsonl"] == [{"row": 0, "labels": ["b"]}, {"row": 2, "labels": ["a", "b"]}]
    broken = task("regress").scorer({"targets": np.arange(3, dtype=np.float32)})
    broken.add(np.arange(2), np.array([[np.nan], [1.0]]))
    assert np.isnan(broken.measures()["mse"])  # what is no number is not left out
    assert len(broken.predictions()["predictions.jsonl"]) == 2
    numbers = task("regress").scorer({"targets": np.zeros(3, np.float32)})
    numbers.add(np.array([1]), np.array([[0.5]], dtype=np.float32))
    assert numbers.predictions()["predictions.jsonl"] == [{"row": 1, "number": 0.5}]


@pytest.mark.parametrize(
    ("name", "settings", "values", "part"),
    [
        ("classify", {}, {"t": "a", "l": "perhaps"}, "line 1: 'perhaps' is not among the labels of the task, no, yes"),
        ("classify", {}, {"t": "a", "l": None}, "line 1: column 'l' has no label"),
        (
            "classify",
            {},
            {"t": "a", "l": ["no"]},
            "holds 1 label in a list where one is learned: set task.multi_label=true",
        ),
        ("classify", {}, {"t": "", "l": "no"}, "line 1: column 't' is empty"),
        ("classify", {}, {"l": "no"}, "line 1: column 't' is missing"),
        ("classify", {}, {"t": ["a"], "l": "no"}, "line 1: column 't' is list"),
        (
            "classify",
            {},
            {"t": "a", "l": 0.5},
            "column 'l' has 0.5, which is no label: learn numbers by task=regress",
        ),
        ("classify", {"multi_label": True}, {"t": "a", "l": ["no", None]}, "line 1: column 'l' has no label"),
        ("classify", {"multi_label": True}, {"t": "a", "l": {"no": 1}}, "column 'l' has {'no': 1}, which is no label"),
        ("classify", {"multi_label": True}, {"t": "a", "l": "no,maybe"}, "'maybe' is not among the labels"),
        (
            "classify",
            {"multi_label": True},
            {"t": "a", "l": "['no' 'yes']"},
            "line 1: column 'l' holds \"['no' 'yes']\"",
        ),
        ("classify", {"multi_label": True}, {"t": "a", "l": "[no, yes]"}, "no list as JSON or Python writes one"),
        ("classify", {}, {"t": "a", "l": "['no', 'yes']"}, "holds 2 labels where one is learned"),
        ("regress", {}, {"t": "a", "l": "much"}, "line 1: column 'l' holds 'much', not a number"),
        ("regress", {}, {"t": "a", "l": "nan"}, "holds 'nan', not a number"),
        ("regress", {}, {"t": "a", "l": 1e308}, "holds 1e+308, not a number"),
        ("regress", {}, {"t": "a", "l": 10**400}, "holds 1000000000000000000000000000000000000000…, not a number"),
        ("regress", {}, {"t": "a", "l": True}, "holds True, not a number"),
        ("tag", {}, {"w": ["a", "b"], "n": ["no"]}, "line 1: 2 words in 'w' and 1 label in 'n'"),
        ("tag", {}, {"w": ["a", ["b"]], "n": ["no", "no"]}, "line 1: column 'w' holds no list of tokens"),
        ("tag", {}, {"w": ["a"], "n": [["no"]]}, "line 1: column 'n' holds no list of tags"),
        ("tag", {}, {"w": ["a"], "n": [0.5]}, "line 1: column 'n' has 0.5, which is no label"),
        ("tag", {}, {"w": [], "n": []}, "line 1: column 'w' holds no list of tokens"),
        (
            "tag",
            {},
            {"w": "['a' 'b']", "n": "['no' 'no']"},
            "line 1: column 'w' holds \"['a' 'b']\", which is no list as",
        ),
        ("tag", {}, {"w": "[a, b]", "n": "[no, no]"}, "write JSON lines or Parquet"),
        ("tag", {}, {"w": "[]", "n": "[]"}, "line 1: column 'w' holds no list of tokens"),
        ("tag", {}, {"w": ["a"], "n": ["yes?"]}, "line 1: 'yes?' is not among the labels"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place(name, settings, values, part) -> None:
    labels = {} if name == "regress" else {"labels": ("no", "yes")}
    columns = {"tokens": "w", "tags": "n"} if name == "tag" else TEXT
    with pytest.raises(DataError) as refused:
        task(name, **labels, **settings).encode(rows(values), columns, Letters())
    assert part in str(refused.value)


def test_labels_count_as_they_are_weighted_and_smoothed() -> None:
    """Against PyTorch's cross_entropy, and scikit-learn's balanced weights by hand."""
    logits, labels = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1, 0, -1])
    table = {"class_labels": labels.numpy()}
    for weights, settings in (
        ([1.0, 3.0, 0.5], {"class_weights": {"b": 3, "c": 0.5}}),
        ([4 / 6, 4 / 3, 4 / 3], {"balanced": True}),
        ([1.0, 1.0, 1.0], {}),
    ):
        for smoothing in (0.0, 0.2):
            body = task("classify", labels=("a", "b", "c"), label_smoothing=smoothing, **settings)
            found = body.soft(table)
            if not settings and not smoothing:
                assert found == {}
                continue
            soft = torch.from_numpy(found["class_labels"][table["class_labels"]])
            wanted = torch.nn.functional.cross_entropy(
                logits, labels, torch.tensor(weights), ignore_index=-1, reduction="sum", label_smoothing=smoothing
            )
            ours = score_classes(logits, labels, evaluate=False, soft=soft).loss
            torch.testing.assert_close(ours, wanted)


def test_tags_are_weighted_token_by_token() -> None:
    table = {"tokens": Ragged.of([[7, 8, 9], [7]]), "tags": Ragged.of([[IGNORED, 1, 0], [1]])}
    body = task("tag", labels=("O", "B-X"), class_weights={"B-X": 4})
    batch = Collation(4, {"tags": IGNORED}, soft=body.soft(table))(
        LabelledDataset(table, None, "f").read(np.array([0, 1]))
    )
    assert batch["tags_soft"].shape == (2, 4, 2)
    assert batch["tags_soft"][0, 1:3].tolist() == [[0, 4], [1, 0]]
