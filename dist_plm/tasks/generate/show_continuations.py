"""Shows answers: as they are written, once they are there, or in a file of JSONL."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from dist_plm.core.streams import visible
from dist_plm.tasks.generate.batches import Continuation, before_stop
from dist_plm.tasks.generate.fill_mask import Filled

#: Stands where a character is not whole yet.
_PARTIAL = "\ufffd"


class Terminal(BaseStreamer):
    """Prints one answer while it is written; signs that a terminal would obey are spelled out.

    Args:
        before: is printed first.
        text_of: the answer so far as text, of its tokens.
        ends: tokens that are not printed.
        stops: texts before which it ends: what may become one is held back.
    """

    def __init__(
        self, before: str, text_of: Callable[[list[int]], str], ends: Sequence[int], stops: Sequence[str] = ()
    ) -> None:
        self._text_of, self._ends, self._stops = text_of, set(ends), stops
        self._is_prompt, self._printed = True, ""
        self._tokens: list[int] = []
        self._print(before)

    def put(self, value: Tensor) -> None:
        if self._is_prompt:  # comes first, as tokens
            self._is_prompt = False
            return
        self._tokens += [token for token in value.flatten().tolist() if token not in self._ends]
        text = before_stop(self._text_of(self._tokens), self._stops)
        if not text.endswith(_PARTIAL):
            self._print_up_to(text[: len(text) - _may_stop(text, self._stops)])

    def end(self) -> None:
        self._print_up_to(before_stop(self._text_of(self._tokens), self._stops))
        self._print("\n")

    def _print_up_to(self, text: str) -> None:
        if text.startswith(self._printed):
            self._print(text[len(self._printed) :])
            self._printed = text

    def _print(self, text: str) -> None:
        print(visible(text), end="", flush=True, file=sys.stdout)


def _may_stop(text: str, stops: Sequence[str]) -> int:
    """Counts the last letters of a text with which one of `stops` begins."""
    begun = (length for stop in stops for length in range(1, len(stop)) if text.endswith(stop[:length]))
    return max(begun, default=0)


def shown(answer: Continuation | Filled) -> str:
    """Builds what a person sees of an answer."""
    if isinstance(answer, Continuation):
        row = answer.row
        return row.prompt + answer.text if row.goes_on else f"{row.prompt}\n{answer.text.strip()}"
    lines = [answer.text]
    for place, mask in enumerate(answer.masks):
        head = f"mask {place + 1}" if len(answer.masks) > 1 else ""
        lines += [head] if head else []
        width = max(len(token) for token, _ in mask)
        lines += [f"  {token:{width}}  {100 * share:6.2f} %" for token, share in mask]
    return "\n".join(lines)


def record(answer: Continuation | Filled) -> dict[str, Any]:
    """Makes a line of the file of answers."""
    if isinstance(answer, Continuation):
        row = answer.row
        told = {"row": row.number, "prompt": row.prompt, "text": answer.text, "finish": answer.finish}
        return told | {"tokens": len(answer.tokens)}
    masks = [[{"token": token, "probability": share} for token, share in mask] for mask in answer.masks]
    return {"row": answer.number, "prompt": answer.prompt, "text": answer.text, "masks": masks}
