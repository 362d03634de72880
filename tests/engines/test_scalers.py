"""The loss scale of either engine goes on where the other's stood."""

from unittest.mock import patch

import pytest

from tests.ranks.pool import World

pytestmark = pytest.mark.ranks

WINDOW = 4


def scalers(of: str):
    """What is saved and loaded, and what makes a step without overflow, or with one."""
    import torch
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler
    from megatron.core.optimizer.grad_scaler import DynamicGradScaler

    from dist_plm.engines.deepspeed.loss_scaling import DeepSpeedScaler
    from dist_plm.engines.megatron.optimizer import MegatronScaler

    if of == "megatron":
        inner = DynamicGradScaler(1024.0, 1.0, 2.0, 0.5, WINDOW, 2)
        return MegatronScaler(inner), lambda overflow: inner.update(torch.tensor([overflow]))
    inner = DynamicLossScaler(1024.0, WINDOW, 1.0, 2, False)
    scaler = DeepSpeedScaler(inner)
    return scaler, scaler.update


def handed_over(first: str, second: str, past: list[bool], future: list[bool]) -> list[list[float]]:
    """Loss scales over `future` (True overflows) of the first, after `past`, and of the second, from where the first was."""
    (saved, step), (loaded, go_on) = scalers(first), scalers(second)
    for overflow in past:
        step(overflow)
    loaded.load(saved.state())
    scales: list[list[float]] = [[], []]
    for overflow in future:
        for one, move, found in ((saved, step, scales[0]), (loaded, go_on, scales[1])):
            move(overflow)
            found.append(one.state()["loss_scale"])
    return scales


def pasts() -> list[list[bool]]:
    return [[True] * bad + [False] * good for bad in range(4) for good in (0, 1, WINDOW - 1, WINDOW, 2 * WINDOW + 1)]


def all_of(world: World, first: str, second: str, future: list[bool]) -> list[list[list[float]]]:
    # Who tells of it in the log, DeepSpeed asks its own view of the process group.
    with patch("deepspeed.comm.get_rank", return_value=world.rank):
        return [handed_over(first, second, past, future) for past in pasts()]


ENGINES = [(first, second) for first in ("megatron", "deepspeed") for second in ("megatron", "deepspeed")]


@pytest.mark.parametrize(("first", "second"), ENGINES)
def test_it_grows_as_it_would_have(ranks, first, second):
    (found,) = ranks.run(1, all_of, first, second, [False] * (WINDOW + 2))
    for past, (alone, after) in zip(pasts(), found, strict=True):
        assert alone[-1] > alone[0] / 2, past
        assert after == alone, past


@pytest.mark.parametrize(
    "future", [[False] * (2 * WINDOW + 2), [True, *[False] * WINDOW, True, True]], ids=["good", "bad"]
)
def test_both_engines_scale_alike(ranks, future):
    both = [ranks.run(1, all_of, engine, engine, future) for engine in ("megatron", "deepspeed")]
    assert both[0] == both[1]


@pytest.mark.parametrize(("first", "second"), ENGINES)
def test_it_backs_off_as_it_would_have(ranks, first, second):
    (found,) = ranks.run(1, all_of, first, second, [True] * 3)
    for past, (alone, after) in zip(pasts(), found, strict=True):
        assert after == alone, past
        assert after[-1] < after[0], past
