"""Measures perplexity: of decoders token by token, of masked models by masking each token in turn (Salazar et al. 2020)."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from dist_plm.core.errors import ConfigError
from dist_plm.data.loader.batch import Batch
from dist_plm.objectives.base import IGNORED
from dist_plm.spec.families import ModelConfig
from dist_plm.spec.inference.schema import EvaluateConfig
from dist_plm.tasks.evaluate.passages import Passage, Passages
from dist_plm.tasks.evaluate.sliding_windows import (
    Tokens,
    Window,
    windows_of_document,
    windows_of_stream,
    windows_within,
)
from dist_plm.tasks.evaluate.sums import Hard, Hardest, Sums
from dist_plm.tasks.inference.runner import Runner
from dist_plm.tasks.inference.vocabulary import Vocabulary

#: Is asked before each pass whether this rank has one to make, and tells whether any has; it goes on until none has. Alone a
#: rank waits for nobody.
Turns = Callable[[bool], bool]
#: Batches of rows that are sorted by length together, so that rows of a batch are about as long.
_BATCHES_SORTED = 16
#: Characters of a text by which a report tells it.
_EXCERPT_TOKENS, _EXCERPT_CHARS = 60, 160


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """Holds what one row of a batch asks.

    Args:
        text: the number of the text that it is of.
        tokens: [S] model input.
        labels: [S], negative where nothing is predicted.
    """

    text: int
    tokens: Tokens
    labels: Tokens


class Texts:
    """Turns passages into rows, and keeps what was counted of those whose rows are not all judged yet.

    Args:
        rows: of one passage.
    """

    def __init__(
        self, passages: Iterable[tuple[int, Passage]], rows: Callable[[int, Passage], Iterable[ScoredRow]]
    ) -> None:
        self._passages, self._rows = passages, rows
        self.open: dict[int, tuple[Passage, Sums]] = {}

    def __iter__(self) -> Iterator[ScoredRow]:
        for number, passage in self._passages:
            self.open[number] = passage, Sums.of_text(passage)
            yield from self._rows(number, passage)


def measure_perplexity(
    config: EvaluateConfig,
    asked: "Asked",
    runner: Runner,
    vocabulary: Vocabulary,
    passages: Passages,
    turns: Turns = lambda more: more,
) -> tuple[Sums, list[Hard]]:
    """Sums over this data rank's share of the texts, and those that are the hardest.

    Args:
        turns: keeps ranks in step; all then make as many passes.
    """
    grid, place = runner.groups.grid, runner.groups.coordinates
    if config.documents == "joined":
        stream = _joined(passages, config.limit, vocabulary)
        windows = windows_of_stream(stream.tokens(), asked.window, asked.stride)
        mine = ((n, w) for n, w in enumerate(windows) if n % grid.data == place.data)
        total = Sums()
        rows = (asked.causal_row(n, w) for n, w in mine)
        for judged in _judged(rows, config.batch_size, runner, asked, turns):
            for _, sums in judged:
                total.add(sums)
        if place.data == 0:
            total.add(stream.counts)
        return total, []
    texts = Texts(passages.read(place.data, grid.data, config.limit), asked.rows)
    total, hardest = Sums(), Hardest(config.samples)
    for judged in _judged(texts, config.batch_size, runner, asked, turns):
        for number, sums in judged:
            texts.open[number][1].add(sums)
        for done in sorted(texts.open)[:-1]:
            _close(done, texts, total, hardest, vocabulary)
    for done in sorted(texts.open):
        _close(done, texts, total, hardest, vocabulary)
    return total, hardest.sorted()


def _close(number: int, texts: Texts, total: Sums, hardest: Hardest, vocabulary: Vocabulary) -> None:
    passage, sums = texts.open.pop(number)
    total.add(sums)
    if sums.tokens:
        beginning = vocabulary.decode(passage.tokens[:_EXCERPT_TOKENS].tolist())[:_EXCERPT_CHARS]
        hardest.add(Hard(sums.loss / sums.tokens, number, passage.name, sums.tokens, beginning))


class _TokenStream:
    """Gives the tokens of all texts as one, and counts what it gave; between two stands the token that ends documents."""

    def __init__(self, passages: Passages, limit: int, end: int) -> None:
        self._passages, self._limit, self._end = passages, limit, end
        self.counts = Sums()

    def tokens(self) -> Iterator[Tokens]:
        for _, passage in self._passages.read(0, 1, self._limit):
            if self.counts.documents:
                yield np.array([self._end])
            self.counts.add(Sums.of_text(passage))
            yield passage.tokens


def _joined(passages: Passages, limit: int, vocabulary: Vocabulary) -> _TokenStream:
    return _TokenStream(passages, limit, vocabulary.tokenizer.end_of_document_id)


@dataclass(frozen=True, slots=True)
class Asked:
    """Says how a model is asked.

    Args:
        window, stride: in tokens of text.
        frame: numbers of the tokens before and behind a masked model's text.
    """

    window: int
    stride: int
    beginning: int
    is_masked: bool
    mask: int = 0
    pad: int = 0
    frame: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    @classmethod
    def of(cls, config: EvaluateConfig, model: ModelConfig, vocabulary: Vocabulary) -> "Asked":
        """Reads the settings for a model.

        Raises:
            ConfigError: they ask what it cannot tell.
        """
        special = vocabulary.special
        if model.has_decoder:
            raise ConfigError(
                [
                    f"on = 'perplexity' asks what follows what, and model.family = {model.family!r} writes spans: give "
                    "on=objective"
                ]
            )
        frame: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
        if model.is_encoder:
            if config.documents == "joined":
                raise ConfigError(
                    [
                        "documents = 'joined' is for models that read from left to right: a masked model reads documents apart"
                    ]
                )
            if special.mask is None:
                raise ConfigError([f"{vocabulary.where} has no token for what is masked, which a masked model needs"])
            frame = tuple((t,) if t is not None else () for t in (special.cls, special.sep))  # pyright: ignore[reportAssignmentType]
        longest = model.position_limit
        room = sum(map(len, frame))
        window = config.window or (model.max_positions or 0) or 1024
        if longest is not None and config.window is not None and window > longest:
            raise ConfigError(
                [f"window = {window} is longer than the {longest} positions that the model has: lower it"]
            )
        window -= room
        if window < 1:
            raise ConfigError([f"window = {config.window} has no room for text beside {room} special tokens: raise it"])
        if config.stride is not None and config.stride > window:
            raise ConfigError([f"stride = {config.stride} exceeds the {window} tokens of text of a window: lower it"])
        return cls(
            window,
            config.stride or window,
            vocabulary.beginning,
            model.is_encoder,
            special.mask or 0,
            next((t for t in (special.pad, special.mask) if t is not None), 0),
            frame,
        )

    def rows(self, number: int, passage: Passage) -> Iterator[ScoredRow]:
        """Yields the rows that ask for each token of a text once."""
        if self.is_masked:
            for window in windows_within(passage.tokens, self.window, self.stride):
                yield from self._masked_rows(number, window)
        else:
            for window in windows_of_document(passage.tokens, self.beginning, self.window, self.stride):
                yield self.causal_row(number, window)

    def causal_row(self, number: int, window: Window) -> ScoredRow:
        """Asks for the last tokens of a window, each from those before it."""
        labels = window.tokens[1:].copy()
        labels[: len(labels) - window.predicted] = IGNORED
        return ScoredRow(number, window.tokens[:-1], labels)

    def filler(self) -> ScoredRow:
        """Gives a row that is judged where another rank's pass waits for one, and counts nothing."""
        row = np.array([self.beginning, self.mask])
        labels = np.array([IGNORED, self.mask if self.is_masked else IGNORED])
        return ScoredRow(-1, row, labels)

    def _masked_rows(self, number: int, window: Window) -> Iterator[ScoredRow]:
        front, back = self.frame
        framed = np.concatenate([front, window.tokens, back]).astype(np.int64)
        stop = len(framed) - len(back)
        for place in range(stop - window.predicted, stop):
            tokens, labels = framed.copy(), np.full_like(framed, IGNORED)
            labels[place], tokens[place] = tokens[place], self.mask
            yield ScoredRow(number, tokens, labels)


