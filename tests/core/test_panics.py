"""Panics of Rust libraries become one message, and what else was said meanwhile is said."""

import base64
import json
import os

import pytest
from tokenizers import Tokenizer

from dist_plm.core.errors import DataError
from dist_plm.core.panics import panics_as, without_words_of_panics

BROKEN = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(b"\xff" * 40).decode()}
TOKENIZER = {
    "version": "1.0",
    "added_tokens": [],
    "normalizer": BROKEN,
    "model": {"type": "BPE", "vocab": {}, "merges": []},
}


def broken() -> None:
    with panics_as(DataError, "it is damaged"), without_words_of_panics():
        Tokenizer.from_str(json.dumps(TOKENIZER))


def failing() -> None:
    with without_words_of_panics():
        os.write(2, b"before it failed\n")
        raise ValueError("other")


def test_a_panic_is_one_message(capfd):
    with pytest.raises(DataError, match="it is damaged: Precompiled"):
        broken()
    assert capfd.readouterr().err == ""


def test_other_words_come_out_after_the_block(capfd):
    with without_words_of_panics():
        os.write(2, b"a warning\n")
        assert capfd.readouterr().err == ""
    assert capfd.readouterr().err == "a warning\n"
    with pytest.raises(ValueError, match="other"):
        failing()
    assert capfd.readouterr().err == "before it failed\n"
