"""UL2's mixture of denoisers (Tay et al. 2022, arXiv 2205.05131, section 3.1): spans of text give way to sentinels, or its end
is taken away, and the model writes what stood there. Spans are divided as in T5's span corruption."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.randomness import random_numbers as rng
from dist_plm.core.randomness.random_numbers import Purpose
from dist_plm.data.samples import Arrays, Windows
from dist_plm.data.special_tokens import SpecialTokens
from dist_plm.objectives.base import IGNORED, LossTerm, Reader
from dist_plm.objectives.corruption.noise_spans import corrupted, mark_spans
from dist_plm.spec.objectives.ul2 import LEAST_WINDOW, PARADIGM_TOKENS, Ul2Config, Ul2Input

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Corrupted:
    """B windows, corrupted.

    Attributes:
        denoisers: [B], the number of each window's denoiser.
        sequential: [B], whether that takes the end of the text away.
        inputs, targets: what is read and what is written, each tokens [B, W] and which of them count, [B, W].
    """

    denoisers: Ints
    sequential: Bools
    inputs: tuple[Ints, Bools]
    targets: tuple[Ints, Bools]


@dataclass(frozen=True, slots=True)
class MixtureOfDenoisers:
    """Inputs begin with the token of their paradigm and end with the end of sequence, as targets do. A model of one stack
    reads the input both ways and goes on with the target in the same row; where the end of the text is taken away, nothing
    stands between the two. Document ends within a window are tokens like others."""

    config: Ul2Config
    special: SpecialTokens
    seed: int
    frame: Ul2Input
    longest_target: int
    source: Literal["windows"] = "windows"

    @property
    def losses(self) -> Mapping[str, LossTerm]:
        return {"ul2": LossTerm(1.0, "labels")}

    def window_length(self, sequence_length: int) -> int:
        return self.config.window_length(self.frame)

    def collate(self, windows: Windows, /) -> Arrays:
        """See Objective.collate. For a decoder of its own `decoder_tokens` and `lengths` are added, else `seen_from`."""
        text = self._corrupted(windows.tokens[:, :-1], windows.samples)
        arrays = self._two_sequences(text) if self.frame.has_decoder else self._one_sequence(text)
        return {**arrays, "samples": windows.samples}

    def _corrupted(self, tokens: Ints, samples: Ints) -> Corrupted:
        denoisers = self._chosen(samples)
        sequential = np.array([one.paradigm == "S" for one in self.config.denoisers])[denoisers]
        gone = self._gone(denoisers, samples, tokens.shape[1])
        inputs, targets = (tokens.copy(), ~gone), (tokens.copy(), gone.copy())
        marked = np.flatnonzero(~sequential)
        if marked.size:
            for (values, counts), away in ((inputs, gone), (targets, ~gone)):
                values[marked], counts[marked] = mark_spans(tokens[marked], away[marked], self.special)
        return Corrupted(denoisers, sequential, inputs, targets)

    def _chosen(self, samples: Ints) -> Ints:
        shares = np.cumsum([one.weight for one in self.config.denoisers])
        drawn = rng.uniform(rng.single(self.seed, samples, Purpose.CHOICE)) * shares[-1]
        return np.minimum(np.searchsorted(shares, drawn, side="right"), len(shares) - 1)

    def _gone(self, denoisers: Ints, samples: Ints, window: int) -> Bools:
        """Chooses the tokens that are to be predicted, [B, W]."""
        gone = np.empty((len(samples), window), dtype=bool)
        for number in np.unique(denoisers).tolist():
            one, rows = self.config.denoisers[number], np.flatnonzero(denoisers == number)
            if one.paradigm == "S":
                least, most = one.suffixes(window, self.frame)
                drawn = rng.single(self.seed, samples[rows], Purpose.TARGET_LENGTH)
                gone[rows] = np.arange(window) >= window - least - rng.below(drawn, most - least + 1)[:, None]
            else:
                gone[rows] = corrupted(self.seed, samples[rows], one.counts(window))
        return gone

    def _two_sequences(self, text: Corrupted) -> Arrays:
        assert self.special.pad is not None
        inputs = np.full((len(text.denoisers), self.frame.length), self.special.pad)
        lengths = self._begin(inputs, text)
        lengths = self._end(inputs, _laid(inputs, *text.inputs, lengths))
        labels = np.full((len(inputs), self.longest_target), IGNORED)
        self._end(labels, _laid(labels, *text.targets, np.zeros_like(lengths)))
        start = np.full((len(inputs), 1), self.special.pad)
        written = np.where(labels == IGNORED, self.special.pad, labels)
        decoder_tokens = np.concatenate([start, written[:, :-1]], axis=1)
        return {"tokens": inputs, "labels": labels, "decoder_tokens": decoder_tokens, "lengths": lengths}

    def _one_sequence(self, text: Corrupted) -> Arrays:
        assert self.special.eos is not None
        # Any token will do for padding: it is neither attended to nor predicted.
        rows, marked = np.full((len(text.denoisers), self.frame.length + 1), self.special.eos), ~text.sequential
        prefixes = _laid(rows, *text.inputs, self._begin(rows, text)) + marked
        stops = _laid(rows, *text.targets, prefixes) + marked
        columns = np.arange(rows.shape[1])
        predicted = (columns >= prefixes[:, None]) & (columns < stops[:, None])
        return {
            "tokens": rows[:, :-1],
            "labels": np.where(predicted, rows, IGNORED)[:, 1:],
            "seen_from": np.where(columns < prefixes[:, None], 0, columns)[:, :-1],
        }

    def _begin(self, rows: Ints, text: Corrupted) -> Ints:
        """Puts the token of its paradigm before each input; returns where the text begins."""
        if self.frame.marks:
            tokens = [self.special.named[PARADIGM_TOKENS[one.paradigm]] for one in self.config.denoisers]
            rows[:, 0] = np.array(tokens)[text.denoisers]
        return np.full(len(rows), self.frame.marks)

    def _end(self, rows: Ints, stops: Ints) -> Ints:
        """Puts the end of sequence behind each row; returns where that ends."""
        assert self.special.eos is not None
        rows[np.arange(len(rows)), stops] = self.special.eos
        return stops + 1


def _laid(rows: Ints, values: Ints, counts: Bools, begins: Ints) -> Ints:
    """Lays the values that count, both [B, W], into rows from `begins` [B] on; returns where they end."""
    row, column = np.nonzero(counts)
    place = np.cumsum(counts, axis=1) - 1 + begins[:, None]
    rows[row, place[row, column]] = values[row, column]
    return begins + counts.sum(axis=1)


def _frame(config: Ul2Config, special: SpecialTokens, reader: Reader) -> Ul2Input:
    """Finds what stands around the text with this tokenizer."""
    wanted = config.paradigm_tokens if config.paradigm_tokens is not None else not _missing(config, special)
    return Ul2Input(reader.length, int(wanted), reader.has_decoder)


def _missing(config: Ul2Config, special: SpecialTokens) -> list[str]:
    names = {PARADIGM_TOKENS[one.paradigm] for one in config.denoisers}
    return sorted(names - special.named.keys())


def problems(config: Ul2Config, special: SpecialTokens, reader: Reader) -> Iterator[str]:
    """Yields what the data's tokenizer lacks, and what leaves no room for text."""
    if reader.has_decoder and special.pad is None:
        yield (
            "objective.name = 'ul2' with a decoder needs the special token pad, which the data's tokenizer does not have: "
            "prepare the data with tokenizer=unigram, or another that has it"
        )
    if config.paradigm_tokens and (missing := _missing(config, special)):
        tokens = ",".join(f'"{token}"' for token in PARADIGM_TOKENS.values())
        yield (
            f"objective.paradigm_tokens = true needs {', '.join(missing)}, which the data's tokenizer does not have: prepare "
            f"the data with 'tokenizer.special=[{tokens}]', or set objective.paradigm_tokens=null"
        )
    window = config.window_length(_frame(config, special, reader))
    if window < LEAST_WINDOW:
        yield (
            f"data.sequence_length = {reader.length} has no room for text with each of objective.denoisers: raise it, or lower "
            "their mask_rate"
        )
        return
    spans = max((one.counts(window).spans for one in config.denoisers if one.mean_span is not None), default=0)
    if spans > len(special.sentinels):
        yield (
            f"data.sequence_length = {reader.length} with objective.denoisers makes up to {spans} spans a sample, but the "
            f"data's tokenizer has {len(special.sentinels)} sentinels: prepare data with tokenizer.sentinels={spans} or more, "
            "lengthen the spans, or lower the rates"
        )


def build(config: Ul2Config, special: SpecialTokens, seed: int, reader: Reader) -> MixtureOfDenoisers:
    frame = _frame(config, special, reader)
    return MixtureOfDenoisers(config, special, seed, frame, config.longest_written(frame))
