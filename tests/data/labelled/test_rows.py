import gzip
import json
import os
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from dist_plm.core.errors import DataError
from dist_plm.data.labelled.rows import RowFile

ROWS = [{"text": "a, good film", "label": "yes"}, {"text": 'he said "no"', "label": "no"}]


def read(path: Path, **options) -> list[dict]:
    return [row.values for row in RowFile("data.train", str(path), "train", **options)]


def write(path: Path) -> Path:
    match path.suffixes:
        case [".csv"]:
            path.write_text('text,label\n"a, good film",yes\n"he said ""no""",no\n')
        case [".tsv"]:  # GLUE's: quotes are text
            path.write_text('text\tlabel\na, good film\tyes\nhe said "no"\tno\n')
        case [".jsonl"]:
            path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        case [".jsonl", ".gz"]:
            path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
        case [".json"]:
            path.write_text(json.dumps({"version": "1", "data": ROWS}))
        case [".json", ".gz"]:
            path.write_bytes(gzip.compress(json.dumps(ROWS).encode()))
        case [".json", ".zst"]:
            path.write_bytes(zstandard.compress(json.dumps({"data": ROWS}, indent=1).encode()))
        case [".parquet"]:
            pq.write_table(pa.Table.from_pylist(ROWS), path)
        case [".arrow"]:
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, pa.Table.from_pylist(ROWS).schema) as file:
                file.write_table(pa.Table.from_pylist(ROWS))
    return path


