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
        ("[--export=NONE, --exclusive]", ["--export=NONE", "--exclusive"]),
        ("[--comment=two words,--constraint=a|b]", ["--comment=two words", "--constraint=a|b"]),
    ],
)
def test_each_text_of_a_list_is_to_be_quoted(value, texts):
    config, _ = load(SubmissionConfig, "submit", [proposed(f"cluster.options={value}")])
    assert list(config.cluster.options) == texts


@pytest.mark.parametrize("text", ["it's", 'a"b#', "# 1", "#\\"])
def test_text_is_to_be_quoted_as_it_is(text):
    assert parse(proposed(f"x={text}")).value() == text


@pytest.mark.parametrize("value", ["[a,]", "[a=b", "[a=b]]", "[a=[b,c]]", '[a="b,c"]', '{"a b": 1}', "{a: b=c}", "{"])
def test_nothing_is_proposed_that_would_be_refused_or_mean_something_else(value):
    with pytest.raises(ConfigError, match="each of a list or a mapping its own, as in"):
        parse(f"x={value}")
