"""A tokenizer with more tokens: found where they are to be found, with the same numbers in Transformers."""

from pathlib import Path

import pytest
import tokenizers as hf
import transformers

from dist_plm.core.errors import DataError
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.data.tokenizers.train_tokenizer import train_bpe, train_unigram
from tests.data.labelled.words import write_vocabulary

CORPUS = Path(__file__).parents[1] / "texts"
TEXT = "the film [E1] was lovely <|im_end|> ([E1]very)"


@pytest.fixture(scope="module", params=["wordpiece", "bpe", "unigram"])
def tokenizer(request, tmp_path_factory) -> Tokenizer:
    if request.param == "wordpiece":
        return Tokenizer.load(write_vocabulary(tmp_path_factory.mktemp("vocabulary")))
    texts = [path.read_text() for path in sorted(CORPUS.iterdir())]
    if request.param == "unigram":
        return train_unigram(iter([texts]), 400)
    return train_bpe(iter([texts]), 400, "<|endoftext|>")


def test_words_are_found_in_text_and_special_tokens_are_not(tokenizer: Tokenizer) -> None:
    enlarged = tokenizer.with_tokens(["[E1]"], ["<|im_end|>"])
    size = tokenizer.vocab_size
    assert enlarged.vocab_size == size + 2
    assert enlarged.pieces()[size:] == ["[E1]", "<|im_end|>"]
    assert enlarged.end_of_document_id == tokenizer.end_of_document_id
    ids = list(enlarged.encode_batch([TEXT])[0])
    assert ids.count(size) == 2
    assert size + 1 not in ids
    assert enlarged.encode_marked(TEXT)[0].count(size + 1) == 1
    assert enlarged.encode_batch(["the film was"]) == tokenizer.encode_batch(["the film was"])


def test_what_is_kept_of_it_gives_the_same_numbers_here_and_in_transformers(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    enlarged = tokenizer.with_tokens(["[E1]"], ["<|im_end|>"])
    enlarged.save_directory(tmp_path)
    loaded, theirs = Tokenizer.load(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.encode_batch([TEXT]) == enlarged.encode_batch([TEXT])
    assert loaded.end_of_document_id == enlarged.end_of_document_id
    assert theirs(TEXT, add_special_tokens=False)["input_ids"] == enlarged.encode_marked(TEXT)[0]
    assert len(theirs) == enlarged.vocab_size
    assert loaded.with_tokens(["[E1]"], ["<|im_end|>"]).vocab_size == enlarged.vocab_size, "which it has already"


def test_numbers_that_were_left_out_are_not_given_away() -> None:
    vocabulary = {"<|endoftext|>": 0, "a": 1, "b": 9}
    tokenizer = Tokenizer(hf.Tokenizer(hf.models.WordLevel(vocabulary, unk_token="<|endoftext|>")), None, "it")
    with pytest.raises(DataError, match="it leaves numbers out"):
        tokenizer.with_tokens(["[E1]"], [])


def test_a_special_token_that_is_a_word_already_is_refused(tokenizer: Tokenizer) -> None:
    word = next(piece for piece in tokenizer.pieces() if piece.isalpha() and piece.isascii() and len(piece) > 1)
    with pytest.raises(DataError, match=f"data.new_special_tokens: text can become '{word}', .* as <.user.> is"):
        tokenizer.with_tokens([], [word])
    assert tokenizer.with_tokens([word], []).vocab_size == tokenizer.vocab_size
