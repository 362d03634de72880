"""Tells which tokens may see which, once a microbatch: as what is added to their scores, where that is small, or on a GPU as
the range of keys that each query sees."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dist_plm.models.kernels.attention import QUERY_BLOCK, KeyRanges
from dist_plm.models.kernels.gpu.attention_tiles import has_tiles
from dist_plm.models.model_context import ModelContext

if TYPE_CHECKING:
    from dist_plm.models.sequence_context import SequenceContext

#: Of more numbers no mask is held whole: each layer makes it for a block of query rows at a time. On a GPU blocks cost
#: launches, and the gradient of relative positions is added up once a block.
WHOLE_NUMBERS = {"cpu": 2**26, "cuda": 2**28}
#: Longer sequences go by blocks under a window, as most of a whole mask would be empty.
WHOLE_WINDOW = 512
#: Where our kernel is told ranges of keys. Of a device that is not in here masks are biases.
RANGED_DEVICES = {"cuda"}
#: From this length on, queries that see part of the keys pay even without dropout, for which PyTorch has a kernel.
LONG = 1024
#: Larger heads go by PyTorch's kernel with a bias, where there is no dropout.
RANGED_HEADS = 128
_NO_END = 2**31 - 1


def with_masks(context: "SequenceContext", shared: ModelContext, length: int) -> "SequenceContext":
    """Completes the context with the keys that queries see, `ranges`, or with what all its layers add to their scores, `bias`,
    unless that is nothing or too large.

    Args:
        length: of the sequence that attends to itself. Of padding alone (all that another sequence is told of this one)
            either has one row for all queries.
    """
    if context.cache is not None:
        return _behind(context, shared, length)
    if takes_ranges(context, shared, length):
        places = torch.arange(length, device=shared.device)
        bias = None if context.relative is None else context.relative(places, places)
        return replace(context, bias=bias, ranges=ranges_of(context, places))
    of_tokens = context.documents if context.seen_from is None else context.seen_from
    of_keys = not (context.causal or context.window or of_tokens is not None or context.relative)
    numbers = length if of_keys else length * length
    boundary = context.lengths if of_tokens is None else of_tokens
    if boundary is not None:
        numbers *= len(boundary)
    if context.relative is not None:
        numbers *= len(shared.attending_heads)
    if (
        context.is_plain
        or numbers > WHOLE_NUMBERS[shared.device.type]
        or (context.window > 0 and length > WHOLE_WINDOW)
    ):
        return replace(context, bias=None, ranges=None)
    columns = torch.arange(length, device=shared.device)
    bias = bias_of(context, columns[:1] if of_keys else columns, columns, shared.dtype)
    return replace(context, bias=bias, ranges=None)


def takes_ranges(context: "SequenceContext", shared: ModelContext, length: int) -> bool:
    """Decides whether all layers tell our kernel which keys each query sees by ranges, and add no mask to the scores."""
    model, window = shared.model, context.window
    of_tokens = context.documents is not None or context.seen_from is not None
    if window == 0 and not of_tokens and context.lengths is None:
        return False
    assert model.head_size is not None
    if shared.device.type not in RANGED_DEVICES or model.head_size > RANGED_HEADS:
        return False
    if not has_tiles(model.head_size, shared.dtype.itemsize, shared.device):
        return False
    drops = model.attention_dropout > 0.0 and torch.is_grad_enabled()  # evaluation and generation drop nothing
    if not drops and (length < LONG or not (window > 0 or of_tokens)):
        return False  # PyTorch's kernel with a bias is faster
    if window > 0 and context.global_tokens > 0:
        return False  # far tokens see these, and near ones
    if window % 2 == 1 and length > QUERY_BLOCK and drops:
        return False  # the kernel draws for pairs of columns that begin at even ones
    relative = len(shared.attending_heads) * length**2 if context.relative is not None else 0
    return relative <= WHOLE_NUMBERS[shared.device.type]


def ranges_of(context: "SequenceContext", places: Tensor) -> KeyRanges:
    """Tells which keys the queries at `places` [S] = 0, 1, … of a sequence see; padding alone hides the same from all."""
    lengths = None if context.lengths is None else context.lengths[:, None]
    if not (context.causal or context.window or context.seen_from is not None or context.documents is not None):
        assert lengths is not None
        seen = torch.where(places < lengths, _NO_END, 0)
        return KeyRanges(_stacked(0 * lengths, lengths, 0 * lengths), _stacked(0 * seen, seen))
    low, high, origin = (torch.full_like(places, number)[None] for number in (0, len(places), 0))
    if context.causal:
        high = places[None] + 1
    if context.seen_from is not None:
        high = high.minimum(_behind_all(context.seen_from, places))
    if context.window > 0:
        low, high = (places - context.window).clamp(min=0)[None], high.minimum(places + context.window + 1)
        origin = (places // QUERY_BLOCK * QUERY_BLOCK - context.window).clamp(min=0)[None]
    if context.documents is not None:
        documents = context.documents.contiguous()
        low = low.maximum(torch.searchsorted(documents, documents))
        high = high.minimum(torch.searchsorted(documents, documents, right=True))
    if lengths is not None:
        of_text = high.minimum(lengths)
        beyond = context.window > 0 or context.documents is not None  # see `_allowed`
        high = torch.where(places < lengths, of_text, high) if beyond else of_text
    # Neither begin nor end of a range ever falls from one query to the next.
    return KeyRanges(_stacked(low, high, origin), _stacked(_behind_all(high, places), _behind_all(low, places)))


def _behind_all(numbers: Tensor, places: Tensor) -> Tensor:
    """Counts how many of the ascending numbers [B, S] are at most each place [S], [B, S]."""
    places = places.to(numbers.dtype).expand(len(numbers), -1).contiguous()
    return torch.searchsorted(numbers.contiguous(), places, right=True)


def _stacked(*numbers: Tensor) -> Tensor:
    return torch.stack(torch.broadcast_tensors(*numbers)).int()


def _behind(context: "SequenceContext", shared: ModelContext, length: int) -> "SequenceContext":
    """Does the same for tokens behind those of a cache, whose masks are always held whole."""
    assert context.cache is not None
    past = context.cache.length
    if context.is_plain and (past == 0 or length == 1):
        # One token sees all that there are; the kernel would take it for the first.
        return replace(context, bias=None, causal=past == 0 and length > 1)
    columns = torch.arange(past + length, device=shared.device)
    return replace(context, bias=bias_of(context, columns[past:], columns, shared.dtype))


def bias_of(context: "SequenceContext", rows: Tensor, columns: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Tells what is added to the scores of query rows [Q] and keys [K], [1 or B, 1 or A, Q, K]: -inf where nothing is seen."""
    allowed = _allowed(context, rows, columns)
    if context.relative is None:
        if allowed is None:
            return None
        return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, -math.inf)
    bias = context.relative(rows, columns)
    return bias if allowed is None else bias.masked_fill(~allowed, -math.inf)


