import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.data.sources.assemble import assemble

lines_strategy = st.lists(st.text(alphabet="ab \t", max_size=6), max_size=12)


def test_long_documents_are_cut_at_blank_lines_else_at_line_ends():
    def cut(text, limit):
        lines = enumerate(text.splitlines(keepends=True), 1)
        return [(d.line, d.text) for d in assemble(lines, "whole", limit)]

    assert cut("aa\nbb\n\ncc\ndd\n", 10) == [(1, "aa\nbb"), (4, "cc\ndd")]
    assert cut("aa\nbb\ncc\n", 6) == [(1, "aa\nbb"), (3, "cc")]
    assert cut("aaaaaaaaaa\nb\n", 4) == [(1, "aaaaaaaaaa"), (2, "b")]
    assert cut("aa\n\nbb\n", 100) == [(1, "aa\n\nbb")]
    assert cut("a\n\nbbbb\ncccc\ndddd\n", 12) == [(1, "a"), (3, "bbbb\ncccc"), (5, "dddd")]


@given(lines=lines_strategy, unit=st.sampled_from(["whole", "block", "line"]), limit=st.none() | st.integers(1, 20))
def test_assembling_loses_nothing_but_blank_lines(lines, unit, limit):
    numbered = list(enumerate([line + "\n" for line in lines], 1))
    pieces = list(assemble(numbered, unit, limit))
    kept = [line for piece in pieces for line in piece.text.split("\n") if line.strip()]
    assert kept == [line for line in lines if line.strip()]
    if unit == "whole" and limit is None:
        assert [p.text for p in pieces] == (["".join(line for _, line in numbered)] if lines else [])
        return
    for piece in pieces:
        assert piece.text.strip()
        assert lines[piece.line - 1] == next(line for line in piece.text.split("\n") if line.strip())
        assert limit is None or len(piece.text) <= limit or "\n" not in piece.text
        assert unit != "line" or "\n" not in piece.text
        assert unit != "block" or not re.search(r"\n[ \t]*\n", piece.text)


@pytest.mark.parametrize("unit", ["whole", "block"])
def test_of_huge_documents_the_place_is_kept(unit):
    lines = list(enumerate(["aaaa\n"] * 5 + ["\n", "b\n"], 1))
    pieces = list(assemble(lines, unit, None, most_chars=12))
    expected = [(1, 7, None)] if unit == "whole" else [(1, 5, None), (7, 7, "b")]
    assert [tuple(piece) for piece in pieces] == expected
