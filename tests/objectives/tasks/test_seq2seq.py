"""Rows of a text and what is to be written of it: what is read, what is learned, and what is seen."""

from typing import Any

import pytest

from dist_plm.data.labelled.rows import LabelledRow
from dist_plm.data.labelled.table import Ragged
from dist_plm.objectives.base import IGNORED
from dist_plm.objectives.build import build_task
from dist_plm.spec.tasks import TASKS

BEGIN, END, START = 1, 2, 0
COLUMNS = {"source": "s", "target": "t"}


class Letters:
    """A token for each letter."""

    def __init__(self, length: int, *, has_decoder: bool = False) -> None:
        self.length, self.has_decoder = length, has_decoder
        self.begin, self.end, self.start = [BEGIN], END, START

    def pieces(self, texts):
        return [[ord(letter) for letter in text if letter != "\n"] for text in texts]

    def ragged(self, rows):
        return Ragged.of(rows)


def table(encoder: Letters, *rows: dict[str, str], columns: dict[str, str] = COLUMNS, **settings: Any):
    body = build_task(TASKS["seq2seq"](**settings))
    made = body.encode([LabelledRow(f"line {n}", row) for n, row in enumerate(rows, 1)], columns, encoder)
    return {name: [column[row].tolist() for row in range(len(rows))] for name, column in made.items()}


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_a_decoder_learns_the_target_alone():
    made = table(Letters(20), {"s": "ab", "t": "xy"}, suffix=">")
    assert made["tokens"] == [[BEGIN, *letters("ab>xy")]]
    assert made["labels"] == [[IGNORED] * 3 + [*letters("xy"), END]]
    assert "seen_from" not in made


def test_a_prefix_is_seen_both_ways_and_ends_where_no_suffix_has_tokens():
    made = table(Letters(20), {"s": "ab", "t": "xy"}, {"s": "a", "t": "x"}, prefix_lm=True)
    assert made["tokens"] == [[BEGIN, *letters("ab"), END, *letters("xy")], [BEGIN, *letters("a"), END, *letters("x")]]
    assert made["seen_from"] == [[0, 0, 0, 0, 4, 5], [0, 0, 0, 3]]


def test_sources_and_targets_that_are_too_long_lose_their_ends():
    made = table(Letters(10), {"s": "abcdefgh", "t": "stuvwxyz"}, prefix=":", suffix=">", max_target_length=4)
    assert made["tokens"] == [[BEGIN, *letters(":abc>stu")]]
    assert made["labels"][0][-4:] == [*letters("stu"), END]


def test_an_encoder_reads_the_source_and_a_decoder_learns_the_target():
    encoder = Letters(5, has_decoder=True)
    made = table(encoder, {"s": "abcdef", "t": "xyz"}, {"s": "a", "t": "x"}, prefix=":", max_target_length=3)
    assert made["tokens"] == [[*letters(":abc"), END], [*letters(":a"), END]]
    assert made["labels"] == [[*letters("xy"), END], [*letters("x"), END]]
    assert made["decoder_tokens"] == [[START, *letters("xy")], [START, *letters("x")]]


def test_columns_within_columns():
    columns = {"source": "translation.en", "target": "translation.de"}
    made = table(Letters(20), {"translation": {"en": "a", "de": "x"}}, suffix=">", columns=columns)
    assert made["tokens"] == [[BEGIN, *letters("a>x")]]


@pytest.mark.parametrize("settings", [{}, {"prefix": "do: ", "suffix": " =>", "max_target_length": 3}])
def test_a_prompt_is_what_stands_before_a_target(settings):
    encoder = Letters(12)
    body = build_task(TASKS["seq2seq"](**settings))
    (prompt,) = body.prompts(["abcdefghijkl"], encoder)
    (tokens,) = table(encoder, {"s": "abcdefghijkl", "t": "x"}, **settings)["tokens"]
    assert tokens == [*prompt, *letters("x")]
