import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.objectives.base import IGNORED
from dist_plm.objectives.build import build_objective
from dist_plm.objectives.causal import positions_in_documents
from dist_plm.spec.objectives import OBJECTIVES
from tests.objectives.text import MIDDLE, PREFIX, SPECIAL, SUFFIX, padded, windows_of


def causal(**settings):
    return build_objective(OBJECTIVES["causal"](**settings), SPECIAL, seed=1)


def test_labels_are_the_next_tokens():
    windows = windows_of(3, 16)
    batch = build_objective(OBJECTIVES["causal"]()).collate(windows)
    assert set(batch) == {"tokens", "labels", "samples"}
    np.testing.assert_array_equal(batch["tokens"], windows.tokens[:, :-1])
    np.testing.assert_array_equal(batch["labels"], windows.tokens[:, 1:])
    assert causal().window_length(16) == 16


def test_documents_first_tokens_are_not_predicted_under_the_mask():
    windows = windows_of(5, 40, end_rate=0.2)
    batch = causal(document_mask=True, reset_positions=True).collate(windows)
    first = windows.documents[:, 1:] != windows.documents[:, :-1]
    np.testing.assert_array_equal(batch["labels"], np.where(first, IGNORED, windows.tokens[:, 1:]))
    np.testing.assert_array_equal(batch["documents"], windows.documents[:, :-1])
    np.testing.assert_array_equal(batch["positions"], positions_in_documents(windows.documents[:, :-1]))


@given(st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=6), min_size=1, max_size=4), st.integers(1, 20))
def test_positions_count_from_each_documents_first_token(rows, length):
    documents = [np.repeat(np.arange(len(row) + 1), [*row, length])[:length] for row in rows]
    expected = [[list(row[:i]).count(d) for i, d in enumerate(row)] for row in documents]
    assert positions_in_documents(np.array(documents, dtype=np.int32)).tolist() == expected


def test_filling_in_the_middle_is_trained_as_any_text():
    windows = windows_of(20, 64)
    objective = causal(fim_rate=1.0, document_mask=True)
    batch = objective.collate(windows)
    tokens, documents = objective.middle(windows.tokens, windows.documents, windows.samples)
    assert (documents != windows.documents).any()
    np.testing.assert_array_equal(batch["tokens"], tokens[:, :-1])
    np.testing.assert_array_equal(batch["documents"], documents[:, :-1])
    for sentinel in (PREFIX, SUFFIX, MIDDLE):
        assert (batch["tokens"] == sentinel).any(axis=1).all()
    crosses = documents[:, 1:] != documents[:, :-1]
    np.testing.assert_array_equal(batch["labels"], np.where(crosses, IGNORED, tokens[:, 1:]))


def test_padding_is_not_predicted():
    windows = padded(windows_of(30, 16), columns=0)
    for batch in (causal().collate(windows), causal(document_mask=True).collate(windows)):
        predicted = batch["labels"] != IGNORED
        assert not predicted[np.arange(1, 17) >= windows.lengths[:, None]].any()
    expected = windows.lengths - 1
    np.testing.assert_array_equal((causal().collate(windows)["labels"] != IGNORED).sum(axis=1), expected)
