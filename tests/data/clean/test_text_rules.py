import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.data.clean import text_rules as rules
from dist_plm.data.clean.page import Page
from dist_plm.spec.prepare.clean import LANGUAGES, CleanConfig

IDEMPOTENT = ("nfc", "nfkc", "control_characters", "white_space", "boilerplate_lines", "mask_email", "mask_ip")
CONFIG = CleanConfig(boilerplate=("all rights reserved", r"^\W*share (this|on)"), min_chars=3, max_chars=5)


def apply(name, text, config=CONFIG):
    return getattr(rules, name)(Page(text), config)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("repair", "sÃ£o &amp; “quoted”", "são & “quoted”"),
        ("repair", "你好，世界！", "你好，世界！"),
        ("nfc", "e\u0301 ﬁ １", "é ﬁ １"),
        ("nfkc", "e\u0301 ﬁ １，", "é fi 1,"),
        ("control_characters", "a\x00b\ufeffc\u200bd\r\ne\rf\tg\n", "abcd\ne\nf\tg\n"),
        ("control_characters", "👩\u200d👧", "👩\u200d👧"),
        ("white_space", " a\t\u00a0b  \n\n \n\n c \n", "a b\n\nc"),
        ("white_space", "你\u3000好\n好", "你 好\n好"),
        ("boilerplate_lines", "text\n© All Rights Reserved.\n> Share this\nI share this view", "text\nI share this view"),
        ("mask_email", "to a.b+c@mail.example.org, or 张三@公司 @home a@b", "to <EMAIL>, or 张三@公司 @home a@b"),
        ("mask_email", "写信给zhang@example.cn。", "写信给<EMAIL>。"),
        ("mask_ip", "from 10.20.30.40:80, 999.1.1.1, 1.2.3, 127.0.0.1 and 1.2.3.4.", "from <IP>:80, 999.1.1.1, 1.2.3, "
         "127.0.0.1 and <IP>."),
        ("mask_ip", "2001:db8::ff00:42:8329 at 12:30:45, std::vector, fe80:0:0:0:1:2:3:4", "<IP> at 12:30:45, std::vector, "
         "<IP>"),
        ("mask_ip", "a::b, dead::beef, Ace::Fab, d3::b1 and f00d::1", "a::b, dead::beef, Ace::Fab, d3::b1 and f00d::1"),
        ("mask_ip", "x[1::2] or f()[2000::3], x[2001:10:2]", "x[1::2] or f()[2000::3], x[2001:10:2]"),
        ("mask_ip", "ff02::1 fd12:3456::7 ::ffff:c0a8:1 ::1 :: http://[2001:db8::1]:80/", "<IP> <IP> <IP> ::1 :: "
         "http://[<IP>]:80/"),
    ],
)  # fmt: skip
def test_texts_are_mended(name, text, expected):
    assert apply(name, text) == expected


def test_each_expression_of_boilerplate_has_flags_and_groups_of_its_own():
    config = CleanConfig(boilerplate=("(?i)^share", r"(?P<a>\w)\1{2}", r"(?P<a>-)\1{2}"))
    assert apply("boilerplate_lines", "text\nShare this\naaa\n---\na--\n", config) == "text\na--\n"
    assert apply("boilerplate_lines", "text\n", CleanConfig()) == "text\n"


@given(text=st.text(max_size=60))
def test_mending_twice_is_mending_once(text):
    for name in IDEMPOTENT:
        once = apply(name, text)
        assert apply(name, once) == once, name


@given(text=st.text(max_size=60))
def test_white_space_and_control_characters_lose_nothing_else(text):
    def visible(text):
        return [c for c in text if not c.isspace() and unicodedata.category(c) not in ("Cc", "Cf")]

    assert visible(apply("white_space", text)) == visible(text)
    assert visible(apply("control_characters", text)) == visible(text)


def test_length_counts_characters():
    assert [apply("length", "字" * n) for n in (2, 3, 5, 6)] == [False, True, True, False]
    assert apply("length", "x" * 10**6, CleanConfig())


@pytest.mark.parametrize(
    ("text", "languages", "kept"),
    [
        ("This is a sentence in plain English, and here is another one.", ("en", "zh"), True),
        ("这是一个中文句子，后面还有一个句子。", ("en", "zh"), True),
        ("这是一个中文句子，后面还有一个句子。", ("en",), False),
        ("Dies ist ein deutscher Satz,\nund hier kommt noch einer.", ("en", "zh"), False),
        ("Dies ist ein deutscher Satz,\nund hier kommt noch einer.", ("de",), True),
    ],
)
def test_languages_are_told_apart_without_a_network(text, languages, kept):
    assert apply("language", text, CleanConfig(languages=languages)) is kept


def test_the_languages_that_may_be_named_are_those_of_the_model():
    found = rules._detector().detect("a", model="lite", k=1000, threshold=-1.0)
    assert {one["lang"] for one in found} == LANGUAGES


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Hello", True),
        ("今天天气很好。", True),
        ("Thank you!", True),
        ("Yes.", True),
        ("你好", True),
        ("Bonjour le monde", False),
        ("お元気ですか", False),
        ("안녕하세요", False),
        ("12345", False),
    ],
)
def test_a_few_words_are_kept_unless_they_are_surely_in_another_language(text, kept):
    assert apply("language", text, CleanConfig(languages=("en", "zh"))) is kept


def test_a_page_is_judged_by_its_paragraphs_rather_than_by_its_menu():
    menu = "\n".join(f"index | modules | {n}.{n + 1} | zipfile__ »" for n in range(40))
    english = (
        "The simplest way of reading a page is to begin where its paragraphs are, which is seldom at the top of it."
    )
    german = (
        "Am einfachsten liest man eine Seite dort, wo ihre Absätze stehen, und das ist nur selten ganz oben der Fall."
    )
    config = CleanConfig(languages=("en",))
    assert not apply("language", menu, config)
    assert apply("language", f"{menu}\n{english}\n{english}", config)
    assert not apply("language", f"{menu}\n{german}\n{german}", config)


def test_what_is_no_language_is_dropped():
    assert not apply("language", "0x3f 77 == %% 42;", CleanConfig())


@given(
    lines=st.lists(
        st.sampled_from(["plain", "&amp;", "<b>", "a\r", "sÃ£o", "\x1b[1mx", "“q”", "", "é &lt;"]), max_size=6
    )
)
def test_lines_that_need_no_repair_change_nothing_of_it(lines):
    import ftfy

    text = "\n".join(lines)
    kept = {"uncurl_quotes": False, "fix_character_width": False, "remove_control_chars": False, "normalization": None}
    assert apply("repair", text) == ftfy.fix_text(text, **kept)
