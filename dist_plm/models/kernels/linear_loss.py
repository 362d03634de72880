"""Cross-entropy together with the product over the vocabulary, in chunks of tokens: the logits are never there whole.

The gradient is found with the loss, while a chunk's logits are at hand (Hsu et al. 2024, "Liger Kernel", section 3.2), and
takes their place. What is held is one chunk of logits, and the gradients of those of hidden states, weight and bias that learn.
"""

import importlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from dist_plm.models.kernels.linear import add_product, long_product, wide_linear, widened
from dist_plm.models.kernels.row_sums import buffer_of
from dist_plm.models.model_context import ModelContext
from dist_plm.spec.objectives.base import CROSS_ENTROPY, TokenLoss
from dist_plm.spec.pipeline import LOSS_CHUNK_BYTES, loss_chunk_rows

#: Of the rows of a chunk that the CPU turns into a gradient at once, in fp32: what caches of two cores hold.
BLOCK_BYTES = 2**22
#: Rows of a chunk that the CPU adds up at once.
_SUM_ROWS = 32
#: In fp16 gradients of single logits are kept so much larger: most are below its smallest number else.
_FP16_SCALE = 1024.0
#: Of a probability in fp32: a smaller one has fewer digits, or none.
_SMALLEST_SHARE = 1e-30


class VocabRange(NamedTuple):
    """Says which tokens this rank's columns stand for.

    Args:
        group: the ranks that the columns are split over.
        first: the token that column 0 stands for.
        valid: how many columns stand for tokens; may be 0.
        size: how many tokens there are, over all ranks.
    """

    group: dist.ProcessGroup
    first: int
    valid: int
    size: int


#: What looks at the logits [n, at least `valid`] of a chunk of tokens, before they become a gradient.
LookAtLogits = Callable[[slice, Tensor, VocabRange], None]


def vocab_range_of(width: int, shared: ModelContext) -> VocabRange:
    """Tells the columns of this rank, `width` of them."""
    first = shared.groups.coordinates.tensor * width
    return VocabRange(shared.groups.tensor, first, max(0, min(shared.vocab_size - first, width)), shared.vocab_size)


def linear_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    columns: VocabRange,
    token_loss: TokenLoss = CROSS_ENTROPY,
    look: LookAtLogits | None = None,
    factors: Tensor | None = None,
) -> Tensor:
    """Sums the losses of labels, [] fp32: their negative log-likelihoods, and what `token_loss` adds.

    Args:
        hidden: [N, H].
        weight: [V / P, H], this rank's rows.
        bias: [V / P] or None.
        labels: [N] token numbers within the whole vocabulary; a negative label has loss 0 and no gradient.
        look: called with each chunk's logits, one chunk after the other.
        factors: [N] fp32, how often each loss counts; None for once.
    """
    return _LinearLoss.apply(hidden, weight, bias, labels, columns, token_loss, look, factors)


@torch.no_grad()
def token_losses(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, columns: VocabRange) -> Tensor:
    """Gives the negative log-likelihood of each label, [N] fp32, without a gradient; arguments as of `linear_loss`."""
    hidden, (rows, offsets) = widened(hidden), _factors(weight, bias, columns)
    losses = [
        _into_gradient(
            wide_linear(hidden[chunk], rows, offsets), labels[chunk], columns, CROSS_ENTROPY, 1.0, wanted=False
        )
        for chunk in token_chunks(len(hidden), weight.shape[0])
    ]
    return torch.cat(losses) if losses else hidden.new_zeros((0,), dtype=torch.float32)


