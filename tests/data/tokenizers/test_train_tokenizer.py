import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_plm.core.errors import DataError
from dist_plm.data.tokenizers.tokenizer_files import fingerprint
from dist_plm.data.tokenizers.train_tokenizer import (
    count_characters,
    covering,
    train,
    train_bpe,
    train_bpe_roberta,
    train_unigram,
    train_wordpiece,
)
from dist_plm.spec.prepare.schema import FIM_SPECIAL, TokenizerConfig

CORPUS = Path(__file__).parents[1] / "texts"
END = "<|endoftext|>"


@pytest.fixture(scope="module")
def texts():
    return [path.read_text() for path in sorted(CORPUS.iterdir())]


@pytest.fixture(scope="module")
def uncased(texts):
    return train_wordpiece([texts], 900)


@pytest.mark.parametrize("size", [1, 256])
def test_a_vocabulary_without_room_for_the_bytes_is_refused(size):
    with pytest.raises(DataError, match=rf"tokenizer\.vocab_size = {size} is too small: .* need 257 at least"):
        train_bpe([["a"]], size, END)
    assert train_bpe([["a"]], 257, END).vocab_size == 257


def test_little_text_gives_a_smaller_vocabulary():
    assert train_bpe([["aaaa"]], 1000, END).vocab_size < 262
    assert train_wordpiece([["aaaa"]], 1000).vocab_size < 12


_TRAIN = """
import sys
from pathlib import Path
from dist_plm.data.tokenizers import train_tokenizer as t
texts = [path.read_text() for path in sorted(Path(sys.argv[2]).iterdir())]
config = t.TokenizerConfig(name=sys.argv[1], vocab_size=900)
t.train(config, [[text] for text in texts]).save(sys.argv[3])
"""


@pytest.mark.parametrize(
    "kind",
    ["wordpiece", "unigram", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("bpe", "bpe_roberta"))],
)
def test_another_process_learns_the_same_from_other_batches(kind, texts, tmp_path):
    """In one process the library's hash tables would have one order."""
    subprocess.run([sys.executable, "-c", _TRAIN, kind, str(CORPUS), str(tmp_path / "theirs")], check=True)
    ours = train(TokenizerConfig(name=kind, vocab_size=900), [texts])
    ours.save(tmp_path / "ours")
    assert fingerprint(tmp_path / "ours") == fingerprint(tmp_path / "theirs")
    assert ours.vocab_size == 900


def test_roberta_begins_with_its_special_tokens(texts):
    tokenizer = train_bpe_roberta([texts], 400)
    special = tokenizer.special_tokens()
    assert tokenizer.pieces()[:5] == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    assert (special.cls, special.pad, special.sep, special.eos, special.mask) == (0, 1, 2, 2, 4)
    assert (special.ids, special.pieces_style, tokenizer.end_of_document_id) == ((0, 1, 2, 3, 4), "byte_level", 2)
    (ids,) = tokenizer.encode_batch(["a <mask></s>"])
    assert min(ids) > 4
    assert tokenizer.decode(ids) == "a <mask></s>"


def test_tokens_of_fill_in_the_middle_on_demand(texts):
    config = TokenizerConfig(name="bpe", vocab_size=400, fim=True)
    tokenizer = train(config, [texts])
    special = tokenizer.special_tokens()
    assert (special.fim_prefix, special.fim_middle, special.fim_suffix, special.ids) == (1, 2, 3, (0, 1, 2, 3))
    assert (tokenizer.vocab_size, tokenizer.end_of_document_id) == (400, 0)
    (ids,) = tokenizer.encode_batch(["".join(FIM_SPECIAL)])
    assert not set(ids) & set(special.ids)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_further_special_tokens_are_found_by_name(texts, kind):
    config = TokenizerConfig(name=kind, vocab_size=500, special=("[NLU]", "[S2S]"), sentinels=3)
    tokenizer = train(config, [texts])
    special, pieces = tokenizer.special_tokens(), tokenizer.pieces()
    assert [pieces[special.named[name]] for name in config.special] == ["[NLU]", "[S2S]"]
    assert [pieces[i] for i in special.sentinels] == ["<extra_id_0>", "<extra_id_1>", "<extra_id_2>"]
    assert {*special.named.values(), *special.sentinels} == set(special.ids)
    (ids,) = tokenizer.encode_batch(["[NLU] is text, and so is [S2S]"])
    assert not set(ids) & {special.named[name] for name in config.special}


