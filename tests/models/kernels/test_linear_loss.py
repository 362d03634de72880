"""The loss beside the plain formula of twice the precision, and what it holds of memory."""

from itertools import product

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional

from bench.encoders import PeakMemory
from dist_plm.models.kernels import linear_loss as module
from dist_plm.models.kernels.linear_loss import VocabRange, linear_loss, losses_and_gradient
from dist_plm.spec.objectives.base import CROSS_ENTROPY, TokenLoss
from tests.ranks.made_tensors import MadeTensors
from tests.ranks.pool import World

VOCAB, WIDTH, TOKENS, HIDDEN = 13, 5, 24, 8  # 3 ranks of 5 columns: the last two columns pad
#: Cross-entropy alone, and with both that is added to it.
LOSSES = [CROSS_ENTROPY, TokenLoss(label_smoothing=0.2, z_loss=0.01)]
CLOSE = {torch.float32: 1e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def case(dtype) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(TOKENS, HIDDEN, generator=draw), torch.randn(WIDTH * 3, HIDDEN, generator=draw)
    labels = torch.randint(0, VOCAB, (TOKENS,), generator=draw)
    labels[::5] = -1
    return [*(x.to(dtype) for x in (hidden, weight, torch.randn(WIDTH * 3, generator=draw))), labels]


def plain_loss(logits: torch.Tensor, labels: torch.Tensor, token_loss: TokenLoss) -> torch.Tensor:
    """The sum as PyTorch computes it, [N, V] logits."""
    smoothing = token_loss.label_smoothing
    loss = functional.cross_entropy(logits, labels, ignore_index=-1, reduction="sum", label_smoothing=smoothing)
    return loss + token_loss.z_loss * (logits.logsumexp(-1).square() * (labels >= 0)).sum()


def on_rank(world: World, size: int, dtype, chunk_bytes: int, token_loss: TokenLoss):
    hidden, weight, bias, labels = case(dtype)
    width = WIDTH * 3 // size
    own = slice(world.rank * width, (world.rank + 1) * width)
    inputs = [x.clone().requires_grad_() for x in (hidden, weight[own], bias[own])]
    group = dist.group.WORLD
    assert group is not None
    before, module.LOSS_CHUNK_BYTES = module.LOSS_CHUNK_BYTES, chunk_bytes
    try:
        valid = max(0, min(VOCAB - own.start, width))
        loss = linear_loss(*inputs, labels, VocabRange(group, own.start, valid, VOCAB), token_loss)
    finally:
        module.LOSS_CHUNK_BYTES = before
    return [loss.detach(), *torch.autograd.grad(0.5 * loss, inputs)]


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("chunk_bytes", [2**27, 150])
@pytest.mark.parametrize("token_loss", LOSSES, ids=["cross_entropy", "smoothed"])
def test_equals_the_plain_formula(ranks, size, dtype, chunk_bytes, token_loss):
    *inputs, labels = case(dtype)
    exact = [x.double().requires_grad_() for x in inputs]
    logits = functional.linear(*exact)[:, :VOCAB]
    expected = plain_loss(logits, labels, token_loss)
    theirs = torch.autograd.grad(0.5 * expected, exact)
    outcomes = ranks.run(size, on_rank, size, dtype, chunk_bytes, token_loss)
    close = {"rtol": CLOSE[dtype], "atol": 10 * CLOSE[dtype]}
    for loss, *_ in outcomes:
        torch.testing.assert_close(loss.double(), expected.detach(), **close)
    ours = [sum(o[1].double() for o in outcomes), *(torch.cat([o[i] for o in outcomes]).double() for i in (2, 3))]
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **close)
    assert not ours[1][VOCAB:].any()