def _allowed(context: "SequenceContext", rows: Tensor, columns: Tensor) -> Tensor | None:
    """Where they may see each other, bool [1 or B, 1, Q, K]; None for everywhere."""
    masks = []
    if context.causal:
        masks.append((rows[:, None] >= columns)[None, None])
    if context.seen_from is not None:
        masks.append((rows[:, None] >= context.seen_from[:, None, columns])[:, None])
    if context.window > 0:
        near = (rows[:, None] - columns).abs() <= context.window
        masks.append((near | _are_global(context, rows, columns))[:, None])
    if context.documents is not None:
        masks.append((context.documents[:, rows, None] == context.documents[:, None, columns])[:, None])
    if context.lengths is not None:
        lengths = context.lengths[:, None, None]
        filled = columns < lengths
        if context.window > 0 or context.documents is not None:
            # Padding may be far from all tokens and of no document: a row that saw nothing would be NaN.
            filled = filled | (rows[:, None] >= lengths)
        masks.append(filled[:, None])
    mask = None
    for more in masks:
        mask = more if mask is None else mask & more
    return mask


def _are_global(context: "SequenceContext", rows: Tensor, columns: Tensor) -> Tensor:
    """Where either is one of the first tokens of its row, bool [1 or B, Q, K]. Behind a cache a row is its last document, and
    what stands before that its padding."""
    rows, columns = rows[None, :, None], columns[None, None]
    if context.cache is not None and context.documents is not None:
        starts = (context.documents < context.documents[:, -1:]).sum(1)[:, None, None]
        rows, columns = rows - starts, columns - starts
    return (rows < context.global_tokens) | (columns < context.global_tokens)
