"""Writes the arrays of a sample as text, with what is masked and what is asked."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_plm.objectives.base import IGNORED
from dist_plm.spec.families.base import Kind

Decode = Callable[[Sequence[int]], str]

#: Of a row of tokens, or of what is shown as text; others are labels for people.
_NOT_LABELS = ("tokens", "labels", "samples", "documents", "positions", "seen_from", "segments", "lengths")
_NOT_LABELS += ("originals", "decoder_tokens")


def lines_of(
    sample: Mapping[str, NDArray[Any]], decode: Decode, kind: Kind, marks: tuple[str, str] = ("<<", ">>")
) -> Iterator[str]:
    """Yields the lines that show a sample.

    Args:
        sample: its rows of the arrays of a microbatch (objectives.base), [rows, …].
        kind: of the model that learns from it: what a decoder is asked at a token follows it.
        marks: stand around what alone is predicted of a text.
    """
    for row in range(len(sample["tokens"])):
        tokens = sample["tokens"][row]
        length = int(sample["lengths"][row]) if "lengths" in sample else len(tokens)
        labels = sample["labels"][row] if "labels" in sample else None
        if "decoder_tokens" in sample:
            assert labels is not None
            yield f"reads: {decode(tokens[:length].tolist())}"
            # There may be several for each that is read, of which one is right.
            times = len(sample["labels"]) // len(sample["tokens"])
            for text in sample["labels"][row * times : (row + 1) * times]:
                yield f"writes{'' if times == 1 else ' one of'}: {decode(text[text != IGNORED].tolist())}"
        elif labels is None:
            yield decode(tokens[:length].tolist())
        elif kind == "decoder":
            told = list(_told(tokens[:length].tolist(), labels[:length].tolist()))
            # The last token that a window predicts begins the next window.
            yield _marked(told if "lengths" in sample else told[:length], decode, marks)
        else:
            yield _replaced(tokens[:length], labels[:length], decode)
    for name, values in sample.items():
        if name not in _NOT_LABELS and not name.endswith("_soft"):
            yield f"{name}: {_short(values)}"


def _marked(told: list[tuple[int, bool]], decode: Decode, marks: tuple[str, str]) -> str:
    """A text of which the predicted tokens are in marks, unless all are."""
    if all(is_predicted for _, is_predicted in told[1:]):
        return decode([token for token, _ in told])
    text = ""
    for is_predicted, part in itertools.groupby(told, itemgetter(1)):
        words = decode([token for token, _ in part])
        text += f"{marks[0]}{words}{marks[1]}" if is_predicted else words
    return text


def _told(tokens: list[int], labels: list[int]) -> Iterator[tuple[int, bool]]:
    """Yields tokens, each with whether it is predicted. What is predicted of the last token of a document is read by none."""
    expected = IGNORED
    for token, label in zip(tokens, labels, strict=True):
        if expected not in (IGNORED, token):
            yield expected, True
        yield token, expected == token
        expected = label
    if expected != IGNORED:
        yield expected, True


def _replaced(tokens: NDArray[Any], asked: NDArray[Any], decode: Decode) -> str:
    """A text in which what stands in for another token is told with it."""
    parts, start = [], 0
    for place in np.flatnonzero(asked != IGNORED).tolist():
        parts.append(decode(tokens[start:place].tolist()))
        parts.append(f"[[{decode([int(tokens[place])])} -> {decode([int(asked[place])])}]]")
        start = place + 1
    parts.append(decode(tokens[start:].tolist()))
    return " ".join(part for part in parts if part)


def _short(values: NDArray[Any]) -> str:
    shown = np.asarray(values)
    shown = shown[0] if shown.shape[0] == 1 else shown
    return np.array2string(shown, threshold=64, max_line_width=10**6)
