import gzip
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.config.schema_prepare import SourceConfig
from dist_plm.data import sources
from dist_plm.data.sources import assemble, find_sources, read_slice
from dist_plm.errors import DataError

lines_strategy = st.lists(st.text(alphabet="ab \t", max_size=6), max_size=12)


def source(path, **settings):
    return SourceConfig(path=str(path), **settings)


def documents(*configs):
    return [(d.line, d.text) for unit in find_sources(configs).units for part in unit for d in read_slice(part)]


def texts(*configs):
    return [text for _, text in documents(*configs)]


def write(path, content):
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
def test_text_files_hold_a_document_each(tmp_path, suffix):
    write(tmp_path / f"b{suffix}", "second\n")
    write(tmp_path / f"a{suffix}", "first\n\nstill the first")
    assert documents(source(tmp_path / f"*{suffix}")) == [(1, "first\n\nstill the first"), (1, "second\n")]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_jsonl_holds_a_document_a_row(tmp_path, suffix):
    rows = [{"id": 1, "body": "one\r\ntwo"}, {"body": "猫"}]
    write(tmp_path / f"a{suffix}", "\n".join(map(json.dumps, rows)) + "\n\n")
    assert documents(source(tmp_path / f"a{suffix}", text="body")) == [(1, "one\r\ntwo"), (2, "猫")]


def test_sources_come_in_the_order_given_and_files_by_name(tmp_path):
    for name in ("z1", "z2", "a1", "a2"):
        write(tmp_path / f"{name}.txt", name)
    assert texts(source(tmp_path / "z*.txt"), source(tmp_path / "a*.txt")) == ["z1", "z2", "a1", "a2"]


def test_globs_reach_into_folders_and_pass_over_directories(tmp_path):
    (tmp_path / "x" / "y.txt").mkdir(parents=True)
    write(tmp_path / "x" / "y.txt" / "deep.txt", "deep")
    write(tmp_path / "top.txt", "top")
    assert texts(source(tmp_path / "**" / "*.txt")) == ["top", "deep"]


def test_windows_line_ends_and_byte_order_marks_vanish(tmp_path):
    write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo\r\nthree\rfour")
    write(tmp_path / "b.jsonl.gz", b'\xef\xbb\xbf{"text": "five"}\r\n')
    assert texts(source(tmp_path / "a.txt"), source(tmp_path / "b.jsonl.gz")) == ["one\ntwo\nthree\rfour", "five"]


def test_blocks_and_lines(tmp_path):
    path = write(tmp_path / "a.txt", "\n\none\ntwo\n \t\nthree\n\n\nfour")
    assert documents(source(path, document="block")) == [(3, "one\ntwo"), (6, "three"), (9, "four")]
    assert documents(source(path, document="line")) == [(3, "one"), (4, "two"), (6, "three"), (9, "four")]


def test_rows_can_be_cut_too(tmp_path):
    path = write(tmp_path / "a.jsonl", json.dumps({"text": "skip"}) + "\n" + json.dumps({"text": "a b\n\nc\u2028d\ne"}))
    assert documents(source(path, document="block")) == [(1, "skip"), (2, "a b"), (2, "c\u2028d\ne")]
    assert documents(source(path, max_chars=5)) == [(1, "skip"), (2, "a b"), (2, "c\u2028d\ne")]


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


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_large_files_are_cut_into_units_without_changing_the_documents(tmp_path, monkeypatch, name):
    monkeypatch.setattr(sources, "_MIB", 100)
    content = [f"line {i} " + "é" * (i * 7 % 90) for i in range(60)]
    if name == "a.jsonl":
        content = [json.dumps({"text": line}, ensure_ascii=False) for line in content]
    path = write(tmp_path / name, "\n".join(content))
    config = source(path, document="line")
    assert len(find_sources([config]).units) > 20
    expected = [f"line {i} " + "é" * (i * 7 % 90) for i in range(60)]
    assert [text.rstrip() for text in texts(config)] == [line.rstrip() for line in expected]


