from pathlib import Path

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers.models import WordLevel

from dist_plm.data.labelled.encode import ExampleEncoder, cut_pair
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from tests.data.labelled.roberta import opened, write_byte_level
from tests.data.labelled.words import write_vocabulary

TEXTS = ["the film was lovely", "a very, very boring play", "bad", "not 7 good plays."]
OTHERS = ["a film", "is it", "the play was not good and not bad it was", "x"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vocabulary(tmp_path_factory.mktemp("bert"))


@pytest.mark.parametrize("length", [6, 9, 12, 64])
def test_equals_transformers_for_bert(folder: Path, length: int) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = ExampleEncoder(Tokenizer.load(folder), length)
    for second in (None, OTHERS):
        arguments = (TEXTS,) if second is None else (TEXTS, second)
        wanted = theirs(*arguments, truncation=True, max_length=length)
        found = ours.texts(TEXTS, second)
        assert [found["tokens"][i].tolist() for i in range(4)] == wanted["input_ids"]
        if second is not None:
            assert [found["segments"][i].tolist() for i in range(4)] == wanted["token_type_ids"]


def test_equals_transformers_for_roberta(tmp_path: Path) -> None:
    ours, theirs = ExampleEncoder(Tokenizer.load(write_byte_level(tmp_path)), 40), opened(tmp_path)
    wanted = theirs(TEXTS, OTHERS, truncation=True, max_length=40)["input_ids"]
    assert [ours.texts(TEXTS, OTHERS)["tokens"][i].tolist() for i in range(4)] == wanted


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 16))
def test_pairs_are_cut_as_the_library_cuts_them(first: int, second: int, room: int) -> None:
    library = Library(WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    from tokenizers.pre_tokenizers import Whitespace

    library.pre_tokenizer = Whitespace()
    library.enable_truncation(room, strategy="longest_first")
    ids = library.encode(" ".join("a" * first), " ".join("b" * second)).ids if room else []
    assert cut_pair(first, second, room) == (ids.count(0), ids.count(1))


def test_the_first_token_of_each_word_is_told(folder: Path) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    rows = [["the", "films", "was", "boringly"], ["zz"], ["a"] * 20]
    tokens, starts = ExampleEncoder(Tokenizer.load(folder), 12).words(rows)
    wanted = theirs(rows, is_split_into_words=True, truncation=True, max_length=12)
    for i in range(3):
        assert tokens[i].tolist() == wanted["input_ids"][i]
        words = wanted.word_ids(i)
        first = [w if w is not None and (j == 0 or words[j - 1] != w) else -1 for j, w in enumerate(words)]
        assert starts[i].tolist() == first


def test_padding_is_the_tokenizers_own(folder: Path) -> None:
    assert ExampleEncoder(Tokenizer.load(folder), 8).padding == 0
    assert np.array_equal(ExampleEncoder(Tokenizer.load(folder), 8).texts(["bad"])["tokens"].lengths, [3])
