"""Runs of words that two texts share, against a plain search."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.data.dedup.ngram_overlap import NgramOverlap, ngram_hashes

WORDS = st.lists(st.sampled_from(["the", "cat", "Sat", "on", "a", "mat", "été"]), max_size=25)


def plainly(text: str, others: list[str], size: int) -> float:
    words, known = re.findall(r"[^\W_]+", text.lower()), set()
    for other in others:
        theirs = re.findall(r"[^\W_]+", other.lower())
        known |= {tuple(theirs[i : i + size]) for i in range(len(theirs) - size + 1)}
    covered = {i + k for i in range(len(words) - size + 1) if tuple(words[i : i + size]) in known for k in range(size)}
    return len(covered) / len(words) if len(words) >= size else 0.0


@given(st.lists(WORDS, min_size=1, max_size=5), st.lists(WORDS, max_size=4), st.integers(2, 6))
def test_shares_are_those_of_a_plain_search(texts, others, size) -> None:
    texts, others = ([" ".join(words) for words in side] for side in (texts, others))
    overlap = NgramOverlap(texts, size)
    for other in others:
        overlap.look_at(other)
    assert overlap.shares() == pytest.approx([plainly(text, others, size) for text in texts])
    assert overlap.counts.tolist() == [max(len(text.split()) - size + 1, 0) for text in texts]


def test_only_words_count_not_case_or_punctuation() -> None:
    assert ngram_hashes("The cat, sat: ON", 4).tolist() == ngram_hashes("the  cat\nsat on!", 4).tolist()
    assert ngram_hashes("the cat sat", 4).tolist() == []


def test_the_order_of_words_counts() -> None:
    words = [f"w{random.Random(i).random()}" for i in range(13)]
    assert ngram_hashes(" ".join(words), 13).tolist() != ngram_hashes(" ".join(reversed(words)), 13).tolist()
