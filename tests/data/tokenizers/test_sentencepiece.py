import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from sentencepiece import sentencepiece_model_pb2 as proto

from dist_plm.core.errors import DataError
from dist_plm.data.tokenizers.sentencepiece import from_sentencepiece
from dist_plm.data.tokenizers.tokenizer import Tokenizer

CORPUS = Path(__file__).parents[1] / "texts"
LINES = [line for path in sorted(CORPUS.iterdir()) for line in path.read_text().splitlines() if line.strip()]
HARD = [
    *(
        "",
        "  ",
        " a  b ",
        "</s> <pad> <unk> <s> <extra_id_0>",
        "▁a ▁▁b",
        "Ｆｕｌｌ　ｗｉｄｔｈ，中文。",
        "日本語\t\n tabs",
        "🎉🎉 x",
    ),
    *("é e\u0301 ﬁ", "a\u00a0b\u200bc", "\n\n x\n", "한국어", "<sep>a<sep> b", "a\uffffb"),
]
#: What SentencePiece's users choose: T5's, mBART's and XLM-R's, Llama's.
KINDS = {
    "t5": {"model_type": "unigram", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    "xlmr": {"model_type": "unigram", "user_defined_symbols": ["<sep>"], "character_coverage": 0.98},
    "bytes": {"model_type": "unigram", "byte_fallback": True, "character_coverage": 0.98},
    "bpe": {"model_type": "bpe", "character_coverage": 0.98},
    "llama": {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "split_digits": True,
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "character_coverage": 0.98,
    },
    "gemma": {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "character_coverage": 0.98,
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "add_dummy_prefix": False,
        "user_defined_symbols": ["<sep>"],
    },
    "phrases": {"model_type": "unigram", "split_by_whitespace": False},
}


def learnt(**options) -> bytes:
    model, size = io.BytesIO(), {"vocab_size": 700, "hard_vocab_limit": False, "minloglevel": 2}
    if options["model_type"] == "bpe":
        del size["hard_vocab_limit"]
    SentencePieceTrainer.train(sentence_iterator=iter(LINES), model_writer=model, **(size | options))
    return model.getvalue()


@pytest.fixture(scope="module", params=KINDS)
def both(request):
    """A SentencePiece model as SentencePiece reads it, and as we do."""
    content = learnt(**KINDS[request.param])
    return SentencePieceProcessor(model_proto=content), Tokenizer(from_sentencepiece(content, "x"), None, "x")


def assert_equal(theirs, ours, text):
    """Equal ids, or other ids with an equal score: SentencePiece adds in 32 bits, and ties may go either way."""
    (ids,), expected = ours.encode_batch([text]), theirs.encode(text)
    if ids != expected and theirs.unk_id() not in ids:
        assert ours.decode(ids) == theirs.decode(expected)
        assert theirs.get_score(ids[0]) != round(theirs.get_score(ids[0]))  # a BPE's, which has no ties
        assert sum(map(theirs.get_score, ids)) == pytest.approx(sum(map(theirs.get_score, expected)), rel=1e-6), text
    else:
        assert ids == expected, text


def test_ids_are_those_of_sentencepiece(both):
    for text in [*LINES, *HARD]:
        assert_equal(*both, text)


@given(text=st.text(alphabet=st.sampled_from(list("abehtSVI ,.<>/▁\n\t床前明　Ａ🎉")), max_size=30))
def test_ids_are_those_of_sentencepiece_for_any_text(both, text):
    assert_equal(*both, text)


def test_the_text_of_ids_is_that_of_sentencepiece(both):
    theirs, ours = both
    for ids in theirs.encode(LINES):
        if theirs.unk_id() not in ids:
            assert ours.decode(ids) == theirs.decode(ids)


def changed(content: bytes, change) -> bytes:
    model = proto.ModelProto()
    model.ParseFromString(content)
    change(model)
    return model.SerializeToString()


def suffix(model):
    model.trainer_spec.treat_whitespace_as_suffix = True


def word(model):
    model.trainer_spec.model_type = 3


def unescaped(model):
    model.normalizer_spec.escape_whitespaces = False


def empty(model):
    del model.pieces[:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (suffix, "treat_whitespace_as_suffix"),
        (word, "of type 'word'; unigram and bpe are supported"),
        (unescaped, "escape_whitespaces"),
        (empty, "it has no vocabulary"),
    ],
)
def test_what_would_give_other_ids_is_refused(change, message):
    content = changed(learnt(**KINDS["bpe"]), change)
    with pytest.raises(DataError, match=f"spiece.model .*{message}"):
        from_sentencepiece(content, "spiece.model")


def test_truncated_and_foreign_files_are_refused():
    content = learnt(**KINDS["bpe"])
    for damaged in (content[:-10], content[: len(content) // 2], b"", b"{}", b"no model\n" * 9, content[1:]):
        with pytest.raises(DataError, match=r"spiece.model is not a (whole )?SentencePiece model"):
            from_sentencepiece(damaged, "spiece.model")
