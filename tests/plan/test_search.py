"""A search proposes what the rules allow and what fits, and a plan says what would fit."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_plm.plan.interval import GIB
from dist_plm.plan.memory import memory_by_stage, worst_of
from dist_plm.plan.search import Candidate, better_cut, compare, cut_line, search, search_text
from dist_plm.plan.timing.step_time import step_time
from dist_plm.plan.verdict import changed_by, make_plan, remedies
from dist_plm.spec.gpus import GPUS
from dist_plm.spec.rules.finalize import finalize
from tests.plan.test_memory import SIZES
from tests.spec.make import pretrain


def test_all_that_is_proposed_is_allowed_and_ranked():
    asked = pretrain(**SIZES)
    found = search(asked, 8, GPUS["a100"])
    assert found
    assert all(changed_by(asked, one.changes, 8) is not None for one in found)
    fitting = [one.seconds for one in found if one.verdict == "fits"]
    assert fitting == sorted(fitting)
    assert "parallel.tensor=" in search_text(found, 3)


def test_long_sequences_are_split_too():
    asked = pretrain(**SIZES | {"data__sequence_length": 8192, "train__global_batch": 4})
    compared = compare(asked, 8, GPUS["a100"])
    contexts = {one.changes["parallel"].get("context", 1) for one in compared}
    assert contexts == {1, 2, 4}
    assert all(one.changes["train"]["micro_batch"] == 1 for one in compared if "context" in one.changes["parallel"])
    split = [one for one in compared if one.changes["parallel"].get("context") == 2]
    assert all(changed_by(asked, one.changes, 8) is not None and one.parts["context"] > 0 for one in split)
    assert "parallel.context=2" in search_text(split, 1)
    given = replace(asked, parallel=replace(asked.parallel, context=2))
    assert {one.changes["parallel"]["context"] for one in compare(given, 8, GPUS["a100"])} == contexts


def candidate(gib: float, **parts: float) -> Candidate:
    verdict = "fits" if gib < 80 else "does not fit"
    return Candidate({"parallel": {"tensor": 2}, "train": {"micro_batch": 1}}, parts, gib, verdict)


def test_each_loser_is_told_what_it_loses_by():
    best = candidate(70, compute=5.0, tensor=1.0, bubble=0.5)
    slower = candidate(60, compute=5.5, tensor=0.5, bubble=0.75)
    too_large = [candidate(gib, compute=1.0, tensor=1.0, bubble=0.1) for gib in (90, 100)]
    head, *lines = search_text([best, slower, *too_large, candidate(200, compute=9.0)], 2).splitlines()
    assert head == "2 grids fit; the fastest:"
    words = "parallel.tensor=2 train.micro_batch=1"
    assert [line.split() for line in lines[:2]] == [
        f"6.500 s 70.0 GiB fits most lost to tensor {words}".split(),
        f"6.750 s 60.0 GiB fits +0.500 s compute {words}".split(),
    ]
    assert lines[2] == "2 would be faster, but do not fit; the fastest:"
    assert lines[3].split() == f"2.100 s 90.0 GiB does not fit {words}".split()


@pytest.mark.parametrize(("engine", "stages"), [("megatron", {0, 1}), ("deepspeed", {0, 1, 2, 3})])
def test_all_stages_of_an_engine_are_compared(engine, stages):
    sizes = {"model__layers": 1, "train__global_batch": 2, "precision__name": "fp32", "engine__name": engine}
    compared = compare(pretrain(**SIZES | sizes), 2, GPUS["a100"])
    assert {one.changes["engine"]["zero_stage"] for one in compared} == stages


def test_remedies_make_it_fit():
    large = SIZES | {"model__layers": 32, "model__hidden": 4096, "model__heads": 32}
    assert remedies(pretrain(**large, train__micro_batch=4), 8, GPUS["a100"])
    assert remedies(pretrain(**large), 8, GPUS["v100_16"]) == []


def test_remedies_split_long_sequences_alone():
    long = {"data__sequence_length": 65536, "train__global_batch": 8, "engine__zero_stage": 1}
    found = remedies(pretrain(**SIZES | long), 8, GPUS["a100"], most=99)
    assert "parallel.context=4" in found
    short = remedies(pretrain(**SIZES | {"model__layers": 96}, train__micro_batch=8), 8, GPUS["a100"], most=99)
    assert short
    assert not any("context" in remedy for remedy in short)


def test_what_no_grid_holds_is_said():
    huge = SIZES | {"model__layers": 96, "model__hidden": 12288, "model__heads": 96}
    assert search(pretrain(**huge), 1, GPUS["v100"]) == []
    assert "no grid fits" in search_text([], 3)


@settings(max_examples=8, deadline=None)
@given(
    world_size=st.sampled_from([1, 2, 6, 8]),
    heads=st.sampled_from([4, 6, 16]),
    layers=st.sampled_from([3, 4]),
    batch=st.sampled_from([6, 8, 64]),
    name=st.sampled_from(["fp16", "bf16", "fp8"]),
    length=st.sampled_from([1024, 8192]),
)
def test_nothing_is_proposed_that_the_rules_refuse(world_size, heads, layers, batch, name, length):
    sizes = {"model__heads": heads, "model__hidden": 64 * heads, "model__layers": layers, "train__global_batch": batch}
    sizes["data__sequence_length"] = length
    device = {"cluster__device": "cuda", "precision__name": name}
    for engine in ("megatron", "deepspeed"):
        asked = pretrain(**SIZES | sizes | device | {"engine__name": engine})
        found = search(asked, world_size, GPUS["h100"])
        for one in found:
            values = {key: replace(getattr(asked, key), **changes) for key, changes in one.changes.items()}
            config = finalize(replace(asked, **values), world_size=world_size, vocab_size=None)
            assert worst_of(memory_by_stage(config)).total.low <= GPUS["h100"].gib * GIB
            assert step_time(config, GPUS["h100"]).seconds == one.seconds


@pytest.mark.parametrize(
    ("vocab_size", "over_four", "over_two"), [(9000, (2, 2, 1, 1), None), (128256, (2, 2, 2, 0), (6, 0))]
)
def test_cuts_are_compared_that_spare_the_stage_with_the_head(vocab_size, over_four, over_two):
    """Of 6 layers over 4 stages none is even; the larger the vocabulary the fewer the last holds."""
    asked = pretrain(**SIZES | {"model__layers": 6, "model__vocab_size": vocab_size, "parallel__stage_layers": (3, 3)})
    grids = [one.changes["parallel"] for one in compare(asked, 8, GPUS["a100"])]
    four = {one.get("stage_layers", (3, 3)) for one in grids if one["pipeline"] == 4}
    assert four == {over_four}
    two = {one.get("stage_layers", (3, 3)) for one in grids if one["pipeline"] == 2 and one["virtual_pipeline"] == 1}
    assert {None, over_two} <= two
    best = search(asked, 8, GPUS["a100"])[0]
    assert "parallel.stage_layers=" in search_text([best], 1)


def test_a_cut_with_a_faster_slowest_stage_takes_less_time():
    def seconds(**changes):
        asked = pretrain(
            **SIZES | {"model__layers": 6, "model__vocab_size": 128256, "parallel__pipeline": 2}, **changes
        )
        return step_time(finalize(asked, world_size=8, vocab_size=None), GPUS["a100"]).seconds

    assert seconds(parallel__stage_layers=(3, 3)) == seconds()
    assert seconds(parallel__stage_layers=(5, 1)) < seconds() < seconds(parallel__stage_layers=(1, 5))
    assert seconds(parallel__stage_layers=(6, 0)) < seconds(parallel__stage_layers=(5, 1))


@pytest.mark.parametrize(
    ("changes", "proposed"),
    [
        ({}, (6, 0)),
        ({"model__vocab_size": 48000}, (5, 1)),
        ({"parallel__stage_layers": (3, 3)}, None),  # as the user says
        ({"parallel__virtual_pipeline": 3}, None),
        ({"parallel__pipeline": 1}, None),
        ({"model__vocab_size": 512}, None),  # a head of next to nothing
    ],
)
def test_a_plan_proposes_a_better_cut(changes, proposed):
    sizes = {"model__layers": 6, "model__vocab_size": 128256, "parallel__pipeline": 2, "train__micro_batch": 1}
    asked = pretrain(**SIZES | sizes | {"cluster__gpu": "a100"} | changes)
    plan = make_plan(finalize(asked, world_size=8, vocab_size=None), 8)
    found = better_cut(asked, plan)
    assert (found.changes if found else None) == (proposed and {"parallel": {"stage_layers": proposed}})
    if found is not None:
        assert found.seconds < plan.step.seconds
        layers = ",".join(map(str, proposed))
        assert f"{found.seconds:.3g} s with  parallel.stage_layers=[{layers}], " in cut_line(found)
