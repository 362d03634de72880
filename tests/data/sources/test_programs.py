import json

import pytest

from dist_plm.core.errors import DataError
from dist_plm.data.sources import programs
from dist_plm.data.sources.programs import function_records, function_slices
from dist_plm.data.sources.records import Document
from dist_plm.data.sources.sources import find_sources, read_slice
from dist_plm.spec.prepare.schema import SourceConfig


def read(**settings):
    units = find_sources([SourceConfig(**settings)]).units
    return [record for unit in units for part in unit for record in read_slice(part)]


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """A directory as the Hub holds it, and nothing kept from it elsewhere."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "poems"
    folder.mkdir()
    for i in range(3):
        rows = [json.dumps({"title": f"t{i}", "text": f"text {i} {j}"}) for j in range(4)]
        (folder / f"train-{i}.jsonl").write_text("\n".join(rows))
    (folder / "test.jsonl").write_text(json.dumps({"title": "t", "text": "held out"}))
    programs._dataset.cache_clear()
    return folder


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_give_their_rows_in_order(dataset, streaming, monkeypatch):
    monkeypatch.setattr(programs, "_SLICE_BYTES", 100)
    expected = [f"text {i} {j}" for i in range(3) for j in range(4)]
    found = find_sources([SourceConfig(hf=str(dataset), streaming=streaming)])
    assert len([part for unit in found.units for part in unit]) > 2
    assert [d.text for d in read(hf=str(dataset), streaming=streaming)] == expected
    (test,) = read(hf=str(dataset), split="test", text="{title}: {text}", streaming=streaming)
    assert test == Document(1, "t: held out")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_of_a_dataset_lies_in_another(dataset, streaming):
    for file in dataset.iterdir():
        file.unlink()
    rows = [json.dumps({"meta": {"title": f"t{i}", "text": f"text {i}"}}) for i in range(3)]
    (dataset / "train.jsonl").write_text("\n".join(rows))
    asked = {"hf": str(dataset), "streaming": streaming}
    assert [d.text for d in read(**asked, text="{meta.title}: {meta.text}")] == [f"t{i}: text {i}" for i in range(3)]
    with pytest.raises(DataError, match=r"no column 'meta.body', it has 'meta', 'meta.title', 'meta.text'"):
        read(**asked, text="meta.body")


def test_a_datasets_identity_follows_its_files(dataset):
    config = [SourceConfig(hf=str(dataset), streaming=True)]
    first = find_sources(config).fingerprint
    assert first == find_sources(config).fingerprint
    (dataset / "train-1.jsonl").write_text(json.dumps({"title": "other", "text": "other"}))
    assert first != find_sources(config).fingerprint


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_that_cannot_be_read_are_refused(dataset, streaming, monkeypatch):
    for settings, message in [
        ({"split": "trian"}, r"cannot read the dataset .*poems.*trian"),
        ({"hf": str(dataset / "none")}, "cannot read the dataset"),
    ]:
        with pytest.raises(DataError, match=message):
            read(**{"hf": str(dataset), "streaming": streaming, **settings})
    with pytest.raises(DataError, match=r"no column 'body', it has 'title', 'text'"):
        read(hf=str(dataset), text="body", streaming=streaming)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError, match=r"dataset 'nobody/nothing': .*; check the name and the network; a copy in a dir"
    ):
        read(hf="nobody/nothing", streaming=streaming)


PROGRAM = """
import sys

def texts():
    yield "one"
    yield {"text": "two"}
    yield 3
    yield ""

def fails():
    yield "one"
    raise KeyError("lost")

def leaves():
    yield "one"
    sys.exit(3)

def leaves_at_once():
    raise SystemExit

number = 3

def one_text():
    return "one text"

def one_row():
    return {"text": "one text"}

def one_frame():
    import pandas
    return pandas.DataFrame({"text": ["one text"]})

def nothing():
    pass

def asks(path, size=3):
    yield path

class Own(BaseException):
    pass

def raises_its_own():
    yield "one"
    raise Own("lost")

class Numbered:
    def __getitem__(self, number):
        return [{"text": "one"}, "two"][number]

def numbered():
    return Numbered()

class Gives:
    def __iter__(self):
        return 3

def cannot_begin():
    return Gives()