def of_some(world: World, size: int) -> list[str]:
    """What is wrong where only some of hidden states, weight and bias learn, of each type and choice."""
    wrong = list[str]()
    for dtype, chosen in product(CLOSE, product([True, False], repeat=3)):
        *inputs, labels = case(dtype)
        width = WIDTH * 3 // size
        own, group = slice(world.rank * width, (world.rank + 1) * width), dist.group.WORLD
        assert group is not None
        columns = VocabRange(group, own.start, max(0, min(VOCAB - own.start, width)), VOCAB)
        told = []
        for learns in ([True] * 3, chosen):
            parts = [x.clone() for x in (inputs[0], inputs[1][own], inputs[2][own])]
            learned = [x.requires_grad_() for x, one in zip(parts, learns, strict=True) if one]
            with MadeTensors() as made:
                loss = linear_loss(*parts, labels, columns)
                if learned:
                    (0.5 * loss).backward()
            told.append((loss.detach(), [x.grad for x in parts], made.shapes))
        (loss, grads, _), (same, some, shapes) = told
        for name, grad, one, wanted in zip(("hidden", "weight", "bias"), grads, some, chosen, strict=True):
            assert grad is not None
            if one is not None if not wanted else one is None or not torch.equal(grad, one):
                wrong.append(f"{dtype} {chosen}: gradient of {name}")
            if not wanted and tuple(grad.shape) in shapes:
                wrong.append(f"{dtype} {chosen}: makes what is as large as {name}")
        if not torch.equal(loss, same):
            wrong.append(f"{dtype} {chosen}: loss")
    return wrong


@pytest.mark.parametrize("size", [1, 3])
def test_what_does_not_learn_has_no_gradient_to_be_made(ranks, size):
    assert ranks.run(size, of_some, size) == [[]] * size


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("ignored", [0, 3])
@pytest.mark.parametrize("below", [0.0, 60.0, 80.0, 110.0, 1000.0])
@pytest.mark.parametrize("token_loss", [*LOSSES, TokenLoss(label_smoothing=0.2), TokenLoss(z_loss=0.01)])
def test_labels_as_good_as_impossible(monkeypatch, token_loss, below, ignored, dtype):
    """Their probabilities are smaller than any number of fp32, their losses are not."""
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * 50 * 4)  # 4 rows
    scores, labels = 3 * torch.randn(10, 50), torch.randint(0, 50, (10,))
    scores[range(5), labels[:5]] -= below
    labels[:ignored] = -1
    scores = scores.to(dtype)
    exact = scores.double().requires_grad_()
    expected = plain_loss(exact, labels, token_loss)
    (theirs,) = torch.autograd.grad(expected, exact)
    columns = VocabRange(dist.ProcessGroup(0, 1), 0, 50, 50)
    weight = scores.t().clone().requires_grad_()
    loss = linear_loss(torch.eye(10, dtype=dtype), weight, None, labels, columns, token_loss)
    loss.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(weight.grad.t().double(), theirs, rtol=CLOSE[dtype], atol=CLOSE[dtype])
    if dtype == torch.float32:
        ours, losses = losses_and_gradient(scores, labels, columns, token_loss)
        torch.testing.assert_close(losses.sum().double(), expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=1e-6)
        assert not losses[:ignored].any()


@pytest.mark.parametrize("dtype", CLOSE)
def test_nothing_goes_over_a_whole_chunk_but_its_products(monkeypatch, dtype):
    """PyTorch's `scatter_` takes logits of 16 bits to fp32 and back, all of them for one column of each row."""
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * 50 * 4)  # 4 rows
    hidden, weight = (torch.randn(n, 8, dtype=dtype, requires_grad=True) for n in (40, 50))
    columns = VocabRange(dist.ProcessGroup(0, 1), 0, 50, 50)
    with torch.profiler.profile(record_shapes=True) as profile:
        linear_loss(hidden, weight, None, torch.randint(0, 50, (40,)), columns)
    seen = {event.name for event in profile.events() if [40, 50] in event.input_shapes}
    assert "aten::mm" in seen
    assert "aten::copy_" not in seen


def test_logits_are_never_whole(monkeypatch):
    """Memory of the loss: one chunk, and the gradients."""
    monkeypatch.setattr(module, "LOSS_CHUNK_BYTES", 2**18)
    hidden, weight = torch.randn(2048, 16, requires_grad=True), torch.randn(4096, 16, requires_grad=True)
    labels = torch.randint(0, 4096, (2048,))
    group = dist.ProcessGroup(0, 1)
    with PeakMemory() as memory:
        linear_loss(hidden, weight, None, labels, VocabRange(group, 0, 4096, 4096)).backward()
    logits = 4 * 2048 * 4096
    assert memory.peak < logits / 20