def test_unigram_has_the_layout_of_t5(texts):
    tokenizer = train_unigram([texts], 900, sentinels=100)
    pieces, special = tokenizer.pieces(), tokenizer.special_tokens()
    assert pieces[:3] == ["<pad>", "</s>", "<unk>"]
    assert pieces[800:] == [f"<extra_id_{i}>" for i in range(99, -1, -1)]
    assert (special.pad, special.eos, special.sep, special.cls) == (0, 1, None, None)
    assert special.sentinels == tuple(range(899, 799, -1))
    assert (special.ids, special.pieces_style) == ((0, 1, 2, *range(800, 900)), "unigram")
    assert (tokenizer.vocab_size, tokenizer.end_of_document_id) == (900, 1)


def test_unigram_text_is_only_text(texts):
    tokenizer = train_unigram([texts, ["< / s > p a d u n k e x t r a _ i d 7"] * 9], 300, sentinels=10)
    text = "</s> <pad> <unk> <extra_id_7>"
    (ids,) = tokenizer.encode_batch([text])
    assert not set(ids) & set(tokenizer.special_tokens().ids)
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    ("size", "message"), [(103, "leave nothing to learn"), (110, r"SentencePiece could not learn")]
)
def test_a_unigram_vocabulary_without_room_is_refused(texts, size, message):
    with pytest.raises(DataError, match=rf"tokenizer\.vocab_size = {size}.*{message}|{message} tokenizer.vocab_size"):
        train_unigram([texts], size)


def test_unigram_of_no_text_is_refused():
    with pytest.raises(DataError, match="check that there is text"):
        train_unigram([[" ", ""]], 400)


def test_wordpiece_begins_with_the_special_tokens_of_bert(uncased):
    special = uncased.special_tokens()
    assert uncased.pieces()[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert (special.pad, special.cls, special.sep, special.mask, special.ids) == (0, 2, 3, 4, (0, 1, 2, 3, 4))
    assert (special.pieces_style, special.vocab_size, uncased.end_of_document_id) == ("wordpiece", 900, 3)


def test_wordpiece_is_that_of_bert(uncased):
    (ids,) = uncased.encode_batch(["Shall I compare thee, 床前?"])
    pieces = uncased.pieces()
    assert [pieces[i] for i in ids][-3:] == ["床", "前", "?"]
    assert uncased.decode(ids[:-3]) == "shall i compare thee,"
    (ids,) = uncased.encode_batch(["[MASK]éa"])
    assert uncased.special_tokens().mask not in ids  # text is only text
    assert uncased.encode_batch(["CAFÉ"]) == uncased.encode_batch(["cafe"])


def test_cased_wordpiece_keeps_capitals(texts):
    cased = train_wordpiece([texts], 900, lowercase=False)
    (ids,) = cased.encode_batch(["Shall I compare"])
    assert cased.decode(ids) == "Shall I compare"


def test_characters_beyond_the_coverage_become_unknown():
    texts = [["aaaa bbbb ab" * 20, "z 床"]]
    narrow = train_wordpiece(texts, 50, character_coverage=0.98)
    pieces = narrow.pieces()
    assert not {"z", "床", "##z"} & set(pieces)
    (ids,) = narrow.encode_batch(["床"])
    assert [pieces[i] for i in ids] == ["[UNK]"]
    assert {"z", "床", "##z"} <= set(train_wordpiece(texts, 50).pieces())
    assert "##床" not in train_wordpiece(texts, 50).pieces()


def test_a_vocabulary_without_room_for_the_alphabet_is_refused():
    with pytest.raises(
        DataError, match=r"vocab_size = 8 is too small: 5 special tokens and the text's 2 characters.*9"
    ):
        train_wordpiece([["ab"]], 8)
    assert train_wordpiece([["ab"]], 9).vocab_size == 9


@settings(max_examples=25)
@given(texts=st.lists(st.text(max_size=20), max_size=5))
def test_characters_are_counted(texts):
    whole = "".join(texts)
    assert count_characters([texts[:2], texts[2:]]) == {c: whole.count(c) for c in sorted(set(whole))}


@given(counts=st.dictionaries(st.characters(), st.integers(1, 50)), coverage=st.floats(0, 1))
def test_covering_takes_the_most_frequent_and_no_more_than_needed(counts, coverage):
    kept, total = covering(counts, coverage), sum(counts.values())
    share = sum(counts[c] for c in kept)
    assert kept == sorted(kept)
    assert share >= coverage * total - 1e-9 * total
    least = min((counts[c] for c in kept), default=max(counts.values(), default=0))
    assert all(counts[c] <= least for c in counts if c not in kept)
    assert not kept or share - least < coverage * total + 1e-9 * total
