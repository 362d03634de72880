import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from dist_plm.core.errors import DataError
from dist_plm.data.sources import delimited as source_delimited
from dist_plm.data.sources import lines as source_lines
from dist_plm.data.sources import records as records_module
from dist_plm.data.sources import sources
from dist_plm.data.sources.records import Document
from dist_plm.data.sources.sources import find_sources, read_in_order, read_slice
from dist_plm.spec.prepare.schema import SourceConfig


def source(path, **settings):
    return SourceConfig(path=str(path), **settings)


def records(*configs):
    return [record for _, record in read_in_order(find_sources(configs))]


def documents(*configs):
    found = records(*configs)
    assert all(isinstance(record, Document) for record in found), found
    return [tuple(record) for record in found]


def rejected(*configs):
    return [(r.line, r.reason, r.detail) for r in records(*configs) if not isinstance(r, Document)]


def texts(*configs):
    return [text for _, text in documents(*configs)]


def write(path, content):
    data = content if isinstance(content, bytes) else content.encode()
    pack = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)
    path.write_bytes(pack(data))
    return path


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".txt.zst"])
def test_text_files_hold_a_document_each(tmp_path, suffix):
    write(tmp_path / f"b{suffix}", "second\n")
    write(tmp_path / f"a{suffix}", "first\n\nstill the first")
    assert documents(source(tmp_path / f"*{suffix}")) == [(1, "first\n\nstill the first"), (1, "second\n")]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
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


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_byte_order_marks_of_joined_files_vanish(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", b'\xef\xbb\xbf{"text": "one"}\n' * 3)
    assert texts(source(path)) == ["one"] * 3
    path = write(tmp_path / f"a{suffix}".replace("jsonl", "txt"), b"\xef\xbb\xbfone\n\n" * 2)
    assert texts(source(path, document="block")) == ["one"] * 2


def test_blocks_and_lines(tmp_path):
    path = write(tmp_path / "a.txt", "\n\none\ntwo\n \t\nthree\n\n\nfour")
    assert documents(source(path, document="block")) == [(3, "one\ntwo"), (6, "three"), (9, "four")]
    assert documents(source(path, document="line")) == [(3, "one"), (4, "two"), (6, "three"), (9, "four")]


def test_rows_can_be_cut_too(tmp_path):
    path = write(tmp_path / "a.jsonl", json.dumps({"text": "skip"}) + "\n" + json.dumps({"text": "a b\n\nc\u2028d\ne"}))
    assert documents(source(path, document="block")) == [(1, "skip"), (2, "a b"), (2, "c\u2028d\ne")]
    assert documents(source(path, max_chars=5)) == [(1, "skip"), (2, "a b"), (2, "c\u2028d\ne")]


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


def test_empty_files_are_told_of(tmp_path):
    for name, content in [("a.txt", b""), ("b.txt.gz", b""), ("c.jsonl", b""), ("d.csv", b"text\n"), ("e.txt", b" \n")]:
        write(tmp_path / name, content)
        assert [reason for _, reason, _ in rejected(source(tmp_path / name))] == ["empty text"]


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


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"fine\nbroken \xff\n", (1, "not UTF-8", "byte 8 of the line: invalid start byte")),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', (2, "not JSON", "Expecting value")),
        ("a.jsonl", b"[" * 100_000, (1, "not JSON", "nests too deeply")),
        ("a.jsonl", b'{"body": "x", "id": 1}', (1, "no such column", "no field 'text', it has 'body', 'id'")),
        ("a.jsonl", b'\n\n["text"]', (3, "bad row", "list")),
        ("a.jsonl", b'{"text": null}', (1, "not text", "field 'text' holds NoneType")),
        ("a.jsonl", b'{"text": "\\ud800"}', (1, "not UTF-8", "surrogates")),
        ("a.jsonl", b'{"text": " "}', (1, "empty text", "white space")),
        (
            "a.jsonl",
            b'{"text": "one", "in": {"text": 1}, "text": "two"}',
            (1, "bad row", "two fields are called 'text'"),
        ),
        ("a.jsonl", b'{"in": {"text": 1}}', (1, "no such column", "no field 'text', it has 'in', 'in.text'")),
        ("a.csv", b"text,b\nx,y\nz\n", (3, "bad row", "1 fields where the header has 2")),
        ("a.csv", b"text\nx\n\xff\n", (3, "not UTF-8", "surrogates")),
        ("a.csv", b'text\nx\n"y" z\n', (3, "bad row", "expected after")),
        ("a.tsv", b'text\tb\nx\ty\n"z\n', (3, "bad row", "unexpected end")),
    ],
)
def test_broken_records_are_named_by_line_and_reason(tmp_path, name, content, expected):
    path = write(tmp_path / name, content)
    settings = {"quoting": "minimal"} if path.suffix in (".csv", ".tsv") else {}
    ((line, reason, detail),) = rejected(source(path, **settings))
    # A text file is one document, which begins at line 1, and the line that breaks it is named.
    assert (line, reason) == ((2 if name == "a.txt" else expected[0]), expected[1])
    assert expected[2] in detail