@pytest.mark.parametrize(
    "name", ["a.csv", "a.tsv", "a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "a.json.zst", "a.parquet", "a.arrow"]
)
def test_every_format_gives_the_same_rows_again_and_again(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name)
    assert read(path) == ROWS
    assert read(path) == ROWS


def test_a_file_without_a_header_takes_that_of_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "cola.tsv"
    path.write_text("gj04\t1\t\tThe sailors rode the breeze.\n")
    assert read(path, header=("source", "label", "mark", "sentence")) == [
        {"source": "gj04", "label": "1", "mark": "", "sentence": "The sailors rode the breeze."}
    ]


@pytest.mark.parametrize("content", ["text,label\nx,y\n", "x,y\n\ntext,label\n"])
def test_a_header_of_the_settings_that_the_file_has_too(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(content)
    number = 1 + content[: content.index("text")].count("\n")
    with pytest.raises(DataError, match=rf"line {number} holds the names .* or leave data\.header out"):
        read(tmp_path / "a.csv", header=("text", "label"))


def test_a_saved_dataset_names_its_classes(tmp_path: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    train = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    datasets.DatasetDict({"train": train, "validation_matched": train.select([0])}).save_to_disk(str(tmp_path / "d"))
    whole = RowFile("data.train", str(tmp_path / "d"), "train")
    assert [row.values["label"] for row in whole] == ["yes", "no"]
    assert whole.label_names("label") == ("no", "yes")
    assert len(list(RowFile("data.validation", str(tmp_path / "d"), "validation"))) == 1
    with pytest.raises(DataError, match=r"has no split 'test', it has train, validation_matched"):
        list(RowFile("data.test", str(tmp_path / "d"), "test"))


@pytest.mark.parametrize("name", ["eng.conll", "eng.train", "eng.testa", "eng.testb"])
def test_sentences_of_conll_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("-DOCSTART- -X- O O\n\nEU NNP I-NP B-ORG\nrejects VBZ I-VP O\n\n\nPeter NNP I-NP B-PER\n")
    assert read(path) == [
        {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
        {"tokens": ["Peter"], "tags": ["B-PER"]},
    ]


def test_a_sentence_may_begin_with_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "tweets.conll"
    path.write_text("# B-TAG\nParis I-TAG\n\n# id = 7 O\n# Newer O\nis O\n\n# TAGGED\nfine O\n")
    assert read(path) == [
        {"tokens": ["#", "Paris"], "tags": ["B-TAG", "I-TAG"]},
        {"tokens": ["is"], "tags": ["O"]},
        {"tokens": ["fine"], "tags": ["O"]},
    ]


def test_sentences_without_tags(tmp_path: Path) -> None:
    path = tmp_path / "asked.conll"
    path.write_text("EU\nrejects\n\nPeter\n")
    assert read(path) == [{"tokens": ["EU", "rejects"]}, {"tokens": ["Peter"]}]


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.csv", "text,label\nx,y,z\n", "line 2: 3 fields where the header has 2"),
        ("a.csv", "text,text\nx,y\n", "line 1: two columns are called the same"),
        ("a.csv", "text,label\nx,y\ntext,label\n", "line 3 holds the names of the columns again: files were joined"),
        ("a.jsonl", '{"text": "a"}\nnonsense\n', "line 2: not JSON"),
        (
            "a.jsonl",
            '{"t": "a"}\n{"t": "a", "l": 1, "l": 2}\n',
            "line 2: two fields are called 'l', and which is meant",
        ),
        ("a.jsonl", '{"t": {"l": 1, "l": 2}}\n', "line 1: two fields are called 't.l'"),
        ("a.json", '[{"t": {"l": 1}}, {"t": "a", "l": 1, "l": 1}]', "item 2: two fields are called 'l'"),
        ("a.json", '{"t": "a", "l": 1, "l": 2}', "line 1: two fields are called 'l'"),
        ("a.jsonl", "[1]\n", "line 1: the line holds list"),
        ("a.json", '[{"text": "a"}, 3]', "item 2 is int"),
        ("a.conll", "EU B-ORG\nrejects\n", "line 2: 'rejects' is a word without a tag"),
        ("a.conll", "EU\nrejects O\n", "line 2: 'rejects O' is a word with a tag"),
        ("a.conll", "EU NNP B-ORG\nrejects VBZ\n", "line 2: 'rejects VBZ' has 2 columns where those before it have 3"),
        ("a.json", "5", "holds int, not a list of objects with fields"),
        ("a.json", '{"text": "good \\ud83d"}', "line 1: a text holds half of a character"),
        ("a.json", '[{"text": "\\ud83d\\ude00"}, {"text": "\\ude00"}]', "item 2: a text holds half of a character"),
        ("a.jsonl", '{"text": "\\ud83d\\ude00"}\n{"text": ["\\uD83D"]}\n', "line 2: a text holds half of a character"),
        (
            "squad.json",
            '{"data": [{"paragraphs": [{"context": "\\udfff", "qas": [{"question": "Who?"}]}]}]}',
            "item 1, paragraph 1, question 1: a text holds half of a character",
        ),
        ("a.parquet", "no table", "is not Parquet, or is damaged"),
        ("a.doc", "x", "is of no format that is read here"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(name: str, content: str, part: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as refused:
        read(tmp_path / name)
    assert part in str(refused.value)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
@pytest.mark.parametrize("within", [False, True])
def test_two_columns_of_one_name_are_told_for_what_they_are(name: str, within: bool, tmp_path: Path) -> None:
    columns, names = [pa.array(["a", "b"])] * 3, ["text", "label", "label"]
    table = pa.table(columns, names=names)
    if within:
        table = pa.table({"row": pa.StructArray.from_arrays(columns, names=names)})
    path = tmp_path / name
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    with pytest.raises(DataError, match=f"{name}: 2 columns are called 'label', .*: give them different names"):
        read(path)


def test_packed_json_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(json.dumps(ROWS).encode())[:-12])
    with pytest.raises(DataError, match="compression is damaged or cut short"):
        read(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.train = .*no.csv is not there"):
        read(tmp_path / "no.csv")


def test_articles_of_squad_become_questions(tmp_path: Path) -> None:
    answer = {"text": "film", "answer_start": 2}
    asked = [
        {"id": "1", "question": "what", "answers": [answer], "is_impossible": False},
        {"id": "2", "question": "who"},
    ]
    article = {"title": "T", "paragraphs": [{"context": "a film", "qas": asked}]}
    (tmp_path / "a.json").write_text(json.dumps({"version": "v2.0", "data": [article]}))
    first, second = RowFile("data.train", str(tmp_path / "a.json"), "train")
    assert first.values == {"id": "1", "question": "what", "answers": [answer], "title": "T", "context": "a film"}
    assert second.values["answers"] is None
    assert second.place.endswith("a.json, item 1, paragraph 1, question 2")
    (tmp_path / "a.json").write_text(json.dumps({"data": [{"paragraphs": [{"text": "a film"}]}]}))
    with pytest.raises(DataError, match=r"item 1, paragraph 1 has no `context` with a list of `qas`"):
        read(tmp_path / "a.json")


def test_a_saved_dataset_of_questions(tmp_path: Path) -> None:
    """As SQuAD is published: a column of lists of texts and places."""
    answers = {"text": ["film"], "answer_start": [2]}
    saved = datasets.Dataset.from_dict({"question": ["what"], "context": ["a film"], "answers": [answers]})
    saved.save_to_disk(str(tmp_path / "d"))
    assert read(tmp_path / "d") == [{"question": "what", "context": "a film", "answers": answers}]


def test_what_is_there_and_no_file_is_told_so(tmp_path):
    os.mkfifo(tmp_path / "fifo.csv")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    for name, told in (("fifo", "is no ordinary file"), ("loop", "a link that leads to none"), ("no", "is not there")):
        with pytest.raises(DataError, match=told):
            list(RowFile("data.train", str(tmp_path / f"{name}.csv"), "train"))
