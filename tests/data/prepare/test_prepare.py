import json
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from megatron.core.datasets.indexed_dataset import IndexedDataset

from dist_plm.core.errors import DataError
from dist_plm.data.prepare.prepare import prepare
from dist_plm.data.sampling.windows import open_split
from dist_plm.data.sources import lines as source_lines
from dist_plm.data.store.manifest import SPLITS, StageRecord, read_manifest
from dist_plm.data.store.store import TokenStore
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.spec.prepare.clean import CleanConfig
from dist_plm.spec.prepare.schema import SourceConfig, TokenizerConfig
from tests.data.preparing import CORPUS, configuration, contents, in_a_process_of_its_own, run, run_on_ranks, slow

pytestmark = pytest.mark.usefixtures("many_units")


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
    stores = run_on_ranks(tmp_path / "store", 3)
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


def test_a_smaller_vocabulary_is_told_in_the_words_of_its_kind(tmp_path):
    (tmp_path / "a.txt").write_text("one two three\nfour five six\n" * 9)
    unigram = TokenizerConfig(name="unigram", vocab_size=1000, sentinels=3)
    source = SourceConfig(path=str(tmp_path / "a.txt"))
    _, report = run(tmp_path / "s", sources=(source,), split=(1, 0, 0), tokenizer=unigram)
    assert "asked for 1,000, but the text holds no more pieces to learn" in report


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


def test_a_store_without_the_tokenizer_it_was_made_with_is_not_reused(tmp_path):
    out = run(tmp_path / "store")[0].path
    for name in ("tokenizer.json", "vocab.json", "special_tokens_map.json"):
        content = (out / name).read_bytes()
        for damage in (b"{}", content[:-9], None):
            (out / name).unlink() if damage is None else (out / name).write_bytes(damage)
            with pytest.raises(DataError, match=rf"cannot be used: .*{name}.*data\.overwrite=true replaces it"):
                run(out)
        (out / name).write_bytes(content)
    assert run(out)[0].reused
    (out / "tokenizer.json").unlink()
    assert not run(out, overwrite=True)[0].reused


def test_documents_do_not_end_with_what_text_becomes(tmp_path):
    (tmp_path / "a.txt").write_text("###é\n\n" * 9 + "the end")
    changes = {"sources": (SourceConfig(path=str(tmp_path / "a.txt")),), "split": (1, 0, 0)}
    for key, value in (("end_of_document", "é"), ("special", ("<|é|>", "Ã©"))):
        with pytest.raises(DataError, match=rf"tokenizer\.{key}: text can become '(é|Ã©)', a piece of words in the tr"):
            run(tmp_path / "s", tokenizer=TokenizerConfig(name="bpe", vocab_size=300, **{key: value}), **changes)
    path = str(run(tmp_path / "s", **changes)[0].path)
    with pytest.raises(DataError, match=r"tokenizer\.end_of_document: text can become 'e', a piece of words in .*s:"):
        run(tmp_path / "t", tokenizer=TokenizerConfig(name="file", path=path, end_of_document="e"), **changes)
    given = TokenizerConfig(name="file", path=path, end_of_document="<|endoftext|>")
    assert run(tmp_path / "t", tokenizer=given, **changes)[0].manifest.tokenizer.end_of_document_id == 0


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


def test_what_removed_all_documents_is_named(tmp_path):
    (tmp_path / "a.txt").write_text(
        "".join(f"Der Hund {i} schläft heute vor dem alten Haus.\n\n" for i in range(9)) + "ab"
    )
    config = configuration(tmp_path / "s", sources=(SourceConfig(path=str(tmp_path / "a.txt"), document="block"),))
    rules = CleanConfig(rules=("length", "language", "nfc"), min_chars=3)
    cleaned, last = replace(config, clean=rules), replace(config, data=replace(config.data, split=(0, 0, 1)))
    with pytest.raises(
        DataError,
        match=r"left to train on, of 10 documents in 1 file: length removed 1, language removed 9; check "
        r"clean\.rules and clean\.min_chars and .* and clean\.languages and",
    ):
        prepare(cleaned, print)
    with pytest.raises(DataError, match=r"of 10 documents in 1 file: check data\.sources and data\.split$"):
        prepare(last, print)
    (tmp_path / "a.txt").write_text("ab\n\nab\n\nZwei Hunde schlafen vor dem alten Haus.")
    with pytest.raises(DataError, match=r"of 3 documents .*: equal documents removed 1; check .*split and dedup"):
        prepare(last, print)


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
    assert f"{store.path / 'rejected.jsonl'} lists all of them" in report
    assert store.manifest.splits.train.documents == 8


