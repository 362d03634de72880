import inspect
from typing import get_args

from dist_plm.data.clean.cleaner import RULES, Cleaner, RuleTally
from dist_plm.spec.prepare.clean import CleanConfig, RuleName
from tests.data.clean.test_gopher import CHINESE, PROSE


def test_every_rule_of_the_schema_is_there_and_says_what_it_does():
    assert list(RULES) == list(get_args(RuleName))
    assert all(inspect.getdoc(rule) for rule in RULES.values())


def test_rules_apply_in_the_order_of_the_configuration():
    text = "\x00 a  b"
    assert Cleaner(CleanConfig(rules=("control_characters", "white_space"))).clean(text) == "a b"
    long_enough = CleanConfig(rules=("length", "white_space"), min_chars=5)
    assert Cleaner(long_enough).clean(text) == "\x00 a b"
    assert Cleaner(CleanConfig(rules=("white_space", "control_characters", "length"), min_chars=5)).clean(text) is None


def test_what_each_rule_did_is_counted():
    cleaner = Cleaner(CleanConfig(rules=("white_space", "c4_javascript", "length"), min_chars=3))
    assert [cleaner.clean(text) for text in [" ab", "ok text", " enable javascript ", "  ééé"]] == [
        None,
        "ok text",
        None,
        "ééé",
    ]
    assert cleaner.tallies == [RuleTally(changed=3), RuleTally(1, 17), RuleTally(1, 2)]


def test_without_rules_nothing_happens():
    cleaner = Cleaner(CleanConfig())
    assert cleaner.clean(" \x00 as it is") == " \x00 as it is"
    assert cleaner.tallies == []


def test_all_rules_together_keep_prose():
    rules = tuple(name for name in RULES if name != "c4_bad_words")
    config = CleanConfig(rules=rules, boilerplate=("^share",))
    for text in (PROSE, CHINESE):
        assert Cleaner(config).clean(text + "\nShare!\n").rstrip(".。") in (
            text.rstrip(".。"),
            # NFKC makes Chinese punctuation half-width.
            text.replace("，", ",").rstrip(".。"),
        )
