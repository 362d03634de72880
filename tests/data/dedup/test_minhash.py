import functools
import random
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.data.dedup import minhash
from dist_plm.data.dedup.minhash import (
    Signatures,
    bands_and_rows,
    components,
    shingle_hashes,
    signatures,
    similar_pairs,
)

P, SIZE, THRESHOLD = 128, 5, 0.8


def test_bands_follow_from_the_threshold():
    bands, rows = bands_and_rows(THRESHOLD, P, 0.95)
    assert (bands, rows) == (18, 7)
    assert 1 - (1 - 0.8**7) ** 18 >= 0.95 > 1 - (1 - 0.8**8) ** 16
    assert bands_and_rows(0.5, P, 0.95) == (42, 3)
    assert bands_and_rows(0.01, P, 0.99) == (128, 1)  # as near as it gets


def english(generator, count):
    return " ".join("".join(generator.choices("etaoinshrdlu", k=5)) for _ in range(count))


def chinese(generator, count):
    return "".join(chr(generator.randrange(0x4E00, 0x5E00)) for _ in range(count))


def edited(text, generator, edits, unit):
    """`text` with some of its words or characters replaced, each of which changes up to five shingles."""
    parts = text.split() if unit == "word" else list(text)
    for at in generator.sample(range(len(parts)), edits):
        parts[at] = "other" if unit == "word" else "变"
    return (" " if unit == "word" else "").join(parts)


def stored_signatures(*parts):
    # As from files: asked for with every band, made once.
    return Signatures([functools.cache(partial(signatures, list(texts), SIZE, P)) for texts in parts])


def jaccard(left, right):
    one, two = (set(shingle_hashes(text, SIZE).tolist()) for text in (left, right))
    return len(one & two) / len(one | two)


@pytest.mark.parametrize(("make", "unit"), [(english, "word"), (chinese, "character")])
def test_planted_duplicates_are_found_and_little_else(make, unit):
    """Recall of pairs above the threshold and precision, by exact Jaccard similarities of shingles."""
    generator = random.Random(7)
    texts = [make(generator, 600) for _ in range(300)]
    pairs = []
    for original in range(200):
        pairs.append((original, len(texts)))
        texts.append(edited(texts[original], generator, original % 50, unit))
    similarity = np.array([jaccard(texts[a], texts[b]) for a, b in pairs])
    assert (similarity >= 0.85).sum() > 30
    assert (similarity < 0.75).sum() > 40
    bands, rows = bands_and_rows(THRESHOLD, P, 0.95)
    stored = stored_signatures(texts[:250], texts[250:])
    found = {tuple(pair) for band in range(bands) for pair in similar_pairs(stored, band, rows, THRESHOLD).tolist()}
    assert all(a < b for a, b in found)
    assert found <= set(pairs)  # nothing that was not planted
    hit = np.array([pair in found for pair in pairs])
    assert hit[similarity >= 0.85].mean() >= 0.95
    assert hit[similarity >= THRESHOLD].mean() >= 0.85  # a signature's estimate errs by 0.035 at the threshold
    precision = (similarity[hit] >= THRESHOLD - 0.05).mean()
    assert precision >= 0.95
    assert not hit[similarity < 0.65].any()


def test_agreement_estimates_the_jaccard_similarity():
    generator = random.Random(3)
    text = english(generator, 400)
    for edits in (0, 5, 20, 60):
        other = edited(text, generator, edits, "word")
        one, two = signatures(iter([text, other]), SIZE, P)
        assert (one == two).mean() == pytest.approx(jaccard(text, other), abs=0.15)


def test_shingles_are_words_or_chinese_characters():
    assert len(shingle_hashes("one two three four five six", 5)) == 2
    assert len(shingle_hashes("今天天气很好", 5)) == 2
    assert len(shingle_hashes("我们用 PyTorch 训练模型", 5)) == 4
    assert shingle_hashes("One, TWO three", 5).tolist() == shingle_hashes("one two three!", 5).tolist()
    assert shingle_hashes("one two", 5).tolist() != shingle_hashes("two one", 5).tolist()
    assert len(shingle_hashes("?!", 5)) == 1
    assert shingle_hashes("?!", 5).tolist() != shingle_hashes("!!", 5).tolist()


