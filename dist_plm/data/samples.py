"""Declares what a sample is: what datasets read, objectives make into microbatches and loaders hand on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_plm.data.store.store import counting

Ints = NDArray[np.int64]

#: The arrays of a microbatch by name; objectives/base.py has the table of them.
Arrays = dict[str, NDArray]


@dataclass(frozen=True, slots=True)
class Windows:
    """B samples of S + 1 tokens, so that inputs and labels of S overlap by one.

    Attributes:
        tokens: [B, S + 1].
        documents: [B, S + 1], which document each token belongs to, counted 0, 1, 2, … from the window's first.
        samples: [B], the number of each sample in the run.
        lengths: [B], tokens of each row before its padding, whose tokens are 0 and whose document is one of its own; None
            where rows are full.
        frame: special tokens for which rows have room around each of their documents; 0 where only around all of them.
    """

    tokens: NDArray[np.int64]
    documents: NDArray[np.int32]
    samples: NDArray[np.int64]
    lengths: NDArray[np.int64] | None = None
    frame: int = 0

    @classmethod
    def joined(cls, parts: Sequence["Windows"], order: NDArray[np.int64], samples: NDArray[np.int64]) -> "Windows":
        """The rows of all parts, in this order, as samples of these numbers."""
        lengths = [part.lengths for part in parts if part.lengths is not None]
        assert len(lengths) in (0, len(parts)), "some parts are padded and some are not"
        assert len({part.frame for part in parts}) == 1, "parts have different room for frames"
        return cls(
            np.concatenate([part.tokens for part in parts])[order],
            np.concatenate([part.documents for part in parts])[order],
            samples,
            np.concatenate(lengths)[order] if lengths else None,
            parts[0].frame,
        )


@dataclass(frozen=True, slots=True)
class Sentences:
    """B runs of consecutive sentences, each from one document.

    Attributes:
        tokens: [N], of all runs one after another.
        ends: [M], where in `tokens` each sentence ends. None is empty, and no token is special.
        runs: [B + 1]; run b has the sentences runs[b], …, runs[b + 1] - 1, one at least.
    """

    tokens: Ints
    ends: Ints
    runs: Ints

    def split(self, run: int) -> tuple["Sentences", "Sentences"]:
        """The runs before run number `run`, and those from it on."""
        sentence = int(self.runs[run])
        token = int(self.ends[sentence - 1]) if sentence else 0
        before = Sentences(self.tokens[:token], self.ends[:sentence], self.runs[: run + 1])
        return before, Sentences(self.tokens[token:], self.ends[sentence:] - token, self.runs[run:] - sentence)

    @classmethod
    def joined(cls, parts: Sequence["Sentences"], order: Ints) -> "Sentences":
        """The runs of all parts, in this order."""
        tokens = np.concatenate([part.tokens for part in parts])
        lengths = np.concatenate([np.diff(part.ends, prepend=0) for part in parts])
        counts = np.concatenate([np.diff(part.runs) for part in parts])
        sentences = counting((np.cumsum(counts) - counts)[order], counts[order])
        starts = (np.cumsum(lengths) - lengths)[sentences]
        runs = np.concatenate([[0], np.cumsum(counts[order])])
        return cls(tokens[counting(starts, lengths[sentences])], np.cumsum(lengths[sentences]), runs)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Holds what pairs of segments are cut from: of B samples the first runs, runs from random other documents where these are
    wanted, and the samples' numbers [B].

    A run goes on until it holds `window_length` tokens or more, or its document ends. `first` begins wherever the sampler
    lets sample n begin, `second` at a random sentence of a random other document, both keyed by the sample."""

    first: Sentences
    second: Sentences | None
    samples: Ints

    @classmethod
    def joined(cls, parts: Sequence["Pairs"], order: Ints, samples: Ints) -> "Pairs":
        """The runs of all parts, in this order, as samples of these numbers."""
        first = Sentences.joined([part.first for part in parts], order)
        seconds = [part.second for part in parts if part.second is not None]
        assert len(seconds) in (0, len(parts)), "some parts have second runs and some have none"
        return cls(first, Sentences.joined(seconds, order) if seconds else None, samples)
