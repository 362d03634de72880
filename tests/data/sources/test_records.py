import math

import pytest

from dist_plm.data.sources.records import BrokenRecordError, Document, Template, documents_of_row
from dist_plm.spec.prepare.schema import SourceConfig
from dist_plm.spec.prepare.template import parse_template


def test_a_column_or_a_template_over_columns():
    row = {"title": "A title", "body": "A body", "year": 1905, "note": None}
    assert Template("body").render(row) == "A body"
    assert Template("{title}\n\n{body}").render(row) == "A title\n\nA body"
    assert Template(r"{title}\n\n{body} ({year})").render(row) == "A title\n\nA body (1905)"
    assert Template("{{{title}}}").render(row) == "{A title}"
    assert Template("{title}{body}{title}").columns == ["title", "body"]


@pytest.mark.parametrize(
    ("text", "row", "expected"),
    [
        (r"{title?}\n\n{body}", {"title": "T", "body": "B"}, "T\n\nB"),
        (r"{title?}\n\n{body}", {"title": None, "body": "B"}, "B"),
        (r"{title?}\n\n{body}", {"title": " ", "body": "B"}, "B"),
        (r"{title?}\n\n{body}", {"body": "B"}, "B"),
        (r"Title: {title?}\n\n{body}", {"body": "B"}, "B"),
        (r"{body}\n\n{note?}", {"body": "B"}, "B"),
        ("{a} ({b?}, {c?})", {"a": "A", "c": 3}, "A, 3)"),
        ("{a?} {b?} {c?}.", {"b": "B"}, "B."),
        ("{a?} {b?}.", {}, ""),
        ("{a}: {b?}", {"a": "A", "b": float("nan")}, "A"),
        ("{a}: {b?}", {"a": "", "b": "B"}, ": B"),
    ],
)
def test_columns_that_may_be_empty_go_with_what_stands_before_them(text, row, expected):
    assert Template(text).render(row) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("year", "not text"),
        ("{note}", "not text"),
        ("{year}: {score}", "not text"),
        ("{year}: {most}", "not text"),
        ("x", "no such column"),
        ("{x} {y?}", "no such column"),
        ("bad", "not UTF-8"),
    ],
)
def test_rows_that_do_not_fit(text, reason):
    with pytest.raises(BrokenRecordError) as caught:
        Template(text).render({"year": 1905, "note": None, "bad": "\ud800", "score": math.nan, "most": math.inf})
    assert caught.value.reason == reason


@pytest.mark.parametrize("text", ["{", "a}", "{}", "{a!r}", "{a:3}", "{{a}}", "{?}", "{ ?}"])
def test_templates_that_are_none(text):
    with pytest.raises(ValueError, match=r"."):
        parse_template(text)


def test_rows_are_cut_like_files():
    source = SourceConfig(path="x", document="block")
    found = list(documents_of_row({"text": "a b\n\nc\u2028d\ne"}, Template("text"), source, 7))
    assert found == [Document(7, "a b"), Document(7, "c\u2028d\ne")]
