import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.data.tokenizers.train_tokenizer import train
from dist_plm.spec.prepare.schema import TokenizerConfig

TEXTS = [path.read_text() for path in sorted((Path(__file__).parents[1] / "texts").iterdir())]
PROBE = [*TEXTS, "Shall I compare thee? 床前明月光", "", " two  spaces\n\n\tand more "]
FRAMES = {
    "wordpiece": ("[CLS]", "[SEP]"),
    "bpe_roberta": ("<s>", "</s>"),
    "unigram": (None, "</s>"),
    "bpe": (None, None),
}


@pytest.fixture(params=FRAMES)
def saved(request, tmp_path, monkeypatch):
    """A kind, its tokenizer, and the directory that it was written to."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tokenizer = train(TokenizerConfig(name=request.param, vocab_size=900), [TEXTS])
    tokenizer.save_directory(tmp_path)
    return request.param, tokenizer, tmp_path


def test_transformers_opens_it_with_equal_ids_and_the_frame_of_its_model(saved):
    kind, ours, folder = saved
    begin, end = FRAMES[kind]
    for theirs in (AutoTokenizer.from_pretrained(folder), PreTrainedTokenizerFast.from_pretrained(folder)):
        assert len(theirs) == ours.vocab_size
        assert [theirs.encode(text, add_special_tokens=False) for text in PROBE] == ours.encode_batch(PROBE)
        (ids,) = ours.encode_batch(PROBE[:1])
        begins, ends = ([theirs.get_vocab()[name]] if name else [] for name in (begin, end))
        assert theirs(PROBE[0])["input_ids"] == [*begins, *ids, *ends]
        assert theirs.decode(ids) == ours.decode(ids)
        assert set(theirs(PROBE[0])) == set(theirs.model_input_names)
        assert ("token_type_ids" in theirs.model_input_names) == (kind == "wordpiece")


def test_transformers_knows_its_special_tokens(saved):
    kind, ours, folder = saved
    theirs, special = AutoTokenizer.from_pretrained(folder), ours.special_tokens()
    numbers = (theirs.cls_token_id, theirs.sep_token_id, theirs.mask_token_id, theirs.pad_token_id, theirs.eos_token_id)
    assert numbers == (special.cls, special.sep, special.mask, special.pad, special.eos)
    assert set(theirs.all_special_ids) == set(special.ids)
    if kind == "unigram":
        assert theirs.convert_tokens_to_ids("<extra_id_0>") == special.sentinels[0] == ours.vocab_size - 1
        assert theirs.tokenize("a <extra_id_0>")[-1] == "<extra_id_0>"
    if kind == "wordpiece":
        pair = theirs("a", "b")
        assert pair["token_type_ids"] == [0, 0, 0, 1, 1]


def test_it_comes_back_the_same(saved):
    _, ours, folder = saved
    loaded = Tokenizer.load(folder)
    assert loaded.special_tokens() == ours.special_tokens()
    assert loaded.encode_batch(PROBE) == ours.encode_batch(PROBE)
    assert (loaded.end_of_document, loaded.pieces()) == (ours.end_of_document, ours.pieces())
    loaded.save_directory(folder / "..")
    for path in folder.iterdir():
        assert path.read_bytes() == (folder / ".." / path.name).read_bytes()


def test_vocabulary_files_where_usual(saved):
    kind, _, folder = saved
    usual = {"wordpiece": {"vocab.txt"}, "unigram": set()}.get(kind, {"vocab.json", "merges.txt"})
    names = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    assert {path.name for path in folder.iterdir()} == names | usual


def test_an_end_of_documents_by_another_name_is_the_end_of_text(tmp_path):
    train(TokenizerConfig(name="bpe", vocab_size=300, end_of_document="<eod>"), [TEXTS]).save_directory(tmp_path)
    assert json.loads((tmp_path / "special_tokens_map.json").read_text()) == {"eos_token": "<eod>"}
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.end_of_document, loaded.special_tokens().eos) == ("<eod>", 0)
