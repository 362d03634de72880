import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.data.samples import Pairs
from dist_plm.objectives.base import IGNORED
from dist_plm.objectives.corruption.segment_pairs import PairCutter, Runs, Segments, assemble, truncated_lengths
from tests.objectives.statistics import chi_square_z, rate_z
from tests.objectives.text import CLS, FIRST, PAD, SEP, SPECIAL, random_runs, sentences_of

Run = list[list[int]]


def cutter(kind: str = "nsp", max_tokens: int = 40, **changes: Any) -> PairCutter:
    return PairCutter(
        **{"seed": 1, "kind": kind, "max_tokens": max_tokens, "negative_rate": 0.5, "short_rate": 0.1} | changes
    )


def pairs_of(first: list[Run], second: list[Run] | None, samples: np.ndarray | None = None) -> Pairs:
    other = None if second is None else sentences_of(second)
    return Pairs(sentences_of(first), other, np.arange(len(first)) if samples is None else samples)


def cut(cutter: PairCutter, first: list[Run], second: list[Run] | None, samples: np.ndarray | None = None):
    """Both segments of every sample as lists of tokens, and the labels."""
    pairs = pairs_of(first, second, samples)
    tokens = np.concatenate([pairs.first.tokens, *([] if pairs.second is None else [pairs.second.tokens])]).tolist()
    *segments, labels = cutter(pairs)
    taken = [
        [tokens[a : a + n] for a, n in zip(part.start.tolist(), part.length.tolist(), strict=True)] for part in segments
    ]
    return *taken, labels.tolist()


def flat(sentences: Run) -> list[int]:
    return [token for sentence in sentences for token in sentence]


def truncate_seq_pair(tokens_a: list[int], tokens_b: list[int], max_num_tokens: int, rng: random.Random) -> None:
    """`truncate_seq_pair` of BERT's create_pretraining_data.py."""
    while True:
        total_length = len(tokens_a) + len(tokens_b)
        if total_length <= max_num_tokens:
            break
        trunc_tokens = tokens_a if len(tokens_a) > len(tokens_b) else tokens_b
        assert len(trunc_tokens) >= 1
        if rng.random() < 0.5:
            del trunc_tokens[0]
        else:
            trunc_tokens.pop()


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 60))
def test_truncated_lengths_are_those_of_bert(a, b, max_tokens):
    tokens_a, tokens_b = [0] * a, [0] * b
    truncate_seq_pair(tokens_a, tokens_b, max_tokens, random.Random(0))
    lengths = truncated_lengths(np.array([a]), np.array([b]), max_tokens)
    assert [int(n[0]) for n in lengths] == [len(tokens_a), len(tokens_b)]


def test_what_is_cut_off_in_front_is_distributed_as_in_bert():
    rows, rng = 4000, random.Random(1)
    text = list(range(FIRST, FIRST + 30))
    first, second, _ = cut(
        cutter(max_tokens=20, negative_rate=0.0, short_rate=0.0), [[text[:9], text[9:]]] * rows, [[[FIRST]]] * rows
    )
    ours, theirs = np.zeros(30), np.zeros(30)
    for a, b in zip(first, second, strict=True):
        ours[a[0] - FIRST] += 1
        ours[b[0] - FIRST] += 1
        tokens_a, tokens_b = text[:9], text[9:]
        truncate_seq_pair(tokens_a, tokens_b, 20, rng)
        theirs[tokens_a[0] - FIRST] += 1
        theirs[tokens_b[0] - FIRST] += 1
    both = (ours + theirs) / 2
    seen = both > 20
    statistic = ((ours - theirs)[seen] ** 2 / (2 * both[seen])).sum()
    assert statistic < seen.sum() + 4 * np.sqrt(2 * seen.sum())


@given(st.integers(0, 2**31), st.integers(1, 30))
def test_sentences_are_taken_until_there_are_enough_tokens(seed, wanted):
    draw = np.random.default_rng(seed)
    rows = random_runs(draw, 5, 20)
    counts = Runs.of(sentences_of(rows)).sentences_for(np.full(5, wanted))
    for run, count in zip(rows, counts, strict=True):
        held = list(np.cumsum([len(sentence) for sentence in run]))
        assert count == 1 + next((i for i, tokens in enumerate(held) if tokens >= wanted), len(held) - 1)


@pytest.mark.parametrize("kind", ["nsp", "sop"])
@given(seed=st.integers(0, 2**31), data=st.data())
def test_pairs_are_whole_sentences_where_they_fit(kind, seed, data):
    draw = np.random.default_rng(seed)
    max_tokens = data.draw(st.integers(200, 300))
    first, second = random_runs(draw, 6, 60), random_runs(draw, 6, 60)
    got = cut(cutter(kind, max_tokens, seed=seed, short_rate=0.0), first, second)
    for run, other, a, b, label in zip(first, second, *got, strict=True):
        cuts = [(flat(run[:i]), flat(run[i:])) for i in range(1, len(run))]
        if label == IGNORED:
            assert (kind, len(run), a, b) == ("sop", 1, flat(run), [])
        elif label == 0:
            assert (a, b) in cuts
        elif kind == "sop":
            assert (b, a) in cuts
        else:
            assert b == flat(other)
            assert a in [cut[0] for cut in cuts] or (len(run) == 1 and a == flat(run))


