"""Losses of single rows, from what a model's head says of them: by them the rows are found that it gets most wrong."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_plm.objectives.base import IGNORED

Losses = NDArray[np.float64]


def losses_of_rows(table: Mapping[str, Any], rows: NDArray[np.int64], outputs: NDArray[np.float32]) -> Losses:
    """Gives the loss of each of `rows` [B] of a table of examples, as heads and likelihoods score it (models/heads/): of tags
    the mean over those of the row. What is learned in place of a label (`…_soft`) does not count.

    Args:
        outputs: [B, …], see tasks.base.Scorer.
    """
    told = outputs.astype(np.float64)
    if "class_labels" in table and "labels" in table:  # each label is a text, learned for itself
        return -np.take_along_axis(told, table["class_labels"][rows][:, None], axis=-1)[:, 0]
    for name in ("class_labels", "choice_labels"):
        if name in table:
            return _cross_entropy(told.reshape(len(rows), -1), table[name][rows])
    if "targets" in table:
        return (told.reshape(len(rows)) - table["targets"][rows]) ** 2
    if "label_sets" in table:
        return (np.logaddexp(0.0, told) - told * table["label_sets"][rows]).sum(axis=-1)
    if "tags" in table:
        return np.array([_of_tags(table["tags"][row], scores) for row, scores in zip(rows.tolist(), told, strict=True)])
    return np.array([_of_span(table, row, scores) for row, scores in zip(rows.tolist(), told, strict=True)])


def _cross_entropy(scores: Losses, labels: NDArray[np.integer]) -> Losses:
    """Computes it of scores [N, L] and labels [N]."""
    most = scores.max(axis=-1)
    whole = most + np.log(np.exp(scores - most[:, None]).sum(axis=-1))
    return whole - np.take_along_axis(scores, labels.astype(np.int64)[:, None], axis=-1)[:, 0]


def _of_tags(tags: NDArray[np.integer], scores: Losses) -> float:
    at = np.flatnonzero(tags != IGNORED)
    return float(_cross_entropy(scores[at], tags[at]).mean()) if len(at) else 0.0


def _of_span(table: Mapping[str, Any], row: int, scores: Losses) -> float:
    """Computes it of scores [S, 2], padding among them, which is no place for a span."""
    scores = scores[: len(table["tokens"][row])].T
    return float(_cross_entropy(scores, np.array([table[name][row] for name in ("starts", "ends")])).sum())
