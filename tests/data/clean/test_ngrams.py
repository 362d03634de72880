from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.data.clean.ngrams import NGrams


def test_shares_by_hand():
    grams = NGrams(["a", "bb", "a", "bb", "a", "bb", "cccc"])
    assert grams.top_share(2) == pytest.approx(3 * 3 / 13)
    assert NGrams(["a", "b", "c"]).top_share(2) == 0
    # "a bb" comes again at words 2 and 4, "bb a" at 3: words 2 to 5 repeat, each counted once.
    assert grams.repeated_share(2) == pytest.approx(6 / 13)
    assert NGrams([]).repeated_share(5) == 0


def top_share(words: list[str], n: int) -> float:
    """Gopher's table A1, word for word."""
    counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    most = max(counts.values(), default=0)
    if most < 2:
        return 0.0
    longest = max(sum(map(len, gram)) for gram, count in counts.items() if count == most)
    return most * longest / sum(map(len, words))


def repeated_share(words: list[str], n: int) -> float:
    seen: set[tuple[str, ...]] = set()
    inside: set[int] = set()
    for i in range(len(words) - n + 1):
        gram = tuple(words[i : i + n])
        if gram in seen:
            inside.update(range(i, i + n))
        seen.add(gram)
    return sum(len(words[i]) for i in inside) / max(sum(map(len, words)), 1)


@given(words=st.lists(st.sampled_from(["a", "bb", "ccc", "dd"]), max_size=60))
def test_shares_are_those_of_the_definition(words):
    grams = NGrams(words)
    for n in range(2, 11):
        assert grams.top_share(n) == top_share(words, n)
        assert grams.repeated_share(n) == repeated_share(words, n)
