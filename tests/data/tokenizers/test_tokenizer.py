import json
from pathlib import Path

import pytest
import tokenizers as hf
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.core.errors import DataError
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.data.tokenizers.tokenizer_files import fingerprint
from dist_plm.data.tokenizers.train_tokenizer import train_bpe, train_unigram, train_wordpiece

CORPUS = Path(__file__).parents[1] / "texts"
END = "<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizer():
    texts = [path.read_text() for path in sorted(CORPUS.iterdir())]
    return train_bpe(iter([texts]), 400, END)


@given(text=st.text())
def test_any_text_comes_back(tokenizer, text):
    (ids,) = tokenizer.encode_batch([text])
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < 400 for i in ids)
    assert tokenizer.end_of_document_id not in ids


def test_training_learns_merges(tokenizer):
    text = (CORPUS / "sonnets_1_15.txt").read_text()
    (ids,) = tokenizer.encode_batch([text])
    assert tokenizer.vocab_size == 400
    assert len(ids) < len(text) * 0.6


def test_a_special_token_written_in_text_is_text(tokenizer):
    ids = tokenizer.encode_batch([f"a{END}b"])[0]
    assert tokenizer.end_of_document_id not in ids
    assert tokenizer.decode(ids) == f"a{END}b"
    assert tokenizer.decode([*ids, tokenizer.end_of_document_id]) == f"a{END}b{END}"


def test_saving_and_loading_keep_everything(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = Tokenizer.load(path, END)
        assert loaded.encode_batch(["Shall I compare thee"]) == tokenizer.encode_batch(["Shall I compare thee"])
        assert (loaded.vocab_size, loaded.end_of_document_id) == (400, tokenizer.end_of_document_id)
        assert fingerprint(path) == fingerprint(tmp_path / "tokenizer.json")


def test_truncation_padding_and_added_tokens_of_the_file_have_no_effect(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t.json")
    theirs = hf.Tokenizer.from_file(str(tmp_path / "t.json"))
    theirs.enable_truncation(3)
    theirs.enable_padding(length=50)
    theirs.post_processor = hf.processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    theirs.save(str(tmp_path / "t.json"))
    texts = ["Shall I compare thee to a summer's day?", "a"]
    assert Tokenizer.load(tmp_path / "t.json", END).encode_batch(texts) == tokenizer.encode_batch(texts)


def test_the_vocabulary_ends_after_the_largest_id(tmp_path):
    vocabulary = {"a": 0, "b": 9, END: 4}
    path = tmp_path / "t.json"
    hf.Tokenizer(hf.models.WordLevel(vocabulary, unk_token="a")).save(str(path))
    assert Tokenizer.load(path, END).vocab_size == 10


@pytest.mark.parametrize("content", ["", "{}", "not json", json.dumps({"model": {"type": "BPE"}}), b"\xff\xfe"])
def test_files_that_are_no_tokenizer_are_refused(tmp_path, content):
    path = tmp_path / "t.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=r"t\.json is not a tokenizer\.json of Hugging Face"):
        Tokenizer.load(path, END)


def test_missing_files_and_tokens_are_refused(tokenizer, tmp_path):
    with pytest.raises(DataError, match=r"cannot read the tokenizer .*x\.json: No such file"):
        Tokenizer.load(tmp_path / "x.json", END)
    with pytest.raises(DataError, match=r"cannot read the tokenizer .*tokenizer\.json: No such file"):
        fingerprint(tmp_path)
    tokenizer.save(tmp_path / "t.json")
    with pytest.raises(DataError, match=r"no token '</s>' to end documents with; its special tokens are <\|endoftext"):
        Tokenizer.load(tmp_path / "t.json", "</s>")


@pytest.mark.parametrize("name", ["###", "user", "Ġuser", "e", "é", "'s"])
def test_a_special_token_that_text_becomes_is_refused(name):
    texts = [["### the user's x\n\n### a user\n\nétude"] * 9]
    learnt = train_bpe(texts, 300, END, [name, "<|user|>", "[user]", "user name", "中"])
    learnt.refuse_text(["<|user|>", "[user]", "user name", "中", END], "tokenizer.special")
    with pytest.raises(DataError, match=rf"tokenizer\.special: text can become '?\"?{name}'?\"?, .*as <\|user\|> is"):
        learnt.refuse_text([END, name], "tokenizer.special")


@pytest.mark.parametrize("kind", [train_wordpiece, train_unigram])
def test_models_that_match_whole_strings_are_kept_from_special_tokens(kind, tmp_path):
    kind([["the user and the user"] * 9 + ["abcdefghijklmnopqrstuvwxyz"]], 200).save(tmp_path / "t.json")
    ended = Tokenizer.load(tmp_path / "t.json", "a")
    ended.refuse_text(["a"], "tokenizer.end_of_document")
    assert ended.end_of_document_id not in ended.encode_batch(["a user"])[0]
