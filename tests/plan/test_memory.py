"""Memory falls with what is said to save it, and what stages hold adds up to the model."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_plm.plan.activations import Pass, kept_by_layer
from dist_plm.plan.memory import in_flight, memory_by_stage, worst_of
from dist_plm.plan.rank_tensors import padded, stages_of
from dist_plm.plan.timing.software import OURS
from dist_plm.spec.flops import num_parameters
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema import ParallelConfig
from tests.spec.make import pretrain

SIZES = {
    "model__layers": 8,
    "model__hidden": 1024,
    "model__heads": 16,
    "model__vocab_size": 50257,
    "data__sequence_length": 1024,
    "precision__name": "bf16",
    "train__global_batch": 64,
}


#: Setting -> values that hold less and less.
SAVERS = (
    ("parallel__tensor", (1, 2, 4)),
    ("model__recompute", ("none", "selective", "full")),
    ("engine__zero_stage", (0, 1)),
)


def total(world_size: int = 8, **changes) -> float:
    config = finalize(pretrain(**SIZES | changes), world_size=world_size, vocab_size=None)
    return worst_of(memory_by_stage(config)).total.high


@given(
    tensor=st.sampled_from([1, 2, 4]),
    cut=st.sampled_from([1, 2, 4, (5, 3), (3, 1, 4), (2, 2, 2, 1, 1), (8, 0), (0, 4, 4, 0)]),
    tied=st.booleans(),
)
def test_the_parts_of_all_ranks_are_the_model(tensor, cut, tied):
    pipeline, held = (cut, None) if isinstance(cut, int) else (len(cut), cut)
    world = tensor * pipeline
    grid = {"parallel__tensor": tensor, "parallel__pipeline": pipeline, "model__tied_embeddings": tied}
    grid["parallel__stage_layers"] = held
    config = finalize(pretrain(**SIZES | grid), world_size=world, vocab_size=None)
    held = [one for stage in stages_of(config.model, config.parallel) for one in stage.tensors if not one.copy]
    whole = sum(one.numel * (tensor if one.spec.split is not None else 1) for one in held)
    assert whole == num_parameters(padded(config.model, tensor))


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("parallel__tensor", [1, 2, 4]),
        ("model__recompute", ["none", "selective", "full"]),
        ("train__micro_batch", [4, 2, 1]),
        ("engine__zero_stage", [0, 1]),
        ("parallel__context", [2, 4]),
    ],
)
def test_memory_does_not_rise_with_what_saves_it(key, values):
    found = [total(**{"train__micro_batch": 2, key: value}) for value in values]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]


def test_each_stage_of_zero_holds_less():
    found = [total(engine__name="deepspeed", engine__zero_stage=stage, engine__bucket_mib=16) for stage in (1, 2)]
    assert found == sorted(found, reverse=True)


def test_sequence_parallelism_saves_what_lies_between_the_products():
    assert total(parallel__tensor=4, parallel__sequence_parallel=True) < total(parallel__tensor=4)


def test_a_layer_keeps_what_korthikanti_counts():
    """34 s b h of table 2 less masks of dropout (1 + 1 bytes) and the scores' inputs that fused attention shares."""
    config = finalize(pretrain(**SIZES), world_size=1, vocab_size=None)
    (stack,), one = config.model.stacks(), Pass.of(config)
    tokens_times_hidden = one.read * config.model.hidden
    assert kept_by_layer(stack, one).whole / tokens_times_hidden == pytest.approx(32, rel=0.01)


def test_attention_that_is_not_fused_keeps_its_scores_unless_they_are_computed_again():
    sizes = SIZES | {"parallel__tensor": 2, "train__micro_batch": 4}
    for recompute, layers in (("none", SIZES["model__layers"]), ("selective", 1), ("full", 1)):
        config = finalize(pretrain(**sizes | {"model__recompute": recompute}), world_size=8, vocab_size=None)
        unfused, fused = (
            memory_by_stage(config, replace(OURS, fused_attention=one))[0].terms["activations"].low
            for one in (False, True)
        )
        scores = 4 * SIZES["model__heads"] // 2 * SIZES["data__sequence_length"] ** 2
        assert unfused - fused == 5 * scores * layers


