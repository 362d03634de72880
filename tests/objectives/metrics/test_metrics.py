"""Measures equal those of scikit-learn, scipy and seqeval, in whatever order and batches rows come."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from seqeval import metrics as seqeval
from seqeval.scheme import IOB2, IOBES
from sklearn import metrics as sklearn

from dist_plm.objectives.metrics.classes import Confusion, LabelCounts
from dist_plm.objectives.metrics.entities import EntityCounts, entities, strict_entities
from dist_plm.objectives.metrics.numbers import mean_squared_error, pearson, spearman
from dist_plm.spec.tasks.tag import are_entities, begins_entity

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)
LABELS = ("O", "B-PER", "I-PER", "E-PER", "S-PER", "B-LOC", "I-LOC", "E-LOC", "S-LOC")


@settings(deadline=None)
@given(PAIRS)
def test_classes_as_scikit_learn_counts_them(pairs) -> None:
    truth, predicted = (np.array(side) for side in zip(*pairs, strict=True))
    confusion = Confusion.of(4)
    for row in range(0, len(truth), 7):
        confusion.add(truth[row : row + 7], predicted[row : row + 7])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert confusion.accuracy == pytest.approx(sklearn.accuracy_score(truth, predicted))
        assert confusion.f1_macro() == pytest.approx(
            sklearn.f1_score(truth, predicted, average="macro", zero_division=0)
        )
        assert confusion.f1() == pytest.approx(
            sklearn.f1_score(truth, predicted, average=None, labels=range(4), zero_division=0)
        )
        assert confusion.matthews() == pytest.approx(sklearn.matthews_corrcoef(truth, predicted))


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.booleans()] * 6), min_size=1, max_size=30))
def test_sets_of_labels_as_scikit_learn_counts_them(rows) -> None:
    both = np.array(rows)
    truth, predicted = both[:, :3], both[:, 3:]
    counts = LabelCounts.of(3)
    for row in range(0, len(truth), 4):
        counts.add(truth[row : row + 4], predicted[row : row + 4])
    assert counts.accuracy == pytest.approx(sklearn.accuracy_score(truth, predicted))
    assert counts.f1_micro() == pytest.approx(sklearn.f1_score(truth, predicted, average="micro", zero_division=0))
    assert counts.f1() == pytest.approx(sklearn.f1_score(truth, predicted, average=None, zero_division=0))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=40))
def test_correlations_as_scipy_has_them(pairs) -> None:
    a, b = (np.array(side, dtype=np.float64) for side in zip(*pairs, strict=True))
    assert mean_squared_error(a, b) == pytest.approx(sklearn.mean_squared_error(a, b))
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert pearson(a, b) == spearman(a, b) == 0.0
        return
    assert pearson(a, b) == pytest.approx(stats.pearsonr(a, b)[0])
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b)[0])


TEXTS = st.lists(st.lists(st.tuples(*[st.sampled_from(LABELS)] * 2), min_size=1, max_size=10), min_size=1, max_size=6)


@settings(deadline=None, max_examples=300)
@given(TEXTS)
def test_entities_as_seqeval_counts_them(texts) -> None:
    truth = [[pair[0] for pair in text] for text in texts]
    predicted = [[pair[1] for pair in text] for text in texts]
    loose = EntityCounts()
    for there, said in zip(truth, predicted, strict=True):
        loose.add(entities(there), entities(said))
    assert_equal(loose, truth, predicted)


@settings(deadline=None, max_examples=200)
@given(TEXTS, st.sampled_from(["IO", "IOB1", "BIO of no kind"]))
def test_entities_of_labels_that_begin_none_or_have_no_kind(texts, scheme) -> None:
    def told(label: str) -> str:
        if scheme == "BIO of no kind":
            return {"E": "I", "S": "B"}.get(label[0], label[0])
        return label if label[0] in ("OBI" if scheme == "IOB1" else "O") else f"I{label[1:]}"

    truth, predicted = ([[told(pair[side]) for pair in text] for text in texts] for side in (0, 1))
    counts = EntityCounts()
    for there, said in zip(truth, predicted, strict=True):
        counts.add(entities(there), entities(said))
    assert_equal(counts, truth, predicted)


@settings(deadline=None, max_examples=300)
@given(TEXTS, st.sampled_from(["IOB2", "IOBES"]))
def test_strict_entities_as_seqeval_counts_them(texts, scheme) -> None:
    allowed = LABELS if scheme == "IOBES" else tuple(label for label in LABELS if label[0] in "OBI")
    fit = [[[label if label in allowed else "O" for label in pair] for pair in text] for text in texts]
    truth = [[pair[0] for pair in text] for text in fit]
    predicted = [[pair[1] for pair in text] for text in fit]
    strict = EntityCounts()
    for there, said in zip(truth, predicted, strict=True):
        strict.add(strict_entities(there, scheme), strict_entities(said, scheme))
    assert_equal(strict, truth, predicted, mode="strict", scheme={"IOB2": IOB2, "IOBES": IOBES}[scheme])


@settings(deadline=None, max_examples=200)
@given(TEXTS, st.sampled_from([{"E": "L", "S": "U"}, {"I": "M"}]))
def test_labels_of_bilou_and_bmes_are_counted_as_those_of_iobes(texts, prefixes) -> None:
    truth, predicted = ([[pair[side] for pair in text] for text in texts] for side in (0, 1))
    loose, strict = EntityCounts(), EntityCounts()
    for there, said in zip(truth, predicted, strict=True):
        ours = [[prefixes.get(label[0], label[0]) + label[1:] for label in labels] for labels in (there, said)]
        loose.add(*map(entities, ours))
        strict.add(*(strict_entities(labels, "IOBES") for labels in ours))
    assert_equal(loose, truth, predicted)
    assert_equal(strict, truth, predicted, mode="strict", scheme=IOBES)


@pytest.mark.parametrize(("last", "alone"), ["LU", "EW", "ES"])
def test_entities_of_one_word(last: str, alone: str) -> None:
    last, alone = f"{last}-X", f"{alone}-X"
    found = list(entities(["B-X", last, alone, "O", alone, "B-X", last]))
    assert found == [("X", 0, 2), ("X", 2, 3), ("X", 4, 5), ("X", 5, 7)]
    assert are_entities(["O", alone, last, "I-X"])


def assert_equal(counts: EntityCounts, truth, predicted, **options) -> None:
    measures = counts.measures("")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, score in (("precision", seqeval.precision_score), ("recall", seqeval.recall_score)):
            if counts.predicted or counts.truth:  # of none at all its strict mode breaks down
                assert measures[name] == pytest.approx(score(truth, predicted, zero_division=0, **options)), name
                assert measures["f1"] == pytest.approx(seqeval.f1_score(truth, predicted, zero_division=0, **options))


def test_labels_of_entities_are_told_from_parts_of_speech() -> None:
    assert are_entities(["O", "B-PER", "I-PER"])
    assert not are_entities(["NN", "VB", "O"])
    assert not are_entities(["B-PER", "NN"])
    assert not are_entities(["O"])
    assert not are_entities(["B", "N", "V"])
    assert are_entities(["I-LOC", "I-PER", "O"])  # IO
    assert are_entities(["B-LOC", "I-LOC", "O"])
    assert are_entities(["B", "I", "O"])
    assert [begins_entity(label) for label in ("B-X", "S", "I-X", "E", "O", "BB")] == [True, True, *[False] * 4]
