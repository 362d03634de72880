"""Compares answers as the official scripts of SQuAD 1.1 and 2.0 do (Rajpurkar et al. 2016, 2018)."""

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(answer: str) -> str:
    """Lower case, without the ASCII punctuation and the articles of English, single spaces between words."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(answer: str, truth: str) -> float:
    """Tells whether two answers are the same once normalized, as 1.0 or 0.0."""
    return float(normalized(answer) == normalized(truth))


def word_f1(answer: str, truth: str, *, empty_matches: bool) -> float:
    """Computes F1 over the words that two answers share.

    Args:
        empty_matches: two answers without words agree, as SQuAD 2.0 has it; in SQuAD 1.1 they do not.
    """
    said, wanted = normalized(answer).split(), normalized(truth).split()
    if empty_matches and not (said and wanted):
        return float(said == wanted)
    shared = sum((Counter(said) & Counter(wanted)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(said), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


def compare(answer: str, truths: Sequence[str], *, may_be_none: bool) -> tuple[float, float]:
    """Compares an answer to the nearest of the true ones: exact match and F1.

    Args:
        may_be_none: "" is the answer to a question that has none, and true answers without words do not count (SQuAD 2.0).
    """
    if may_be_none:
        truths = [truth for truth in truths if normalized(truth)] or [""]
    exact = max(exact_match(answer, truth) for truth in truths)
    return exact, max(word_f1(answer, truth, empty_matches=may_be_none) for truth in truths)


def best_share(gains: NDArray[np.float64], losses: NDArray[np.float64], odds: NDArray[np.float64]) -> float:
    """Finds the best mean over questions that any threshold of the odds of "no answer" gives.

    Args:
        gains, losses: [N], what each question counts where it is answered, and where it is not.
        odds: [N], those under the threshold are answered; equal ones are or are not together.
    """
    order = np.argsort(odds, kind="stable")
    totals = losses.sum() + np.cumsum(np.append(0.0, (gains - losses)[order]))
    stands = np.append(np.append(True, np.diff(odds[order]) > 0), True)
    return float(totals[stands].max() / len(odds))
