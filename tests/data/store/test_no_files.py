"""Pipes and directories where files belong: refused at once by name, never waited for."""

import os

import pytest

from dist_plm.core.errors import DataError
from dist_plm.data.sources.sources import find_sources
from dist_plm.data.store.manifest import read_manifest
from dist_plm.data.store.store import TokenStore
from dist_plm.data.store.verify import verify
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.spec.prepare.schema import SourceConfig, TokenizerConfig
from tests.data.preparing import run


@pytest.fixture(params=[os.mkfifo, os.mkdir])
def put(request):
    """Puts a pipe or a directory at a path, in place of what is there."""

    def replace(path):
        path.unlink(missing_ok=True)
        request.param(path)
        return path

    return replace


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl.gz", "a.csv", "a.parquet", "a.arrow"])
def test_pipes_are_no_sources(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=rf"cannot read .*{name}: it is a pipe, not a file"):
        find_sources([SourceConfig(path=str(tmp_path / "a.*"))])


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "vocab.json", "spiece.model"])
def test_tokenizers_are_files(tmp_path, name):
    (tmp_path / "a.txt").write_text("some text")
    os.mkfifo(tmp_path / name)
    config = TokenizerConfig(name="file", path=str(tmp_path / name))
    with pytest.raises(DataError, match=rf"{name}.*(pipe|directory)"):
        run(tmp_path / "store", tokenizer=config, sources=(SourceConfig(path=str(tmp_path / "a.txt")),))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole") / "store")[0].path


@pytest.fixture
def copy(store, tmp_path):
    for path in store.iterdir():
        os.link(path, tmp_path / path.name)
    return tmp_path


def test_a_manifest_is_a_file(copy, put):
    put(copy / "manifest.json")
    for read in (read_manifest, lambda path: verify(path, print)):
        with pytest.raises(DataError, match=r"manifest\.json cannot be read: .*(not a file|directory)"):
            read(copy)


def test_what_stands_beside_a_tokenizer_is_a_file(copy, put):
    put(copy / "tokenizer_config.json")
    with pytest.raises(DataError, match=r"tokenizer_config\.json.* cannot be read: .*(not a file|directory)"):
        Tokenizer.load(copy, None)


@pytest.mark.parametrize("name", ["train.bin", "train.idx"])
def test_the_halves_of_a_store_are_files(copy, put, name):
    put(copy / name)
    with pytest.raises(DataError, match=rf"cannot open .*{name}: .*(pipe|directory)"):
        TokenStore.open(copy / "train")
    with pytest.raises(DataError, match=rf"{name} cannot be read: .*(pipe|directory)"):
        verify(copy, print)
