"""Text on the command line: what needs no quotes of its own, and what is told of what does."""

import shlex

import pytest

from dist_plm.cli.app import load
from dist_plm.cli.overrides import parse
from dist_plm.core.errors import ConfigError
from dist_plm.spec.inference.schema import GenerateConfig
from dist_plm.spec.schema import SubmissionConfig


@pytest.mark.parametrize(
    "text",
    [
        "To be",
        "The [MASK] sat on the mat.",
        "a, b and {c: d}",
        "12",
        "true",
        'it\'s "so" \\ and a\nline',
        " blanks around ",
        "a = b",
        "costs 5$ or $x {",
        "`tick` (round) [",
        "",
    ],
)
def test_a_prompt_is_what_the_shell_hands_over(text):
    config, _ = load(GenerateConfig, "generate", ["from=x", f"prompt={text}"])
    assert config.prompt == text


@pytest.mark.parametrize("value", ["'To be'", '"To be"'])
def test_quotes_of_its_own_are_not_part_of_it(value):
    config, _ = load(GenerateConfig, "generate", ["from=x", f"prompt={value}"])
    assert config.prompt == "To be"


def test_null_is_none():
    config, _ = load(GenerateConfig, "generate", ["from=x", "prompt=null"])
    assert config.prompt is None


def proposed(override: str) -> str:
    """What a person is told to write, as the shell hands it over."""
    with pytest.raises(ConfigError) as caught:
        parse(override)
    (word,) = shlex.split(str(caught.value).partition(", as in ")[2])
    return word


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("[--export=NONE]", ["--export=NONE"]),
        ('[--comment="two, words", --exclusive]', ['--comment="two, words"', "--exclusive"]),
        ("[--constraint=[a100|h100],--export=A]", ["--constraint=[a100|h100]", "--export=A"]),
        ("[it's, 'a,b', x=1]", ["it's", "a,b", "x=1"]),
        (r"[C:\=\]", ["C:\\=\\"]),
    ],
)
def test_each_text_of_a_list_is_to_be_quoted(value, texts):
    config, _ = load(SubmissionConfig, "submit", [proposed(f"cluster.options={value}")])
    assert list(config.cluster.options) == texts


def test_texts_of_mappings_are_to_be_quoted_and_numbers_are_not():
    assert parse(proposed("x={a: b=c, d: [{e: f=g}, 1, true]}")).value() == {
        "a": "b=c",
        "d": [{"e": "f=g"}, 1, True],
    }


@pytest.mark.parametrize("text", ["it's", 'a"b#', "# 1", "#\\"])
def test_text_is_to_be_quoted_as_it_is(text):
    assert parse(proposed(f"x={text}")).value() == text


@pytest.mark.parametrize("value", ["[a,]", "[a=b", "[a=b]]", '{"a b": 1}', "{", "[" + "a=b," * 99 + "c]"])
def test_nothing_is_proposed_that_would_be_refused_too(value):
    with pytest.raises(ConfigError, match="and lists and mappings are written"):
        parse(f"x={value}")
