import json
import logging
import random
import sys
import unicodedata
from pathlib import Path

import pytest
import tokenizers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from dist_plm.data.tokenizers import tokenizer as module
from dist_plm.data.tokenizers.battery import BATTERY
from dist_plm.data.tokenizers.fast_bpe import fast_bpe
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.data.tokenizers.train_tokenizer import train_bpe, train_bpe_roberta
from dist_plm.spec.prepare.schema import FIM_SPECIAL

TEXTS = [path.read_text() for path in sorted((Path(__file__).parents[1] / "texts").iterdir())]
#: Of Llama 3 and of Qwen: splits are told apart from the bytes.
LLAMA = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ENDLESS = [
    "a" * 50_000,
    " " * 50_000 + "x",
    "\n" * 30_000,
    "的" * 20_000,
    "ab" * 30_000,
    "<|endoftext|>",
    "a\ud800b"[:1],
]


def with_pattern(tokenizer, pattern):
    changed = hf.Tokenizer.from_str(tokenizer._tokenizer.to_str())
    split = pre_tokenizers.Split(hf.Regex(pattern), behavior="isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    changed.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    return Tokenizer(changed, None, "llama")


KINDS = {
    "bpe": lambda: train_bpe([TEXTS], 900, "<|endoftext|>"),
    "fim": lambda: train_bpe([TEXTS], 600, "<|endoftext|>", FIM_SPECIAL),
    "roberta": lambda: train_bpe_roberta([TEXTS], 900),
    "llama": lambda: with_pattern(train_bpe([TEXTS], 900, "<|endoftext|>"), LLAMA),
}


@pytest.fixture(scope="module", params=KINDS)
def both(request):
    tokenizer = KINDS[request.param]()
    fast = fast_bpe(tokenizer._encoder, tokenizer._encode_slowly, "it")
    assert fast is not None
    return fast, tokenizer._encode_slowly


def test_ids_are_those_of_tokenizers(both):
    fast, slow = both
    texts = [*BATTERY, *TEXTS, *ENDLESS, " ".join(TEXTS)]
    assert fast(texts) == slow(texts)
    assert all(fast._is_sure(text) for text in TEXTS)


@settings(max_examples=200)
@given(
    text=st.text(max_size=80)
    | st.text(alphabet=st.sampled_from(list("aA'sSlLtT1 \n\r\t.床é\u017f\u00a0")), max_size=40)
)
def test_ids_of_any_text_are_those_of_tokenizers(both, text):
    fast, slow = both
    assert fast([text]) == slow([text])


@pytest.mark.parametrize("before", [0, 1, 249, 250, 251])
def test_white_space_of_a_thousand_characters_is_left_to_tokenizers(before):
    tokenizer = KINDS["bpe"]()
    fast = fast_bpe(tokenizer._encoder, tokenizer._encode_slowly, "it")
    assert fast._is_sure("a" * before + " " * 999 + "b")
    assert not fast._is_sure("a" * before + " " * 1000 + "b")
    assert fast._is_sure(("a" * 249 + " ") * 20)


@pytest.mark.slow
def test_every_assigned_character_is_compared():
    tokenizer = KINDS["bpe"]()
    fast, slow = fast_bpe(tokenizer._encoder, tokenizer._encode_slowly, "it"), tokenizer._encode_slowly
    points = [p for p in range(sys.maxunicode + 1) if unicodedata.category(chr(p)) not in ("Cn", "Co", "Cs")]
    random.Random(5).shuffle(points)
    texts = ["".join(map(chr, points[i : i + 4000])) for i in range(0, len(points), 4000)]
    assert fast(texts) == slow(texts)
    assert fast._works
    assert (fast._state == 2).sum() < 1000


def changed(tokenizer, **parts):
    state = json.loads(tokenizer._tokenizer.to_str())
    state["model"] |= parts.pop("model", {})
    return hf.Tokenizer.from_str(json.dumps(state | parts))


def test_what_tiktoken_would_do_otherwise_is_left_to_tokenizers():
    plain = KINDS["bpe"]()
    merges = json.loads(plain._tokenizer.to_str())["model"]["merges"]
    prefixed = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    others = [
        changed(plain, pre_tokenizer=prefixed),
        changed(plain, normalizer={"type": "Lowercase"}),
        changed(plain, model={"dropout": 0.1}),
        changed(plain, model={"merges": merges[::-1]}),
        hf.Tokenizer(models.WordLevel({"a": 0}, unk_token="a")),
    ]
    added = changed(plain)
    added.add_tokens(["summer day"])
    for other in (*others, added):
        assert fast_bpe(other, plain._encode_slowly, "it") is None


def test_a_token_that_its_bytes_do_not_become_is_left_to_tokenizers():
    """tiktoken takes a word for a token where it is one; `tokenizers` merges "bc" first and never gets to "abc"."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([*alphabet, "bc", "ab", "abc"])}
    tokenizer = hf.Tokenizer(models.BPE(vocabulary, [("b", "c"), ("a", "b"), ("ab", "c")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert tokenizer.encode("abc").tokens == ["a", "bc"]
    assert fast_bpe(tokenizer, lambda texts: [tokenizer.encode(text).ids for text in texts], "it") is None


def test_where_a_sample_differs_tokenizers_goes_on_with_a_word(caplog):
    tokenizer = KINDS["bpe"]()
    fast = fast_bpe(tokenizer._encoder, tokenizer._encode_slowly, "it.json")
    fast._encoding = fast_bpe(KINDS["fim"]()._encoder, KINDS["fim"]()._encode_slowly, "x")._encoding
    with caplog.at_level(logging.WARNING):
        assert fast(TEXTS) == tokenizer._encode_slowly(TEXTS)
        assert fast(TEXTS) == tokenizer._encode_slowly(TEXTS)
    assert [record.getMessage()[:50] for record in caplog.records] == [
        "it.json: tiktoken gives other ids than tokenizers "
    ]


def test_much_text_is_encoded_fast(monkeypatch):
    tokenizer = KINDS["bpe"]()
    expected = tokenizer.encode_batch(TEXTS)
    monkeypatch.setattr(module, "_FAST_FROM_CHARS", 10)
    assert tokenizer.encode_batch(TEXTS) == expected
    assert tokenizer._fast is not tokenizer._encode_slowly
    assert tokenizer.encode_batch([]) == []
