"""Text that needs no quotes of its own on the command line."""

import pytest

from dist_plm.cli.app import load
from dist_plm.spec.inference.schema import GenerateConfig


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
