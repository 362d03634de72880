"""What a step costs besides its time: waits of the host, kernels to launch, memory; on the CPU counted as operations and live
tensors."""

import gc
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.encoders import PeakMemory
from bench.host_syncs import of_step
from tests.gpu.conftest import cuda
from tests.gpu.test_training import ENGINES, FAMILIES, OPTIMIZERS
from tests.ranks.pool import World
from tests.ranks.test_encoders import DROPOUT
from tests.ranks.training import build, configure, rank_batches

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from launches import Launches  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.ranks

MOST_WAITS = 2
#: What the profiler calls a launch.
LAUNCHES = {"cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx"}
_WAIT = "synchronizing CUDA operation"


def waits_of_step(world: World, config: Any) -> tuple[int, str]:
    engine, groups = build(world, config)
    for step in range(2):
        engine.train_step(rank_batches(config, groups, step), 1e-3)
    batches = rank_batches(config, groups, 2)
    if world.device.kind == "cpu":
        found = of_step(lambda: engine.train_step(batches, 1e-3), batches)
        return len(found), str(found)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            engine.train_step(batches, 1e-3)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    # Under ZeRO-3 DeepSpeed itself waits for the stream of each bucket of gradients.
    theirs = torch.cuda.streams.__file__ if config.engine.zero_stage == 3 else None
    found = [one for one in told if _WAIT in str(one.message) and one.filename != theirs]
    places = [f"{one.filename}:{one.lineno}" for one in found]
    return len(places), "\n".join(places)


def launches_of_step(world: World, config: Any) -> int:
    engine, groups = build(world, config)
    for step in range(2):
        engine.train_step(rank_batches(config, groups, step), 1e-3)
    batches = rank_batches(config, groups, 2)
    if world.device.kind == "cpu":
        with Launches() as found:
            engine.train_step(batches, 1e-3)
        return found.counts.total()
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        engine.train_step(batches, 1e-3)
        torch.cuda.synchronize()
    return sum(event.name in LAUNCHES for event in profile.events() or ())


def memory_of_steps(world: World, config: Any) -> list[int]:
    """Bytes that live tensors hold after each step, but for what was there before."""
    engine, groups = build(world, config)
    for step in range(2):
        engine.train_step(rank_batches(config, groups, step), 1e-3)
    found = []
    with PeakMemory() as here:
        for step in range(6):
            engine.train_step(rank_batches(config, groups, 2 + step), 1e-3)
            gc.collect()
            found.append(here.live if world.device.kind == "cpu" else torch.cuda.memory_allocated())
    return found


def kernels_of_attention(world: World, dtype: torch.dtype, case: str) -> list[str]:
    """Names of the kernels that attention without dropout takes."""
    device = world.device.torch_device
    query, key, value = (torch.randn(4, 16, 512, 64, device=device, dtype=dtype, requires_grad=True) for _ in range(3))
    bias = torch.randn(4, 1, 1, 512, device=device, dtype=dtype) if case == "padding" else None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, is_causal=case == "causal"
        )
        out.sum().backward()
        torch.cuda.synchronize()
    return [event.name for event in profile.events() or ()]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("optim", ["", *OPTIMIZERS])
@pytest.mark.parametrize("device", [cuda()], indirect=True)
def test_waits(on, tmp_path, engine, optim):
    """Counted on the CPU in tests/ranks/test_host_syncs.py."""
    settings = {
        **FAMILIES["bert"],
        **DROPOUT,
        **ENGINES[engine],
        **OPTIMIZERS.get(optim, {}),
        "run__root": str(tmp_path),
    }
    ((count, places),) = on(1, waits_of_step, configure(1, **settings))
    assert count <= MOST_WAITS, places


@pytest.mark.parametrize("family", ["gpt", "bert", "electra", "t5"])
def test_waits_of_families(on, family):
    ((count, places),) = on(1, waits_of_step, configure(1, **FAMILIES[family], **DROPOUT))
    assert count <= MOST_WAITS, places


@pytest.mark.parametrize("family", ["gpt", "bert", "t5"])
def test_dropout_launches_little_more(on, family):
    """Once it took fifty times as many operations as all else together."""
    plain, dropped = (on(1, launches_of_step, configure(1, **FAMILIES[family], **more))[0] for more in ({}, DROPOUT))
    assert plain > 100
    assert dropped < 1.6 * plain, (plain, dropped)


@pytest.mark.parametrize(("engine", "family"), [("megatron", "bert"), ("megatron", "gpt"), ("deepspeed_2", "bert")])
def test_memory_does_not_grow(on, tmp_path, engine, family):
    settings = {**FAMILIES[family], **DROPOUT, **ENGINES[engine], "run__root": str(tmp_path)}
    (held,) = on(1, memory_of_steps, configure(1, **settings))
    assert max(held[2:]) <= max(held[:2]) + 4096, held


@pytest.mark.parametrize("case", ["plain", "causal", "padding"])
@pytest.mark.parametrize("device", [cuda()], indirect=True)
def test_attention_without_dropout_is_fused(on, case):
    (names,) = on(1, kernels_of_attention, torch.bfloat16, case)
    assert any(word in name.lower() for name in names for word in ("flash", "fmha", "cudnn", "cutlass")), names
    assert not any("softmax" in name.lower() for name in names), names
