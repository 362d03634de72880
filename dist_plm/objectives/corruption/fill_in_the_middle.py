"""Fill-in-the-middle (Bavarian et al. 2022, sections 3 and 3.1): documents rearranged so that a causal model learns to
write a middle between what stands before and after it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.randomness import random_numbers as rng
from dist_plm.core.randomness.random_numbers import Purpose
from dist_plm.data.special_tokens import SpecialTokens

Ints = NDArray[np.int64]

NUM_SENTINELS = 3


@dataclass(frozen=True, slots=True)
class Pieces:
    """The documents of all rows [B, L], in order: the part of a document that lies in a row is a piece.

    Attributes:
        row, index: [D], which row the piece lies in, and its number within the row.
        begin, length: [D], where in the row it begins, and its tokens.
    """

    row: Ints
    index: Ints
    begin: Ints
    length: Ints

    @classmethod
    def of(cls, documents: NDArray[np.int32]) -> "Pieces":
        begins = np.ones(documents.shape, dtype=bool)
        begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
        row, begin = np.nonzero(begins)
        length = np.diff(row * documents.shape[1] + begin, append=documents.size)
        first = np.searchsorted(row, row)
        return cls(row, np.arange(len(row)) - first, begin, length)

    def before(self, length: Ints) -> Ints:
        """Sum of `length` [D] over the pieces before each in its row, [D]."""
        total = np.cumsum(length) - length
        return total - total[np.arange(len(total)) - self.index]


@dataclass(frozen=True, slots=True)
class FimPlan:
    """Says what becomes of each piece, all [D].

    Attributes:
        moved: whether it is rearranged.
        length: its tokens that are kept; the others fall off the end of the row.
        text: these but for a special token at its end, which stays there.
        prefix, suffix: where in the text these two end and begin.
        spm: whether the suffix goes before the prefix.
    """

    moved: NDArray[np.bool_]
    length: Ints
    text: Ints
    prefix: Ints
    suffix: Ints
    spm: NDArray[np.bool_]

    @property
    def lead(self) -> Ints:
        """Tokens of the prefix that go before the suffix."""
        return np.where(self.spm, 0, self.prefix)


@dataclass(frozen=True, slots=True, eq=False)
class FillInTheMiddle:
    """Rearranges pieces of documents into `<prefix> prefix <suffix> suffix <middle> middle` (PSM) or
    `<prefix> <suffix> suffix <middle> prefix middle` (SPM, in the variant of their appendix D).

    Attributes:
        rate: share of the pieces that are rearranged.
        spm_rate: share of these that are SPM.
    """

    seed: int
    rate: float
    spm_rate: float
    special: SpecialTokens

    def __call__(self, tokens: Ints, documents: NDArray[np.int32], samples: Ints) -> tuple[Ints, NDArray[np.int32]]:
        """Rearranged tokens and their documents, of the same shape [B, L].

        The two cuts of a piece are uniform over the places between its tokens (theirs are over characters). As many
        tokens as there are new sentinels are taken off the row's end beforehand, so a rearranged piece is whole.
        """
        pieces = Pieces.of(documents)
        plan = self._plan(pieces, tokens, samples)
        before = pieces.before(plan.length + NUM_SENTINELS * plan.moved)
        out = np.empty_like(tokens)
        for sentinel, place in self._sentinels(plan):
            out[pieces.row[plan.moved], (before + place)[plan.moved]] = sentinel
        piece = np.repeat(np.arange(len(pieces.row)), plan.length)
        offset = np.arange(len(piece)) - np.repeat(np.cumsum(plan.length) - plan.length, plan.length)
        row = pieces.row[piece]
        out[row, before[piece] + _places(plan, piece, offset)] = tokens[row, pieces.begin[piece] + offset]
        owner = np.repeat(np.arange(len(pieces.row)), plan.length + NUM_SENTINELS * plan.moved)
        return out, documents[pieces.row, pieces.begin][owner].reshape(documents.shape)

    def _plan(self, pieces: Pieces, tokens: Ints, samples: Ints) -> FimPlan:
        keys = rng.keys(self.seed, samples, Purpose.MIDDLE)[pieces.row]
        numbers = rng.bits(keys[:, None], 4 * pieces.index[:, None] + np.arange(4))
        moved = rng.uniform(numbers[:, 0]) < self.rate
        moved, length = fit(pieces, moved, tokens.shape[1])
        last = tokens[pieces.row, pieces.begin + pieces.length - 1]
        text = length - ((length == pieces.length) & self.special.is_special()[last])
        cuts = np.sort(rng.below(numbers[:, 2:], text[:, None] + 1), axis=1)
        return FimPlan(moved, length, text, cuts[:, 0], cuts[:, 1], rng.uniform(numbers[:, 1]) < self.spm_rate)

    def _sentinels(self, plan: FimPlan) -> list[tuple[int, Ints]]:
        """The three sentinels and their places in each rearranged piece."""
        special = self.special
        assert special.fim_prefix is not None
        assert special.fim_suffix is not None
        assert special.fim_middle is not None
        return [
            (special.fim_prefix, np.zeros_like(plan.lead)),
            (special.fim_suffix, 1 + plan.lead),
            (special.fim_middle, 2 + plan.lead + plan.text - plan.suffix),
        ]


def fit(pieces: Pieces, moved: NDArray[np.bool_], width: int) -> tuple[NDArray[np.bool_], Ints]:
    """Chooses the pieces that are rearranged and how many tokens of each are kept, so that every row still holds
    `width` tokens.

    A piece is left as it is where sentinels alone would fill what is left of its row.
    """
    # Once so little room is left, no later piece of the row has more: one look is enough.
    room = width - pieces.before(pieces.length + NUM_SENTINELS * moved)
    moved = moved & (room > NUM_SENTINELS)
    added = NUM_SENTINELS * moved
    room = width - pieces.before(pieces.length + added)
    return moved, np.clip(room - added, 0, pieces.length)


def _places(plan: FimPlan, piece: Ints, offset: Ints) -> Ints:
    """Where in its rearranged piece each token goes that was at `offset` of `piece`, both [N]."""
    prefix, suffix, text = plan.prefix[piece], plan.suffix[piece], plan.text[piece]
    place = np.select(
        [offset >= text, offset >= suffix, (offset < prefix) & ~plan.spm[piece]],
        [offset + NUM_SENTINELS, offset - suffix + 2 + plan.lead[piece], offset + 1],
        default=offset + NUM_SENTINELS + text - suffix,
    )
    return np.where(plan.moved[piece], place, offset)
