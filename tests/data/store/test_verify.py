import json
import shutil

import pytest

from dist_plm.core.errors import DataError
from dist_plm.data.prepare.prepare import prepare
from dist_plm.data.sampling.build_dataset import tokenizer_store
from dist_plm.data.store.manifest import read_manifest
from dist_plm.data.store.verify import verify
from dist_plm.spec.prepare.schema import PrepareConfig, PrepareDataConfig, SourceConfig, TokenizerConfig
from dist_plm.spec.schema import BlendSource, DataConfig
from dist_plm.train.data import special_tokens


@pytest.fixture
def store(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(f"line {i} of a text" for i in range(60)))
    data = PrepareDataConfig(
        sources=(SourceConfig(path=str(tmp_path / "a.txt"), document="line"),), out=str(tmp_path / "store")
    )
    config = PrepareConfig(data=data, tokenizer=TokenizerConfig(name="bpe", vocab_size=300))
    prepare(config, lambda line: None)
    return tmp_path / "store"


def test_a_sound_store_is_said_to_be(store):
    lines = []
    verify(store, lines.append)
    assert "11 files" in lines[0]
    assert "all as they were written" in lines[0]


def flipped(content):
    return bytes([content[0] ^ 1]) + content[1:]


@pytest.mark.parametrize("damage", [flipped, lambda content: content[:-1], lambda content: content + b" "])
@pytest.mark.parametrize("name", ["train.bin", "test.idx", "tokenizer.json", "tokenizer_config.json", "merges.txt"])
def test_each_damaged_file_is_named_and_no_other(store, name, damage):
    path = store / name
    path.write_bytes(damage(path.read_bytes()))
    (store / "validation.bin").unlink()
    with pytest.raises(DataError, match="is damaged") as caught:
        verify(store, print)
    problems = str(caught.value).split("\n")[1:-1]
    assert sorted(p.split()[1] for p in problems) == sorted([str(path), str(store / "validation.bin")])
    assert "validation.bin cannot be read: No such file" in str(caught.value)


def edit(store, *keys, by, hashed=True):
    """Adds to a number of the manifest, which without its hash is one of an older version."""
    path = store / "manifest.json"
    content = json.loads(path.read_text())
    section = content
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1]] += by
    if not hashed:
        del content["manifest_sha256"]
    path.write_text(json.dumps(content))


NUMBERS = [
    (("splits", "train", "tokens"), r"manifest\.json speaks of .* tokens in .*train\.idx of"),
    (("splits", "train", "documents"), r"manifest\.json speaks of .* tokens in .*train\.idx of"),
    (("tokenizer", "vocab_size"), r"speaks of 301 tokens, of which number \d+ ends a document, .*json of 300 and"),
    (("tokenizer", "end_of_document_id"), r"speaks of 300 tokens, of which number .*tokenizer\.json of 300 and"),
]


@pytest.mark.parametrize(("keys", "message"), NUMBERS)
def test_a_manifest_that_lies_is_found_out(store, keys, message):
    edit(store, *keys, by=1, hashed=False)
    with pytest.raises(DataError, match=message):
        verify(store, print)


@pytest.mark.parametrize("keys", [*(keys for keys, _ in NUMBERS), ("counts", "documents"), ("sources", "bytes")])
def test_a_manifest_that_was_changed_is_refused_by_all_who_read_it(store, keys):
    edit(store, *keys, by=1)
    for read in (read_manifest, special_tokens, lambda path: verify(path, print)):
        with pytest.raises(DataError, match=r"manifest\.json was changed after it was written: copy it again, or prep"):
            read(str(store))


def test_a_manifest_that_is_laid_out_anew_is_the_same(store):
    path = store / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    verify(store, print)


@pytest.mark.parametrize("number", ["vocab_size", "end_of_document_id"])
def test_runs_compare_the_manifest_with_the_tokenizer(store, number):
    assert special_tokens(str(store)).vocab_size == 300
    edit(store, "tokenizer", number, by=5, hashed=False)
    with pytest.raises(DataError, match=r"manifest\.json speaks of .*tokenizer\.json of 300 and .*: copy these files"):
        special_tokens(str(store))


def test_runs_refuse_a_tokenizer_that_is_not_the_stores(store):
    path = store / "tokenizer.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(DataError, match=r"tokenizer\.json has SHA-256 .*, and had .* when it was written: copy"):
        special_tokens(str(store))


def test_blended_stores_agree_in_every_number(store, tmp_path):
    shutil.copytree(store, tmp_path / "other")
    blend = DataConfig(
        sequence_length=8, blend=(BlendSource(path=str(store)), BlendSource(path=str(tmp_path / "other")))
    )
    assert tokenizer_store(blend) == str(store)
    edit(tmp_path / "other", "tokenizer", "end_of_document_id", by=1, hashed=False)
    with pytest.raises(DataError, match="were prepared with different tokenizers"):
        tokenizer_store(blend)


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no manifest\.json: it is not a store"):
        verify(tmp_path, print)
