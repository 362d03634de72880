from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.objectives.base import IGNORED
from dist_plm.objectives.build import build_objective
from dist_plm.objectives.causal import positions_in_documents
from dist_plm.spec.objectives import OBJECTIVES
from tests.objectives.statistics import chi_square_z
from tests.objectives.text import padded, rows_of, windows_of


def prefix_lm(seed: int = 1, **settings):
    return build_objective(OBJECTIVES["prefix_lm"](**settings), seed=seed)


def texts_of(windows, *, apart: bool) -> list[list[tuple[int, int]]]:
    """Where the texts of each row begin and end: its documents, or all of it but the padding."""
    rows = []
    for row, documents in enumerate(windows.documents.tolist()):
        length = int(windows.lengths[row]) if windows.lengths is not None else len(documents)
        edges = [0, *(i for i in range(1, length) if apart and documents[i] != documents[i - 1]), length]
        rows.append(list(pairwise(edges)))
    return rows


def expected(tokens: list[int], texts: list[tuple[int, int]], prefixes: list[int]) -> tuple[list[int], list[int]]:
    """Labels and first seers of a row, token by token."""
    labels, seen_from = [IGNORED] * (len(tokens) - 1), list(range(len(tokens)))
    for (begin, end), prefix in zip(texts, prefixes, strict=True):
        for place in range(begin, end):
            if place < begin + prefix:
                seen_from[place] = begin
            else:
                labels[place - 1] = tokens[place]
    return labels, seen_from[:-1]


def prefixes_of(seen_from: list[int], labels: list[int], texts: list[tuple[int, int]]) -> list[int]:
    """How long the prefix of each text is: as far as tokens are seen from its beginning, all where nothing is predicted."""
    lengths = []
    for begin, end in texts:
        predicted = [place for place in range(begin + 1, end) if labels[place - 1] != IGNORED]
        lengths.append(predicted[0] - begin if predicted else end - begin)
    return lengths


@given(st.integers(1, 60), st.booleans(), st.booleans(), st.integers(0, 2**40))
def test_a_row_is_framed_as_token_by_token(length, apart, short, seed):
    windows = windows_of(5, length, seed=seed % 1000, end_rate=0.15)
    if short and length > 1:
        windows = padded(windows, columns=0)
    batch = prefix_lm(seed, document_mask=apart, reset_positions=apart).collate(windows)
    assert set(batch) == {"tokens", "labels", "samples", "seen_from", *(("documents", "positions") if apart else ())}
    np.testing.assert_array_equal(batch["tokens"], windows.tokens[:, :-1])
    for row, texts in enumerate(texts_of(windows, apart=apart)):
        labels, seen_from = batch["labels"][row].tolist(), batch["seen_from"][row].tolist()
        assert seen_from == sorted(seen_from)
        prefixes = prefixes_of(seen_from, labels, texts)
        assert all(1 <= p <= max(1, end - begin - 1) for p, (begin, end) in zip(prefixes, texts, strict=True))
        ours, seers = expected(windows.tokens[row].tolist(), texts, prefixes)
        filled = min(texts[-1][1], length)
        assert (labels, seen_from[:filled]) == (ours, seers[:filled])
        # Padding is not seen by the text, and sees itself.
        assert all(filled <= seer <= place for place, seer in enumerate(seen_from) if place >= filled)
    if apart:
        np.testing.assert_array_equal(batch["documents"], windows.documents[:, :-1])
        np.testing.assert_array_equal(batch["positions"], positions_in_documents(windows.documents[:, :-1]))


def test_all_lengths_of_a_prefix_are_equally_likely():
    windows = windows_of(30_000, 12, end_rate=0)
    batch = prefix_lm().collate(windows)
    lengths = 13 - (batch["labels"] != IGNORED).sum(axis=1)
    cells = np.bincount(lengths, minlength=13)[1:]
    assert cells.size == 12
    assert abs(chi_square_z(cells, 30_000 / 12)) < 4


def test_a_sample_is_framed_alike_in_any_microbatch_and_anew_in_another_epoch():
    windows = windows_of(50, 40)
    whole = prefix_lm(document_mask=True).collate(windows)
    for name, array in prefix_lm(document_mask=True).collate(rows_of(windows, [6, 0, 6])).items():
        np.testing.assert_array_equal(whole[name][[6, 0, 6]], array)
    later = replace(windows, samples=windows.samples + 10**6)
    for other in (prefix_lm(document_mask=True).collate(later), prefix_lm(2, document_mask=True).collate(windows)):
        assert (other["labels"] != whole["labels"]).any(axis=1).mean() > 0.7


@pytest.mark.parametrize("apart", [False, True])
def test_every_token_sees_itself_and_what_stands_before_it(apart):
    batch = prefix_lm(document_mask=apart).collate(windows_of(20, 64, end_rate=0.1))
    assert (batch["seen_from"] <= np.arange(64)).all()
    assert (batch["seen_from"] >= 0).all()
