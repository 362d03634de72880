from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dist_plm.data.store.sentences import sentence_ends, sentences

GOLD = Path(__file__).parents[1] / "sentences"
CASES = [line for name in ("english.txt", "chinese.txt") for line in (GOLD / name).read_text().splitlines()]


@pytest.mark.parametrize("line", CASES)
def test_sentences_written_down_by_hand(line):
    assert [part.strip() for part in sentences(line.replace("|", ""))] == [part.strip() for part in line.split("|")]


@given(text=st.text(alphabet=st.sampled_from(list("aB1. !?…。！“”\"')\n\t，，说")), max_size=60))
@example(text="?\n\n")
def test_nothing_is_lost_and_no_sentence_is_blank(text):
    parts = sentences(text)
    assert "".join(parts) == text
    assert len(parts) == 1 or all(part.strip() for part in parts)
    assert sentence_ends(text) == sorted(set(sentence_ends(text)))


def test_white_space_goes_to_the_sentence_after_it():
    assert sentences("One here.  Two.\nThree. ") == ["One here.", "  Two.", "\nThree. "]


def test_wrapped_lines_are_one_sentence_and_blank_lines_end_one():
    assert sentences("A title\n\nThis is\nwrapped text. And\nmore") == [
        *("A title", "\n\nThis is\nwrapped text.", " And\nmore"),
    ]


@pytest.mark.parametrize("text", ["", " ", "\n\n", ".", "。", "no end", "..."])
def test_little_texts_are_whole(text):
    assert sentences(text) == [text]


def test_time_is_linear_in_the_text():
    """A rule that looks back over the whole text for each mark would take minutes here."""
    assert len(sentences("x" * 100 + "a.b" * 100_000 + " 1. A. b? C! " * 20_000)) > 20_000
    for text in ("." * 200_000 + "x", "…" * 200_000 + "x", "." + ")" * 200_000 + "x", "\n" + " " * 200_000 + "x"):
        assert sentences(text) == [text]
    assert len(sentences("One." + "\n" * 400_000 + "Two.")) == 2
    assert len(sentences("“" * 200_000 + "。" * 200_000)) == 1
