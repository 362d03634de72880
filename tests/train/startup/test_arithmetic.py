"""Whoever multiplies in 16 bits on a chip that is slow at it is told, once a run, with the remedy."""

import logging

import pytest
import torch

from dist_plm.distributed import cpu_products
from dist_plm.train.startup.arithmetic import SLOW, tell_if_slow


@pytest.fixture
def seconds(monkeypatch):
    taken = {torch.bfloat16: (1.0, 6.4)}
    asked = []
    monkeypatch.setattr(cpu_products, "_measured_16", lambda dtype: (asked.append(dtype), taken[dtype])[1])
    return taken, asked


def test_slow_products_are_told_with_the_remedy(tmp_path, seconds, caplog):
    tell_if_slow("bf16", torch.bfloat16, cache_dir=tmp_path)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "precision=bf16: products take 6.4 times as long as in fp32 on this CPU: precision=fp32 is faster here"
    )


def test_a_machine_is_measured_once(tmp_path, seconds, caplog):
    _, asked = seconds
    for _ in range(2):
        tell_if_slow("bf16", torch.bfloat16, cache_dir=tmp_path)
    assert asked == [torch.bfloat16]
    assert len(caplog.records) == 2


def test_nothing_is_said_of_a_chip_that_has_them(tmp_path, seconds, caplog):
    taken, _ = seconds
    taken[torch.bfloat16] = 1.0, SLOW - 0.1
    tell_if_slow("bf16", torch.bfloat16, cache_dir=tmp_path)
    assert not caplog.records
