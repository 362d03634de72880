"""The choice of device. What it redirects, and does not, is tested with the stand-in."""

import os
from unittest import mock

import pytest
import torch

from dist_plm.core.errors import ConfigError
from dist_plm.distributed.device import Device, choose

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
