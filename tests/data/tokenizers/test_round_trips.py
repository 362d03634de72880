"""Text to tokens and back: exactly where the vocabulary holds every byte, else up to a stated normalisation."""

import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.data.tokenizers.train_tokenizer import train
from dist_plm.spec.prepare.schema import TokenizerConfig

TEXTS = [path.read_text() for path in sorted((Path(__file__).parents[1] / "texts").iterdir())]
EXACT = {"bpe": {}, "bpe_roberta": {}, "bpe_fim": {"fim": True}}


@pytest.fixture(scope="module", params=EXACT)
def byte_level(request, tmp_path_factory):
    """Trained, and read back from the directory it was written to and from vocab.json alone."""
    folder = tmp_path_factory.mktemp("tokenizer")
    name = request.param.removesuffix("_fim")
    tokenizer = train(TokenizerConfig(name=name, vocab_size=400, **EXACT[request.param]), [TEXTS])
    tokenizer.save_directory(folder)
    return tokenizer, Tokenizer.load(folder), Tokenizer.load(folder / "vocab.json")


@given(
    text=st.text()
    | st.lists(st.sampled_from(["<s>", "</s>", "<|endoftext|>", "<|fim_middle|>", " ", "\n", "a"])).map("".join)
)
def test_byte_level_text_comes_back_exactly(byte_level, text):
    for tokenizer in byte_level:
        (ids,) = tokenizer.encode_batch([text])
        assert tokenizer.decode(ids) == text
        assert not set(ids) & set(tokenizer.special_tokens().ids)


def bare(text):
    """Without white space, which WordPiece does not keep."""
    return re.sub(r"\s", "", text)


def folded(text):
    """As BERT's uncased models see it."""
    return "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")


@pytest.mark.parametrize("lowercase", [True, False])
def test_wordpiece_text_comes_back_without_white_space_capitals_and_accents(lowercase):
    config = TokenizerConfig(name="wordpiece", vocab_size=900, character_coverage=1, lowercase=lowercase)
    tokenizer = train(config, [[*TEXTS, "café"]])
    for text in [*TEXTS, "Café, 1609!"]:
        (ids,) = tokenizer.encode_batch([text])
        assert bare(tokenizer.decode(ids)) == bare(folded(text) if lowercase else text)


def test_unigram_text_comes_back_in_nfkc_with_single_spaces():
    tokenizer = train(TokenizerConfig(name="unigram", vocab_size=900, character_coverage=1), [TEXTS])
    for text in [*TEXTS, "  Ｓｈａｌｌ　Ｉ\tcompare\n\nthee， 床前明月光  "]:
        (ids,) = tokenizer.encode_batch([text])
        assert tokenizer.decode(ids) == " ".join(unicodedata.normalize("NFKC", text).split())


def test_what_was_normalised_once_stays():
    """Tokens -> text -> tokens is the identity from the second time on."""
    for name in ("wordpiece", "unigram"):
        tokenizer = train(TokenizerConfig(name=name, vocab_size=900, character_coverage=1), [TEXTS])
        once = [tokenizer.decode(ids) for ids in tokenizer.encode_batch(TEXTS)]
        twice = [tokenizer.decode(ids) for ids in tokenizer.encode_batch(once)]
        assert twice == once
