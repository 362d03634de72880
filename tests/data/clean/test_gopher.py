import random

import pytest

from dist_plm.data.clean import gopher as rules
from dist_plm.data.clean.page import Page
from dist_plm.spec.prepare.clean import CleanConfig, GopherConfig

PROSE = (
    "The library of the old town stood at the end of a narrow street. Every morning its keeper opened the heavy doors, "
    "swept the stairs, and waited for visitors who seldom came. He did not mind, for there were thousands of books to be "
    "read, and a window that looked upon the river. In spring, when boats returned with news and spices, people would "
    "gather below and have long conversations about distant places."
)
CHINESE = (
    "老城的图书馆在一条狭窄街道的尽头。每天早晨，管理员打开沉重的大门，打扫台阶，等待很少出现的读者。他并不介意，因为那里"
    "有成千上万本书可以阅读，还有一扇能够看见河流的窗户。春天，当船只带着消息和香料回来的时候，人们会聚集在下面，长时间地"
    "谈论遥远的地方。夏天的夜晚，孩子们坐在石阶上听他讲故事，直到星星出现在屋顶上面。"
)
RULES = ("word_count", "word_length", "symbols", "bullets", "ellipses", "alphabetic", "stop_words", "repetition")


def keeps(name, text, **gopher):
    return getattr(rules, name)(Page(text), CleanConfig(gopher=GopherConfig(**gopher)))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("text", [PROSE, CHINESE], ids=["English", "Chinese"])
def test_prose_is_kept(name, text):
    assert keeps(name, text) is True


@pytest.mark.parametrize(
    ("name", "kept", "dropped"),
    [
        ("word_count", "word " * 50, "word " * 49),
        ("word_count", "word " * 100_000, "word " * 100_001),
        ("word_length", "abc " * 5, "abc ab"),
        ("word_length", "abcdefghij " * 5, "abcdefghij abcdefghijk"),
        ("symbols", "#one " + "word " * 9, "#one #two " + "word " * 9),
        ("symbols", "one... " + "word " * 9, "one… two... " + "word " * 9),
        ("bullets", "- a\n" * 9 + "b", "• a\n" * 19 + "b"),
        ("ellipses", "a...\n" * 3 + "b\n" * 7, "a…\n" * 4 + "b\n" * 6),
        ("alphabetic", "a b c d 5", "a b c 4 5"),
        ("stop_words", "The cat and dog", "the cat the dog"),
    ],
)
def test_thresholds_of_the_paper(name, kept, dropped):
    assert keeps(name, kept)
    assert not keeps(name, dropped)


def distinct_words(count, seed=0):
    generator = random.Random(seed)
    return ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(count)]


@pytest.mark.parametrize(("repeated", "kept"), [(3, True), (4, False)])
def test_repeated_lines_and_paragraphs(repeated, kept):
    lines = [" ".join(distinct_words(9, seed)) for seed in range(10 - repeated)]
    assert keeps("repetition", "\n".join(lines + ["menu"] * (repeated + 1)), max_duplicate_line_chars=1.0) is kept
    assert keeps("repetition", "\n\n".join(lines + ["menu"] * (repeated + 1)), max_duplicate_lines=1.0) is kept


def test_shares_of_repeated_parts():
    assert rules.repeated_shares(["aa", "b", "aa", "aa"]) == (0.5, pytest.approx(4 / 7))
    assert rules.repeated_shares([]) == (0.0, 0.0)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_a_dominant_ngram_drops_a_document(n):
    gram, rest = distinct_words(n, 1), distinct_words(60, 2)
    few = rest[:30] + gram + rest[30:] + gram
    many = [word for i in range(20) for word in [*gram, rest[i], rest[-i]]]
    loose = {"max_duplicate_ngram_chars": (1.0,) * 6}
    assert keeps("repetition", " ".join(few), **loose)
    assert not keeps("repetition", " ".join(many), **loose)


@pytest.mark.parametrize(("copies", "kept"), [(1, True), (2, False)])
def test_long_repeated_spans_drop_a_document(copies, kept):
    span, rest = distinct_words(12, 1), distinct_words(100, 2)
    words = rest[:50] + span + rest[50:] + span * copies
    assert keeps("repetition", " ".join(words)) is kept


def test_repetition_in_chinese_counts_words():
    assert not keeps("repetition", "点击这里查看更多内容，" * 40)
