import json

import pytest

from dist_plm.core.errors import DataError
from dist_plm.data.prepare.prepare import prepare
from dist_plm.data.store.verify import verify
from dist_plm.spec.prepare.schema import PrepareConfig, PrepareDataConfig, SourceConfig, TokenizerConfig


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


def test_a_manifest_that_lies_is_found_out(store):
    path = store / "manifest.json"
    content = json.loads(path.read_text())
    content["splits"]["train"]["tokens"] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"manifest\.json speaks of .* tokens in .*train\.idx of"):
        verify(store, print)


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no manifest\.json: it is not a store"):
        verify(tmp_path, print)
