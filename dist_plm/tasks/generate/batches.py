"""Puts rows together that are answered at once, and takes their answers apart."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import transformers
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from dist_plm.spec.inference.schema import GenerateConfig
from dist_plm.tasks.generate.choosing import BrokenScores, KnownTokens, StopTexts, choosers, holds_any
from dist_plm.tasks.generate.prompts import PromptRow
from dist_plm.tasks.inference.vocabulary import Vocabulary

Finish = Literal["end", "stop", "length"]


@dataclass(frozen=True, slots=True)
class Decoding:
    """Says how answers are written, to all batches.

    Args:
        start: the token that a decoder beside an encoder begins with; None without one.
        broken: sees all scores.
        pad: fills rows; nothing looks at it.
    """

    config: GenerateConfig
    vocabulary: Vocabulary
    ends: tuple[int, ...]
    pad: int
    start: int | None
    broken: BrokenScores = field(default_factory=BrokenScores)

    @property
    def num_beams(self) -> int:
        return self.config.num_beams


@dataclass(frozen=True, slots=True)
class Continuation:
    """Holds an answer: its tokens without those that ended it."""

    row: PromptRow
    tokens: tuple[int, ...]
    text: str
    finish: Finish


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """Holds rows with room for as many tokens."""

    rows: tuple[PromptRow, ...]
    streamer: BaseStreamer | None = None

    @property
    def room(self) -> int:
        return self.rows[0].room

    @property
    def longest(self) -> int:
        return max(len(row.tokens) for row in self.rows)

    def first(self, decoding: Decoding) -> int:
        """Tokens of a row before the first new one."""
        return self.longest if decoding.start is None else 1

    def starts(self, decoding: Decoding) -> Tensor:
        """[B], where each row begins behind its padding."""
        if decoding.start is not None:
            return torch.zeros(len(self.rows), dtype=torch.int64)
        return torch.tensor([self.longest - len(row.tokens) for row in self.rows])

    def padded(self, pad: int = 0, *, left: bool = True) -> tuple[Tensor, Tensor]:
        """Tokens and where they are no padding, [B, S]."""
        tokens = torch.full((len(self.rows), self.longest), pad)
        mask = torch.zeros_like(tokens)
        for place, row in enumerate(self.rows):
            part = slice(self.longest - len(row.tokens), None) if left else slice(len(row.tokens))
            tokens[place, part], mask[place, part] = torch.tensor(row.tokens), 1
        return tokens, mask

    def choosers(self, decoding: Decoding) -> transformers.LogitsProcessorList:
        """Builds what scores of these rows go through."""
        numbers = [row.number for row in self.rows]
        known = KnownTokens(decoding.vocabulary.tokenizer.vocab_size)
        found = choosers(decoding.config, numbers, self.starts(decoding), self.first(decoding))
        return transformers.LogitsProcessorList([decoding.broken, known, *found])

    def stops(self, decoding: Decoding) -> list[transformers.StoppingCriteria]:
        """Builds what ends a row before an end or its room does."""
        texts = decoding.config.stop
        return [StopTexts(texts, decoding.vocabulary, self.first(decoding))] if texts else []

    def written(self, result: Tensor, decoding: Decoding) -> list[Continuation]:
        """Takes the rows of all tokens [B, S] apart."""
        first = self.first(decoding)
        return [_written(row, new[first:].tolist(), decoding) for row, new in zip(self.rows, result, strict=True)]


def batches_of(rows: Sequence[PromptRow], size: int) -> Iterator[PromptBatch]:
    """Puts rows of about the same length together; those that have less room than others are alone, so that what a row says
    does not depend on which others it is with."""
    most = max((row.room for row in rows), default=0)
    alike = sorted((row for row in rows if row.room == most), key=lambda row: len(row.tokens))
    for first in range(0, len(alike), size):
        yield PromptBatch(tuple(alike[first : first + size]))
    yield from (PromptBatch((row,)) for row in rows if row.room < most)


def _written(row: PromptRow, new: list[int], decoding: Decoding) -> Continuation:
    finish: Finish = "length"
    end = next((place for place, token in enumerate(new) if token in decoding.ends), None)
    if end is not None:
        new, finish = new[:end], "end"
    if (stop := _stop_of(new, decoding)) is not None:
        new, finish = new[:stop], "stop"
    whole = continuation(row, new, decoding)
    text = before_stop(whole, decoding.config.stop)
    return Continuation(row, tuple(new), text, finish if text == whole else "stop")


def _stop_of(new: list[int], decoding: Decoding) -> int | None:
    """Counts the tokens that a row had when a text ended it, behind which its batch has filled it up; None where none did."""
    texts, vocabulary = decoding.config.stop, decoding.vocabulary
    if not texts or not holds_any(texts, new, vocabulary):
        return None
    return next(count for count in range(1, len(new) + 1) if holds_any(texts, new[:count], vocabulary))


def before_stop(text: str, stops: Iterable[str]) -> str:
    """Cuts a text before the first of `stops`."""
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]


def continuation(row: PromptRow, new: Sequence[int], decoding: Decoding) -> str:
    """The text of new tokens as it follows the prompt: most vocabularies tell spaces between two tokens alone."""
    vocabulary = decoding.vocabulary
    if decoding.start is not None or vocabulary.special.pieces_style == "byte_level":
        return vocabulary.decode(new)
    before = vocabulary.decode(row.tokens)
    whole = vocabulary.decode([*row.tokens, *new])
    return whole[len(before) :] if whole.startswith(before) else vocabulary.decode(new)
