"""Cuts texts into windows in which a model predicts each token once."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Window:
    """Holds consecutive tokens, of which the last `predicted` are predicted."""

    tokens: Tokens
    predicted: int


def windows_of_document(tokens: Tokens, beginning: int, window: int, stride: int) -> Iterator[Window]:
    """Windows of a document that is read from its beginning, of `window` tokens of input.

    The first predicts as many as it holds, each other one the next `stride`. With a stride of the whole window they are those
    of lm-evaluation-harness (`get_rolling_token_windows` with one token of context, `make_disjoint_window`): the last one
    begins earlier, so that it is full.

    Args:
        beginning: the token before the first.
    """
    read, end = np.concatenate([[beginning], tokens]), 0
    while end < len(tokens):
        predicted = min(window if end == 0 else stride, len(tokens) - end)
        end += predicted
        yield Window(read[max(0, end - window) : end + 1], predicted)


def windows_within(tokens: Tokens, window: int, stride: int) -> Iterator[Window]:
    """Windows of a document that is read from both sides, of at most `window` tokens."""
    end = 0
    while end < len(tokens):
        predicted = min(window if end == 0 else stride, len(tokens) - end)
        end += predicted
        yield Window(tokens[max(0, end - window) : end], predicted)


def windows_of_stream(parts: Iterable[Tokens], window: int, stride: int) -> Iterator[Window]:
    """Windows of one text that comes in parts, as in the guide of Hugging Face on the perplexity of models of fixed length:
    they begin `stride` tokens apart, and predict the tokens that no window before them held, but for a first one that has
    nothing before it."""
    held: Tokens = np.empty(0, dtype=np.int64)
    seen = 0
    for part in parts:
        held = np.concatenate([held, part])
        start = 0
        while len(held) - start > window:  # one more tells that this is not the last
            yield Window(held[start : start + window], min(window - seen, window - 1))
            start, seen = start + stride, window - stride
        held = held[start:]
    if (left := min(len(held) - seen, len(held) - 1)) > 0:
        yield Window(held, left)
