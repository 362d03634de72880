"""Files beside a tokenizer's: ids are those of Transformers for the directory, or it is refused by name."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from dist_plm.core.errors import DataError
from dist_plm.data.tokenizers.battery import BATTERY
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.data.tokenizers.tokenizer_files import fingerprint
from dist_plm.data.tokenizers.train_tokenizer import train_bpe, train_bpe_roberta, train_wordpiece

CASES = Path(__file__).parent / "cases"
EXPECTED = json.loads((CASES / "expected_ids.json").read_text())
TEXTS = [path.read_text() for path in sorted((Path(__file__).parents[1] / "texts").iterdir())]
PROBE = [*filter(None, BATTERY), TEXTS[0], "a summer day, my summer days"]
ADDED = {"content": "summer day", "special": False, "lstrip": False, "rstrip": False, "single_word": False}
ADDED["normalized"] = True


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    kinds = {
        "wordpiece": train_wordpiece([TEXTS], 900, lowercase=False),
        "gpt2": train_bpe([TEXTS], 600, "<|endoftext|>"),
        "roberta": train_bpe_roberta([TEXTS], 600),
    }
    for name, tokenizer in kinds.items():
        (root / name).mkdir()
        tokenizer.save_directory(root / name)
    return root


def directory(made, kind, out, config, *, whole=False):
    """A directory with vocabulary files, or with tokenizer.json, and a tokenizer_config.json."""
    out.mkdir()
    usual = ["vocab.txt"] if kind == "wordpiece" else ["vocab.json", "merges.txt"]
    for name in ["tokenizer.json"] if whole else usual:
        shutil.copy(made / kind / name, out)
    (out / "tokenizer_config.json").write_text(json.dumps(config))
    return out


@pytest.mark.parametrize("name", EXPECTED)
def test_the_ids_of_published_directories(name):
    for path in (CASES / name, *(p for p in (CASES / name).iterdir() if p.name != "tokenizer_config.json")):
        loaded = Tokenizer.load(path)
        assert dict(zip(EXPECTED[name], loaded.encode_batch(list(EXPECTED[name])), strict=True)) == EXPECTED[name]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("wordpiece", {"tokenizer_class": "BertTokenizer"}),
        ("wordpiece", {"tokenizer_class": "DistilBertTokenizer", "do_lower_case": False, "strip_accents": True}),
        ("wordpiece", {"tokenizer_class": "ElectraTokenizerFast", "tokenize_chinese_chars": False}),
        ("wordpiece", {"tokenizer_class": "BertTokenizer", "additional_special_tokens": ["[ENT]"]}),
        ("wordpiece", {"tokenizer_class": "BertTokenizer", "added_tokens_decoder": {"900": ADDED}}),
        ("gpt2", {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}),
        ("gpt2", {"tokenizer_class": "Qwen2Tokenizer"}),
        ("gpt2", {"tokenizer_class": "GPTNeoXTokenizer", "add_prefix_space": True}),
        ("gpt2", {"tokenizer_class": "DebertaTokenizer"}),
        ("gpt2", {"tokenizer_class": "CodeGenTokenizer", "add_prefix_space": True}),
        ("wordpiece", {"tokenizer_class": "ConvBertTokenizer", "strip_accents": True}),
        ("gpt2", {"tokenizer_class": "GPT2Tokenizer", "pad_token": "<|pad|>"}),
        ("gpt2", {"tokenizer_class": "GPT2TokenizerFast", "added_tokens_decoder": {"600": ADDED}}),
        ("roberta", {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True}),
        ("roberta", {"tokenizer_class": "LongformerTokenizer", "trim_offsets": False}),
    ],
)
def test_settings_and_classes_change_ids_as_in_transformers(made, tmp_path, kind, config, whole):
    folder = directory(made, kind, tmp_path / "theirs", config, whole=whole)
    theirs, ours = AutoTokenizer.from_pretrained(folder), Tokenizer.load(folder)
    expected = [theirs.encode(text, add_special_tokens=False) for text in PROBE]
    assert ours.encode_batch(PROBE) == expected
    assert ours.vocab_size == len(theirs)
    (tmp_path / "store").mkdir()
    ours.save_directory(tmp_path / "store")
    assert Tokenizer.load(tmp_path / "store").encode_batch(PROBE) == expected
    again = AutoTokenizer.from_pretrained(tmp_path / "store")
    assert [again.encode(text, add_special_tokens=False) for text in PROBE] == expected


def test_vocabularies_that_older_programs_would_read_otherwise_are_not_written(made, tmp_path):
    settings = {"wordpiece": {"strip_accents": False}, "gpt2": {"add_prefix_space": True}}
    for kind, changes in settings.items():
        for changed, config in ((False, {}), (True, changes)):
            folder = directory(made, kind, tmp_path / f"{kind}{changed}", {"errors": "replace", **config})
            out = tmp_path / f"out {kind}{changed}"
            out.mkdir()
            Tokenizer.load(folder).save_directory(out)
            assert any((out / name).exists() for name in ("vocab.txt", "vocab.json")) != changed


def test_a_store_opens_without_transformers(made, monkeypatch):
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", None)
    for kind in ("wordpiece", "gpt2", "roberta"):
        assert Tokenizer.load(made / kind).encode_batch(["a"])


def test_the_kind_of_model_says_the_class(made, tmp_path):
    folder = directory(made, "gpt2", tmp_path / "it", {}, whole=True)
    (folder / "config.json").write_text('{"model_type": "qwen2", "hidden_size": 64}')
    theirs = AutoTokenizer.from_pretrained(folder)
    assert Tokenizer.load(folder).encode_batch(PROBE) == [theirs.encode(t, add_special_tokens=False) for t in PROBE]


def test_settings_without_a_class_are_those_of_the_usual_one(made, tmp_path):
    folder = directory(made, "wordpiece", tmp_path / "it", {"do_lower_case": True, "strip_accents": False})
    named = directory(
        made, "wordpiece", tmp_path / "named", {"tokenizer_class": "BertTokenizer", "strip_accents": False}
    )
    assert Tokenizer.load(folder).encode_batch(PROBE) == Tokenizer.load(named).encode_batch(PROBE)


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        (
            "wordpiece",
            {"tokenizer_class": "BertJapaneseTokenizer"},
            r"class BertJapaneseTokenizer, which splits text by a",
        ),
        ("wordpiece", {"tokenizer_class": "CanineTokenizer"}, r"class CanineTokenizer, which splits text by a program"),
        ("wordpiece", {"tokenizer_class": "NowhereTokenizer"}, r"Transformers has no tokenizer NowhereTokenizer"),
        (
            "wordpiece",
            {"tokenizer_class": "MPNetTokenizer"},
            r"vocab.txt lacks </s>, <mask>, <pad>, <s>, which its class",
        ),
        (
            "wordpiece",
            {"tokenizer_class": "BertTokenizer", "unk_token": "a"},
            r"a special token of it is a word of text",
        ),
        (
            "gpt2",
            {"tokenizer_class": "GPT2Tokenizer", "bos_token": "summer"},
            r"a special token of it is a word of text",
        ),
        ("wordpiece", {"auto_map": {"AutoTokenizer": ["own.Own", None]}}, r"vocab.txt belongs to a tokenizer"),
        (
            "wordpiece",
            {"tokenizer_class": "BertTokenizer", "added_tokens_decoder": {"7": ADDED}},
            r"number that does not",
        ),
        (
            "gpt2",
            {"tokenizer_class": "HerbertTokenizer"},
            r"vocab.json is damaged, or not of its class HerbertTokenizer",
        ),
        (
            "gpt2",
            {"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": {"99": 5}},
            r"Transformers cannot open it",
        ),
    ],
)
def test_what_cannot_be_given_is_refused_by_name(made, tmp_path, kind, config, message):
    folder = directory(made, kind, tmp_path / "it", config)
    with pytest.raises(DataError, match=message):
        Tokenizer.load(folder)


def test_a_fingerprint_tells_by_whom_it_is_read(made, tmp_path):
    config = {"tokenizer_class": "GPT2Tokenizer"}
    folder = directory(made, "gpt2", tmp_path / "it", config, whole=True)
    seen = {fingerprint(folder)}
    (folder / "config.json").write_text('{"model_type": "gpt2", "n_layer": 3}')
    seen.add(fingerprint(folder))
    (folder / "config.json").write_text('{"model_type": "gpt2", "n_layer": 4}')
    assert fingerprint(folder) in seen
    assert len(seen) == 2
