"""The table of a family's tensors is that of the network which is built."""

import itertools
from dataclasses import replace

import pytest

from dist_plm.interop.hf.registry import hf_model
from dist_plm.models.build import whole_shard_specs
from dist_plm.spec.families import FAMILIES
from dist_plm.spec.families.tensors import shapes_of, tensors_of
from dist_plm.spec.objectives import objectives_of
from tests.ranks.training import configure

#: What makes each family's network as full as it gets, and as bare.
FULL = {
    "gpt": {"kv_heads": 2},
    "bert": {"segments": 2, "pair_head": True},
    "roberta": {"segments": 1, "position_offset": 2},
    "electra": {
        "segments": 2,
        "embedding_size": 32,
        "generator_hidden": 16,
        "generator_heads": 2,
        "generator_layers": 2,
    },
    "t5": {"position": "relative", "decoder_layers": 2, "kv_heads": 2},
    "transformer": {"position": "sinusoidal", "decoder_layers": 3},
}
BARE = {name: {"position": "none"} for name in FULL}
KINDS = list(
    itertools.product(("layernorm", "rmsnorm"), ("pre", "post"), (True, False), (True, False), ("relu", "geglu"))
)


def config_of(family: str, changes: dict, kind: tuple = ("layernorm", "pre", True, True, "relu")):
    norm, placement, bias, tied, activation = kind
    objective = "mlm_nsp" if changes.get("pair_head") else objectives_of(FAMILIES[family])[0]
    model = {
        "family": family,
        "norm": norm,
        "norm_placement": placement,
        "bias": bias,
        "tied_embeddings": tied,
        "activation": activation,
        **changes,
    }
    return configure(1, objective__name=objective, **{f"model__{name}": value for name, value in model.items()})


@pytest.mark.parametrize("family", FAMILIES)
def test_names_shapes_and_splits_are_the_networks(family):
    for changes, kind in itertools.product((FULL[family], BARE[family]), KINDS):
        config = config_of(family, changes, kind)
        built = {
            p.name: (p.shape, shard_spec.split_dim)
            for shard_spec in whole_shard_specs(config.model)
            for p in shard_spec.shards
        }
        assert {one.name: (one.shape, one.split) for one in tensors_of(config.model)} == built, (changes, kind)


def with_head(config, head: str, num_labels: int = 3):
    """As the task would make it."""
    return replace(config, model=replace(config.model, head=head, num_labels=num_labels))


@pytest.mark.parametrize(
    ("family", "head"),
    [(name, head) for name, one in FAMILIES.items() for head in one.possible_heads if head != "language_model"],
)
def test_those_of_a_task_are_the_networks(family, head):
    for changes, tied in itertools.product((FULL[family], BARE[family]), (True, False)):
        config = with_head(
            config_of(family, {**changes, "pair_head": None} if "pair_head" in changes else changes), head
        )
        config = replace(config, model=replace(config.model, tied_embeddings=tied))
        built = {
            p.name: (p.shape, shard_spec.split_dim)
            for shard_spec in whole_shard_specs(config.model)
            for p in shard_spec.shards
        }
        table = tensors_of(config.model)
        assert {one.name: (one.shape, one.split) for one in table} == built, changes
        assert not any(one.multiplies == "predicted" for one in table)
        assert not any(name.startswith(("output.", "transform.", "generator.", "detector.")) for name in built)
        assert built["head.output.weight"][0] == (3, config.model.hidden)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_name_stands_twice(family):
    names = [one.name for one in tensors_of(config_of(family, FULL[family]).model)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_tensors_begin_with_goes_by_what_they_are(family):
    for one in tensors_of(config_of(family, FULL[family]).model):
        expected = "zeros" if one.name.endswith(".bias") else "ones" if "norm" in one.name else "normal"
        assert one.init.kind == expected, one.name
        assert (one.init.deviation > 0) == (expected == "normal"), one.name


@pytest.mark.parametrize("family", [name for name, one in FAMILIES.items() if one.is_in_hugging_face])
def test_hugging_face_has_a_name_for_every_tensor(family):
    kind = ("layernorm", "post" if FAMILIES[family].is_encoder else "pre", True, True, "gelu")
    if FAMILIES[family].has_decoder:
        kind = ("rmsnorm", "pre", False, False, "geglu")
    model = config_of(family, {**FULL[family], "kv_heads": 4}, kind).model
    theirs = hf_model(model)
    named = {entry.name for half in theirs.halves_of(model) for entry in theirs.tensors(model, half)}
    assert named == shapes_of(model).keys()


@pytest.mark.parametrize(
    ("family", "head"),
    [(name, head) for name, one in FAMILIES.items() for head in one.possible_heads if head != "language_model"],
)
def test_hugging_face_has_a_name_for_every_tensor_of_a_task(family, head):
    kind = ("layernorm", "post" if FAMILIES[family].is_encoder else "pre", True, True, "gelu")
    changes = {**FULL[family], "kv_heads": 4} | ({"pair_head": None} if family == "bert" else {})
    model = with_head(config_of(family, changes, kind), head).model
    theirs = hf_model(model)
    (half,) = theirs.halves_of(model)
    assert {entry.name for entry in theirs.tensors(model, half)} == shapes_of(model).keys()