class _LinearLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        columns: VocabRange,
        token_loss: TokenLoss,
        look: LookAtLogits | None,
        factors: Tensor | None,
    ) -> Tensor:
        hidden_learns, weight_learns, bias_learns, *_ = ctx.needs_input_grad
        wanted = any(ctx.needs_input_grad)
        scale = _FP16_SCALE if hidden.dtype == torch.float16 else 1.0
        rows, offsets = _factors(weight, bias, columns)
        total: Tensor | None = None
        of_hidden = torch.empty_like(hidden) if hidden_learns else None
        of_weight = of_bias = None
        if weight_learns:
            of_weight = torch.empty(weight.shape, dtype=torch.float32, device=weight.device)
            of_weight[len(rows) if len(hidden) else 0 :].zero_()
        if bias is not None and bias_learns:
            of_bias = torch.zeros(bias.shape, dtype=torch.float32, device=bias.device)
        hidden = widened(hidden)
        for chunk in token_chunks(len(hidden), weight.shape[0]):
            logits = wide_linear(hidden[chunk], rows, offsets)
            if look is not None:
                look(chunk, logits, columns)
            losses = _into_gradient(logits, labels[chunk], columns, token_loss, scale, wanted=wanted)
            if factors is not None:
                losses = losses * factors[chunk]
                logits.mul_(factors[chunk, None])
            total = losses.sum() if total is None else total + losses.sum()
            gradient = logits
            if of_hidden is not None:
                long_product(gradient, rows, of_hidden[chunk])
            if of_weight is not None:
                add_product(of_weight[: len(rows)], gradient.t(), hidden[chunk], begins=chunk.start == 0)
            if of_bias is not None:
                # In parts: what is added up in another type is copied to it first.
                for part in gradient.split(len(gradient) if gradient.is_cuda else _SUM_ROWS):
                    of_bias[: len(rows)].add_(part.sum(0, dtype=torch.float32))
        if wanted:
            ctx.save_for_backward(of_hidden, of_weight, of_bias)
            ctx.weight, ctx.scale, ctx.bias_type = weight, scale, None if bias is None else bias.dtype
        return hidden.new_zeros((), dtype=torch.float32) if total is None else total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        of_hidden, of_weight, of_bias = ctx.saved_tensors
        factor = grads[0] / ctx.scale
        if of_weight is not None and (total := buffer_of(ctx.weight)) is not None:
            total.addcmul_(of_weight, factor)
            of_weight = None
        elif of_weight is not None:
            # In place: the gradient of the weight is as large as the weight, and backward runs once.
            of_weight = of_weight.mul_(factor).to(ctx.weight.dtype)
        of_bias = None if of_bias is None else (of_bias * factor).to(ctx.bias_type)
        of_hidden = None if of_hidden is None else (of_hidden * factor).to(of_hidden.dtype)
        return of_hidden, of_weight, of_bias, None, None, None, None, None


def _factors(weight: Tensor, bias: Tensor | None, columns: VocabRange) -> tuple[Tensor, Tensor | None]:
    """Gives what hidden states are multiplied by, in the type in which they are: once for all chunks."""
    # A GPU multiplies whole tiles: what pads the vocabulary stays, and has no part in the loss.
    kept = weight.shape[0] if weight.is_cuda else columns.valid
    return widened(weight[:kept]), None if bias is None else widened(bias[:kept])


def token_chunks(tokens: int, width: int) -> Iterator[slice]:
    """Cuts tokens evenly so that their logits, of `width` columns, are LOSS_CHUNK_BYTES at most."""
    step = loss_chunk_rows(tokens, width, LOSS_CHUNK_BYTES)
    for first in range(0, tokens, step):
        yield slice(first, min(first + step, tokens))


def _into_gradient(
    logits: Tensor, labels: Tensor, columns: VocabRange, token_loss: TokenLoss, scale: float, *, wanted: bool
) -> Tensor:
    """Turns logits [n, valid] in place into the gradient of the losses' sum, times `scale`, and gives the losses [n] fp32.

    On a GPU logits have columns for what pads the vocabulary as well, and stay where no gradient is wanted.
    """
    if logits.is_cuda:
        # Not before there are tensors on a GPU: a CPU needs no Triton.
        kernels = importlib.import_module("dist_plm.models.kernels.gpu.linear_loss_triton")
        return kernels.into_gradient(logits, labels, columns, token_loss, scale=scale, gradient=wanted)
    if columns.group.size() == 1:
        return _of_whole_rows(logits, labels, token_loss, scale)
    scores, losses = losses_and_gradient(logits.float(), labels, columns, token_loss)
    if scale != 1.0:
        scores.mul_(scale)
    if scores.data_ptr() != logits.data_ptr():
        logits.copy_(scores)
    return losses


