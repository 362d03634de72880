"""Text to text: summaries, translations, answers. Of a decoder alone the target follows the source, and the loss is that of
the target (Radford et al. 2018, section 3.3, without its loss on the source)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_plm.data.labelled.rows import LabelledRow
from dist_plm.objectives.base import IGNORED, LossTerm
from dist_plm.objectives.corruption.changeable_words import Changeable, WordTable, words_of_texts
from dist_plm.objectives.tasks.base import (
    CUT,
    Columns,
    Question,
    Scorer,
    TextEncoder,
    lost_tokens,
    next_tokens,
    text_of,
    written,
)
from dist_plm.objectives.tasks.likely_texts import FILLS
from dist_plm.spec.tasks.seq2seq import Seq2SeqConfig

#: Stands between source and target of a decoder where nothing is given, or the token that ends texts where the vocabulary has
#: no token for it.
_SUFFIX = "\n"


@dataclass(frozen=True, slots=True)
class Seq2Seq:
    """See tasks.base.Task."""

    config: Seq2SeqConfig
    fills: Mapping[str, int] = field(default_factory=lambda: dict(FILLS))

    @property
    def losses(self) -> Mapping[str, LossTerm]:
        return {"seq2seq": LossTerm(1.0, "labels")}

    def labels(self, rows: Iterable[LabelledRow], columns: Mapping[str, str]) -> set[str]:
        return set()

    def encode(self, rows: Sequence[LabelledRow], columns: Mapping[str, str], encoder: TextEncoder) -> Columns:
        sources = self.prompts([text_of(row, columns["source"]) for row in rows], encoder)
        targets = encoder.pieces([text_of(row, columns["target"]) for row in rows])
        room = self.config.longest_answer(encoder.length, has_decoder=encoder.has_decoder)
        lost = lost_tokens(targets, room - 1)
        if encoder.has_decoder:
            return {**written(sources, targets, room, encoder), CUT: lost}
        texts = [[*source, *target[: room - 1], encoder.end] for source, target in zip(sources, targets, strict=True)]
        learned = [
            [False] * len(source) + [True] * (len(row) - len(source))
            for source, row in zip(sources, texts, strict=True)
        ]
        table = next_tokens(texts, learned, encoder)
        if self.config.prefix_lm:
            seen = [
                [0] * len(source) + [*range(len(source), len(row) - 1)]
                for source, row in zip(sources, texts, strict=True)
            ]
            table["seen_from"] = encoder.ragged(seen)
        return {**table, CUT: lost}

    def prompts(self, asked: Sequence[Question], encoder: TextEncoder) -> list[list[int]]:
        """Gives the tokens after which targets of some sources are written, or that an encoder reads."""
        before, after = self._around(encoder)
        length = encoder.length
        if not encoder.has_decoder:
            length -= self.config.room_for_target(encoder.length)
        room = max(length - len(before) - len(after), 0)
        return [[*before, *ids[:room], *after][-length:] for ids in encoder.pieces(list(map(str, asked)))]

    def _around(self, encoder: TextEncoder) -> tuple[list[int], list[int]]:
        """Gives the tokens before and after each source."""
        before, after = encoder.pieces([self.config.prefix, self._suffix(encoder)])
        if encoder.has_decoder:
            return before, [*after, encoder.end]
        return [*encoder.begin, *before], after or [encoder.end]

    def ends(self, encoder: TextEncoder) -> list[int]:
        return [encoder.end]

    def is_answered(self, row: LabelledRow, columns: Mapping[str, str]) -> bool:
        return "target" in columns

    def pair(self, row: LabelledRow, columns: Mapping[str, str]) -> tuple[Question, str | None]:
        target = text_of(row, columns["target"]) if "target" in columns else None
        return text_of(row, columns["source"]), target

    def soft(self, table: Mapping[str, Any]) -> Mapping[str, NDArray[np.float32]]:
        return {}

    def changeable(self, table: WordTable, encoder: TextEncoder) -> Callable[[Mapping[str, NDArray[Any]]], Changeable]:
        """Finds the words of sources, without the text around them; what a decoder alone reads behind one keeps its order."""
        before, after = map(len, self._around(encoder))
        return partial(_changeable, table=table, before=before, after=after, has_decoder=encoder.has_decoder)

    def scorer(self, table: Mapping[str, Any]) -> Scorer:
        raise NotImplementedError("the loss measures it, and launch/evaluate.py what it writes")

    def _suffix(self, encoder: TextEncoder) -> str:
        if self.config.suffix is not None:
            return self.config.suffix
        return "" if encoder.has_decoder else _SUFFIX


def _changeable(
    batch: Mapping[str, NDArray[Any]], *, table: WordTable, before: int, after: int, has_decoder: bool
) -> Changeable:
    """Finds the words of sources between so many tokens before and after them."""
    places, ends, beside = np.arange(batch["tokens"].shape[1]), batch["lengths"], {}
    if not has_decoder:
        # The last token of a source predicts the first one of the target.
        ends = (batch["labels"] != IGNORED).argmax(axis=1) + 1
        beside = {"labels": IGNORED, **({"seen_from": 0} if "seen_from" in batch else {})}
    within = (places >= before) & (places < ends[:, None] - after)
    return replace(words_of_texts(batch, table, within), beside=beside)


def build(config: Seq2SeqConfig) -> Seq2Seq:
    return Seq2Seq(config)