def cut_files(folder):
    """Two files that make many units, a fifth of their lines broken, and a short one behind them; sources, and those lines."""
    every_fifth = range(5, 201, 5)
    rows = [f"{{broken {i}" if i % 5 == 0 else json.dumps({"text": f"text {i} " * 20}) for i in range(1, 201)]
    (folder / "a.jsonl").write_text("\n\n".join(rows))
    lines = [f"line {i}".encode() + (b"\xff" if i % 5 == 0 else b" and so on" * 20) for i in range(1, 201)]
    (folder / "b.txt").write_bytes(b"\n".join(lines))
    (folder / "c.jsonl").write_text('{"text": "fine"}\n{broken\n')
    names = [("a.jsonl", "whole"), ("b.txt", "line"), ("c.jsonl", "whole")]
    sources = tuple(SourceConfig(path=str(folder / name), document=document) for name, document in names)
    broken = [("a.jsonl", 2 * i - 1) for i in every_fifth] + [("b.txt", i) for i in every_fifth]
    return sources, [*broken, ("c.jsonl", 2)]


def listed_lines(store):
    rows = [json.loads(line) for line in (store / "rejected.jsonl").read_text().splitlines()]
    return [(Path(row["source"]).name, row["line"]) for row in rows]


def test_broken_records_of_cut_files_are_numbered_without_reading_anything_again(tmp_path, monkeypatch):
    sources, expected = cut_files(tmp_path)
    read, opened = {}, source_lines.open_bytes

    class Counted:
        def __init__(self, path, file):
            self.fileno, self.seek, self._path, self._file = file.fileno, file.seek, Path(path).name, file

        def readline(self, most):
            line = self._file.readline(most)
            read[self._path] = read.get(self._path, 0) + len(line)
            return line

    @contextmanager
    def counted(path):
        with opened(path) as file:
            yield Counted(path, file)

    monkeypatch.setattr(source_lines, "open_bytes", counted)
    store, report = run(tmp_path / "s", sources=sources, max_rejected=1)
    assert listed_lines(store.path) == expected
    assert "a.jsonl, line 9: not JSON" in report
    for name, num_bytes in read.items():
        # A line that two slices share is passed over in one.
        assert num_bytes < (tmp_path / name).stat().st_size * 1.2, name


@pytest.mark.parametrize("share", [slow("workers"), "ranks"])
def test_broken_records_of_cut_files_are_the_same_however_the_work_is_shared(tmp_path, share):
    sources, expected = cut_files(tmp_path)
    alone = contents(run(tmp_path / "alone", sources=sources, max_rejected=1)[0].path)
    if share == "ranks":
        run_on_ranks(tmp_path / "s", 3, sources=sources, max_rejected=1)
    else:
        run(tmp_path / "s", sources=sources, max_rejected=1, workers=2)
    assert contents(tmp_path / "s") == alone
    assert listed_lines(tmp_path / "s") == expected


@pytest.mark.slow
def test_a_line_of_100_mb_is_listed_and_never_held(tmp_path):
    with (tmp_path / "a.txt").open("w") as file:
        file.writelines(f"a line of number {i}\n" for i in range(100))
        file.write("x" * 10**8 + "\nand the last\n")
    source = SourceConfig(path=str(tmp_path / "a.txt"), document="line")
    peak = "open('/proc/self/status').read().split('VmHWM:')[1].split()[0]"  # ru_maxrss is the parent's at first
    told = f"import atexit; atexit.register(lambda: print('peak', {peak}))"
    done = in_a_process_of_its_own(tmp_path / "s", told, sources=(source,), max_rejected=0.1)
    assert "a.txt, line 101: too long (a line of more than 32 MiB)" in done.stdout, done.stderr
    assert int(done.stdout.split("peak ")[1]) < 400_000  # KiB
