"""Chooses the next token: Transformers' own rules, and draws that are a function of the seed and the row's number alone."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from dist_plm.core.randomness import random_numbers as rng
from dist_plm.core.randomness.random_numbers import Purpose
from dist_plm.spec.inference.schema import GenerateConfig
from dist_plm.tasks.inference.vocabulary import Vocabulary

#: Scores that are divided by lower temperatures may be too large for a number.
_COLD = 1e-6


def choosers(
    config: GenerateConfig, numbers: Sequence[int], starts: Tensor, first: int
) -> transformers.LogitsProcessorList:
    """Builds what the scores of a batch's next tokens go through, so that the largest is the one to take.

    Args:
        numbers: of the rows.
        starts: [B], where each row begins behind its padding.
        first: tokens of a row before the first new one.
    """
    found = transformers.LogitsProcessorList()
    if config.repetition_penalty != 1.0:
        found.append(_Repetition(config.repetition_penalty, starts))
    if config.temperature == 0.0:
        return found
    if config.temperature < _COLD:
        found.append(_Cold(config.temperature))
    elif config.temperature != 1.0:
        found.append(transformers.TemperatureLogitsWarper(config.temperature))
    if config.top_k > 0:
        found.append(transformers.TopKLogitsWarper(config.top_k))
    if config.top_p < 1.0:
        found.append(transformers.TopPLogitsWarper(config.top_p))
    found.append(_Draw(config.seed, numbers, first))
    return found


class BrokenScores(transformers.LogitsProcessor):
    """Takes note of scores that are no numbers, of which any token is as good as the others."""

    def __init__(self) -> None:
        self._found: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        found = ~(scores < torch.inf).all()  # what is masked is -inf
        # On the device: nothing waits for it before the end.
        self._found = found if self._found is None else self._found | found
        return scores

    def were_seen(self) -> bool:
        """Tells whether there were any."""
        return self._found is not None and bool(self._found)


class KnownTokens(transformers.LogitsProcessor):
    """Leaves those tokens out that the tokenizer does not have: a model's matrix may have more rows, which stand for no text.

    Args:
        size: tokens of the tokenizer.
    """

    def __init__(self, size: int) -> None:
        self._size = size

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if scores.shape[-1] <= self._size:
            return scores
        return scores.index_fill(-1, torch.arange(self._size, scores.shape[-1], device=scores.device), -torch.inf)


class _Repetition(transformers.LogitsProcessor):
    """Makes tokens less likely that are in the row already (Keskar et al. 2019, section 4.1), but for its padding."""

    def __init__(self, penalty: float, starts: Tensor) -> None:
        self._inner, self._starts = transformers.RepetitionPenaltyLogitsProcessor(penalty), starts

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        starts = self._starts.to(input_ids.device).repeat_interleave(len(input_ids) // len(self._starts))
        padding = torch.arange(input_ids.shape[1], device=input_ids.device) < starts[:, None]
        filled: Any = torch.where(padding, input_ids[:, -1:], input_ids)  # by a token of the row, which changes nothing
        return self._inner(filled, scores)


class _Cold(transformers.LogitsProcessor):
    """Divides scores by a low temperature, the largest taken from all of them first: that one stays a number."""

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        exact = scores.double()
        return ((exact - exact.amax(dim=-1, keepdim=True)) / self._temperature).to(scores.dtype)


class _Draw(transformers.LogitsProcessor):
    """Draws a token by inverting the cumulative distribution, and leaves it alone."""

    def __init__(self, seed: int, numbers: Sequence[int], first: int) -> None:
        self._keys = rng.keys(seed, np.array(numbers, dtype=np.int64), Purpose.TOKEN)
        self._first = first

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = np.array([input_ids.shape[1] - self._first])
        uniform = torch.from_numpy(rng.uniform(rng.bits(self._keys, step))).to(scores.device)
        cumulative = torch.softmax(scores.double(), dim=-1).cumsum(dim=-1)
        target = (uniform * cumulative[:, -1])[:, None]
        token = torch.searchsorted(cumulative, target, right=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)


class StopTexts(transformers.StoppingCriteria):
    """Ends rows that have written one of some texts.

    Args:
        first: tokens of a row before the first new one.
    """

    def __init__(self, texts: Sequence[str], vocabulary: Vocabulary, first: int) -> None:
        self._texts, self._vocabulary, self._first = texts, vocabulary, first

    def __call__(self, input_ids: Tensor, scores: object = None, **_: object) -> Tensor:
        written = (row[self._first :].tolist() for row in input_ids)
        ended = [holds_any(self._texts, new, self._vocabulary) for new in written]
        return torch.tensor(ended, device=input_ids.device)


def holds_any(texts: Iterable[str], new: Sequence[int], vocabulary: Vocabulary) -> bool:
    """Tells whether new tokens write one of some texts, or more."""
    written = vocabulary.decode(new)
    return any(text in written for text in texts)
