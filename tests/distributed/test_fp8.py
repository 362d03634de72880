"""A CPU computes in 8 bits; of GPUs the rule decides."""

import torch

from dist_plm.distributed.device import Device
from dist_plm.distributed.fp8 import check_fp8


def test_a_cpu_is_not_refused():
    check_fp8(Device(kind="cpu", torch_device=torch.device("cpu"), backend="gloo"))
