"""Texts of which a model that predicts tokens tells which is the likeliest: labels (Raffel et al. 2020, section 2.4), and
choices behind their context (Radford et al. 2019, section 3)."""

from collections.abc import Sequence

from dist_plm.core.errors import DataError
from dist_plm.objectives.base import IGNORED
from dist_plm.objectives.tasks.base import Columns, TextEncoder, next_tokens

#: What rows of their padded columns are filled up with.
FILLS = {"labels": IGNORED, "decoder_tokens": 0}


def written(
    sources: Sequence[Sequence[int]], texts: Sequence[Sequence[int]], room: int, encoder: TextEncoder
) -> Columns:
    """Gives columns of what an encoder reads, a row each, and of the texts that its decoder may write of it, several rows each.

    Args:
        texts: those of all sources, one after the other.
        room: tokens of a text at most.
    """
    labels = [[*ids[: room - 1], encoder.end] for ids in texts]
    return {
        "tokens": encoder.ragged(sources),
        "decoder_tokens": encoder.ragged([[encoder.start, *row[:-1]] for row in labels]),
        "labels": encoder.ragged(labels),
    }


def continued(contexts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]], encoder: TextEncoder) -> Columns:
    """Gives columns of texts behind contexts, a row each, whose tokens but the context's are predicted. A context that is too
    long loses its beginning, and a text its end beyond half of a row."""
    rows, learned = [], []
    for context, text in zip(contexts, texts, strict=True):
        text = text[: max(encoder.length // 2, 1)]
        room = encoder.length + 1 - len(text) - len(encoder.begin)  # the last token is predicted alone
        before = [*encoder.begin, *context[max(len(context) - room, 0) :]]
        rows.append([*before, *text])
        learned.append([False] * len(before) + [True] * len(text))
    return next_tokens(rows, learned, encoder)


def refuse_equal(texts: Sequence[Sequence[int]], names: Sequence[str], what: str) -> None:
    """Sees to it that texts can be told apart by their tokens.

    Raises:
        DataError: two have the same, or one has none.
    """
    known: dict[tuple[int, ...], str] = {}
    for ids, name in zip(texts, names, strict=True):
        if not ids:
            raise DataError(f"{what}: {name!r} has no tokens in this vocabulary: give it another text")
        if tuple(ids) in known:
            raise DataError(
                f"{what}: {known[tuple(ids)]!r} and {name!r} are the same tokens in this vocabulary: give one another text"
            )
        known[tuple(ids)] = name