def losses_and_gradient(
    scores: Tensor, labels: Tensor, columns: VocabRange, token_loss: TokenLoss
) -> tuple[Tensor, Tensor]:
    """Turns fp32 logits [n, valid] in place into the gradient of the losses' sum, and gives the losses [n] beside it.
    Collective over the ranks that split the vocabulary."""
    group, first, valid, size = columns
    smoothing, z_loss = token_loss.label_smoothing, token_loss.z_loss
    if group.size() == 1 and not scores.is_cuda:
        return scores, _of_whole_rows(scores, labels, token_loss)
    largest = scores.amax(dim=-1) if valid else scores.new_full(labels.shape, -torch.inf)
    if group.size() > 1:
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    local = labels - first
    mine = (local >= 0) & (local < valid)
    column = torch.where(mine, local, 0)[:, None]
    # What the label, and the average token, lie below the largest.
    told = [(scores.gather(-1, column)[:, 0] - largest) * mine if valid else torch.zeros_like(largest)]
    if smoothing:
        told.append((scores.sum(dim=-1) - valid * largest) / size if valid else torch.zeros_like(largest))
    scores.sub_(largest[:, None]).exp_()
    sums = torch.stack([scores.sum(dim=-1), *told])
    if group.size() > 1:
        dist.all_reduce(sums, group=group)
    scores.div_(sums[0][:, None])
    total, *told = sums
    log_z, counts = total.log(), labels >= 0
    losses = log_z - (1.0 - smoothing) * told[0] if smoothing else log_z - told[0]
    if smoothing:
        losses -= smoothing * told[1]
    factor = counts
    if z_loss:
        log_z = log_z + largest
        losses += z_loss * log_z.square()
        factor = counts * (1.0 + 2.0 * z_loss * log_z)
    # Rows without a label have no gradient.
    scores.mul_(factor[:, None])
    if valid:
        scores.scatter_add_(-1, column, (mine & counts)[:, None].to(scores.dtype) * (smoothing - 1.0))
    if smoothing:
        scores.sub_(counts[:, None] * (smoothing / size))
    return scores, torch.where(counts, losses, 0.0)


def _of_whole_rows(logits: Tensor, labels: Tensor, token_loss: TokenLoss, scale: float = 1.0) -> Tensor:
    """Turns logits [n, V] in place into the gradient of the losses' sum, times `scale`, and gives the losses [n] fp32, on a CPU
    where a rank has all columns: in few passes over a block of rows, and with little besides."""
    smoothing, z_loss = token_loss.label_smoothing, token_loss.z_loss
    size, step = logits.shape[-1], max(1, BLOCK_BYTES // (4 * logits.shape[-1]))
    counts, column = (labels >= 0)[:, None], labels.clamp(min=0)[:, None]
    own = logits.gather(-1, column).float()
    largest, share, log_share, mean = torch.empty(4, len(labels), 1).unbind()
    in_place = logits.dtype == torch.float32
    known = type(logits) is Tensor  # the tensors of a rehearsal have shapes and no values
    factor = counts.float() if z_loss else counts
    scaled = bool(z_loss) or not known or not counts.numpy().all()
    wide = None if in_place else logits.new_empty(min(step, len(labels)), size, dtype=torch.float32)
    for first in range(0, len(labels), step):
        block = slice(first, first + step)
        rows, shares = logits[block], share[block]
        scores = rows if wide is None else wide[: len(rows)].copy_(rows)
        if in_place:
            torch.amax(rows, -1, keepdim=True, out=largest[block])
        if smoothing:
            torch.mean(scores, -1, keepdim=True, out=mean[block])
        torch.ops.aten._softmax.out(scores, -1, False, out=scores)
        torch.gather(scores, -1, column[block], out=shares)
        if not known or shares.numpy().min() > _SMALLEST_SHARE:
            torch.log(shares, out=log_share[block])
        else:  # the largest share has a logarithm, and how far the label's score lies below its score is known
            top = largest[block] if in_place else rows.amax(-1, keepdim=True)
            log_share[block] = own[block] - top + scores.amax(-1, keepdim=True).log()
        if z_loss:
            factor[block] *= 1.0 + 2.0 * z_loss * (own[block] - log_share[block])
        if scaled:
            scores.mul_(factor[block])
        if smoothing:
            scores.sub_(counts[block] * (smoothing / size))
        if scale != 1.0:
            scores.mul_(scale)
        if not in_place:
            rows.copy_(scores)
    at_label = (share * factor if z_loss else share) + (smoothing - 1.0)
    if smoothing:
        at_label -= smoothing / size
    # Not by `scatter_`, which takes 16-bit logits to fp32 and back, all of them.
    there = (torch.arange(len(labels), device=labels.device), column[:, 0])
    logits.index_put_(there, (at_label * counts * scale).to(logits.dtype)[:, 0])
    losses = -log_share
    if smoothing:
        losses += smoothing * (own - mean)
    if z_loss:
        losses += z_loss * (own - log_share).square()
    return torch.where(counts, losses, 0.0)[:, 0]