@pytest.mark.parametrize("kind", ["nsp", "sop"])
@given(seed=st.integers(0, 2**31), max_tokens=st.integers(2, 40), short_rate=st.sampled_from([0.0, 0.5, 1.0]))
def test_pairs_never_exceed_the_length_and_are_pieces_of_the_text(kind, seed, max_tokens, short_rate):
    draw = np.random.default_rng(seed)
    first, second = random_runs(draw, 6, max_tokens), random_runs(draw, 6, max_tokens)
    got = cut(cutter(kind, max_tokens, seed=seed, short_rate=short_rate), first, second)
    for run, other, a, b, label in zip(first, second, *got, strict=True):
        assert len(a) + len(b) <= max_tokens
        assert a
        assert bool(b) == (label != IGNORED)
        assert is_piece(a, flat(run))
        assert is_piece(b, flat(other if kind == "nsp" and label == 1 else run))


def is_piece(part: list[int], text: list[int]) -> bool:
    return any(text[i : i + len(part)] == part for i in range(len(text) - len(part) + 1))


@pytest.mark.parametrize("kind", ["nsp", "sop"])
@pytest.mark.parametrize("negative_rate", [0.0, 0.5, 0.8, 1.0])
def test_share_of_negatives(kind, negative_rate):
    rows = 10_000
    two = [[[FIRST], [FIRST + 1]]] * rows
    *_, labels = cut(cutter(kind, negative_rate=negative_rate), two, two)
    if negative_rate in (0.0, 1.0):
        assert set(labels) == {int(negative_rate)}
    else:
        assert abs(rate_z(sum(labels), rows, negative_rate)) < 4


def test_a_sentence_that_stands_alone():
    alone = [[[FIRST, FIRST + 1]]] * 50
    elsewhere = [[[FIRST + 5]]] * 50
    assert cut(cutter("nsp", negative_rate=0.0), alone, elsewhere) == (
        [[FIRST, FIRST + 1]] * 50,
        [[FIRST + 5]] * 50,
        [1] * 50,
    )
    assert cut(cutter("sop", negative_rate=1.0), alone, None) == ([[FIRST, FIRST + 1]] * 50, [[]] * 50, [IGNORED] * 50)


def test_cuts_are_uniform_over_sentence_boundaries():
    rows = 12_000
    run = [[FIRST + i] for i in range(7)]
    first, *_ = cut(cutter("sop", negative_rate=0.0, short_rate=0.0), [run] * rows, None)
    counts = np.bincount([len(a) for a in first], minlength=7)[1:]
    assert abs(chi_square_z(counts, rows / 6)) < 4


def test_short_pairs():
    rows, max_tokens = 20_000, 30
    run = [[FIRST]] * max_tokens
    first, second, _ = cut(cutter("sop", max_tokens), [run] * rows, None)
    lengths = np.array([len(a) + len(b) for a, b in zip(first, second, strict=True)])
    counts = np.bincount(lengths, minlength=31)
    # A target of the full length is among the 29 that are drawn.
    assert abs(rate_z(counts[2:30].sum(), rows, 0.1 * 28 / 29)) < 4
    assert abs(chi_square_z(counts[2:30], counts[2:30].mean())) < 4


def test_another_epoch_or_seed_cuts_anew_and_neighbours_do_not_matter():
    draw = np.random.default_rng(0)
    first, second = random_runs(draw, 30, 40), random_runs(draw, 30, 40)
    once = cut(cutter(), first, second)
    assert cut(cutter(), first, second, np.arange(30) + 10**6) != once
    assert cut(cutter(seed=2), first, second) != once
    chosen = [7, 3, 29]
    alone = cut(cutter(), [first[i] for i in chosen], [second[i] for i in chosen], np.array(chosen))
    assert alone == tuple([part[i] for i in chosen] for part in once)


def test_the_layout_of_devlin_et_al():
    """Figure 2 of the paper: [CLS] my dog is cute [SEP] he likes play ##ing [SEP]."""
    my, dog, is_, cute, he, likes, play, ing = range(FIRST, FIRST + 8)
    tokens = np.array([my, dog, is_, cute, he, likes, play, ing])
    first = Segments(np.array([0, 0]), np.array([4, 3]))
    second = Segments(np.array([4, 0]), np.array([4, 0]))
    rows, segments, lengths = assemble(tokens, first, second, SPECIAL, 13)
    assert rows.tolist() == [
        [CLS, my, dog, is_, cute, SEP, he, likes, play, ing, SEP, PAD, PAD],
        [CLS, my, dog, is_, SEP, *[PAD] * 8],
    ]
    assert segments.tolist() == [[0] * 6 + [1] * 5 + [0] * 2, [0] * 13]
    assert lengths.tolist() == [11, 5]


def test_a_random_second_segment_fills_up_what_the_first_leaves():
    rows, max_tokens = 200, 30
    run, other = [[FIRST + i] for i in range(max_tokens)], [[FIRST + 100 + i] for i in range(max_tokens)]
    got = cut(cutter("nsp", max_tokens, negative_rate=1.0, short_rate=0.0), [run] * rows, [other] * rows)
    for a, b, label in zip(*got, strict=True):
        assert label == 1
        assert a == flat(run[: len(a)])
        assert b == flat(other[: max_tokens - len(a)])
