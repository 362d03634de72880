import dataclasses
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_plm.config.bounds import Bounds
from dist_plm.config.decode import decode, encode, flatten
from dist_plm.config.messages import show
from dist_plm.config.runfile import to_yaml
from dist_plm.config.variants import hints_of, variants_of
from dist_plm.core.errors import ConfigError
from dist_plm.spec.prepare.schema import PrepareConfig
from dist_plm.spec.schema import PretrainConfig
from tests.spec.make import pretrain_mapping


def instances(hint: Any, bounds: Bounds = Bounds()) -> st.SearchStrategy[Any]:  # noqa: B008
    """Every value that a field of this type may hold."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return instances(args[0], args[1])
    if origin in (Union, types.UnionType):
        return st.one_of([st.none() if a is type(None) else instances(a) for a in args])
    if origin is Literal:
        return st.sampled_from(args)
    if origin is tuple:
        if args[-1] is Ellipsis:
            return st.lists(instances(args[0]), max_size=3).map(tuple)
        return st.tuples(*map(instances, args))
    if origin is dict:
        return st.dictionaries(st.sampled_from(["a", "b"]), st.integers() | st.just({"c": True}), max_size=2)
    if dataclasses.is_dataclass(hint):
        variants = variants_of(hint)
        if variants is not None:
            return st.one_of([instances(variant) for variant in variants.values()])
        fields = {name: instances(h) for name, h in hints_of(hint).items()}
        return st.builds(hint, **fields)
    if hint is bool:
        return st.booleans()
    if hint is str:
        return st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=8).filter("???".__ne__)
    low = None if bounds.low is None else hint(bounds.low)
    high = None if bounds.high is None else hint(bounds.high)
    if hint is int:
        return st.integers(low, high)
    return st.floats(
        low, high, exclude_min=bounds.low_open, exclude_max=bounds.high_open, allow_nan=False, allow_infinity=False
    )


@pytest.mark.parametrize("cls", [PretrainConfig, PrepareConfig])
def test_decode_undoes_encode(cls):
    @settings(deadline=None, max_examples=25)
    @given(instances(cls))
    def check(instance):
        assert decode(cls, encode(instance)) == instance
        assert decode(cls, yaml.safe_load(to_yaml(encode(instance)))) == instance

    check()


def problems_of(**changes: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        decode(PretrainConfig, pretrain_mapping(**changes))
    return caught.value.problems


@pytest.mark.parametrize("value", [3, 3.5, "3e-4", "1e-4", "+.5", 10**300])
def test_numbers_serve_as_floats(value):
    lr = decode(PretrainConfig, pretrain_mapping(optim__lr=value)).optim.lr
    assert lr == float(value)
    assert type(lr) is float


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("train.steps", 3.0, "a whole number, at least 1; write 3"),
        ("train.steps", 3.5, "a whole number, at least 1"),
        ("train.steps", True, "a whole number, at least 1"),
        ("train.steps", "100", "a whole number, at least 1; write 100 without quotes"),
        ("train.steps", None, "a whole number, at least 1"),
        ("train.steps", 0, "a whole number, at least 1"),
        ("train.stop_at", 0, "a whole number, at least 1 or null"),
        ("optim.lr", True, "a number, more than 0"),
        ("optim.lr", "fast", "a number, more than 0"),
        ("optim.lr", "1,5", "a number, more than 0"),
        ("optim.lr", "nan", "a number, more than 0"),
        ("optim.lr", float("nan"), "a number, more than 0"),
        ("optim.lr", float("inf"), "a number, more than 0, and finite"),
        ("optim.lr", 10**400, "a number, more than 0"),
        ("optim.lr", 0, "a number, more than 0"),
        ("optim.betas", [0.9], "a list of 2 in brackets"),
        ("optim.betas", 0.9, "a list of 2 in brackets"),
        ("model.bias", 1, "true or false; write true"),
        ("model.bias", "no", "true or false; write false"),
        ("model.bias", "maybe", "true or false"),
        ("run.name", 2024, """text; quote it twice on the command line: 'run.name="2024"'"""),
        ("run.name", None, "text"),
        ("precision.name", "float16", "one of fp32, bf16, fp16"),
        ("precision.name", "bf-16", "did you mean bf16 or fp16?"),
        ("precision.name", True, "one of fp32, bf16, fp16"),
        ("track.to", "wandb", "write [wandb] for a list of one"),
        ("track.to", {"wandb": 1}, "a list in brackets"),
    ],
)
def test_wrong_values_name_key_value_and_what_is_allowed(key, value, allowed):
    (problem,) = problems_of(**{key.replace(".", "__"): value})
    assert problem.startswith(f"{key} = ")
    assert "is not allowed: it must be " in problem
    assert allowed in problem


def test_a_wrong_item_of_a_list_is_named_by_its_place():
    assert problems_of(optim__betas=[0.9, 1.0]) == [
        "optim.betas[1] = 1.0 is not allowed: it must be a number, at least 0 and less than 1"
    ]


def test_all_problems_are_reported_together():
    found = problems_of(optim__lrr=1, train__steps=0, model__layers="x", extra__key=1)
    assert len(found) == 4
    assert {p.split(" ")[0] for p in found} == {"optim.lrr", "train.steps", "model.layers", "extra.key"}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"optim__steps": 3}, "optim.steps = 3 is not a setting; did you mean train.steps?"),
        (
            {"evaluate__tasks": [{"name": "films", True: "probe", "data": {"rows": "a"}}]},
            "evaluate.tasks[0].True = 'probe' is not a setting; YAML reads on as true: write \"on\" with quotes",
        ),
        ({"optimizer__lr": 3}, "optimizer.lr = 3 is not a setting; did you mean optim.lr?"),
        ({"model__zzz": 3}, "model.zzz = 3 is not a setting; model has: family, layers"),
    ],
)
def test_unknown_keys_name_what_was_meant(changes, problem):
    assert problems_of(**changes)[0].startswith(problem)


def test_a_dotted_name_in_a_file_is_told_to_nest():
    with pytest.raises(
        ConfigError, match=r"optim.lr = 1 is not a setting in this form; in a file write lr below optim:"
    ):
        decode(PretrainConfig, {**pretrain_mapping(), "optim.lr": 1})


def test_unknown_and_wrong_items_of_lists_are_found_by_index():
    with pytest.raises(ConfigError) as caught:
        decode(
            PrepareConfig,
            {"data": {"sources": [{"path": "a"}, {"pth": "b"}, 3], "out": "x"}, "tokenizer": {"name": "bpe"}},
        )
    first, second = caught.value.problems
    assert first.startswith("data.sources[1].pth = 'b' is not a setting; did you mean data.sources[1].path?")
    assert second.startswith("data.sources[2] = 3 is not allowed: it must be settings (path, ")


def test_missing_settings_and_groups_are_named():
    mapping = pretrain_mapping(optim__lr="???")
    del mapping["data"]
    with pytest.raises(ConfigError) as caught:
        decode(PretrainConfig, mapping)
    assert caught.value.problems == [
        "data is missing: choose one of its files with data=NAME",
        "optim.lr is missing: give optim.lr=…, which must be a number, more than 0",
    ]


def test_groups_that_are_no_mapping_are_refused():
    with pytest.raises(ConfigError, match="engine = null is not allowed: it must be settings"):
        decode(PretrainConfig, {**pretrain_mapping(), "engine": None})
    with pytest.raises(ConfigError, match=r"the configuration \[1\] is not allowed"):
        decode(PretrainConfig, [1])  # pyright: ignore[reportArgumentType]


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {}}, "d": [{"e": 2}]}) == {"a.b": 1, "d": [{"e": 2}]}


def test_what_is_shown_is_no_longer_or_deeper_than_a_message_bears():
    deep = []
    for _ in range(5000):
        deep = [deep]
    assert show(deep) == "[[[[[[[…]]]]]]]"
    assert show({"a": {"b": [{"c": {"d": {"e": {"f": 1}}}}]}}) == "{'a': {'b': [{'c': {'d': {'e': {…}}}}]}}"
    assert len(show(list(range(10**6)))) < 1100
    assert len(show(dict.fromkeys(range(10**5)))) < 1100
    assert show("x" * 300) == f"'{'x' * 200}'… (300 characters)"
    assert show([1, {"x": None}, "a"]) == "[1, {'x': null}, 'a']"
