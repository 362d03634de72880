"""Tells which tokens may see which, as what is added to their scores: made once a microbatch, where that is small."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dist_plm.models.model_context import ModelContext

if TYPE_CHECKING:
    from dist_plm.models.sequence_context import SequenceContext

#: Of more numbers no mask is held whole: each layer makes it for a block of query rows at a time. On a GPU blocks cost
#: launches, and the gradient of relative positions is added up once a block.
WHOLE_NUMBERS = {"cpu": 2**26, "cuda": 2**28}
#: Longer sequences go by blocks under a window, as most of a whole mask would be empty.
WHOLE_WINDOW = 512


def with_bias(context: "SequenceContext", shared: ModelContext, length: int) -> "SequenceContext":
    """Completes the context with what all its layers add to their scores, `bias`, unless that is nothing or too large.

    Args:
        length: of the sequence that attends to itself. Of padding alone (all that another sequence is told of this one) the
            bias has one row for all queries.
    """
    if context.cache is not None:
        return _behind(context, shared, length)
    of_tokens = context.documents if context.seen_from is None else context.seen_from
    of_keys = not (context.causal or context.window or of_tokens is not None or context.relative)
    numbers = length if of_keys else length * length
    boundary = context.lengths if of_tokens is None else of_tokens
    if boundary is not None:
        numbers *= len(boundary)
    if context.relative is not None:
        numbers *= shared.model.heads // shared.groups.grid.tensor
    if (
        context.is_plain
        or numbers > WHOLE_NUMBERS[shared.device.type]
        or (context.window > 0 and length > WHOLE_WINDOW)
    ):
        return replace(context, bias=None)
    columns = torch.arange(length, device=shared.device)
    return replace(context, bias=bias_of(context, columns[:1] if of_keys else columns, columns, shared.dtype))


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
        everywhere = (rows[:, None] < context.global_tokens) | (columns < context.global_tokens)
        masks.append((near | everywhere)[None, None])
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
