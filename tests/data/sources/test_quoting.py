import csv
import gzip
import io

import pytest

from dist_plm.core.errors import DataError
from dist_plm.data.labelled.rows import RowFile
from dist_plm.data.sources.quoting import find_quoting
from dist_plm.data.sources.records import Document
from dist_plm.data.sources.sources import find_sources, read_slice
from dist_plm.spec.prepare.schema import SourceConfig


def part_of(path, **settings):
    ((part,),) = find_sources([SourceConfig(path=str(path), **settings)]).units
    return part


def records(path, **settings):
    return list(read_slice(part_of(path, **settings)))


def texts(path, **settings):
    found = records(path, **settings)
    assert all(isinstance(record, Document) for record in found), found
    return [record.text for record in found]


def write(path, content):
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path


def written(rows, **dialect):
    """As Python's csv writes rows."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n", **dialect).writerows(rows)
    return file.getvalue()


#: With everything that quoting is for.
HARD = [
    'He said "no", and left.',
    "one\ntwo, three\n\nfour",
    '"quoted whole"',
    "C:\\new\\text \\",
    "plain",
    "",
    ',"',
    "\\",
    'ends in a backslash, and a quote \\"',
    "\n".join(f"line {i} of a long document, with a comma or, here, two" for i in range(40)),
]
ROWS = [("id", "text"), *((str(i), text) for i, text in enumerate(HARD * 20))]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
@pytest.mark.parametrize(
    ("quoting", "escaped"),
    [
        (csv.QUOTE_MINIMAL, False),
        (csv.QUOTE_ALL, False),
        (csv.QUOTE_NONNUMERIC, False),
        (csv.QUOTE_ALL, True),
        (csv.QUOTE_NONNUMERIC, True),
    ],
)
def test_what_csv_writes_is_read_back(tmp_path, name, quoting, escaped):
    dialect = {"escapechar": "\\", "doublequote": False} if escaped else {}
    path = write(tmp_path / name, written(ROWS, quoting=quoting, delimiter="\t" if "tsv" in name else ",", **dialect))
    assert find_quoting(part_of(path)) == ("backslash" if escaped else "minimal")
    assert [r.text for r in records(path) if isinstance(r, Document)] == [text for text in HARD * 20 if text.strip()]


STRAY = [
    '"tis strange, he said',
    'so he "said"',
    "plain",
    'she said: "yes"',
    '"what?" "nothing"',
    'an inch is 1" long"',
]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.tsv.gz"])
@pytest.mark.parametrize("order", [1, 5, 7])
def test_quotes_that_are_text_stay_in_the_text(tmp_path, name, order):
    lines = [STRAY[i * order % len(STRAY)].replace(",", ";") for i in range(300)]
    delimiter = "\t" if "tsv" in name else ","
    path = write(tmp_path / name, f"id{delimiter}text\n" + "".join(f"{i}{delimiter}{t}\n" for i, t in enumerate(lines)))
    assert find_quoting(part_of(path)) == "none"
    assert texts(path) == lines


def test_one_column_of_quotes_that_are_text(tmp_path):
    path = write(tmp_path / "a.csv", "text\n" + "".join(f"{t.replace(',', ';')}\n" for t in STRAY * 50))
    assert len(texts(path)) == 300


@pytest.mark.parametrize("stray", ['1000,"tis strange', '1000,"tis "strange', '1000,"he ""said'])
def test_a_stray_quote_in_a_quoted_file_breaks_its_own_line_alone(tmp_path, stray):
    rows = written([("id", "text"), *((i, f"row {i}, by the mill") for i in range(2000))], quoting=csv.QUOTE_ALL)
    lines = rows.splitlines()
    lines[1001] = stray
    found = records(write(tmp_path / "a.csv", "\n".join(lines) + "\n"))
    assert len([r for r in found if isinstance(r, Document)]) == 1999
    (broken,) = [r for r in found if not isinstance(r, Document)]
    assert (broken.line, broken.reason) == (1002, "bad row")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_field_that_swallows_rows_is_refused_by_its_line(tmp_path, name):
    """A quote opens and another one closes, so that nothing is wrong with the syntax."""
    delimiter = "\t" if "tsv" in name else ","
    lines = [f'{i}{delimiter}"row {i}{delimiter} quoted"' if i % 4 else f"{i}{delimiter}plain {i}" for i in range(400)]
    lines[100:160] = [f"{i}{delimiter}plain {i}" for i in range(60)]
    lines[100], lines[155] = f'100{delimiter}"tis strange', f'155{delimiter}said he"'
    path = write(tmp_path / name, f"id{delimiter}text\n" + "\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"line 102: a quote opens there that closes on line 157, .*quoting: none"):
        records(path)
    with pytest.raises(DataError, match=r"look like rows of the table: mend the line$"):
        list(RowFile("data.train", str(path), "train"))  # of which nothing can be said
    assert sum(isinstance(r, Document) for r in records(path, quoting="minimal")) == 345
    assert sum(isinstance(r, Document) for r in records(path, quoting="none")) < 250


def test_long_quoted_documents_are_plausible(tmp_path):
    paragraphs = "\n\n".join(
        "It runs on, and on; at last, it ends.\nThen, as before, there is more." for _ in range(200)
    )
    sonnet = "\n".join(f"Line {i} of a poem, as they are" for i in range(9))
    path = write(
        tmp_path / "a.csv", written([("id", "text"), *((i, t) for i, t in enumerate([paragraphs, sonnet] * 9))])
    )
    assert texts(path) == [paragraphs, sonnet] * 9
    one = write(tmp_path / "b.csv", written([("text",), *((paragraphs.replace(",", ""),) for _ in range(9))]))
    assert texts(one) == [paragraphs.replace(",", "")] * 9


def test_the_setting_is_obeyed(tmp_path):
    path = write(tmp_path / "a.csv", 'id,text\n1,"one"\n2,two\n')
    assert texts(path) == ["one", "two"]
    assert texts(path, quoting="none") == ['"one"', "two"]
    path = write(tmp_path / "a.csv", 'id,text\n1,"say \\"hi\\" to C:\\new"\n')
    assert texts(path, quoting="backslash") == texts(path) == ['say "hi" to C:\\new']


def test_columns_are_named_once(tmp_path):
    path = write(tmp_path / "a.csv", "text,id,text\none,1,two\n")
    with pytest.raises(
        DataError, match=r"a\.csv: 2 columns are called 'text', and which of them is meant cannot be told"
    ):
        records(path)
    assert texts(path, text="id") == ["1"]


def test_a_broken_first_row_is_refused(tmp_path):
    path = write(tmp_path / "a.csv", 'id,"te"xt\n1,one\n')
    with pytest.raises(DataError, match=r"a\.csv, line 1: the first row, which names the columns, is broken"):
        records(path, quoting="minimal")


@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_files_joined_with_their_headers(tmp_path, bom):
    """As `cat a.csv b.csv` does."""
    path = write(tmp_path / "a.csv", f"{bom}id,text\n1,one\n{bom}id,text\n2,two\n")
    found = records(path)
    assert [r.text for r in found if isinstance(r, Document)] == ["one", "two"]
    assert [(r.line, r.detail) for r in found if not isinstance(r, Document)] == [
        (3, "the names of the columns again: files were joined")
    ]
