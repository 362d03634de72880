"""Texts of which a model that predicts tokens tells which is the likeliest: labels (Raffel et al. 2020, section 2.4), and
choices behind their context (Radford et al. 2019, section 3)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.errors import DataError
from dist_plm.objectives.base import IGNORED
from dist_plm.objectives.corruption.changeable_words import Changeable, WordTable, words_of_texts
from dist_plm.objectives.tasks.base import Columns, TextEncoder, next_tokens, written
from dist_plm.spec.tasks.texts import TextsConfig

#: What rows of their padded columns are filled up with.
FILLS = {"labels": IGNORED, "decoder_tokens": 0}


def text_to_text(
    config: TextsConfig,
    first: list[str],
    second: list[str] | None,
    names: Sequence[str],
    encoder: TextEncoder,
    *,
    told_by: str,
) -> Columns:
    """Gives columns of texts or pairs behind their prefixes, and of the texts that may be said of each, `names`.

    Args:
        told_by: the settings that names follow from.
    Raises:
        DataError: two of these are the same tokens, or one has too many.
    """
    beside = None if second is None else _behind(config.pair_prefix, second)
    sources, texts = encoder.sources(_behind(config.prefix, first), beside), encoder.pieces(names)
    refuse_equal(texts, names, told_by)
    room = config.longest_answer(encoder.length, has_decoder=True)
    for ids, name in zip(texts, names, strict=True):
        if len(ids) >= room:
            raise DataError(
                f"{name!r} is {len(ids) + 1} tokens with the one that ends it, more than task.max_target_length = {room}: "
                f"raise it, or change {told_by}"
            )
    return written(sources, texts * len(sources), room, encoder)


def changeable_texts(
    config: TextsConfig, table: WordTable, encoder: TextEncoder
) -> Callable[[Mapping[str, NDArray[Any]]], Changeable]:
    """Builds what finds the words of a text or a pair that may be changed: all but the first prefix."""
    if not encoder.by_likelihood:
        return partial(words_of_texts, table=table)
    return partial(_words_behind, table=table, before=len(encoder.pieces([config.prefix.rstrip()])[0]))


def _words_behind(batch: Mapping[str, NDArray[Any]], *, table: WordTable, before: int) -> Changeable:
    return words_of_texts(batch, table, np.arange(batch["tokens"].shape[1])[None] >= before)


def _behind(prefix: str, texts: Sequence[str]) -> list[str]:
    """Puts texts behind a prefix, a space between them; a shell or Hydra may have taken the prefix's own."""
    return [f"{prefix.rstrip()} {text}" for text in texts] if prefix.strip() else list(texts)


def continued(
    contexts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]], most: int, encoder: TextEncoder
) -> Columns:
    """Gives columns of texts behind contexts, a row each, whose tokens but the context's are predicted. A context that is too
    long loses its beginning, and a text its end beyond `most` tokens."""
    rows, learned = [], []
    for context, text in zip(contexts, texts, strict=True):
        text = text[:most]
        room = encoder.length + 1 - len(text) - len(encoder.begin)  # the last token is predicted alone
        before = [*encoder.begin, *context[max(len(context) - room, 0) :]]
        rows.append([*before, *text])
        learned.append([False] * len(before) + [True] * len(text))
    return next_tokens(rows, learned, encoder)


def refuse_equal(texts: Sequence[Sequence[int]], names: Sequence[str], what: str) -> None:
    """Sees to it that texts can be told apart by their tokens.

    Args:
        what: the settings that they follow from.
    Raises:
        DataError: two have the same, or one has none.
    """
    known: dict[tuple[int, ...], str] = {}
    for ids, name in zip(texts, names, strict=True):
        if not ids:
            raise DataError(f"{name!r} has no tokens in this vocabulary: change {what}")
        if tuple(ids) in known:
            raise DataError(f"{known[tuple(ids)]!r} and {name!r} are the same tokens in this vocabulary: change {what}")
        known[tuple(ids)] = name
