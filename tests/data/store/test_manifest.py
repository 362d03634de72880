import json
from dataclasses import replace

import pytest

from dist_plm.core.errors import DataError
from dist_plm.data.store.manifest import (
    SPLITS,
    Counts,
    Manifest,
    SourcesRecord,
    SplitRecord,
    SplitRecords,
    StageRecord,
    TokenizerRecord,
    Versions,
    read_configuration,
    read_manifest,
    write_manifest,
)


def record(name):
    return SplitRecord(prefix=name, documents=1, tokens=2, text_bytes=3, bin_sha256=name + "b", idx_sha256=name + "i")


MANIFEST = Manifest(
    dtype="uint16",
    splits=SplitRecords(**{name: record(name) for name in SPLITS}),
    tokenizer=TokenizerRecord(
        file="tokenizer.json", sha256="t", vocab_size=300, end_of_document="<|end|>", end_of_document_id=0
    ),
    counts=Counts(documents=4, text_bytes=10, rejected={"not JSON": 1}),
    stages=(StageRecord(name="equal documents", removed=1, removed_bytes=2),),
    sources=SourcesRecord(files=1, bytes=10, fingerprint="f"),
    versions=Versions(dist_plm="0", numpy="2", tokenizers="0"),
)


def edit(path, **changes):
    content = json.loads(path.read_text())
    del content["manifest_sha256"]  # as older versions wrote it
    path.write_text(json.dumps({**content, **changes}))


def test_comes_back_as_written(tmp_path):
    configuration = {"data": {"sources": [{"path": "*.txt"}]}, "future": None}
    write_manifest(tmp_path, MANIFEST, configuration)
    assert read_manifest(tmp_path) == MANIFEST
    assert read_configuration(tmp_path) == configuration


def test_identity_depends_on_tokens_and_tokenizer_alone():
    identities = {MANIFEST.identity(name) for name in SPLITS}
    assert len(identities) == 3
    elsewhere = replace(MANIFEST, versions=Versions(dist_plm="9", numpy="9", tokenizers="9"))
    assert {elsewhere.identity(name) for name in SPLITS} == identities
    other = replace(MANIFEST, tokenizer=replace(MANIFEST.tokenizer, sha256="u"))
    assert not {other.identity(name) for name in SPLITS} & identities


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "does not describe a store of this program"),
        ({"version": 1}, "has version 1; this program reads version 2"),
        ({"dtype": 3}, r"is damaged: dtype = 3 is not allowed.*prepare the data again"),
        ({"splits": {}}, r"is damaged: splits\.train is missing"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, changes, message):
    write_manifest(tmp_path, MANIFEST, {})
    edit(tmp_path / "manifest.json", **changes)
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path)


@pytest.mark.parametrize(("content", "message"), [("", "cannot be read"), ("[]", "does not describe a store")])
def test_files_that_are_no_manifest(tmp_path, content, message):
    with pytest.raises(DataError, match=r"has no manifest\.json: it is not a store, or prepare_data did not finish it"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path)
