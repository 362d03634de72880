"""What a run has of a device, and how long it waits."""

from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta

import pytest
import torch

from dist_plm.core.errors import ConfigError
from dist_plm.distributed.device import Device
from dist_plm.monitor.watchdog import HangLimits
from dist_plm.spec.schema import PretrainConfig
from dist_plm.train.startup.device_memory import advice_on_memory, memory_gib
from dist_plm.train.startup.start import collective_timeout, hang_limits
from tests.ranks.training import configure

GPU = Device(kind="cuda", torch_device=torch.device("cuda", 0), backend="nccl")
CPU = Device(kind="cpu", torch_device=torch.device("cpu"), backend="gloo")
#: As PyTorch says it of a GPU.
FULL = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.5 GiB is free. "
    "Process 1 has 77 GiB memory in use."
)


def advice_of(config: PretrainConfig) -> AbstractContextManager[None]:
    return advice_on_memory(config.model, config.parallel, config.engine, config.train.micro_batch)


def timeout_of(config: PretrainConfig, device: Device) -> timedelta:
    return collective_timeout(config.train, config.cluster.timeout_minutes, device)


def limits_of(config: PretrainConfig, device: Device) -> HangLimits:
    return hang_limits(config.train, timeout_of(config, device), device)


def test_a_gpu_that_is_full_is_a_refusal_with_advice():
    config = configure(2, train__micro_batch=4, engine__zero_stage=1)
    with pytest.raises(ConfigError) as told, advice_of(config):
        raise torch.OutOfMemoryError(FULL)
    said = str(told.value)
    assert "does not fit in the GPU's memory (CUDA out of memory. Tried to allocate 2.00 GiB)" in said
    for remedy in (
        "train.micro_batch=2",
        "model.recompute=selective",
        "a higher engine.zero_stage",
        "parallel.tensor=2",
    ):
        assert remedy in said


def test_advice_names_nothing_that_is_done_already():
    config = configure(1, train__micro_batch=1, model__recompute="full")
    with pytest.raises(ConfigError) as told, advice_of(config):
        raise torch.OutOfMemoryError(FULL)
    assert not any(word in str(told.value) for word in ("micro_batch", "recompute", "zero_stage"))


def test_a_machine_that_has_not_the_memory_is_one_too():
    with pytest.raises(ConfigError, match="does not fit in the memory of this machine"), advice_of(configure(1)):
        torch.empty(2**59)


def test_other_faults_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shape"), advice_of(configure(1)):
        torch.zeros(2).view(3)


def test_a_cpu_has_no_memory_to_tell_of():
    assert memory_gib() is None


@pytest.mark.parametrize("minutes", [10.0, 30.0, 600.0])
@pytest.mark.parametrize("typical_seconds", [0.1, 60.0, 86400.0])
def test_the_watchdog_speaks_before_nccl_ends_the_process(minutes, typical_seconds):
    config = configure(1, cluster__timeout_minutes=minutes)
    timeout = timeout_of(config, GPU).total_seconds()
    limits = limits_of(config, GPU)
    for patient in (False, True):
        assert limits.seconds(typical_seconds, patient=patient) + limits.report_seconds < timeout
    assert limits.seconds(0.1, patient=True) == 60 * config.train.hang_patience_minutes
    assert timeout >= 60 * minutes


def test_without_a_watchdog_and_on_gloo_the_timeout_is_as_set():
    config = configure(1, cluster__timeout_minutes=7.0)
    assert timeout_of(config, CPU).total_seconds() == 420
    assert limits_of(config, CPU).seconds(1e6, patient=False) == 2e7
    off = replace(config, train=replace(config.train, hang_factor=0))
    assert timeout_of(off, GPU).total_seconds() == 420
