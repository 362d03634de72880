"""Text that leaves unknown tokens, or none, is refused before it is used."""

import numpy as np
import pytest
import tokenizers as hf
from tokenizers import models, normalizers, pre_tokenizers, trainers

from dist_plm.core.errors import DataError
from dist_plm.data.reach import _lost, check_reach, check_rows, percent, without
from dist_plm.data.tokenizers.battery import BATTERY
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.data.tokenizers.train_tokenizer import train_bpe, train_unigram, train_wordpiece

ENGLISH = ["shall i compare thee to a summer's day, thou art more lovely and more temperate. " * 20]
CHINESE = ["床前明月光疑是地上霜舉頭望明月低頭思故鄉"]


def without_unknown(eats: str = "") -> Tokenizer:
    """Byte-pair encoding without bytes and without a token for what is unknown: it drops what it does not know."""
    tokenizer = hf.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=80, special_tokens=["<|endoftext|>"], show_progress=False)
    tokenizer.train_from_iterator(ENGLISH, trainer)
    if eats:
        tokenizer.normalizer = normalizers.Replace(hf.Regex(eats), "")
    return Tokenizer(tokenizer, None, "made")


def check(tokenizer: Tokenizer, texts: list[str]) -> None:
    check_reach(tokenizer, texts, 0.5, "of it", ": mend that")


def test_text_that_leaves_no_token_is_refused():
    check(without_unknown(), ENGLISH)
    with pytest.raises(DataError, match=r"100 % of the letters and digits of it are lost: .*: mend that"):
        check(without_unknown(), CHINESE)
    with pytest.raises(DataError, match=r"[67]\d % of the letters and digits of it are lost"):
        check(without_unknown(eats="[a-z]{4,}"), ENGLISH)


def test_text_that_is_unknown_is_refused():
    tokenizer = train_wordpiece([ENGLISH], 300)
    check(tokenizer, ENGLISH)
    check(tokenizer, [""])
    with pytest.raises(DataError, match=r"100 % of the tokens of it are unknown to the tokenizer: mend that"):
        check(tokenizer, CHINESE)


def test_no_letter_is_lost_by_what_tokenizers_usually_do():
    """Stripping accents, folding case and joining letters leaves a token for each."""
    texts = [*BATTERY, *ENGLISH, *CHINESE]
    for tokenizer in (
        train_bpe([texts], 400, "<|endoftext|>"),
        train_wordpiece([texts], 400, lowercase=True),
        train_wordpiece([texts], 400, lowercase=False),
        train_unigram([texts], 400),
    ):
        lost, total = _lost(tokenizer, texts)
        assert lost <= 2
        assert total > 1000


def test_rows_of_labelled_data():
    tokenizer = train_wordpiece([ENGLISH], 300)
    special = tokenizer.special_tokens()

    def rows(texts):
        return [np.array([special.cls, *ids, special.sep]) for ids in tokenizer.encode_batch(texts)]

    check_rows(rows(ENGLISH * 3), tokenizer, "of a.csv", ": mend")
    check_rows(rows([*ENGLISH * 2, ""]), tokenizer, "of a.csv", ": mend")
    with pytest.raises(DataError, match=r"100 % of the tokens of a.csv are unknown to the tokenizer: mend"):
        check_rows(rows(CHINESE * 3), tokenizer, "of a.csv", ": mend")
    with pytest.raises(DataError, match=r"67 % of the rows of a.csv have no token but special ones: mend"):
        check_rows(rows([*ENGLISH, "", ""]), tokenizer, "of a.csv", ": mend")


def test_special_tokens_in_a_prompt_are_no_text():
    assert without(["[MASK]", ""], "a [MASK] b") == "a   b"
    assert without([], "a") == "a"


def test_shares_for_a_person():
    assert [percent(share) for share in (1.0, 0.996, 0.444, 0.0061, 0.0)] == ["100 %", "100 %", "44 %", "0.61 %", "0 %"]
