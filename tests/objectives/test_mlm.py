from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.objectives.base import IGNORED
from dist_plm.objectives.build import build_objective
from dist_plm.spec.objectives import OBJECTIVES
from tests.objectives.text import CLS, MASK, PAD, SEP, SPECIAL, full_rows, padded, windows_of

NO_FRAME = replace(SPECIAL, cls=None, sep=None)


def mlm(special=SPECIAL, seed: int = 1, **settings):
    return build_objective(OBJECTIVES["mlm"](**settings), special, seed=seed)


def restored(batch) -> np.ndarray:
    return np.where(batch["labels"] == IGNORED, batch["tokens"], batch["labels"])


@given(st.integers(1, 5), st.integers(3, 40), st.integers(0, 2**40))
def test_the_window_comes_back_within_its_frame(rows, sequence_length, seed):
    windows = windows_of(rows, mlm().window_length(sequence_length), end_rate=0.1)
    batch = mlm(seed=seed).collate(windows)
    assert set(batch) == {"tokens", "labels", "samples"}
    assert batch["tokens"].shape == batch["labels"].shape == (rows, sequence_length)
    text = restored(batch)
    assert (text[:, 0] == CLS).all()
    assert (text[:, -1] == SEP).all()
    np.testing.assert_array_equal(text[:, 1:-1], windows.tokens[:, :-1])
    np.testing.assert_array_equal(batch["samples"], windows.samples)


def test_without_such_tokens_there_is_no_frame():
    for special, frame in ((NO_FRAME, 0), (replace(NO_FRAME, sep=SEP), 1), (replace(NO_FRAME, cls=CLS), 1)):
        objective = mlm(special)
        assert objective.window_length(32) == 32 - frame
        batch = objective.collate(windows_of(3, 32 - frame))
        assert batch["tokens"].shape == (3, 32)


def test_documents_and_positions_only_when_asked_for():
    windows = windows_of(4, 20, end_rate=0.2)
    batch = mlm(document_mask=True, reset_positions=True).collate(windows)
    expected = np.concatenate(
        [windows.documents[:, :1], windows.documents[:, :-1], windows.documents[:, -2:-1]], axis=1
    )
    np.testing.assert_array_equal(batch["documents"], expected)
    for documents, positions in zip(batch["documents"], batch["positions"], strict=True):
        for document in np.unique(documents):
            length = (documents == document).sum()
            assert positions[documents == document].tolist() == list(range(length))
    assert "positions" not in mlm(document_mask=True).collate(windows)


def test_a_segmenters_words_are_masked_whole():
    words = np.tile(np.arange(41) // 4, (50, 1))
    segmented = replace(mlm(mask_units="words"), segmenter=lambda tokens, ends: words)
    batch = segmented.collate(windows_of(50, 40, end_rate=0))
    masked = (batch["labels"] != IGNORED)[:, 1:-1].reshape(50, 10, 4)
    assert masked.any()
    np.testing.assert_array_equal(masked.any(axis=2), masked.all(axis=2))


def test_rate_and_split_are_the_configurations():
    windows = windows_of(100, 98, end_rate=0)
    batch = mlm(mask_rate=0.4, mask_split=(1.0, 0.0, 0.0)).collate(windows)
    masked = batch["labels"] != IGNORED
    assert masked.mean() == pytest.approx(0.4 * 0.98, abs=0.005)
    np.testing.assert_array_equal(batch["tokens"] == MASK, masked)


def test_the_loss_counts_masked_tokens():
    objective = mlm()
    batch = objective.collate(windows_of(10, 98))
    (term,) = objective.losses.values()
    assert (list(objective.losses), term.weight) == (["mlm"], 1.0)
    assert term.count(batch) == (batch["labels"] != -1).sum() > 0


@pytest.mark.parametrize("special", [SPECIAL, replace(SPECIAL, pad=None), NO_FRAME, replace(NO_FRAME, sep=SEP)])
def test_padded_rows_end_where_their_text_does(special):
    objective = mlm(special, mask_rate=0.5)
    windows = padded(windows_of(40, objective.window_length(24), end_rate=0.1))
    batch = objective.collate(windows)
    front, back = special.cls is not None, special.sep is not None
    assert batch["lengths"].tolist() == (windows.lengths + front + back).tolist()
    masked = mlm(special, mask_rate=0.5, document_mask=True).collate(windows)
    assert "lengths" not in masked
    for row, documents, source, text, own in zip(
        restored(batch), masked["documents"], windows.lengths, windows.tokens, windows.documents, strict=True
    ):
        length = source + front + back
        assert row[front : front + source].tolist() == text[:source].tolist()
        assert row[: int(front)].tolist() == [CLS] * front
        assert row[length - back : length].tolist() == [SEP] * back
        assert set(row[length:].tolist()) <= {PAD if special.pad is not None else MASK}
        assert documents[front : front + source].tolist() == own[:source].tolist()
        assert (documents[length - back : length] == own[source - 1]).all()
        assert (documents[length:] == own[source - 1] + 1).all()
    assert (batch["labels"][np.arange(24) >= batch["lengths"][:, None]] == IGNORED).all()
    rows = windows_of(5, objective.window_length(24))
    np.testing.assert_array_equal(objective.collate(full_rows(rows))["tokens"], objective.collate(rows)["tokens"])