@pytest.mark.parametrize(("unit", "kept"), [("line", ["one", "three", "four"]), ("block", ["four"]), ("whole", [])])
def test_a_broken_line_breaks_its_document_alone(tmp_path, unit, kept):
    path = write(tmp_path / "a.txt", b"one\ntwo \xff\nthree\n\nfour")
    found = records(source(path, document=unit))
    assert [r.text for r in found if isinstance(r, Document)] == kept
    assert [r.line for r in found if not isinstance(r, Document)] == [2]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.txt.gz", "a.jsonl.zst"])
def test_lines_that_are_too_long_are_rejected_unread(tmp_path, monkeypatch, name):
    for module in (source_lines, records_module, source_delimited):
        monkeypatch.setattr(module, "MAX_RECORD_BYTES", 100)
    body = '{"text": "%s"}' if "jsonl" in name else "%s"
    header = "text\n" if "csv" in name else ""
    path = write(tmp_path / name, header + "\n".join([body % "a", body % ("x" * 300), body % "b"]) + "\n")
    found = records(source(path, document="whole" if "csv" in name else "line"))
    assert [r.text for r in found if isinstance(r, Document)] == ["a", "b"]
    assert [r.reason for r in found if not isinstance(r, Document)] == ["too long"]


@pytest.mark.parametrize("unit", ["whole", "block"])
def test_documents_that_are_too_long_are_rejected_unread(tmp_path, monkeypatch, unit):
    monkeypatch.setattr(records_module, "MAX_RECORD_BYTES", 100)
    path = write(tmp_path / "a.txt", "x" * 40 + "\n" + ("y" * 40 + "\n") * 4 + "\nfine\n")
    found = records(source(path, document=unit))
    assert [r.text for r in found if isinstance(r, Document)] == (["fine"] if unit == "block" else [])
    assert [(r.line, r.reason) for r in found if not isinstance(r, Document)] == [(1, "too long")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "text".encode("utf-16"), r"a\.txt is not text: there are zero bytes"),
        ("a.txt.gz", gzip.compress(b"fine\n" * 1000, mtime=0)[:-12], r"a\.txt\.gz after line \d+: .* cut short"),
        ("a.txt.gz", b"plain text", r"a\.txt\.gz after line 0: the compression is damaged"),
        ("a.txt.gz", gzip.compress(b"fine\n", mtime=0)[:12] + b"\x00" * 9, r"the compression is damaged"),
        ("a.jsonl.zst", zstandard.compress(b"\n" * 10**6)[:-2], r"a\.jsonl\.zst after line \d+: .* cut short"),
        ("a.txt.zst", b"plain text", r"a\.txt\.zst after line 0: the compression is damaged"),
        ("a.csv", b"text;id\nx;1\n", r"a\.csv has no column 'text', it has 'text;id'; its columns are parted by ';'"),
        ("a.csv", b"body,id\nx,1\n", r"a\.csv has no column 'text', it has 'body', 'id'; name the column"),
        ("a.jsonl", b'\n[{"text": "one"}, {"text": "two"}]', r"a\.jsonl is one JSON array, .* jq -c"),
        ("a.jsonl.gz", gzip.compress(b'[\n"one",\n"two"\n]', mtime=0), r"a\.jsonl\.gz is one JSON array, .* jq -c"),
        ("a.jsonl", b'{\n "text": "one"\n}\n', r"a\.jsonl has JSON objects that go over many lines, .* jq -c \. FILE"),
        ("a.parquet", b"plain text", r"a\.parquet is not Parquet, or is damaged: "),
        ("a.arrow", b"plain text, and more", r"a\.arrow is not Arrow, or is damaged: "),
    ],
)
def test_files_that_cannot_be_read_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        texts(source(path))


