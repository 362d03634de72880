import io
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceTrainer

from dist_plm.data.tokenizers import tokenizer as module
from dist_plm.data.tokenizers.long_texts import encode_long, pieces_of
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.data.tokenizers.train_tokenizer import train_bpe, train_unigram, train_wordpiece

TEXTS = [path.read_text() for path in sorted((Path(__file__).parents[1] / "texts").iterdir())]
CHINESE = "".join(c for text in TEXTS for c in text if "\u4e00" <= c <= "\u9fff")
LIMIT, OVERLAP = 3000, 1000


def sentencepiece(folder, config=None, **options):
    model = io.BytesIO()
    lines = [line for text in TEXTS for line in text.split("\n") if line.strip()]
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=900,
        minloglevel=2,
        character_coverage=0.99,
        **options,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.load(folder)


def prefixed(folder):
    train_bpe([TEXTS], 600, "<|endoftext|>").save(folder / "tokenizer.json")
    config = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.load(folder)


KINDS = {
    "wordpiece": lambda folder: train_wordpiece([TEXTS], 900),
    "bpe": lambda folder: train_bpe([TEXTS], 600, "<|endoftext|>"),
    "unigram": lambda folder: train_unigram([TEXTS], 900),
    "a bare model": lambda folder: sentencepiece(folder, model_type="bpe", byte_fallback=True),
    "phrases": lambda folder: sentencepiece(
        folder, model_type="unigram", split_by_whitespace=False, hard_vocab_limit=False
    ),
    "t5": lambda folder: sentencepiece(
        folder, {"tokenizer_class": "T5Tokenizer"}, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False
    ),
    "a space before texts": prefixed,
}


def shuffled(text, seed):
    parts = [text[i : i + 7] for i in range(0, len(text), 7)]
    random.Random(seed).shuffle(parts)
    return "".join(parts)


LONG = {
    "words": " ".join(shuffled(text, 1) for text in TEXTS),
    "no spaces": "".join(shuffled(CHINESE, seed) for seed in range(9)),
    "lines": "\n".join(TEXTS[0].split() * 9),
    "one letter": "a" * 9000,
    "white space": ("a" + " " * 50 + "b\n" + "\t" * 30) * 150,
    "unknown": "☃" * 7000 + " and more " + "☂ " * 3000,
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request, tmp_path_factory):
    return KINDS[request.param](tmp_path_factory.mktemp("kind"))


def joined(tokenizer, text, limit, overlap):
    return encode_long(text, lambda piece: tokenizer._encode([piece])[0], tokenizer._encode_with_places, limit, overlap)


@pytest.mark.parametrize("name", LONG)
def test_no_joint_shows(tokenizer, name, monkeypatch):
    """Ids are those of the whole text; of one letter alone, and of a word without an end, about as many."""
    (whole,) = tokenizer.encode_batch([LONG[name]])
    ids = joined(tokenizer, LONG[name], LIMIT, OVERLAP)
    if name in ("one letter", "unknown"):
        assert len(ids) == pytest.approx(len(whole), abs=8)
    else:
        assert list(ids) == whole


def test_long_and_short_texts_come_in_their_order(tokenizer, monkeypatch):
    texts = ["x", LONG["words"][:9000], "", "y z" * 500, LONG["lines"], "end"]
    whole = tokenizer.encode_batch(texts)
    monkeypatch.setattr(module, "MAX_PIECE_CHARS", 8192)
    assert [list(ids) for ids in tokenizer.encode_batch(texts)] == whole


@given(text=st.text(alphabet="ab \n", max_size=60), limit=st.integers(2, 20))
def test_pieces_join_to_the_text(text, limit):
    pieces = pieces_of(text, limit)
    assert "".join(pieces) == text
    assert all(len(piece) <= limit for piece in pieces)


@settings(max_examples=30)
@given(text=st.text(alphabet=st.sampled_from(list("ab \n床前明,.")), min_size=200, max_size=2000))
def test_any_text_is_joined(text):
    bpe = _bpe()
    (whole,) = bpe.encode_batch([text])
    assert list(joined(bpe, text, 200, 90)) == whole


def _bpe(made=[]):  # noqa: B006 -- made once
    if not made:
        made.append(train_bpe([TEXTS], 600, "<|endoftext|>"))
    return made[0]
