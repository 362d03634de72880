import pytest
import torch
import torch.distributed as dist
from torch.nn import functional

from dist_plm.models.kernels.linear_loss import VocabRange
from dist_plm.models.layers.vocab_loss import vocab_parallel_argmax, vocab_parallel_loss
from dist_plm.spec.objectives.base import CROSS_ENTROPY, TokenLoss
from tests.ranks.pool import World

VOCAB, WIDTH = 13, 5  # 3 ranks of 5 columns: the last two columns pad


def case() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, VOCAB, generator=generator) * 5
    labels = torch.randint(0, VOCAB, (4, 6), generator=generator)
    labels[0, :3] = -1
    return logits, labels


def on_rank(world: World, size: int, token_loss: TokenLoss) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    logits, labels = case()
    padded = torch.full((4, 6, WIDTH * 3), 1e4)  # padding that would win, were it looked at
    padded[..., :VOCAB] = logits
    width = WIDTH * 3 // size
    first = world.rank * width
    part = padded[..., first : first + width].clone().requires_grad_()
    valid = max(0, min(VOCAB - first, width))
    group = dist.group.WORLD
    assert group is not None
    columns = VocabRange(group, first, valid, VOCAB)
    loss = vocab_parallel_loss(part, labels, columns, token_loss)
    (loss * torch.arange(1.0, 25.0).view(4, 6)).sum().backward()
    assert part.grad is not None
    return loss.detach(), part.grad, vocab_parallel_argmax(part.detach(), columns)


@pytest.mark.ranks
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("token_loss", [CROSS_ENTROPY, TokenLoss(label_smoothing=0.2, z_loss=0.01)])
def test_equals_cross_entropy_over_the_whole_vocabulary(ranks, size, token_loss):
    logits, labels = case()
    logits.requires_grad_()
    options = {"ignore_index": -1, "reduction": "none", "label_smoothing": token_loss.label_smoothing}
    expected = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), **options).view(4, 6)
    expected = expected + token_loss.z_loss * logits.logsumexp(-1).square() * (labels >= 0)
    (expected * torch.arange(1.0, 25.0).view(4, 6)).sum().backward()
    outcomes = ranks.run(size, on_rank, size, token_loss)
    gradient = torch.cat([outcome[1] for outcome in outcomes], dim=-1)
    for loss, _, best in outcomes:
        torch.testing.assert_close(loss, expected.detach())
        assert torch.equal(best, logits.argmax(-1))
    torch.testing.assert_close(gradient[..., :VOCAB], logits.grad)
    assert not gradient[..., VOCAB:].any()
