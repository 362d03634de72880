"""Cross-entropy over logits whose vocabulary is split over tensor ranks (Shoeybi et al. 2019, section 3).

Only sums over the vocabulary cross the network, never the logits. Columns that pad the vocabulary are cut off before
anything is computed: they neither enter the loss nor win.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dist_plm.models.kernels.linear_loss import VocabRange, losses_and_gradient, vocab_range_of
from dist_plm.models.loss_sums import TermScores
from dist_plm.models.model_context import ModelContext
from dist_plm.spec.objectives.base import CROSS_ENTROPY, TokenLoss


def score_tokens(logits: Tensor, labels: Tensor, shared: ModelContext, *, evaluate: bool) -> TermScores:
    """Sums over labels of the whole vocabulary, whose columns are split over tensor ranks.

    Args:
        logits: [..., V / P].
        labels: [...], negative where nothing is predicted.
        evaluate: whether to measure the cross-entropy alone, and to count the labels that are the most likely token.
    """
    columns = vocab_range_of(logits.shape[-1], shared)
    if not evaluate:
        return TermScores(vocab_parallel_loss(logits, labels, columns, shared.token_loss).sum(), None)
    loss = vocab_parallel_loss(logits, labels, columns).sum()
    return TermScores(loss, (vocab_parallel_argmax(logits, columns) == labels).sum())


def vocab_parallel_loss(
    logits: Tensor, labels: Tensor, columns: VocabRange, token_loss: TokenLoss = CROSS_ENTROPY
) -> Tensor:
    """Loss of each label, in fp32: its negative log-likelihood, and what `token_loss` adds.

    Args:
        logits: [..., V / P], this rank's columns.
        labels: [...] token numbers within the whole vocabulary; a negative label has loss 0 and no gradient.
    Returns:
        [...] fp32.
    """
    return _VocabParallelLoss.apply(logits, labels, columns, token_loss)


class _VocabParallelLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, columns: VocabRange, token_loss: TokenLoss) -> Tensor:
        scores = logits[..., : columns.valid].to(torch.float32, copy=True).flatten(0, -2)
        gradient, losses = losses_and_gradient(scores, labels.flatten(), columns, token_loss)
        ctx.save_for_backward(gradient)
        ctx.shape, ctx.dtype = logits.shape, logits.dtype
        return losses.view(labels.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        # In place: the gradient is as large as the logits, and backward runs once.
        (gradient,) = ctx.saved_tensors
        gradient.mul_(grads[0].flatten()[:, None])
        valid, width = gradient.shape[-1], ctx.shape[-1]
        if valid == width and gradient.dtype == ctx.dtype:
            return gradient.view(ctx.shape), None, None, None
        result = gradient.new_zeros(len(gradient), width, dtype=ctx.dtype)
        result[:, :valid] = gradient
        return result.view(ctx.shape), None, None, None


@torch.no_grad()
def vocab_parallel_argmax(logits: Tensor, columns: VocabRange) -> Tensor:
    """The token with the largest logit over the whole vocabulary; the lowest token number wins a tie.

    Args:
        logits: [..., V / P], this rank's columns.
    Returns:
        [...] int64.
    """
    group, first, valid, _ = columns
    if valid:
        best, column = logits[..., :valid].float().max(dim=-1)
        token = column + first
    else:
        best = logits.new_full(logits.shape[:-1], -torch.inf, dtype=torch.float32)
        token = torch.zeros_like(best, dtype=torch.int64)
    if group.size() == 1:
        return token
    largest = best.clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    candidate = torch.where(best == largest, token, torch.iinfo(torch.int64).max)
    dist.all_reduce(candidate, op=dist.ReduceOp.MIN, group=group)
    return candidate
