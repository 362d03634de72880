"""Whoever multiplies in 16 bits on a chip that is slow at it is told, once a run, with the remedy."""

import logging

import pytest
import torch

from dist_plm.train.startup import arithmetic
from dist_plm.train.startup.arithmetic import SLOW, tell_if_slow


@pytest.fixture
def seconds(monkeypatch):
    taken = {torch.float32: 1.0, torch.bfloat16: 6.4}
    asked = []
    monkeypatch.setattr(arithmetic, "_seconds", lambda dtype: (asked.append(dtype), taken[dtype])[1])
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
    assert asked == [torch.bfloat16, torch.float32]
    assert len(caplog.records) == 2


def test_nothing_is_said_of_a_chip_that_has_them(tmp_path, seconds, caplog):
    taken, _ = seconds
    taken[torch.bfloat16] = SLOW - 0.1
    tell_if_slow("bf16", torch.bfloat16, cache_dir=tmp_path)
    assert not caplog.records


def test_seconds_of_a_product_are_measured():
    assert 0.0 < arithmetic._seconds(torch.float32) < 10.0