"""


@pytest.fixture
def program(tmp_path, monkeypatch, request):
    name = f"program_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    return name


def test_functions_give_texts_or_rows(program):
    found = read(python=f"{program}:texts")
    assert found[:2] == [Document(1, "one"), Document(2, "two")]
    assert [(r.line, r.reason) for r in found[2:]] == [(3, "bad row"), (4, "empty text")]


def test_functions_may_give_what_is_numbered(program):
    assert read(python=f"{program}:numbered") == [Document(1, "one"), Document(2, "two")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", r"program_\d+:fails raised KeyError at .*program_\d+\.py, line 12: it has no 'lost'"),
        ("leaves", r"program_\d+:leaves raised SystemExit at .*program_\d+\.py, line 16: 3"),
        ("leaves_at_once", r"raised SystemExit at .*line 19: SystemExit"),
        ("one_text", r"program_\d+:one_text gives one str, not texts or rows one after another: yield them"),
        ("one_row", r"program_\d+:one_row gives one dict, not texts or rows"),
        ("one_frame", r"program_\d+:one_frame gives one DataFrame, not texts or rows"),
        ("nothing", r"program_\d+:nothing gives None, not texts or rows"),
        ("asks", r"program_\d+:asks is called without arguments, and it asks for .*'path'"),
        ("raises_its_own", r"program_\d+:raises_its_own raised Own at .*program_\d+\.py, line 44: lost"),
        ("cannot_begin", r"program_\d+:cannot_begin raised TypeError: iter\(\) returned"),
        ("none", r"cannot find 'program_\d+:none'"),
        ("number", r"'program_\d+:number' is not a function"),
    ],
)
def test_functions_that_fail_are_named(program, name, message):
    with pytest.raises(DataError, match=message):
        read(python=f"{program}:{name}")
    with pytest.raises(DataError, match="cannot find 'no_such_module:f'"):
        read(python="no_such_module:f")


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit])
def test_what_stops_this_program_is_no_mistake_of_a_function(program, error):
    records = function_records(function_slices(SourceConfig(python=f"{program}:texts"))[0][0])
    assert next(records) == Document(1, "one")
    with pytest.raises(error):
        records.throw(error())


@pytest.mark.parametrize(
    "line", ["import sys; sys.exit(3)", "1 / 0", "def broken(:", "class E(BaseException): ...\nraise E(3)"]
)
def test_modules_that_fail_are_named(tmp_path, monkeypatch, line):
    name = f"module_{len(line)}"
    (tmp_path / f"{name}.py").write_text(line)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataError, match=rf"data\.sources: {name}:texts raised (SystemExit|ZeroDivisionError|SyntaxError|E) at"
    ):
        read(python=f"{name}:texts")


@pytest.mark.parametrize("with_splits", [False, True])
def test_what_save_to_disk_wrote_is_read(dataset, tmp_path, with_splits):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"text": [f"text {i}" for i in range(10)]})
    saved = datasets.DatasetDict({"train": rows, "dev": rows.select([3])}) if with_splits else rows
    folder = tmp_path / "saved"
    saved.save_to_disk(str(folder))
    assert [d.text for d in read(hf=str(folder))] == [f"text {i}" for i in range(10)]
    with pytest.raises(DataError, match=r"saved has no split 'test', it has train(, dev)?: name one with split:"):
        read(hf=str(folder), split="test")
    with pytest.raises(DataError, match=r"streaming has no effect on .*saved, which save_to_disk wrote"):
        read(hf=str(folder), streaming=True)
    if with_splits:
        assert [d.text for d in read(hf=str(folder), split="dev")] == ["text 3"]


def test_saved_datasets_without_rows_are_called_empty(dataset, tmp_path):
    datasets = pytest.importorskip("datasets")
    rows, bare = datasets.Dataset.from_dict({"text": ["one"]}), datasets.Dataset.from_dict({})
    nothing = rows.select([])
    for name, saved in {"bare": bare, "none": nothing, "part": datasets.DatasetDict(train=rows, test=nothing)}.items():
        saved.save_to_disk(str(tmp_path / name))
    for name in ("bare", "none"):
        with pytest.raises(DataError, match=rf"data\.sources: .*{name} is an empty dataset: leave it out$"):
            read(hf=str(tmp_path / name))
    with pytest.raises(DataError, match=r"part/test is an empty dataset: .*\{hf: .*part/SPLIT\}"):
        read(hf=str(tmp_path / "part"))
    assert [d.text for d in read(hf=str(tmp_path / "part" / "train"))] == ["one"]


def test_a_dataset_and_its_files_are_not_both_read(dataset):
    both = [SourceConfig(hf=str(dataset)), SourceConfig(path=str(dataset / "*.jsonl"))]
    with pytest.raises(DataError, match=r"both read what is in .*poems, so that its documents would count double"):
        find_sources(both)


def test_a_directory_that_is_no_dataset_is_told_how_to_be_read(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match=r"bare'.*name them: \{path: .*/bare/\*\.arrow\}, \*\.parquet"):
        read(hf=str(tmp_path / "bare"))
