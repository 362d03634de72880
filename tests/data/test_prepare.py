import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from megatron.core.datasets.indexed_dataset import IndexedDataset

from dist_plm.config.launchenv import LaunchEnv
from dist_plm.config.schema_clean import CleanConfig, DedupConfig
from dist_plm.config.schema_prepare import PrepareConfig, PrepareDataConfig, SourceConfig, TokenizerConfig
from dist_plm.data import gather, sources, stages
from dist_plm.data.dataset import open_split
from dist_plm.data.manifest import SPLITS, StageRecord, read_manifest
from dist_plm.data.prepare import prepare
from dist_plm.data.store import TokenStore
from dist_plm.data.tokenizers import Tokenizer
from dist_plm.errors import DataError

UNIT_BYTES = 3500  # small, so that the corpus makes several units
CORPUS = Path(__file__).parent / "texts"
SOURCES = (
    SourceConfig(path=str(CORPUS / "sonnets_*.txt"), document="block"),
    SourceConfig(path=str(CORPUS / "*.jsonl")),
    SourceConfig(path=str(CORPUS / "tang.txt"), max_chars=50),
)
BPE = TokenizerConfig(name="bpe", vocab_size=400)
# Every stage that there is.
CLEAN = CleanConfig(rules=("repair", "control_characters", "nfc", "white_space", "length"), min_chars=20)
DEDUP = DedupConfig(paragraphs=True, min_paragraph_chars=20, near=True, threshold=0.5)


def configuration(out, tokenizer=BPE, every_stage=False, **data):
    return PrepareConfig(
        data=PrepareDataConfig(**{"sources": SOURCES, "out": str(out), "split": (0.6, 0.2, 0.2), **data}),
        tokenizer=tokenizer,
        clean=CLEAN if every_stage else CleanConfig(),
        dedup=DEDUP if every_stage else DedupConfig(),
    )


def run(out, **changes):
    lines = []
    store = prepare(configuration(out, **changes), lines.append)
    return store, "\n".join(lines)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


