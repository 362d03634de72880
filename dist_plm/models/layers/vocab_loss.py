"""Cross-entropy over logits whose vocabulary is split over tensor ranks (Shoeybi et al. 2019, section 3).

Only sums over the vocabulary cross the network, never the logits. Columns that pad the vocabulary are cut off before
anything is computed: they neither enter the loss nor win.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dist_plm.models.kernels.linear_loss import VocabRange, vocab_range_of
from dist_plm.models.loss_sums import TermScores
from dist_plm.models.model_context import ModelContext


def score_tokens(logits: Tensor, labels: Tensor, shared: ModelContext, *, evaluate: bool) -> TermScores:
    """Sums over labels of the whole vocabulary, whose columns are split over tensor ranks.

    Args:
        logits: [..., V / P].
        labels: [...], negative where nothing is predicted.
        evaluate: whether to count the labels that are the most likely token.
    """
    columns = vocab_range_of(logits.shape[-1], shared)
    loss = vocab_parallel_loss(logits, labels, columns).sum()
    correct = None
    if evaluate:
        correct = (vocab_parallel_argmax(logits, columns) == labels).sum()
    return TermScores(loss, correct)


def vocab_parallel_loss(logits: Tensor, labels: Tensor, columns: VocabRange) -> Tensor:
    """Negative log-likelihood of each label, in fp32.

    Args:
        logits: [..., V / P], this rank's columns.
        labels: [...] token numbers within the whole vocabulary; a negative label has loss 0 and no gradient.
    Returns:
        [...] fp32.
    """
    return _VocabParallelLoss.apply(logits, labels, columns)


class _VocabParallelLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, columns: VocabRange) -> Tensor:
        group, first, valid = columns
        scores = logits[..., :valid].float()
        largest = scores.amax(dim=-1) if valid else scores.new_full(labels.shape, -torch.inf)
        if group.size() > 1:
            dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
        scores = scores - largest[..., None]
        local = labels - first
        mine = (local >= 0) & (local < valid)
        column = torch.where(mine, local, 0)
        target = scores.gather(-1, column[..., None])[..., 0] * mine if valid else torch.zeros_like(largest)
        exponentials = scores.exp_()
        sums = torch.stack([exponentials.sum(dim=-1), target])
        if group.size() > 1:
            dist.all_reduce(sums, group=group)
        ctx.save_for_backward(exponentials.div_(sums[0][..., None]), column, mine, labels)
        ctx.width, ctx.dtype = logits.shape[-1], logits.dtype
        return torch.where(labels >= 0, sums[0].log() - sums[1], 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        # The probabilities become the gradient in place: they are as large as the logits, and backward runs once.
        probabilities, column, mine, labels = ctx.saved_tensors
        valid = probabilities.shape[-1]
        if valid:
            probabilities.scatter_add_(-1, column[..., None], -mine[..., None].to(probabilities.dtype))
            probabilities.mul_((grads[0] * (labels >= 0))[..., None])
        if valid == ctx.width and probabilities.dtype == ctx.dtype:
            return probabilities, None, None
        result = probabilities.new_zeros(*labels.shape, ctx.width, dtype=ctx.dtype)
        result[..., :valid] = probabilities
        return result, None, None


@torch.no_grad()
def vocab_parallel_argmax(logits: Tensor, columns: VocabRange) -> Tensor:
    """The token with the largest logit over the whole vocabulary; the lowest token number wins a tie.

    Args:
        logits: [..., V / P], this rank's columns.
    Returns:
        [...] int64.
    """
    group, first, valid = columns
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
