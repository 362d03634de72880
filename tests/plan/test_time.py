"""Time follows work, and a machine's limits."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_plm.distributed.grid import Grid
from dist_plm.plan.activations import Pass, exchanged_bytes
from dist_plm.plan.render import plan_text
from dist_plm.plan.timing.efficiency import DEFAULT
from dist_plm.plan.timing.kernel_costs import Machine
from dist_plm.plan.timing.network import Network
from dist_plm.plan.timing.step_time import run_seconds, step_time
from dist_plm.plan.verdict import make_plan
from dist_plm.spec.flops import step_flops, utilisation
from dist_plm.spec.gpus import GPUS, peaks_of
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema import PrecisionConfig
from tests.plan.test_memory import SIZES
from tests.spec.make import pretrain

A100 = GPUS["a100"]


def configured(world_size: int = 8, **changes):
    return finalize(pretrain(**SIZES | changes), world_size=world_size, vocab_size=None)


def test_twice_the_batch_is_nearly_twice_the_time():
    once, twice = (step_time(configured(train__global_batch=size), A100) for size in (512, 1024))
    assert 1.8 < twice.seconds / once.seconds <= 2.0
    assert twice.parts["compute"] == 2 * once.parts["compute"]


def test_no_step_is_faster_than_the_peak():
    for gpu in GPUS.values():
        config = configured(1, precision__name="fp16")
        flops = 6 * 8 * 12 * 1024**2 * config.train.global_batch * config.data.sequence_length
        assert step_time(config, gpu).seconds > flops / (gpu.peaks.fp16 * 1e12)


def test_a_small_product_reaches_less_of_the_peak_than_a_large_one():
    machine = Machine.of(A100, PrecisionConfig(name="bf16"))
    rates = [2 * size**3 / machine.product(size, size, size) for size in (128, 512, 8192)]
    assert rates == sorted(rates)
    assert A100.peaks.bf16 is not None
    assert 0.75 < rates[-1] / (A100.peaks.bf16 * 1e12) < 0.86


def test_recomputing_costs_a_forward_pass():
    none, full = (step_time(configured(model__recompute=kind), A100) for kind in ("none", "full"))
    assert 0.2 < full.parts["recompute"] / none.parts["compute"] < 0.4


def test_a_pipeline_waits_less_with_more_microbatches_and_chunks():
    def share(**changes):
        step = step_time(configured(parallel__pipeline=4, **changes), A100)
        return step.parts["bubble"] / step.seconds

    assert share(train__global_batch=256) < share(train__global_batch=32)
    assert share(parallel__virtual_pipeline=2, train__global_batch=256) < share(train__global_batch=256)


def test_tensor_parallelism_across_nodes_costs_more_than_within():
    inside, across = (
        step_time(configured(parallel__tensor=4, cluster__gpus_per_node=node), A100).parts["tensor"] for node in (8, 2)
    )
    assert across > 1.5 * inside


def test_overlap_hides_gradients():
    plain, overlapped = (
        step_time(configured(engine__overlap_grad_reduce=hides), A100).parts["data"] for hides in (False, True)
    )
    assert overlapped < plain


def test_a_run_is_its_steps():
    config = configured()
    assert run_seconds(config, A100) == config.train.steps * step_time(config, A100).seconds


def test_every_gpu_has_peaks():
    assert all(peaks_of(gpu.device) for gpu in GPUS.values())


@settings(max_examples=12, deadline=None)
@given(
    gpu=st.sampled_from(sorted(GPUS)),
    recompute=st.sampled_from(["none", "selective", "full"]),
    pipeline=st.sampled_from([1, 2, 4]),
    tensor=st.sampled_from([1, 2]),
)
def test_time_scales_with_tokens(gpu, recompute, pipeline, tensor):
    """Four times the samples take four times as long but for what a step takes once; twice the length nearly twice at least,
    where the host does not hold the GPU up."""
    grid = {"parallel__pipeline": pipeline, "parallel__tensor": tensor, "precision__name": "fp16"}

    def step(**more):
        sizes = {"train__global_batch": 512, "train__micro_batch": 8, "model__recompute": recompute}
        return step_time(configured(**grid | sizes | more), GPUS[gpu])

    assert 3.0 < step(train__global_batch=2048).seconds / step().seconds <= 4.0
    short, long = (step(data__sequence_length=length).parts["compute"] for length in (1024, 2048))
    assert long > 1.9 * short


def test_a_faster_gpu_or_network_is_never_slower():
    config = configured(parallel__tensor=2, parallel__pipeline=2, cluster__gpus_per_node=2)
    plain = step_time(config, A100).seconds
    for better in (replace(A100, sustained=0.9), replace(A100, memory_gb=3000), replace(A100, network_gbit=400)):
        assert step_time(config, better).seconds < plain
    for worse in ({"spread": 0.05}, {"bandwidth": 0.5}, {"attention": 0.3}, {"network": 0.4}, {"tile": 1e-5}):
        assert step_time(config, A100, efficiency=replace(DEFAULT, **worse)).seconds > plain


def test_what_is_frozen_is_not_computed_backward():
    whole = step_time(configured(), A100)
    half = step_time(configured(train__freeze=("embeddings", "layers.0-3")), A100)
    adapters = step_time(configured(model__lora={"rank": 8}), A100)
    assert half.parts["compute"] < 0.8 * whole.parts["compute"]
    assert half.parts["update"] < 0.6 * whole.parts["update"]
    assert 0.6 < adapters.parts["compute"] / whole.parts["compute"] < 0.9
    assert adapters.parts["data"] < 0.1 * whole.parts["data"]


@pytest.mark.parametrize(
    ("gpu", "changes", "words", "tflops"),
    [
        ("a100", {"precision__name": "bf16"}, "of the peak in 16 bits (", 312.0),
        ("a100", {"precision__name": "fp32"}, "of the peak in fp32 (", 19.5),
        ("a100", {"precision__name": "fp32", "precision__tf32": True}, "of the peak in TF32 (", 156.0),
        (
            "a100",
            {"precision__name": "bf16", "cluster__peak_tflops": 280.0},
            "of the peak of cluster.peak_tflops (",
            280.0,
        ),
        ("v100", {"precision__name": "fp16"}, "of the peak in 16 bits (", 125.0),
        ("v100", {"precision__name": "bf16"}, "of the peak in fp32, as this GPU multiplies no bf16 (", 15.7),
        ("v100", {"precision__name": "fp32", "precision__tf32": True}, "of the peak in fp32 (", 15.7),
    ],
)
def test_utilisation_is_of_the_peak_that_a_runs_own_is_of(gpu, changes, words, tflops):
    config = configured(**changes, cluster__gpu=gpu)
    plan = make_plan(config, 8)
    line = plan_text(plan, []).splitlines()[-1]
    flops = step_flops(config.model, config.objective, config.data.sequence_length, config.train.global_batch)
    assert words in line
    assert f" {utilisation(flops, plan.step.seconds, 8 * tflops):.0%} of" in line


@pytest.mark.parametrize(
    "changes",
    [
        {"train__freeze": ("embeddings", "layers")},
        {"train__freeze": ("embeddings", "layers.0-3")},
        {"model__lora": {"rank": 8}},
    ],
)
def test_what_has_no_gradients_is_no_utilisation(changes):
    """Utilisation stays about what it is of training all weights, as the passes that are not made take no time."""
    frozen, whole = (
        plan_text(make_plan(configured(**more, cluster__gpu="a100"), 8), []).splitlines()[-1] for more in (changes, {})
    )
    assert frozen.endswith(", no gradients of what is frozen)")
    assert whole.endswith(", all pairs of attention)")
    shares = [float(line.split("%")[0].rsplit(" ", 1)[1]) for line in (frozen, whole)]
    assert 0.7 < shares[0] / shares[1] < 1.1


def test_context_ranks_exchange_tokens_for_heads():
    """Twice a layer's forward pass: queries, keys and values, then the result; and as often backward."""
    sizes = {"data__sequence_length": 4096, "parallel__context": 4, "precision__reduce_in_fp32": False}
    config = configured(**sizes)
    (stack,) = config.model.stacks()
    one = Pass.of(config)
    assert exchanged_bytes(stack, one) == [2048 * 3 * 1024 * 2, 2048 * 1024 * 2]
    few_keys = configured(**sizes, model__kv_heads=2)
    assert exchanged_bytes(few_keys.model.stacks()[0], one) == [2048 * (16 + 2 * 4) * 64 * 2, 2048 * 1024 * 2]
    seconds, again = (
        step_time(configured(**sizes, model__recompute=recompute), A100).parts["context"]
        for recompute in ("selective", "full")
    )
    assert again == pytest.approx(1.5 * seconds)
    assert step_time(configured(data__sequence_length=4096), A100).parts["context"] == 0.0
    frozen = step_time(configured(**sizes, train__freeze=("embeddings", "layers.0-3")), A100).parts["context"]
    assert frozen == pytest.approx(0.75 * seconds)


def test_an_exchange_across_nodes_goes_by_each_ranks_own_share_of_the_network():
    def seconds(num_bytes: float, tensor: int, context: int) -> float:
        network = Network(Grid(data=1, tensor=tensor, pipeline=1, context=context), 300e9, 25e9, node=8)
        return network.exchange(num_bytes, "context") - network.exchange(0, "context")

    assert seconds(8e9, 1, 8) == pytest.approx(7e9 / 300e9)
    assert seconds(8e9, 8, 8) == pytest.approx(7e9 / 25e9)
    assert seconds(8e9, 4, 8) == pytest.approx(6e9 / 25e9)  # one of the seven others is on the same node
    assert seconds(8e9, 8, 1) == 0.0
