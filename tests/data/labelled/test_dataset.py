import numpy as np
import pytest

from dist_plm.data.labelled.dataset import Collation, LabelledDataset, Trim
from dist_plm.data.labelled.table import Ragged, joined, num_examples
from dist_plm.objectives.base import IGNORED

TABLE = {"tokens": Ragged.of([[5, 6], [7], [8, 9, 10], [11]]), "class_labels": np.array([0, 1, 1, 0])}


def test_every_epoch_has_every_example_once_in_an_order_of_its_own() -> None:
    dataset = LabelledDataset(TABLE, 3, "f")
    epochs = [dataset.read(np.arange(4 * e, 4 * e + 4)).rows.tolist() for e in range(12)]
    assert all(sorted(rows) == [0, 1, 2, 3] for rows in epochs)
    assert len(set(map(tuple, epochs))) > 3
    assert LabelledDataset(TABLE, None, "f").read(np.arange(6)).rows.tolist() == [0, 1, 2, 3, 0, 1]


def test_tokens_of_samples_are_counted_without_padding() -> None:
    dataset = LabelledDataset(TABLE, 3, "f")
    each = [len(dataset.table["tokens"][int(row)]) for row in dataset.read(np.arange(7)).rows]
    assert dataset.num_tokens(0, 4) == 7
    assert dataset.num_tokens(2, 7) == sum(each[2:])


def test_samples_are_sorted_by_their_longest_row() -> None:
    assert LabelledDataset(TABLE, None, "f").longest_first(4).tolist() == [2, 0, 1, 3]
    assert LabelledDataset(TABLE, None, "f").longest_first(2).tolist() == [0, 1]
    choices = {"tokens": Ragged.of([[5, 6], [6, 7], [8, 9, 10], [11]]), "class_labels": np.array([0, 1])}
    assert LabelledDataset(choices, None, "f").longest_first(2).tolist() == [1, 0]


def test_only_rows_that_are_read_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each step, of tables of millions of rows."""
    choices = {"tokens": Ragged.of([[5, 6], [], [8, 9, 10], [11]]), "class_labels": np.array([0, 1])}
    for table in (TABLE, choices):
        tokens, each = table["tokens"], len(table["tokens"]) // num_examples(table)
        rows = np.array([3, 0, 2, 0, 1])
        counted = tokens.lengths_of(rows)
        assert counted.dtype == tokens.lengths.dtype
        assert counted.tolist() == tokens.lengths[rows].tolist()
        whole = tokens.lengths
        dataset = LabelledDataset(table, None, "f")
        with monkeypatch.context() as patch:
            patch.delattr(Ragged, "lengths")
            assert dataset.num_tokens(1, 2) == whole[each : 2 * each].sum()
            assert Collation(4, {})(dataset.read(np.array([1])))["lengths"].tolist() == whole[each : 2 * each].tolist()


def test_rows_are_padded_and_trimmed() -> None:
    table = {**TABLE, "tags": Ragged.of([[1, 2], [3], [1, 2, 3], [4]])}
    batch = Collation(16, {"tokens": 99, "tags": IGNORED})(LabelledDataset(table, None, "f").read(np.array([1, 2])))
    assert batch["tokens"].shape == (2, 16)
    trimmed = Trim(("tokens", "tags"), 16, 2)(batch)
    assert trimmed["tokens"].tolist() == [[7, 99, 99, 99], [8, 9, 10, 99]]
    assert trimmed["tags"].tolist() == [[3, IGNORED, IGNORED, IGNORED], [1, 2, 3, IGNORED]]
    assert trimmed["lengths"].tolist() == [1, 3]
    assert trimmed["class_labels"].tolist() == [1, 1]


def test_tables_join_row_for_row() -> None:
    both = joined([TABLE, TABLE])
    assert [both["tokens"][i].tolist() for i in range(8)] == [[5, 6], [7], [8, 9, 10], [11]] * 2
    assert both["class_labels"].tolist() == [0, 1, 1, 0] * 2


def test_identity_is_that_of_the_content_and_the_order() -> None:
    same, other = LabelledDataset(TABLE, 3, "f"), {**TABLE, "class_labels": np.array([0, 1, 1, 1])}
    assert same.identity() == LabelledDataset(dict(TABLE), 3, "g").identity()
    assert (
        len({same.identity(), LabelledDataset(TABLE, 4, "f").identity(), LabelledDataset(other, 3, "f").identity()})
        == 3
    )
