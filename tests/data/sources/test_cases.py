"""Small files that went wrong: tests/data/cases, each with what is right."""

from pathlib import Path

import pytest

from dist_plm.core.errors import DataError
from tests.data.sources.test_quoting import texts

CASES = Path(__file__).parent.parent / "cases"


def test_a_quote_that_never_closes():
    found = texts(CASES / "stray_quote.csv")
    assert len(found) == 4000
    assert [text for text in found if '"' in text] == ['"row 2000 opens a quote']


def test_quotes_as_glue_and_common_voice_publish_them():
    found = texts(CASES / "unquoted.tsv")
    assert len(found) == 4000
    assert all("\n" not in text for text in found)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("two_text_columns.parquet", "2 columns are called 'text'"),
        ("cut_between_batches.arrow", "the stream has no end mark"),
        ("one_array.jsonl", "is one JSON array, not a document a line"),
    ],
)
def test_what_is_refused(name, message):
    with pytest.raises(DataError, match=message):
        texts(CASES / name)
