import json

import pytest
import tokenizers as hf
from tokenizers import decoders, models, pre_tokenizers

from dist_plm.core.errors import DataError
from dist_plm.data.tokenizers.find_special_tokens import read_json_object, special_tokens_of
from dist_plm.data.tokenizers.tokenizer import Tokenizer


def byte_level(pieces, special=()):
    tokenizer = hf.Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def word_level(pieces):
    return hf.Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token=pieces[0]))


def unigram(pieces):
    return hf.Tokenizer(models.Unigram([(piece, 0.0) for piece in pieces], unk_id=0))


def test_roberta():
    special = special_tokens_of(
        byte_level(["<s>", "<pad>", "</s>", "<unk>", "a", "<mask>"], ["<s>", "<pad>", "</s>", "<mask>"]), {}, ()
    )
    assert (special.cls, special.pad, special.sep, special.eos, special.mask) == (0, 1, 2, 2, 5)
    assert (special.pieces_style, special.ids, special.vocab_size) == ("byte_level", (0, 1, 2, 5), 6)


def test_a_byte_level_piece_that_looks_special_is_text():
    special = special_tokens_of(byte_level(["</s>", "<pad>", "<|endoftext|>"], ["<|endoftext|>"]), {}, ())
    assert (special.ids, special.eos, special.pad, special.cls, special.sep) == ((2,), 2, None, None, None)


def test_where_nothing_is_marked_known_names_count():
    special = special_tokens_of(byte_level(["<s>", "</s>", "x"]), {}, ())
    assert (special.ids, special.cls, special.sep) == ((0, 1), 0, 1)


def test_t5():
    pieces = ["<pad>", "</s>", "<unk>", "▁a", *(f"<extra_id_{i}>" for i in (2, 1, 0))]
    tokenizer = unigram(pieces)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = special_tokens_of(tokenizer, {}, ())
    assert (special.pad, special.eos, special.cls, special.sep, special.mask) == (0, 1, None, None, None)
    assert (special.sentinels, special.ids, special.pieces_style) == ((6, 5, 4), (0, 1, 2, 4, 5, 6), "unigram")


def test_bert_with_unused_tokens_and_holes():
    vocabulary = {"[PAD]": 0, "[unused0]": 1, "[UNK]": 3, "[CLS]": 4, "[SEP]": 5, "[MASK]": 6, "the": 7, "##s": 8}
    special = special_tokens_of(hf.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]")), {}, ())
    assert (special.cls, special.sep, special.mask, special.pad) == (4, 5, 6, 0)
    assert (special.ids, special.pieces_style, special.vocab_size) == (tuple(range(7)), "wordpiece", 9)


@pytest.mark.parametrize("pattern", ["<|fim_{}|>", "<fim_{}>", "<fim-{}>"])
def test_fill_in_the_middle(pattern):
    names = [pattern.format(part) for part in ("prefix", "middle", "suffix")]
    special = special_tokens_of(byte_level(["a", *names], names), {}, ())
    assert (special.fim_prefix, special.fim_middle, special.fim_suffix, special.ids) == (1, 2, 3, (1, 2, 3))


def test_sentencepiece_bpe_marks_words_as_unigram_does():
    tokenizer = byte_level(["▁a"])
    tokenizer.pre_tokenizer = None
    assert special_tokens_of(tokenizer, {}, ()).pieces_style is None
    tokenizer.decoder = decoders.Metaspace()
    assert special_tokens_of(tokenizer, {}, ()).pieces_style == "unigram"


def test_the_file_beside_it_goes_before_names(tmp_path):
    word_level(["u", "[CLS]", "<begin>", "<end>", "[x]"]).save(str(tmp_path / "tokenizer.json"))
    cls = {"__type": "AddedToken", "content": "<begin>", "lstrip": False, "rstrip": False, "normalized": False}
    config = {"cls_token": cls, "eos_token": "<end>", "mask_token": "<nowhere>", "pad_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"additional_special_tokens": ["[x]"]}))
    tokenizer = Tokenizer.load(tmp_path)
    special = tokenizer.special_tokens()
    assert (special.cls, special.eos, special.mask, special.pad, special.ids) == (2, 3, 5, None, (2, 3, 4, 5))
    assert (tokenizer.end_of_document, special.pieces_style) == ("<end>", None)
    pieces = ["u", "[CLS]", "<begin>", "<end>", "[x]", "<nowhere>"]  # Transformers adds what is named
    assert tokenizer.pieces() == pieces


@pytest.mark.parametrize("content", ["{", "[]", b"\xff"])
def test_a_damaged_companion_is_refused_by_name(tmp_path, content):
    path = tmp_path / "special_tokens_map.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=r"special_tokens_map\.json, which belongs to the tokenizer beside it"):
        read_json_object(path)


def test_the_end_of_documents_is_special_and_found():
    for pieces, end in [(["a", "<|endoftext|>", "</s>"], 1), (["a", "[CLS]", "[SEP]"], 2), (["a", "</s>"], 1)]:
        tokenizer = Tokenizer(word_level(pieces), None, "it")
        assert (tokenizer.end_of_document_id, end in tokenizer.special_tokens().ids) == (end, True)
    assert 0 in Tokenizer(word_level(["a", "</s>"]), "a", "it").special_tokens().ids
    with pytest.raises(DataError, match=r"it has no token '<\|endoftext\|>' to end documents with"):
        Tokenizer(word_level(["a", "b"]), None, "it")


def test_an_objective_takes_them():
    pieces = ["<s>", "<pad>", "</s>", "<mask>"]
    special = special_tokens_of(byte_level(pieces), {}, ())
    assert special.is_special().all()
    told = special.with_vocabulary(pieces)
    assert told == special
    assert (told.continues.any(), told.pieces) == (False, None), "byte-level tokens are not text"


def test_fill_in_the_middle_of_tokens_that_are_not_marked(tmp_path):
    """As Qwen has them; text never becomes them."""
    names = ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"]
    tokenizer = byte_level([*pre_tokenizers.ByteLevel.alphabet(), "<|endoftext|>"], ["<|endoftext|>"])
    tokenizer.add_tokens([hf.AddedToken(name, special=False, normalized=False) for name in [*names, "<tool>"]])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.load(tmp_path)
    special = loaded.special_tokens()
    assert (special.fim_prefix, special.fim_middle, special.fim_suffix, special.ids) == (
        257,
        258,
        259,
        (256, 257, 258, 259),
    )
    (ids,) = loaded.encode_batch(["a<|fim_prefix|><tool>"])
    assert not set(ids) & set(special.ids)
    assert ids[-1] == 260  # which is no special token
    (tmp_path / "store").mkdir()
    loaded.save_directory(tmp_path / "store")
    assert Tokenizer.load(tmp_path / "store").special_tokens() == special


def test_special_names_that_text_holds_are_not_special(tmp_path):
    for pieces in (["<|fim_prefix|>", "<|endoftext|>"], ["<fim_middle>", "<|endoftext|>"]):
        special = special_tokens_of(byte_level(pieces, ["<|endoftext|>"]), {}, ())
        assert (special.ids, special.fim_prefix, special.fim_middle) == ((1,), None, None)