@pytest.fixture(autouse=True)
def many_units(monkeypatch):
    monkeypatch.setattr(sources, "_MIB", UNIT_BYTES)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Name and bytes of every file of the store that all others must equal."""
    out = tmp_path_factory.mktemp("expected") / "store"
    before, sources._MIB = sources._MIB, UNIT_BYTES
    run(out)
    sources._MIB = before
    return contents(out)


def source_documents():
    texts = [text for text in (CORPUS / "sonnets_1_15.txt").read_text().strip("\n").split("\n\n") if text.strip()]
    texts += [json.loads(line)["text"] for line in (CORPUS / "sonnets_16_30.jsonl").read_text().splitlines()]
    return [text.strip("\n") for text in texts]


def test_every_document_comes_out_once_and_whole(tmp_path):
    store, report = run(tmp_path / "store")
    tokenizer = Tokenizer.load(store.path, "<|endoftext|>")
    out = []
    for name in SPLITS:
        tokens = TokenStore.open(store.path / name)
        bounds = [*tokens.document_offsets.tolist(), tokens.num_tokens]
        for start, stop in pairwise(bounds):
            ids = tokens.read(start, stop - start).tolist()
            assert ids[-1] == tokenizer.end_of_document_id
            assert tokenizer.end_of_document_id not in ids[:-1]
            out.append(tokenizer.decode(ids[:-1]))
    assert len(out) == len(set(out))
    english = [text for text in out if text.isascii()]
    assert sorted(english) == sorted(source_documents())
    chinese = "\n".join(text for text in out if not text.isascii())
    assert sorted(filter(str.strip, chinese.split("\n"))) == sorted(
        filter(str.strip, (CORPUS / "tang.txt").read_text().split("\n"))
    )
    assert "trained a tokenizer of 400 tokens" in report


def test_the_manifest_says_what_is_there(tmp_path):
    store, report = run(tmp_path / "store")
    manifest = read_manifest(store.path)
    assert manifest == store.manifest
    total = 0
    for name in SPLITS:
        record, tokens = manifest.split(name), TokenStore.open(store.path / name)
        assert (record.tokens, record.documents) == (tokens.num_tokens, tokens.num_documents)
        assert record.documents > 0
        assert f"{record.tokens:,}" in report
        total += record.text_bytes
    counts = manifest.counts
    assert total == counts.text_bytes - sum(stage.removed_bytes for stage in manifest.stages)
    assert manifest.sources.files == 3
    assert (manifest.dtype, manifest.tokenizer.vocab_size) == ("uint16", 400)
    assert set(contents(store.path)) == {
        *(f"{name}.{suffix}" for name in SPLITS for suffix in ("bin", "idx")),
        "manifest.json",
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"),
    }
    assert list(tmp_path.iterdir()) == [store.path]


def test_trainer_and_megatron_open_it(tmp_path):
    store, _ = run(tmp_path / "store")
    dataset = open_split(store.path, "train", (1, 0, 0), sequence_length=32, seed=0)
    assert dataset.num_windows == (store.manifest.splits.train.tokens - 1) // 32
    assert len(IndexedDataset(str(store.path / "train"))) == store.manifest.splits.train.documents


def test_identity_follows_the_tokens_not_the_path(tmp_path):
    def identity(out, split="train", **changes):
        return open_split(run(out, **changes)[0].path, split, (1, 0, 0), sequence_length=8, seed=0).identity()

    one = identity(tmp_path / "a")
    assert one == identity(tmp_path / "b")
    assert one != identity(tmp_path / "c", split="test")
    assert one != identity(tmp_path / "d", tokenizer=TokenizerConfig(name="bpe", vocab_size=300))


def test_any_number_of_workers_gives_the_same_bytes(tmp_path, expected):
    run(tmp_path / "store", workers=3)
    assert contents(tmp_path / "store") == expected


def test_any_number_of_ranks_gives_the_same_bytes(tmp_path, expected):
    launches = [LaunchEnv(rank=rank, world_size=3) for rank in range(3)]
    with ThreadPoolExecutor(3) as pool:
        stores = list(pool.map(partial(prepare, configuration(tmp_path / "store"), print), launches))
    assert [store is None for store in stores] == [False, True, True]
    assert contents(tmp_path / "store") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_duplicates_and_empty_documents_are_dropped_and_reported(tmp_path):
    for name, text in [("a", "one two"), ("b", "one two"), ("c", " \n"), ("d", "three")]:
        (tmp_path / f"{name}.txt").write_text(text)
    config = {"sources": (SourceConfig(path=str(tmp_path / "*.txt")),), "split": (1, 0, 0), "max_rejected": 0.25}
    store, report = run(tmp_path / "s", **config)
    counts = store.manifest.counts
    assert (counts.documents, counts.text_bytes, counts.rejected) == (3, 19, {"empty text": 1})
    assert store.manifest.stages == (StageRecord(name="equal documents", removed=1, removed_bytes=7),)
    assert store.manifest.splits.train.documents == 2
    assert "asked for 400, but the text holds no more pairs to merge" in report


def test_a_loaded_tokenizer_is_used_and_kept(tmp_path, expected):
    trained, _ = run(tmp_path / "first")
    path = tmp_path / "mine.json"
    path.write_bytes((trained.path / "tokenizer.json").read_bytes())
    given = TokenizerConfig(name="file", path=str(path))
    store, _ = run(tmp_path / "second", tokenizer=given)
    assert contents(store.path)["train.bin"] == expected["train.bin"]
    assert run(tmp_path / "second", tokenizer=given)[0].reused
    other = Tokenizer.load(path, "<|endoftext|>")
    other._tokenizer.add_special_tokens(["<mask>"])
    other.save(path)
    with pytest.raises(DataError, match=r"tokenizer\.file_sha256"):
        run(tmp_path / "second", tokenizer=given)


def test_the_same_again_is_reused(tmp_path):
    first, _ = run(tmp_path / "store")
    times = [path.stat().st_mtime_ns for path in sorted(first.path.iterdir())]
    second, report = run(tmp_path / "store", workers=2)
    assert second.reused
    assert second.manifest == first.manifest
    assert "is there already, from the same sources and configuration" in report
    assert [path.stat().st_mtime_ns for path in sorted(second.path.iterdir())] == times


def test_what_was_made_otherwise_is_refused_unless_overwrite(tmp_path, expected):
    out = tmp_path / "store"
    run(out, tokenizer=TokenizerConfig(name="bpe", vocab_size=300))
    with pytest.raises(DataError, match=r"made otherwise \(tokenizer\.vocab_size: 300 -> 400\): data\.overwrite=true"):
        run(out)
    run(out, overwrite=True)
    assert contents(out) == expected
    assert list(tmp_path.iterdir()) == [out]


def test_changed_sources_are_refused(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("some text")
    changes = {"sources": (SourceConfig(path=str(text)),), "split": (1, 0, 0)}
    run(tmp_path / "s", **changes)
    text.write_text("other text")
    with pytest.raises(DataError, match="the files it was made from are not the same any more"):
        run(tmp_path / "s", **changes)


def test_a_damaged_store_is_not_reused(tmp_path):
    out = run(tmp_path / "store")[0].path
    os.truncate(out / "test.bin", 10)
    with pytest.raises(DataError, match=r"cannot be used: .*test\.bin holds 10 bytes.*data\.overwrite=true"):
        run(out)
    run(out, overwrite=True)
    (out / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json cannot be read"):
        run(out)


def test_other_directories_are_never_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("")
    for overwrite in (False, True):
        with pytest.raises(DataError, match="holds something other than a store; it is not replaced"):
            run(tmp_path / "home", overwrite=overwrite)
        with pytest.raises(DataError, match="is a file; name a directory"):
            run(tmp_path / "file", overwrite=overwrite)
    assert (tmp_path / "home" / "thesis.txt").exists()
    (tmp_path / "empty").mkdir()
    run(tmp_path / "empty")


def test_out_may_be_a_link_but_not_the_current_directory(tmp_path, monkeypatch, expected):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    run(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "disk") == expected
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(DataError, match="is the current directory; name one inside it"):
        run(".")


@pytest.mark.parametrize("workers", [1, 2])
def test_broken_input_leaves_no_store(tmp_path, workers):
    for i in range(4):
        (tmp_path / f"{i}.txt").write_text("fine " * 500)
    (tmp_path / "5.txt").write_bytes(b"fine\n\xff\n")
    config = {"sources": (SourceConfig(path=str(tmp_path / "*.txt")),), "workers": workers}
    with pytest.raises(DataError, match=r"(?s)1 of 5 records.*5\.txt, line 2: not UTF-8.*s\.partial/rejected\.jsonl"):
        run(tmp_path / "s", **config)
    assert not (tmp_path / "s").exists()
    (tmp_path / "5.txt").write_text("mended")
    run(tmp_path / "s", **config)


def test_nothing_to_train_on_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text(" \n")
    (tmp_path / "b.txt").write_text("")
    sources = (SourceConfig(path=str(tmp_path / "*.txt")),)
    with pytest.raises(DataError, match="2 of 2 records are broken"):
        run(tmp_path / "s", sources=sources)
    with pytest.raises(DataError, match="no text is left to train on, of 0 documents in 2 files"):
        run(tmp_path / "s", sources=sources, max_rejected=1)


def test_broken_records_are_listed_and_left_out(tmp_path):
    rows = [json.dumps({"text": f"text {i}"}) for i in range(8)]
    (tmp_path / "a.jsonl").write_text("\n".join([*rows[:5], "{broken", *rows[5:], '{"body": "猫"}', '{"text": ""}']))
    store, report = run(
        tmp_path / "s", sources=(SourceConfig(path=str(tmp_path / "a.jsonl")),), max_rejected=0.3, split=(1, 0, 0)
    )
    listed = [json.loads(line) for line in (store.path / "rejected.jsonl").read_text().splitlines()]
    assert [(r["line"], r["reason"], r["excerpt"]) for r in listed] == [
        (6, "not JSON", "{broken\n"),
        (10, "no such column", "{'body': '猫'}"),
        (11, "empty text", "{'text': ''}"),
    ]
    assert listed[0]["source"] == str(tmp_path / "a.jsonl")
    assert "a.jsonl, line 6: not JSON" in report
    assert "3 of 11 records are broken and left out" in report
    assert store.manifest.splits.train.documents == 8


def test_two_at_once_are_refused(tmp_path, monkeypatch):
    refusals = []

    def meanwhile(*arguments, **keywords):
        with pytest.raises(DataError, match=r"another prepare_data is writing .*store\.partial") as refusal:
            run(tmp_path / "store")
        refusals.append(refusal)
        return train(*arguments, **keywords)

    train = stages.train
    monkeypatch.setattr(stages, "train", meanwhile)
    run(tmp_path / "store")
    assert len(refusals) == 1


def count_calls(patch, module, name, fail_at=None):
    function, calls = getattr(module, name), []

    def wrapped(*arguments):
        calls.append(name)
        if len(calls) == fail_at:
            raise RuntimeError("stop here")
        return function(*arguments)

    patch.setattr(module, name, wrapped)
    return calls


def test_finished_parts_are_not_done_again(tmp_path, monkeypatch, expected):
    with monkeypatch.context() as patch:
        gathered = count_calls(patch, gather, "_gather")
        count_calls(patch, stages, "_tokenize", fail_at=3)
        with pytest.raises(RuntimeError, match="stop here"):
            run(tmp_path / "store")
    units = len(gathered)
    assert units >= 4
    gathered, tokenized = count_calls(monkeypatch, gather, "_gather"), count_calls(monkeypatch, stages, "_tokenize")
    _, report = run(tmp_path / "store")
    assert (len(gathered), len(tokenized)) == (0, units - 2)
    assert "going on with" in report
    assert contents(tmp_path / "store") == expected


def test_leftovers_of_another_configuration_are_not_used(tmp_path, monkeypatch, expected):
    with monkeypatch.context() as patched:
        patched.setattr(stages, "join", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path / "store", tokenizer=TokenizerConfig(name="bpe", vocab_size=300))
    _, report = run(tmp_path / "store")
    assert "going on with" not in report
    assert contents(tmp_path / "store") == expected


def in_a_process_of_its_own(out, preparation="", **changes):
    """Runs prepare in a new interpreter, after some lines of preparation."""
    program = f"""
        import os, signal
        from dist_plm.config.schema_clean import *
        from dist_plm.config.schema_prepare import *
        from dist_plm.data import crew, dedup, files, gather, prepare, sources, stages, workspace
        sources._MIB = {UNIT_BYTES}

        def kill_at(module, name, number):
            function, calls = getattr(module, name), []
            def wrapped(*arguments, **keywords):
                calls.append(0)
                if len(calls) == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **keywords)
            setattr(module, name, wrapped)

        {preparation}
        prepare.prepare({configuration(out, **changes)!r}, print)
    """
    return subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)


@pytest.mark.parametrize(
    "point",
    [
        "kill_at(gather, '_gather', 3)",
        "kill_at(files.os, 'replace', 12)",
        "kill_at(stages, 'train', 1)",
        "kill_at(stages, '_tokenize', 3)",
        "kill_at(stages, 'sha256_of', 4)",
        "kill_at(prepare, 'write_manifest', 1)",
        "kill_at(workspace.shutil, 'rmtree', 1)",
        "kill_at(workspace.os, 'rename', 1)",
    ],
)
def test_killed_anywhere_and_started_again_it_ends_with_the_same_bytes(tmp_path, expected, point):
    out = tmp_path / "store"
    assert in_a_process_of_its_own(out, point).returncode == -signal.SIGKILL
    assert not out.exists()
    run(out)
    assert contents(out) == expected
    assert list(tmp_path.iterdir()) == [out]


def test_killed_while_replacing_a_store(tmp_path, expected):
    out = tmp_path / "store"
    run(out, tokenizer=TokenizerConfig(name="bpe", vocab_size=300))
    killed = in_a_process_of_its_own(out, "kill_at(workspace.os, 'rename', 2)", overwrite=True)
    assert killed.returncode == -signal.SIGKILL
    run(out)
    assert contents(out) == expected
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_reported_and_survived(tmp_path, expected, workers):
    """A limit on the size of files stands in for the disk: writing fails alike, with another number."""
    out = tmp_path / "store"
    limit = "import resource; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
    limit += f"; resource.setrlimit(resource.RLIMIT_FSIZE, (2500, {resource.RLIM_INFINITY}))"
    result = in_a_process_of_its_own(out, limit, workers=workers)
    assert "cannot prepare data" in result.stderr
    assert "File too large" in result.stderr
    assert not out.exists()
    run(out)
    assert contents(out) == expected
