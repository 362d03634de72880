import pytest

from dist_plm.config.decode import decode, encode
from dist_plm.core.errors import ConfigError
from dist_plm.spec.rules.finalize import check_convert
from dist_plm.spec.schema_convert import ConvertConfig


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({}, "there is nothing to do"),
        ({"inspect": " "}, "inspect is empty"),
        ({"from": "a", "to": ""}, "to is empty"),
        ({"from": "a"}, "to is missing"),
        ({"to": "a"}, "from is missing"),
        ({"inspect": "a", "to": "b"}, "give one of the two"),
        ({"from": "a", "to": "b", "dtype": "bf16"}, "dtype = 'bf16' has no effect with format = 'canonical'"),
        ({"from": "a", "to": "b", "shard_gb": 1}, "shard_gb = 1.0 has no effect"),
        ({"from": "a", "to": "b", "format": "hf", "kv_heads": 2}, "kv_heads = 2 has no effect with format = 'hf'"),
    ],
)
def test_one_sentence_with_key_value_and_remedy(settings, part):
    with pytest.raises(ConfigError) as caught:
        check_convert(decode(ConvertConfig, settings))
    (problem,) = caught.value.problems
    assert part in problem


@pytest.mark.parametrize(
    "settings", [{"inspect": "a"}, {"from": "a", "to": "b"}, {"from": "a", "to": "b", "format": "hf", "dtype": "bf16"}]
)
def test_one_thing_to_do_is_accepted(settings):
    config = decode(ConvertConfig, settings)
    assert check_convert(config) == config
    assert decode(ConvertConfig, encode(config)) == config
    assert encode(config)["from"] == settings.get("from")


def test_settings_that_python_keeps_a_word_for_have_their_own_name():
    with pytest.raises(ConfigError, match="did you mean from"):
        decode(ConvertConfig, {"from_": "a"})