def _judged(
    rows: Iterable[ScoredRow], batch_size: int, runner: Runner, asked: Asked, turns: Turns
) -> Iterator[list[tuple[int, Sums]]]:
    """Yields, some batches at a time, the number of each row's text and what the model says of the row. Of all texts but that
    with the largest number nothing more comes."""
    rows = iter(rows)
    while block := list(islice(rows, batch_size * _BATCHES_SORTED)):
        block.sort(key=lambda row: len(row.tokens))
        judged = []
        for first in range(0, len(block), batch_size):
            batch = block[first : first + batch_size]
            turns(True)
            told = zip(batch, *judge_rows(batch, runner, asked), strict=True)
            judged += [(row.text, Sums(loss=loss, hits=hits, tokens=count)) for row, loss, hits, count in told]
        yield judged
    while turns(False):
        judge_rows([asked.filler()], runner, asked)


def judge_rows(rows: list[ScoredRow], runner: Runner, asked: Asked) -> tuple[list[float], list[int], list[int]]:
    """Tells losses, hits and numbers of labels of each row. Collective over the ranks that share the model."""
    longest = max(len(row.tokens) for row in rows)
    length = runner.fitting(longest)
    tokens, labels = np.full((len(rows), length), asked.pad), np.full((len(rows), length), IGNORED)
    for place, row in enumerate(rows):
        tokens[place, : len(row.tokens)], labels[place, : len(row.tokens)] = row.tokens, row.labels
    batch: Batch = {"tokens": torch.from_numpy(tokens), "samples": torch.arange(len(rows))}
    if length > longest:  # there may be no position for padding
        batch["positions"] = torch.arange(length).clamp(max=longest - 1)[None]
    wanted = torch.from_numpy(labels)
    counts = (wanted >= 0).sum(1)
    if asked.is_masked:
        batch["lengths"] = torch.tensor([len(row.tokens) for row in rows])
        row_numbers, places = (wanted >= 0).nonzero(as_tuple=True)
        batch["positions_predicted"] = places * len(rows) + row_numbers
        losses, hits = runner.judge(batch, wanted[row_numbers, places])
        return _by_row(losses, hits, row_numbers, counts)
    losses, hits = runner.judge(batch, wanted.T.contiguous())
    return losses.double().sum(0).tolist(), hits.sum(0).tolist(), counts.tolist()


def _by_row(losses: Tensor, hits: Tensor, rows: Tensor, counts: Tensor) -> tuple[list[float], list[int], list[int]]:
    total = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, rows, losses.double())
    right = torch.zeros_like(counts).index_add_(0, rows, hits.long())
    return total.tolist(), right.tolist(), counts.tolist()
