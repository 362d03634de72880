"""The choice of device. What it redirects, and does not, is tested with the stand-in."""

import ctypes
import os
import subprocess
import sys
from unittest import mock

import pytest
import torch
import torch.distributed as dist

from dist_plm.core.errors import ConfigError
from dist_plm.distributed import cuda_shim
from dist_plm.distributed.device import Device, choose, make_deterministic, multiply_in_tf32
from dist_plm.models.electra import vocab_parallel_sample
from dist_plm.models.kernels.linear_loss import VocabRange
from dist_plm.spec.schema import PrecisionConfig
from dist_plm.train.startup.arithmetic import set_precision

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is present")


@without_cuda
@pytest.mark.parametrize("local_rank", [0, 3])
def test_cuda_where_there_is_none_is_refused(local_rank):
    with pytest.raises(ConfigError, match=r"cluster\.device=cuda, but .* CUDA.*: set cluster\.device=cpu, or auto"):
        choose("cuda", local_rank)


@pytest.mark.parametrize("requested", ["cuda", "auto"])
def test_more_ranks_than_cuda_devices_is_refused(requested):
    with (
        mock.patch("torch.cuda.is_available", return_value=True),
        mock.patch("torch.cuda.device_count", return_value=2),
        mock.patch("torch.cuda.set_device") as set_device,
        pytest.raises(
            ConfigError, match=r"local rank 2 has no CUDA device, this node shows 2: start at most 2 processes"
        ),
    ):
        choose(requested, 2)
    set_device.assert_not_called()


@pytest.fixture
def devices(monkeypatch):
    """So many CUDA devices seem to be there; tells which one was made current."""
    current = []

    def put(count):
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.device_count", lambda: count)
        monkeypatch.setattr("torch.cuda.set_device", current.append)
        monkeypatch.setattr(cuda_shim, "installed", lambda: False)
        return current

    for name in [name for name in os.environ if name.startswith(("SLURM_", "NCCL_", "CUDA_VISIBLE"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return put


@pytest.mark.parametrize(
    ("name", "value"),
    [("CUDA_VISIBLE_DEVICES", "3"), ("SLURM_GPUS_PER_TASK", "1"), ("NCCL_MULTI_RANK_GPU_ENABLE", "1")],
)
def test_a_process_that_sees_one_device_of_its_own_takes_it(devices, name, value):
    current = devices(1)
    os.environ[name] = value
    assert choose("cuda", 3).torch_device == torch.device("cuda", 0)
    assert current == [0]


def test_one_device_that_nobody_gave_to_each_is_not_enough_for_two(devices):
    current = devices(1)
    with pytest.raises(ConfigError, match="local rank 1 has no CUDA device"):
        choose("cuda", 1)
    assert current == []


def test_several_visible_devices_go_by_local_rank(devices):
    current = devices(4)
    os.environ["CUDA_VISIBLE_DEVICES"] = "4,5,6,7"
    choose("auto", 2)
    assert current == [2]


def test_deepspeed_is_told_the_device_and_memory_and_recorders_are_set_up(devices):
    devices(1)
    os.environ.pop("DS_ACCELERATOR", None)
    os.environ["TORCH_FR_BUFFER_SIZE"] = "17"
    choose("cuda", 0)
    assert os.environ["DS_ACCELERATOR"] == "cuda"
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert os.environ["TORCH_NCCL_DUMP_ON_TIMEOUT"] == "1"
    assert os.environ["TORCH_FR_BUFFER_SIZE"] == "17", "what the user sets stays"


def accelerator_beside_a_gpu(world):
    """As DeepSpeed sees a machine that has a GPU, of which the run does not make use."""
    os.environ.pop("DS_ACCELERATOR", None)
    choose("cpu", world.rank)
    return os.environ["DS_ACCELERATOR"]


def test_deepspeed_takes_no_gpu_where_the_cpu_is_asked_for(ranks):
    assert ranks.run(1, accelerator_beside_a_gpu) == ["cpu"]


def deterministic(world):
    make_deterministic(world.device)
    try:
        with pytest.raises(RuntimeError, match="deterministic"):
            torch.zeros(4).put_(torch.tensor([0, 0]), torch.ones(2))
        logits = torch.randn(3, 7)
        return vocab_parallel_sample(
            logits, torch.rand(3, dtype=torch.float64), VocabRange(world_group(), 0, 7, 7)
        ).shape
    finally:
        torch.use_deterministic_algorithms(False)


def world_group():
    group = dist.group.WORLD
    assert group is not None
    return group


def test_what_cannot_be_deterministic_raises_where_that_is_asked_for(ranks):
    assert ranks.run(1, deterministic) == [torch.Size([3])]


def choose_in_turn(world):
    del os.environ["CUDA_DEVICE_MAX_CONNECTIONS"]
    chosen = [choose("cpu", world.rank)]
    queues = [os.environ["CUDA_DEVICE_MAX_CONNECTIONS"]]
    os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] = "8"
    chosen.append(choose("cpu", world.rank))
    queues.append(os.environ["CUDA_DEVICE_MAX_CONNECTIONS"])
    os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] = "1"
    if not torch.cuda.is_available():
        chosen.append(choose("auto", world.rank))
    return chosen, queues


def test_cpu(ranks):
    for chosen, queues in ranks.run(2, choose_in_turn):
        assert set(chosen) == {Device(kind="cpu", torch_device=torch.device("cpu"), backend="gloo")}
        assert queues == ["1", "8"]


def choose_cuda_after_cpu(world):
    with pytest.raises(AssertionError, match="already stands in"):
        choose("cuda", 0)


def test_no_way_back_from_the_stand_in(ranks):
    ranks.run(1, choose_cuda_after_cpu)


def test_tf32_is_for_gpus_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    multiply_in_tf32(Device(kind="cpu", torch_device=torch.device("cpu"), backend="gloo"))
    assert asked == []
    gpu = Device(kind="cuda", torch_device=torch.device("cuda", 0), backend="nccl")
    multiply_in_tf32(gpu)
    set_precision(PrecisionConfig(name="fp32", tf32=True), gpu)
    set_precision(PrecisionConfig(name="fp32"), gpu)
    assert asked == ["high", "high"]


#: Prints how often the system gave pages to this process while it took 64 MiB eight times, before and after the choice.
_FAULTS = """
import os, resource, torch
from dist_plm.distributed.device import choose

def faults():
    torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

pages, before = 8 * 2**26 // os.sysconf("SC_PAGE_SIZE"), faults()
choose("cpu", 0)
print(before >= pages, faults() >= pages)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="malloc is not that of glibc")
@pytest.mark.parametrize(
    ("environ", "printed"),
    [
        pytest.param({}, "True False", id="kept"),
        pytest.param({"MALLOC_TRIM_THRESHOLD_": "131072"}, "True True", id="set"),
        pytest.param(
            {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}, "True True", marks=pytest.mark.slow, id="tuned"
        ),
    ],
)
def test_on_a_cpu_freed_memory_is_kept_unless_the_environment_says_otherwise(environ, printed):
    free = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "THP_"))}
    found = subprocess.run(
        [sys.executable, "-c", _FAULTS], env=free | environ, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == printed.split()
