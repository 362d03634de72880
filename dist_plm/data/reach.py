"""How much of a text is out of a tokenizer's reach: it becomes unknown tokens, or leaves none at all."""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from dist_plm.core.errors import DataError
from dist_plm.data.special_tokens import SpecialTokens
from dist_plm.data.tokenizers.tokenizer import Tokenizer

#: Of the tokens of text that a model is to be trained, measured or asked with: beyond, it is of another language.
MOST_UNKNOWN = 0.5
#: Characters of each text in which lost ones are looked for: that takes ten times as long as to encode it.
_LOOKED_AT_CHARS = 4096


def check_reach(tokenizer: Tokenizer, texts: Sequence[str], most: float, where: str, remedy: str) -> None:
    """Looks at texts before they are used.

    Args:
        where: what the tokens are of, as in "of the prompts".
    Raises:
        DataError: of their tokens more than the share `most` is unknown, or of their letters and digits more leave no token.
    """
    ids = np.concatenate([[], *(np.array(found) for found in tokenizer.encode_batch(texts))])
    check_unknown(int((ids == tokenizer.unknown_id()).sum()), len(ids), most, where, remedy)
    lost, letters = _lost(tokenizer, texts)
    if letters and lost / letters > most:
        raise DataError(
            f"{percent(lost / letters)} of the letters and digits {where} are lost: the tokenizer has no token for them, nor "
            f"one for what is unknown to it{remedy}"
        )


def check_unknown(count: int, total: int, most: float, where: str, remedy: str) -> None:
    """Raises DataError where more than a share of the tokens is unknown."""
    if total and count / total > most:
        raise DataError(f"{percent(count / total)} of the tokens {where} are unknown to the tokenizer{remedy}")


def check_rows(tokens: Sequence[np.ndarray], tokenizer: Tokenizer, where: str, remedy: str) -> None:
    """Looks at rows of tokens, special ones among them.

    Raises:
        DataError: most of the tokens of their texts are unknown, or most of them have none.
    """
    special: SpecialTokens = tokenizer.special_tokens()
    unknown = tokenizer.unknown_id()
    frames = np.array([number for number in special.ids if number != unknown], dtype=np.int64)
    of_text = [row[~np.isin(row, frames)] for row in tokens]
    count = sum(int((row == unknown).sum()) for row in of_text)
    check_unknown(count, sum(map(len, of_text)), MOST_UNKNOWN, where, remedy)
    empty = sum(len(row) == 0 for row in of_text)
    if tokens and empty / len(tokens) > MOST_UNKNOWN:
        raise DataError(f"{percent(empty / len(tokens))} of the rows {where} have no token but special ones{remedy}")


def without(names: Iterable[str], text: str) -> str:
    """The text without special tokens that are written out in it."""
    found = [re.escape(name) for name in names if name]
    return re.sub("|".join(found), " ", text) if found else text


def _lost(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[int, int]:
    """Letters and digits that no token stands for, and all of them. Accents and marks may be stripped."""
    lost = total = 0
    for text in (whole[:_LOOKED_AT_CHARS] for whole in texts):
        counted = np.array([character.isalnum() for character in text], dtype=bool)
        _, places = tokenizer.encode_with_offsets(text)
        changes = np.zeros(len(text) + 1, dtype=np.int64)
        np.add.at(changes, places[:, 0], 1)
        np.add.at(changes, places[:, 1], -1)
        lost += int((counted & (np.cumsum(changes[:-1]) <= 0)).sum())
        total += int(counted.sum())
    return lost, total


def percent(share: float) -> str:
    """A share for a person."""
    return f"{100 * share:.0f} %" if share >= 0.995 else f"{100 * share:.2g} %"