def test_one_forward_one_backward_holds_as_many_as_stages_follow():
    parallel = ParallelConfig(pipeline=4)
    assert [in_flight(parallel, stage, 16) for stage in range(4)] == [4, 3, 2, 1]
    assert in_flight(parallel, 0, 2) == 2


def test_interleaving_holds_more_on_the_first_stage():
    """1 + (p - 1) / (p v) times a pipeline's, Korthikanti et al. 2022, section 4.2.3."""
    parallel = ParallelConfig(pipeline=4, virtual_pipeline=2)
    assert in_flight(parallel, 0, 16) == pytest.approx(4 * (1 + 3 / (4 * 2)))


@settings(max_examples=25, deadline=None)
@given(
    step=st.sampled_from(list(SAVERS)),
    place=st.integers(0, 2),
    base=st.fixed_dictionaries(
        {
            "train__micro_batch": st.sampled_from([1, 4]),
            "parallel__pipeline": st.sampled_from([1, 2]),
            "optim__name": st.sampled_from(["adamw", "lamb", "sgd", "adafactor"]),
            "precision__name": st.sampled_from(["bf16", "fp32"]),
            "model__activation": st.sampled_from(["gelu", "swiglu"]),
            "data__sequence_length": st.sampled_from([128, 2048]),
        }
    ),
)
def test_no_saver_ever_costs_memory(step, place, base):
    key, values = step
    low, high = values[place % (len(values) - 1)], values[place % (len(values) - 1) + 1]
    assert total(**base | {key: high}) <= total(**base | {key: low})


@pytest.mark.parametrize("optimizer", ["adamw", "lamb", "sgd", "adafactor"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_each_stage_of_zero_keeps_less(optimizer, precision):
    """Of parameters, that is: the third stage gathers what it divides."""

    def kept(stage: int) -> float:
        engine = {"engine__name": "deepspeed", "engine__zero_stage": stage}
        changes = engine | {"optim__name": optimizer, "precision__name": precision}
        (only,) = memory_by_stage(finalize(pretrain(**SIZES | changes), world_size=8, vocab_size=None))
        return sum(only.terms[term].low for term in ("weights", "gradients", "masters", "moments"))

    found = [kept(stage) for stage in (1, 2, 3)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 1.5 * found[2]


@settings(max_examples=30, deadline=None)
@given(
    length=st.sampled_from([128, 512, 1024]),
    micro_batch=st.sampled_from([1, 2, 8]),
    recompute=st.sampled_from(["none", "selective", "full"]),
)
def test_activations_grow_with_tokens(length, micro_batch, recompute):
    def held(**more):
        sizes = {"data__sequence_length": length, "train__micro_batch": micro_batch, "model__recompute": recompute}
        config = finalize(pretrain(**SIZES | sizes | more), world_size=1, vocab_size=None)
        return memory_by_stage(config)[0].terms["activations"].low

    assert held(train__micro_batch=2 * micro_batch) == pytest.approx(2 * held(), rel=0.01)
    assert held(data__sequence_length=2 * length) == pytest.approx(2 * held(), rel=0.01)


@settings(max_examples=25, deadline=None)
@given(
    context=st.sampled_from([1, 2, 4, 8]),
    length=st.sampled_from([2048, 8192]),
    kv_heads=st.sampled_from([2, 4, 16]),
    recompute=st.sampled_from(["none", "selective", "full"]),
    sequence=st.booleans(),
    family=st.sampled_from(["gpt", "bert"]),
)
def test_activations_fall_with_context_ranks(context, length, kv_heads, recompute, sequence, family):
    """Not to half, as attention's result is kept as heads and as tokens, and key-value heads may be sent to several ranks."""
    grid = {"parallel__tensor": 1 + sequence, "parallel__sequence_parallel": sequence}
    sizes = {"data__sequence_length": length, "model__recompute": recompute, "model__position": "rotary"}
    kind = {"model__family": "bert", "objective__name": "mlm"} if family == "bert" else {"model__kv_heads": kv_heads}
    if family == "bert":
        del sizes["model__position"]

    def held(ranks: int) -> float:
        changes = SIZES | grid | sizes | kind | {"parallel__context": ranks}
        config = finalize(pretrain(**changes), world_size=32, vocab_size=None)
        return memory_by_stage(config)[0].terms["activations"].low

    if context * (1 + sequence) <= 16 // 2:
        assert 0.5 <= held(2 * context) / held(context) < 0.7
