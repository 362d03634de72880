"""Windows over long texts: those of Transformers' tokenizers, with the same offsets, and nothing left out between them."""

import numpy as np
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.data.labelled.encode import ExampleEncoder
from dist_plm.data.labelled.question_windows import trimmed, window_bounds
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from tests.data.labelled.roberta import opened, write_byte_level
from tests.data.labelled.words import write_vocabulary

QUESTIONS = ["was the film good", " is it a very boring play"]
CONTEXTS = ["The  film was, very very lovely; the play\twas not boring.", "Das Stück war größer 😀 — 很好 ends"]


@given(st.integers(0, 60), st.integers(1, 20), st.data())
def test_windows_cover_all_and_overlap_by_the_stride(count: int, room: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, room))
    found = list(window_bounds(count, room, stride))
    assert {i for first, last in found for i in range(first, last)} == set(range(count))
    assert [first for first, _ in found] == list(range(0, stride * len(found), stride))
    assert all(last - first == room for first, last in found[:-1])
    assert found[-1][1] == count


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_equal_those_of_transformers(kind: str, tmp_path) -> None:
    """Of which `stride` counts the tokens that two windows share."""
    if kind == "bert":
        folder = write_vocabulary(tmp_path)
        library, frame = transformers.AutoTokenizer.from_pretrained(folder), 3
    else:
        folder = write_byte_level(tmp_path)
        library, frame = opened(folder), 4
    length, stride = {"bert": 20, "roberta": 40}[kind], 5
    encoder = ExampleEncoder(Tokenizer.load(folder), length)
    ours = encoder.windows(QUESTIONS, CONTEXTS, 64, stride)
    number = 0
    for row, (question, context) in enumerate(zip(QUESTIONS, CONTEXTS, strict=True)):
        question = question.lstrip()
        room = length - frame - len(library(question, add_special_tokens=False)["input_ids"])
        wanted = library(
            question,
            context,
            truncation="only_second",
            max_length=length,
            stride=room - stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        for window, ids in enumerate(wanted["input_ids"]):
            assert ours.rows[number] == row
            assert ours.tokens[number].tolist() == ids
            of_context = [i for i, part in enumerate(wanted.sequence_ids(window)) if part == 1]
            assert ours.context_at[number] == of_context[0]
            places = np.stack([ours.char_starts[number], ours.char_ends[number]], axis=1)
            theirs_at = [wanted["offset_mapping"][window][i] for i in of_context]
            for (start, end), (a, b) in zip(places.tolist(), theirs_at, strict=True):
                # Of a token that is a space alone they keep the space.
                assert (start, end) == (a, b) or (start == end == b and context[a:b].isspace())
            assert ours.segments[number].tolist() == [int(i >= of_context[0]) for i in range(len(ids))]
            number += 1
    assert number == len(ours.rows) > 3


def test_questions_are_cut(tmp_path) -> None:
    encoder = ExampleEncoder(Tokenizer.load(write_vocabulary(tmp_path)), 12)
    found = encoder.windows(["the " * 9], ["film"], 4, 2)
    assert found.tokens.lengths.tolist() == [1 + 4 + 1 + 1 + 1]
    assert found.context_at.tolist() == [6]


def test_spaces_at_the_ends_of_tokens_are_no_part_of_them() -> None:
    text = "  a bc \n d"
    offsets = np.array([[0, 3], [3, 6], [6, 8], [8, 10], [3, 4]])
    assert [text[a:b] for a, b in trimmed(text, offsets)] == ["a", "bc", "", "d", ""]
    assert trimmed("ab", np.array([[0, 2]])).tolist() == [[0, 2]]