def test_lines_are_counted_from_the_start_of_a_cut_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_MIB", 100)
    rows = ['{"text": "' + "x" * 40 + '"}'] * 30
    rows[22] = "{broken"
    path = write(tmp_path / "a.jsonl", "\n".join(rows))
    assert [line for line, _, _ in rejected(source(path))] == [23]


def test_frames_of_zstandard_follow_one_another(tmp_path):
    path = tmp_path / "a.txt.zst"
    path.write_bytes(zstandard.compress(b"one\ntw") + zstandard.compress(b"o\n" + b"x" * 200_000))
    assert texts(source(path, document="line")) == ["one", "two", "x" * 200_000]


def test_globs_that_match_nothing_usable_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"no file matches '.*\*\.txt', seen from"):
        find_sources([source(tmp_path / "*.txt")])
    with pytest.raises(DataError, match=r"no file matches .*, it is a directory, whose text files are .*/\*\.txt"):
        find_sources([source(tmp_path)])
    write(tmp_path / "a.pdf", "x")
    with pytest.raises(DataError, match=r"a\.pdf is of no format that is read here: \.txt, \.jsonl, \.csv"):
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


def test_what_several_sources_match_is_read_once(tmp_path):
    for name in ("a1", "a2", "b"):
        write(tmp_path / f"{name}.txt", name)
    os.link(tmp_path / "b.txt", tmp_path / "c.md")
    sources_ = [source(tmp_path / "a*.txt"), source(tmp_path / "*.txt"), source(tmp_path / "c.md", format="text")]
    assert texts(*sources_) == ["a1", "a2", "b"]
    assert find_sources(sources_).num_repeated == 3


def test_two_columns_of_one_file_are_two_sources(tmp_path):
    path = write(tmp_path / "a.csv", "title,body\none,two\n")
    assert texts(source(path, text="title"), source(path, text="body")) == ["one", "two"]


def empty_table(path):
    schema = pa.schema([("text", pa.string())])
    match path.suffix:
        case ".parquet":
            pq.ParquetWriter(path, schema).close()  # without a row group
        case ".arrow":
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema):
                pass
        case ".csv":
            path.write_text("text\n")
        case _:
            path.write_bytes(b"")
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".csv", ".jsonl"])
def test_a_part_without_rows_is_broken_only_where_it_is_alone(tmp_path, suffix):
    path = empty_table(tmp_path / f"part_0{suffix}")
    assert [reason for _, reason, _ in rejected(source(path))] == ["empty text"]
    if suffix == ".parquet":
        pq.write_table(pa.table({"text": ["one", "two"]}), tmp_path / f"part_1{suffix}")
    elif suffix == ".arrow":
        table = pa.table({"text": ["one", "two"]})
        with (
            pa.OSFile(str(tmp_path / f"part_1{suffix}"), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as stream,
        ):
            stream.write_table(table)
    else:
        rows = ["text", "one", "two"] if suffix == ".csv" else ['{"text": "one"}', '{"text": "two"}']
        write(tmp_path / f"part_1{suffix}", "\n".join(rows))
    assert texts(source(tmp_path / f"*{suffix}")) == ["one", "two"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"meta": {"text": "inner"}}, "inner"),
        ({"meta": {"text": "inner"}, "meta.text": "outer"}, "outer"),
        ({"meta": {"title": "t"}}, "no field 'meta.text', it has 'meta', 'meta.title'"),
        ({"meta": "a text"}, "no field 'meta.text', it has 'meta'"),
        ({"meta": {"text": None}}, "field 'meta.text' holds NoneType"),
        ('{"meta": {"text": "a", "text": "b"}}', "two fields are called 'meta.text'"),
        ('{"meta": {"text": "a"}, "meta": {"text": "b"}}', "two fields are called 'meta.text'"),
        ('{"meta": {"text": "a", "id": 1, "id": 2}, "text": 1}', "a"),
    ],
)
def test_a_column_lies_in_another(tmp_path, row, expected):
    path = write(tmp_path / "a.jsonl", row if isinstance(row, str) else json.dumps(row))
    (record,) = records(source(path, text="meta.text"))
    assert (record.text if isinstance(record, Document) else record.detail).startswith(expected)
    (record,) = records(source(path, text="{none.here?}{meta.text}"))
    assert (record.text if isinstance(record, Document) else record.detail).startswith(expected)