def test_small_files_share_units(tmp_path):
    for i in range(10):
        write(tmp_path / f"{i}.txt", "x" * 300_000)
    units = find_sources([source(tmp_path / "*.txt")]).units
    assert [len(unit) for unit in units] == [3, 3, 3, 1]


def test_empty_files_hold_nothing(tmp_path):
    for name in ("a.txt", "b.txt.gz", "c.jsonl"):
        write(tmp_path / name, b"")
    assert texts(source(tmp_path / "*.txt*"), source(tmp_path / "*.jsonl")) == []


def test_the_fingerprint_follows_names_sizes_and_times(tmp_path):
    path = write(tmp_path / "a.txt", "one")
    config = source(tmp_path / "*.txt")
    first = find_sources([config])
    assert (first.num_files, first.num_bytes) == (1, 3)
    assert find_sources([config]).fingerprint == first.fingerprint
    write(tmp_path / "b.txt", "")
    second = find_sources([config]).fingerprint
    write(path, "other")
    assert len({first.fingerprint, second, find_sources([config]).fingerprint}) == 3


LONG = b"x" * 250 + b"\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"fine\nbroken \xff\n", r"a\.txt, line 2, byte 8 is not UTF-8 \(invalid start byte\)"),
        ("a.txt", "text".encode("utf-16"), r"a\.txt, line 1, byte 1 is not UTF-8"),
        ("a.txt.gz", gzip.compress(b"fine\n" * 1000)[:-12], r"a\.txt\.gz after line \d+: .* cut short"),
        ("a.txt.gz", b"plain text", r"a\.txt\.gz after line 0: the compression is damaged"),
        ("a.txt.gz", gzip.compress(b"fine\n")[:12] + b"\x00" * 9, r"the compression is damaged"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a\.jsonl, line 2 is not JSON: Expecting value"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl, line 1 is not JSON"),
        ("a.jsonl", b'{"body": "x", "id": 1}', r"line 1 has no field 'text', it has 'body', 'id'; name the field"),
        ("a.jsonl", b'\n\n["text"]', r"line 3 has no field 'text', it has a list"),
        ("a.jsonl", b'{"text": null}', r"line 1: field 'text' holds NoneType, not text"),
        ("a.jsonl", b'{"text": "\\ud800"}', r"line 1: field 'text' is not Unicode text \(surrogates not allowed\)"),
    ],
)
def test_broken_input_is_named_by_file_and_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        texts(source(path))


def test_lines_are_counted_from_the_start_of_a_cut_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_MIB", 100)
    rows = ['{"text": "' + "x" * 40 + '"}'] * 30
    rows[22] = "{broken"
    path = write(tmp_path / "a.jsonl", "\n".join(rows))
    with pytest.raises(DataError, match=r"a\.jsonl, line 23 is not JSON"):
        texts(source(path))


def test_globs_that_match_nothing_usable_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"no file matches '.*\*\.txt', seen from"):
        find_sources([source(tmp_path / "*.txt")])
    with pytest.raises(DataError, match=r"no file matches .*, it is a directory, whose text files are .*/\*\.txt"):
        find_sources([source(tmp_path)])
    write(tmp_path / "a.pdf", "x")
    with pytest.raises(DataError, match=r"a\.pdf is of no format that is read here: \.txt, \.jsonl"):
        find_sources([source(tmp_path / "*")])


def test_files_that_shrink_or_vanish_are_reported(tmp_path):
    path = write(tmp_path / "a.txt", "one\ntwo")
    unit = find_sources([source(path)]).units[0]
    path.write_text("one\n")
    with pytest.raises(DataError, match=r"a\.txt became shorter while it was read"):
        list(read_slice(unit[0]))
    path.unlink()
    with pytest.raises(DataError, match=r"cannot read .*a\.txt: No such file"):
        list(read_slice(unit[0]))
