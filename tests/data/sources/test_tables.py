import random
import re

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from dist_plm.core.errors import DataError
from dist_plm.data.sources import sources
from dist_plm.data.sources.records import Document
from dist_plm.data.sources.sources import find_sources, read_slice
from dist_plm.spec.prepare.schema import SourceConfig

TEXTS = [f"text {i} 猫" for i in range(10)]


def read(path, **settings):
    units = find_sources([SourceConfig(path=str(path), **settings)]).units
    return [record for unit in units for part in unit for record in read_slice(part)]


def table(kind=pa.string()):  # noqa: B008
    return pa.table({"title": [f"t{i}" for i in range(10)], "text": pa.array(TEXTS, kind), "n": range(10)})


def save(path, content):
    if path.suffix == ".parquet":
        pq.write_table(content, path, row_group_size=3)
    elif path.suffix == ".feather":
        with pa.ipc.new_file(str(path), content.schema) as file:
            file.write_table(content, max_chunksize=4)
    else:
        with pa.ipc.new_stream(str(path), content.schema) as file:
            file.write_table(content, max_chunksize=4)
    return path


KINDS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_document_a_row(tmp_path, name, kind):
    if kind == pa.string_view() and name == "a.parquet":
        pytest.skip("not every pyarrow writes it")
    path = save(tmp_path / name, table(kind))
    assert read(path) == [Document(i, text) for i, text in enumerate(TEXTS, 1)]
    assert [d.text for d in read(path, text="{title}:{n}")] == [f"t{i}:{i}" for i in range(10)]


def test_parquet_is_cut_at_row_groups(tmp_path, monkeypatch):
    path = save(tmp_path / "a.parquet", table())
    assert len(find_sources([SourceConfig(path=str(path))]).units) == 1
    monkeypatch.setattr(sources, "_MIB", 100)
    assert len(find_sources([SourceConfig(path=str(path))]).units) == 4
    assert read(path) == [Document(i, text) for i, text in enumerate(TEXTS, 1)]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_column_lies_in_another(tmp_path, name, kind):
    if kind == pa.string_view() and name == "a.parquet":
        pytest.skip("not every pyarrow writes it")
    held = pa.StructArray.from_arrays([pa.array(TEXTS, kind), pa.array(range(10))], ["text", "n"])
    path = save(tmp_path / name, pa.table({"meta": held, "title": [f"t{i}" for i in range(10)]}))
    assert read(path, text="meta.text") == [Document(i, text) for i, text in enumerate(TEXTS, 1)]
    assert [d.text for d in read(path, text="{title}:{meta.n}")] == [f"t{i}:{i}" for i in range(10)]
    with pytest.raises(
        DataError, match=re.escape("no column 'meta.body', it has 'meta', 'title', 'meta.text', 'meta.n'")
    ):
        read(path, text="meta.body")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
def test_an_empty_holder_holds_no_text(tmp_path, name):
    path = save(tmp_path / name, pa.table({"meta": [{"text": "x"}, None, {"text": None}]}))
    assert [getattr(found, "detail", None) for found in read(path, text="meta.text")] == [
        None,
        *["field 'meta.text' holds NoneType, not text"] * 2,
    ]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
def test_broken_rows_are_named(tmp_path, name):
    raw = pa.array([b"fine", b"bad \xff", None, b" "], pa.binary())
    column = pa.StringArray.from_buffers(4, raw.buffers()[1], raw.buffers()[2], raw.buffers()[0])
    path = save(tmp_path / name, pa.table({"text": column}))
    assert [(r[0], getattr(r, "reason", "")) for r in read(path)] == [
        (1, ""),
        (2, "not UTF-8"),
        (3, "not text"),
        (4, "empty text"),
    ]
    with pytest.raises(DataError, match=r"has no column 'body', it has 'text'; name the column"):
        read(path, text="body")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
def test_columns_that_may_be_empty_are_there_all_the_same(tmp_path, name):
    path = save(tmp_path / name, pa.table({"title": ["t", None], "text": ["one", "two"]}))
    assert [d.text for d in read(path, text="{title?}: {text}")] == ["t: one", "two"]
    with pytest.raises(DataError, match="has no column 'titel'"):
        read(path, text="{titel?}: {text}")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
def test_truncated_files_are_refused(tmp_path, name):
    path = save(tmp_path / name, table())
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match=r"is not (Parquet|Arrow), or is damaged"):
        read(path)


def test_csv_with_quotes_and_line_ends_inside(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfid,text\r\n1,"one, ""two""\r\nthree"\r\n\r\n2,four\r\n')
    assert read(path) == [Document(2, 'one, "two"\nthree'), Document(5, "four")]
    tsv = tmp_path / "a.data"
    tsv.write_text("id\ttext\n1\tone, two\n")
    assert read(tsv, format="tsv") == [Document(2, "one, two")]


def test_csv_rows_are_numbered_by_their_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,"one\ntwo"\n2\n')
    assert [r[:2] for r in read(path)][1:] == [(4, "bad row")]


def stream_of(path, content, **options):
    with pa.ipc.new_stream(str(path), content.schema, options=pa.ipc.IpcWriteOptions(**options)) as file:
        file.write_table(content, max_chunksize=4)
    return path.read_bytes()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("damage", ["cut", "empty and cut", "joined"])
def test_streams_end_with_their_mark(tmp_path, legacy, damage):
    path = tmp_path / "a.arrow"
    content = table().slice(0, 0) if "empty" in damage else table()
    whole = stream_of(path, content, use_legacy_format=legacy)
    assert len(read(path)) == max(content.num_rows, 1)  # one that has none is told of
    path.write_bytes(whole * 2 if damage == "joined" else whole[: -4 if legacy else -8])
    with pytest.raises(
        DataError, match="bytes more: give each" if damage == "joined" else "the stream has no end mark"
    ):
        read(path)


@pytest.mark.parametrize("kind", [pa.string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
def test_a_flipped_byte_is_a_refusal_or_leaves_all_rows(tmp_path, name, kind):
    path = save(tmp_path / name, table(kind))
    whole = path.read_bytes()
    chance = random.Random(0)
    refused = 0
    for _ in range(150):
        position = chance.randrange(len(whole))
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << chance.randrange(8)]) + whole[position + 1 :])
        try:
            assert len(read(path)) == 10
        except DataError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
def test_two_columns_of_one_name_are_refused_where_they_are_asked_for(tmp_path, name):
    content = pa.table([pa.array(["one"]), pa.array(["two"]), pa.array(["three"])], names=["text", "text", "body"])
    path = save(tmp_path / name, content)
    with pytest.raises(DataError, match=r": 2 columns are called 'text', and which of them is meant cannot be told"):
        read(path)
    assert read(path, text="body") == [Document(1, "three")]
