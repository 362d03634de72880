import io
import json
import os
import shutil
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from dist_plm.core.errors import DataError
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.data.tokenizers.tokenizer_files import fingerprint
from dist_plm.data.tokenizers.train_tokenizer import train_bpe, train_bpe_roberta, train_wordpiece

TEXTS = [path.read_text() for path in sorted((Path(__file__).parents[1] / "texts").iterdir())]
LINES = [line for text in TEXTS for line in text.splitlines() if line.strip()]
PROBE = [*TEXTS, "Shall I 床前明月光 </s> [MASK] <|endoftext|> café"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A directory of Transformers' for each kind, and the tokenizer that it was made from."""
    root = tmp_path_factory.mktemp("tokenizers")
    kinds = {
        "bert": train_wordpiece([TEXTS], 900),
        "cased": train_wordpiece([TEXTS], 900, lowercase=False),
        "gpt2": train_bpe([TEXTS], 600, "<|endoftext|>"),
        "roberta": train_bpe_roberta([TEXTS], 600),
    }
    for name, tokenizer in kinds.items():
        (root / name).mkdir()
        tokenizer.save_directory(root / name)
    return root, kinds


def old_style(root, kind, out, *, config=True):
    """The directory as programs before tokenizer.json wrote it."""
    out.mkdir()
    keep = {"bert": ["vocab.txt"], "cased": ["vocab.txt"]}.get(kind, ["vocab.json", "merges.txt"])
    for name in [*keep, *(["tokenizer_config.json"] if config else [])]:
        shutil.copy(root / kind / name, out)
    return out


@pytest.mark.parametrize("config", [True, False])
@pytest.mark.parametrize("kind", ["bert", "cased", "gpt2", "roberta"])
def test_vocabulary_files_give_the_tokenizer_they_came_from(made, tmp_path, kind, config):
    root, kinds = made
    folder = old_style(root, kind, tmp_path / "old", config=config)
    for path in (folder, *(p for p in folder.iterdir() if p.name != "tokenizer_config.json")):
        loaded = Tokenizer.load(path)
        assert loaded.encode_batch(PROBE) == kinds[kind].encode_batch(PROBE)
        assert loaded.special_tokens() == kinds[kind].special_tokens()
        assert loaded.end_of_document == kinds[kind].end_of_document


def test_bert_is_uncased_where_its_file_says_so_or_has_no_capitals(made, tmp_path):
    root, kinds = made
    folder = old_style(root, "bert", tmp_path / "old")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert Tokenizer.load(folder).encode_batch(["Shall"]) != kinds["bert"].encode_batch(["Shall"])


def test_windows_line_ends_change_nothing(made, tmp_path):
    root, kinds = made
    for kind, name in (("bert", "vocab.txt"), ("gpt2", "merges.txt")):
        folder = old_style(root, kind, tmp_path / kind)
        (folder / name).write_bytes((folder / name).read_bytes().replace(b"\n", b"\r\n"))
        assert Tokenizer.load(folder).encode_batch(PROBE) == kinds[kind].encode_batch(PROBE)


def test_tokens_added_later_follow_the_vocabulary(made, tmp_path):
    root, _ = made
    folder = old_style(root, "gpt2", tmp_path / "old")
    (folder / "added_tokens.json").write_text('{"<|fim_middle|>": 601, "<|fim_prefix|>": 600}')
    special = Tokenizer.load(folder).special_tokens()
    assert (special.fim_prefix, special.fim_middle, special.vocab_size) == (600, 601, 602)
    (folder / "added_tokens.json").write_text('{"<|fim_middle|>": 900}')
    with pytest.raises(DataError, match=r"added_tokens\.json gives '<\|fim_middle\|>' a number that does not follow"):
        Tokenizer.load(folder)


def sentencepiece_model(**options):
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=model,
        vocab_size=500,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def test_sentencepiece_of_t5_gets_its_sentinels(tmp_path):
    (tmp_path / "spiece.model").write_bytes(sentencepiece_model(pad_id=0, eos_id=1, unk_id=2, bos_id=-1))
    theirs = SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    for path in (tmp_path, tmp_path / "spiece.model"):
        loaded = Tokenizer.load(path, sentinels=100)
        size = theirs.get_piece_size()
        assert loaded.encode_batch(LINES[:20]) == theirs.encode(LINES[:20])
        assert loaded.special_tokens().sentinels == tuple(range(size + 99, size - 1, -1))
        assert (loaded.special_tokens().pad, loaded.special_tokens().eos, loaded.end_of_document) == (0, 1, "</s>")
    assert Tokenizer.load(tmp_path).vocab_size == size


def test_sentencepiece_of_others_gets_none(tmp_path):
    (tmp_path / "any.model").write_bytes(sentencepiece_model())
    loaded = Tokenizer.load(tmp_path, sentinels=100)
    assert (loaded.special_tokens().sentinels, loaded.special_tokens().cls, loaded.special_tokens().sep) == ((), 1, 2)


def test_sentencepiece_whose_program_renumbers_it_has_the_numbers_of_its_class(tmp_path):
    content = sentencepiece_model()
    (tmp_path / "own.model").write_bytes(content)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    assert Tokenizer.load(tmp_path).pieces()[:3] == ["<unk>", "<s>", "</s>"]
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "XLMRobertaTokenizer"}')
    assert Tokenizer.load(tmp_path).pieces()[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    (tmp_path / "xlmr").mkdir()
    (tmp_path / "xlmr" / "sentencepiece.bpe.model").write_bytes(content)
    with pytest.raises(DataError, match=r"sentencepiece\.bpe\.model is a SentencePiece model as XLM-R"):
        Tokenizer.load(tmp_path / "xlmr")


def truncate(share):
    return lambda content: content[: int(len(content) * share)]


@pytest.mark.parametrize(
    ("kind", "name", "damage", "message"),
    [
        ("bert", "vocab.txt", truncate(0.002), r"vocab\.txt is not a vocab\.txt of BERT, or it is truncated: it lacks"),
        ("bert", "vocab.txt", lambda c: c + b"[CLS]\n", r"vocab\.txt is damaged: '\[CLS\]' is in it more than once"),
        ("bert", "vocab.txt", lambda c: c + b"\n\nx\n", r"vocab\.txt is damaged: line 901 is empty"),
        ("bert", "vocab.txt", lambda c: c + b"\xff\xfe", r"vocab\.txt .* is not UTF-8 text"),
        ("gpt2", "vocab.json", truncate(0.9), r"vocab\.json is not JSON, or it is truncated"),
        ("gpt2", "vocab.json", lambda c: b'{"a": 1}', r"vocab\.json is not a byte-level vocabulary.*lacks 255 of 256"),
        ("gpt2", "vocab.json", lambda c: b'["a"]', r"vocab\.json is not a vocab\.json"),
        ("gpt2", "vocab.json", lambda c: c[:-1] + b', "zz": 5}', r"two pieces have the same number"),
        ("gpt2", "merges.txt", truncate(0.5), r"merges\.txt (makes nothing of|is not a merges\.txt|speaks of)"),
        (
            "gpt2",
            "merges.txt",
            lambda c: c + b"zz qq\n",
            r"merges\.txt speaks of 'zz', which .*vocab\.json does not have",
        ),
        ("gpt2", "merges.txt", lambda c: c + b"one\n", r"merges\.txt is not a merges\.txt, or it is truncated: line"),
        ("roberta", "merges.txt", lambda c: b"", r"merges\.txt makes nothing of 339 pieces of"),
    ],
)
def test_damaged_files_are_refused_by_name(made, tmp_path, kind, name, damage, message):
    folder = old_style(made[0], kind, tmp_path / "old")
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    with pytest.raises(DataError, match=message):
        Tokenizer.load(folder)


def test_a_missing_half_is_named(made, tmp_path):
    folder = old_style(made[0], "gpt2", tmp_path / "old")
    (folder / "merges.txt").unlink()
    with pytest.raises(DataError, match=r"cannot read the tokenizer .*merges\.txt: No such file"):
        Tokenizer.load(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "x.bin"])
