import dataclasses
import os
from pathlib import Path

import pytest

from dist_plm.config import runfile
from dist_plm.config.decode import encode
from dist_plm.core.errors import ConfigError
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema import PretrainConfig
from tests.spec.make import pretrain


def test_what_is_written_is_read_back(tmp_path):
    config = finalize(pretrain(optim__lr=1e-5, track__to=["wandb"]), world_size=1, vocab_size=None)
    path = tmp_path / "runs" / "test" / "run.yaml"
    runfile.write(config, path)
    assert runfile.read(path, PretrainConfig) == config
    assert [p.name for p in path.parent.iterdir()] == ["run.yaml"]
    assert runfile.mapping_of(path)["started_in"] == str(Path.cwd())


def test_a_directory_whose_name_is_no_text_is_left_out(tmp_path, monkeypatch):
    here = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    os.mkdir(here)
    monkeypatch.chdir(os.fsdecode(here))
    runfile.write(pretrain(), "run.yaml")
    assert runfile.read("run.yaml", PretrainConfig) == pretrain()
    assert "started_in" not in runfile.mapping_of("run.yaml")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "run.yaml"
    runfile.write(pretrain(), path)

    def full_disk(fd):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        runfile.write(pretrain(train__seed=1), path)
    assert runfile.read(path, PretrainConfig) == pretrain()
    assert [p.name for p in tmp_path.iterdir()] == ["run.yaml"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, "cannot be read"),
        ("a: [", "cannot be read"),
        ("", "holds no configuration"),
        ("- 1", "holds no configuration"),
        ("foo: 1", "run.yaml: foo = 1 is not a setting"),
    ],
)
def test_other_files_are_refused(tmp_path, text, part):
    path = tmp_path / "run.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        runfile.read(path, PretrainConfig)
    assert part in str(caught.value)
    assert "run.yaml" in str(caught.value)


def test_diff_tells_what_changed():
    old = pretrain()
    new = dataclasses.replace(old, optim=dataclasses.replace(old.optim, lr=3e-4, betas=(0.9, 0.98)))
    assert runfile.diff(old, old) == []
    assert runfile.changes({"started_in": "/a", **encode(old)}, encode(old)) == []
    assert runfile.diff(old, new) == ["optim.lr: 0.001 -> 0.0003", "optim.betas: [0.9, 0.95] -> [0.9, 0.98]"]