def test_signatures_do_not_depend_on_batches(monkeypatch):
    texts = [english(random.Random(i), 20 + i) for i in range(20)]
    whole = signatures(iter(texts), SIZE, P)
    for name, value in (("_BATCH", 3), ("_BATCH_SHINGLES", 60)):
        monkeypatch.setattr(minhash, name, value)
        assert (signatures(iter(texts), SIZE, P) == whole).all()
    assert signatures(iter([]), SIZE, P).shape == (0, P)


def test_many_equal_documents_are_all_found():
    texts = ["one and the same text that comes again and again"] * 50 + ["another text that comes but once"]
    pairs = similar_pairs(stored_signatures(texts), 0, 7, THRESHOLD)
    assert sorted(pairs.tolist()) == [[0, i] for i in range(1, 50)]
    assert len(similar_pairs(Signatures([]), 0, 7, THRESHOLD)) == 0


@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=8), data=st.data())
def test_rows_come_in_the_order_they_are_asked_for(sizes, data):
    rows = np.arange(3 * sum(sizes), dtype=np.uint32).reshape(-1, 3)
    parts = np.split(rows, np.cumsum(sizes)[:-1])
    stored = Signatures([lambda part=part: part for part in parts])
    assert len(stored) == len(rows)
    numbers = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1)) if len(rows) else st.just([])), np.int64)
    assert np.array_equal(stored.rows(numbers), rows[numbers])


def test_files_are_opened_a_few_times_however_many_pairs_there_are():
    """2^16 documents lie in files that are as good as drawn, and so do their copies, so that all files have some of each."""
    shards, generator = 64, np.random.default_rng(0)
    rows = np.repeat(generator.integers(0, 2**32, (2**16, 4), np.uint32), 2, axis=0)
    opened = [0] * shards

    def load(number, part):
        opened[number] += 1
        return part

    parts = np.split(generator.permutation(rows), shards)
    stored = Signatures([partial(load, number, part) for number, part in enumerate(parts)])
    assert len(similar_pairs(stored, 0, 4, THRESHOLD)) == 2**16
    assert max(opened) <= 4  # for its length, the band's hashes, and either side of the pairs


@given(count=st.integers(1, 12), data=st.data())
def test_components_name_the_first_of_each(count, data):
    numbers = st.integers(0, count - 1)
    pairs = data.draw(st.lists(st.tuples(numbers, numbers), max_size=20))
    expected = list(range(count))
    for _ in range(count):  # the smallest number spreads along the pairs
        for a, b in pairs:
            expected[a] = expected[b] = min(expected[a], expected[b])
    assert components(count, np.array(pairs, np.int64).reshape(-1, 2)).tolist() == expected


def test_components_of_a_long_chain():
    count = 10_000
    order = np.random.default_rng(0).permutation(count)
    assert not components(count, np.stack([order[:-1], order[1:]], axis=1)).any()


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("x = a + b", "x = a - b"),
        ("if (i < n) { s += v[i]; }", "if (i > n) { s -= v[i]; }"),
        ("∀x: x ∈ A → x ∉ B", "∃x: x ∉ A ∧ x ∈ B"),
        ("a*b", "a/b"),
    ],
)
def test_texts_that_differ_in_operators_differ(left, right):
    one, other = (set(shingle_hashes(text, SIZE).tolist()) for text in (left, right))
    assert len(one & other) / len(one | other) < THRESHOLD


@pytest.mark.parametrize(
    ("left", "right"), [("Well, he said: no!", "well he said \u201cno\u201d"), ("One  two.", "one two")]
)
def test_texts_that_differ_in_punctuation_do_not(left, right):
    assert np.array_equal(shingle_hashes(left, SIZE), shingle_hashes(right, SIZE))