def test_something_else_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_text(json.dumps({"hello": "world"}))
    with pytest.raises(DataError, match=name):
        Tokenizer.load(path)


def test_a_fingerprint_follows_every_file_that_counts(made, tmp_path):
    folder = old_style(made[0], "gpt2", tmp_path / "old")
    seen = {fingerprint(folder)}
    assert fingerprint(folder / "merges.txt") in seen
    for name in ("merges.txt", "vocab.json", "tokenizer_config.json"):
        (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
        seen.add(fingerprint(folder))
    assert len(seen) == 4


def whole(made, kind, **changes):
    """A tokenizer.json with changes in its parts."""
    content = json.loads((made[0] / kind / "tokenizer.json").read_text())
    return json.dumps(content | changes)


HOSTILE = {
    "a pipe": lambda path, made: os.mkfifo(path),
    "a device": lambda path, made: path.symlink_to("/dev/zero"),
    "a directory": lambda path, made: path.mkdir(),
    "a link to nothing": lambda path, made: path.symlink_to(path.with_name("gone")),
    "a broken map": lambda path, made: path.write_text(
        whole(made, "gpt2", normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAAgAB4eHh4"})
    ),
    "an endless map": lambda path, made: path.write_text(
        whole(made, "gpt2", normalizer={"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8="})
    ),
    "a pattern that never ends": lambda path, made: path.write_text(
        whole(made, "gpt2", pre_tokenizer={"type": "Split", "pattern": {"Regex": "((("}, "behavior": "Isolated"})
    ),
    "numbers far apart": lambda path, made: path.write_text(
        whole(made, "gpt2", model={"type": "WordLevel", "vocab": {"a": 0, "b": 50_000_000}, "unk_token": "a"})
    ),
    "no piece at all": lambda path, made: path.write_text(
        whole(made, "gpt2", added_tokens=[], model={"type": "WordLevel", "vocab": {}, "unk_token": "a"})
    ),
    "no unknown token": lambda path, made: path.write_text(
        whole(made, "gpt2", added_tokens=[], model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "b"})
    ),
    "deep nesting": lambda path, made: path.write_text("[" * 100_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_at_once(made, tmp_path, name):
    HOSTILE[name](tmp_path / "tokenizer.json", made)
    with pytest.raises(DataError, match=r"tokenizer\.json|/test_hostile"):
        Tokenizer.load(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json"])
def test_pipes_beside_a_tokenizer_are_not_waited_for(made, tmp_path, name):
    folder = old_style(made[0], "gpt2", tmp_path / "old")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(DataError, match=rf"{name}.*it is a pipe"):
        Tokenizer.load(folder)


def test_numbers_far_apart_in_a_vocabulary_file_are_refused(made, tmp_path):
    folder = old_style(made[0], "gpt2", tmp_path / "old")
    vocabulary = json.loads((folder / "vocab.json").read_text()) | {"<far>": 50_000_000}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(DataError, match=r"vocab\.json gives '<far>' the number 50,000,000: a vocabulary has 1 to"):
        Tokenizer.load(folder)


def test_a_file_of_tiktoken_is_called_one(tmp_path):
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 1\nIw== 2\n")
    for config in (None, '{"tokenizer_class": "LlamaTokenizer"}'):
        if config:
            (tmp_path / "tokenizer_config.json").write_text(config)
        with pytest.raises(DataError, match=r"tokenizer\.model is a file of tiktoken, which lacks the pattern"):
            Tokenizer.load(tmp_path)
