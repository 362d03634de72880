import pytest

from dist_plm.core.errors import DataError
from dist_plm.data.clean import c4 as rules
from dist_plm.data.clean.page import Page
from dist_plm.spec.prepare.clean import C4Config, CleanConfig


def apply(name, text, **c4):
    return getattr(rules, name)(Page(text), CleanConfig(c4=C4Config(**c4)))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("terminal_punctuation", 'Home\nIt is so.\n"Yes!"\nMore...\nWhy?\nAnd then…', 'It is so.\n"Yes!"\nWhy?'),
        ("terminal_punctuation", "首页\n今天天气很好。\n“真的吗？”\n更多", "今天天气很好。\n“真的吗？”"),
        ("short_lines", "About us now\nThis line has five words.\n\nAnd here is another one.",
         "This line has five words.\n\nAnd here is another one."),
        ("short_lines", "首页\n今天天气很好，我们去公园散步。", "今天天气很好，我们去公园散步。"),
        ("javascript", "Please enable JavaScript.\nText", "Text"),
        ("policy", "Text\nThis site uses cookies.\nRead our Privacy Policy", "Text"),
        ("citations", "Born in 1905[1][citation needed] there.[23] [edit]", "Born in 1905 there. "),
    ],
)  # fmt: skip
def test_lines_and_markers_are_removed(name, text, expected):
    assert apply(name, text) == expected


@pytest.mark.parametrize(
    ("name", "kept", "dropped"),
    [
        ("lorem_ipsum", "lorem, ipsum", "Lorem Ipsum dolor"),
        ("curly_bracket", "f(x) [1]", "int main() {"),
        ("few_sentences", "One. Two! Three?", "Version 2.5.1 of it. Is out"),
        ("few_sentences", "一。二！三？", "一。二，三"),
    ],
)
def test_documents_are_dropped(name, kept, dropped):
    assert apply(name, kept) is True
    assert apply(name, dropped) is False


def test_bad_words_are_whole_words_but_in_chinese(tmp_path):
    (tmp_path / "words").write_text("Damn\n坏话\n", encoding="utf-8-sig")  # as Windows writes it
    path = str(tmp_path / "words")
    assert apply("bad_words", "The dam and damnation", bad_words=path)
    assert not apply("bad_words", "DAMN it", bad_words=path)
    assert not apply("bad_words", "他说了坏话，然后走了。", bad_words=path)
    with pytest.raises(DataError, match=r"clean\.c4\.bad_words = '.*none' cannot be read"):
        apply("bad_words", "x", bad_words=str(tmp_path / "none"))
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(DataError, match="holds no word"):
        apply("bad_words", "x", bad_words=str(tmp_path / "empty"))
