"""Declares the columns of tasks over one text or a pair of texts."""

from collections.abc import Mapping

from dist_plm.spec.tasks.base import Column

#: Pairs of columns, of which the first that a file has counts: GLUE's, and what others call them.
PAIRS: tuple[tuple[str, str], ...] = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("#1 String", "#2 String"),
    ("text_a", "text_b"),
    ("text1", "text2"),
)
TEXT = Column(("text", "sentence", "content", "review", "document", "comment", "tweet", "body"))
LABEL = Column(("label", "labels", "class", "category", "gold_label", "is_duplicate", "Quality", "target", "sentiment"))
NUMBER = Column(("label", "score", "labels", "target", "similarity", "rating"))

#: Tokens of a label or choice that a decoder beside an encoder writes at most.
_TEXT_TOKENS = 64


def longest_text(sequence_length: int) -> int:
    """Returns how many tokens of a label or choice are written at most, beside an encoder that reads `sequence_length`."""
    return min(sequence_length, _TEXT_TOKENS)


def texts_and(label: Column) -> Mapping[str, Column]:
    """Returns the columns of a task that reads one text or two, and a label."""
    return {"text": TEXT, "pair": Column((), optional=True), "label": label}
