"""Preparation that was done before, or in part: reused, refused, gone on with, and killed anywhere."""

import json
import os
import resource
import shutil
import signal
import subprocess

import pytest

from dist_plm.core.errors import DataError, UserError
from dist_plm.data.prepare import read_and_clean, stages
from dist_plm.spec.prepare.schema import SourceConfig, TokenizerConfig
from tests.data.preparing import CORPUS, contents, in_a_process_of_its_own, run, slow

pytestmark = pytest.mark.usefixtures("many_units")


def test_the_same_again_is_reused(tmp_path):
    first, _ = run(tmp_path / "store")
    times = [path.stat().st_mtime_ns for path in sorted(first.path.iterdir())]
    second, report = run(tmp_path / "store", workers=2)
    assert second.reused
    assert second.manifest == first.manifest
    assert "is there already, from the same sources and configuration" in report
    assert [path.stat().st_mtime_ns for path in sorted(second.path.iterdir())] == times


def test_a_store_among_its_sources_is_no_source(tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for path in CORPUS.glob("sonnets_*.txt"):
        shutil.copy(path, texts)
    out, sources = texts / "made" / "store", (SourceConfig(path=f"{texts}/**/*.txt", document="block"),)
    out.parent.mkdir()
    wordpiece = TokenizerConfig(name="wordpiece", vocab_size=300)  # it leaves a vocab.txt in the store
    before = contents(run(out, sources=sources, tokenizer=wordpiece)[0].path)
    assert "vocab.txt" in before
    assert run(out, sources=sources, tokenizer=wordpiece)[0].reused
    for other in (out.with_name("store.partial"), out.with_name("store.old")):
        other.mkdir()
        (other / "vocab.txt").write_text("of a run that was killed")
    assert run(out, sources=sources, tokenizer=wordpiece)[0].reused
    for other in (out.with_name("store.partial"), out.with_name("store.old")):
        shutil.rmtree(other)
    run(out, sources=sources, tokenizer=wordpiece, overwrite=True)
    assert contents(out) == before
    with pytest.raises(DataError, match="holds a store made otherwise"):
        run(out, sources=(SourceConfig(path=f"{out}/*.txt"),), tokenizer=wordpiece)


def test_a_store_from_before_there_was_a_setting_is_reused(tmp_path):
    out = run(tmp_path / "store")[0].path
    content = json.loads((out / "manifest.json").read_text())
    del content["manifest_sha256"]
    for source in content["configuration"]["data"]["sources"]:
        del source["quoting"]
    tokenizer = content["configuration"]["tokenizer"]
    del tokenizer["special"]
    tokenizer["sentinels"] = 100  # had no effect on a byte-level BPE
    (out / "manifest.json").write_text(json.dumps(content))
    assert run(out)[0].reused


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
        read = count_calls(patch, read_and_clean, "_read")
        count_calls(patch, stages, "_tokenize", fail_at=3)
        with pytest.raises(RuntimeError, match="stop here"):
            run(tmp_path / "store")
    units = len(read)
    assert units >= 4
    read, tokenized = (
        count_calls(monkeypatch, read_and_clean, "_read"),
        count_calls(monkeypatch, stages, "_tokenize"),
    )
    _, report = run(tmp_path / "store")
    assert (len(read), len(tokenized)) == (0, units - 2)
    assert "going on with" in report
    assert contents(tmp_path / "store") == expected


def test_units_that_were_read_without_the_lines_of_slices_are_read_again(tmp_path, monkeypatch):
    rows = [f"{{broken {i}" if i % 5 == 0 else json.dumps({"text": f"text {i} " * 20}) for i in range(1, 101)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    changes = {"sources": (SourceConfig(path=str(tmp_path / "a.jsonl")),), "max_rejected": 1}
    whole = contents(run(tmp_path / "whole", **changes)[0].path)
    with monkeypatch.context() as patch:
        count_calls(patch, read_and_clean, "_join_rejected", fail_at=1)
        with pytest.raises(RuntimeError, match="stop here"):
            run(tmp_path / "store", **changes)
    tallies = sorted((tmp_path / "store.partial" / "work" / "documents").glob("*.tally"))
    assert len(tallies) > 3
    for tally in tallies[::2]:
        tally.with_suffix(".json").write_text(json.dumps(json.loads(tally.read_text()) | {"slices": None}))
        rejected = tally.with_suffix(".rejected.jsonl")
        records = [json.loads(line) for line in rejected.read_text().splitlines()]
        moved = [record | {"line": int(record["excerpt"].split()[1])} for record in records]
        rejected.write_text("".join(json.dumps(record) + "\n" for record in moved))
        tally.unlink()
    read = count_calls(monkeypatch, read_and_clean, "_read")
    run(tmp_path / "store", **changes)
    assert len(read) == len(tallies[::2])
    assert contents(tmp_path / "store") == whole
    listed = [json.loads(line)["line"] for line in whole["rejected.jsonl"].splitlines()]
    assert listed == list(range(5, 101, 5))


def test_leftovers_of_another_configuration_are_not_used(tmp_path, monkeypatch, expected):
    with monkeypatch.context() as patched:
        patched.setattr(stages, "join", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path / "store", tokenizer=TokenizerConfig(name="bpe", vocab_size=300))
    _, report = run(tmp_path / "store")
    assert "going on with" not in report
    assert contents(tmp_path / "store") == expected


@pytest.mark.parametrize(
    "point",
    [
        "kill_at(files.os, 'replace', 12)",
        slow("kill_at(read_and_clean, '_read', 3)"),
        slow("kill_at(stages, 'train', 1)"),
        "kill_at(stages, '_tokenize', 3)",
        slow("kill_at(stages, 'sha256_of', 4)"),
        slow("kill_at(prepare, 'write_manifest', 1)"),
        slow("kill_at(staging.shutil, 'rmtree', 1)"),
        slow("kill_at(staging.os, 'rename', 1)"),
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
    killed = in_a_process_of_its_own(out, "kill_at(staging.os, 'rename', 2)", overwrite=True)
    assert killed.returncode == -signal.SIGKILL
    run(out)
    assert contents(out) == expected
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("workers", [slow(1), 2])
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


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own and, to call, how large it is."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(option):
        return subprocess.run(["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(disk)], capture_output=True)

    if mount("size=64k").returncode:
        pytest.skip("no file system may be mounted here")
    yield disk, lambda size: mount(f"remount,size={size}")
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_that_is_full_is_reported_and_survived_when_there_is_room(small_disk, expected):
    disk, resize = small_disk
    with pytest.raises(DataError, match="No space left on device; when that is mended, the same command goes on"):
        run(disk / "store")
    assert [path.name for path in disk.iterdir()] == ["store.partial"]
    assert resize("10m").returncode == 0
    run(disk / "store")
    assert contents(disk / "store") == expected


@pytest.fixture
def thesis(tmp_path):
    """A directory of the user's, made under a name, and whether all is as it was."""

    def make(name):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "thesis.txt").write_text("years of work")
        return folder

    return make


@pytest.mark.parametrize("name", ["mine.partial", "mine.old"])
def test_a_users_directory_beside_the_store_is_left_alone(tmp_path, thesis, name):
    out = tmp_path / "mine"
    run(out)
    theirs, before = thesis(name), contents(out)
    with pytest.raises(
        UserError, match=rf"{name} is there already, and was not made by this program: move it away, or"
    ):
        run(out, tokenizer=TokenizerConfig(name="bpe", vocab_size=300), overwrite=True)
    assert contents(out) == before
    assert contents(theirs) == {"thesis.txt": b"years of work"}


def test_a_users_directory_that_is_in_nobodys_way_does_not_stop_a_first_preparation(tmp_path, thesis, expected):
    old = thesis("mine.old")
    run(tmp_path / "mine")
    assert contents(tmp_path / "mine") == expected
    assert contents(old) == {"thesis.txt": b"years of work"}


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_users_file_or_link_in_place_of_the_partial_store_is_left_alone(tmp_path, thesis, kind):
    place = tmp_path / "mine.partial"
    if kind == "file":
        place.write_text("years of work")
    else:
        place.symlink_to(thesis("elsewhere"))
    with pytest.raises(UserError, match=r"mine\.partial is there already"):
        run(tmp_path / "mine")
    assert place.is_symlink() or place.read_text() == "years of work"


def test_a_store_to_which_the_user_added_files_is_not_replaced(tmp_path):
    out = tmp_path / "mine"
    run(out)
    (out / "notes.txt").write_text("years of work")
    with pytest.raises(DataError, match=r"holds notes\.txt, which prepare_data did not write: move it elsewhere"):
        run(out, tokenizer=TokenizerConfig(name="bpe", vocab_size=300), overwrite=True)
    assert (out / "notes.txt").exists()
    assert run(out)[0].reused


def test_what_appears_at_out_meanwhile_is_left_alone(tmp_path, monkeypatch, thesis, expected):
    with monkeypatch.context() as patched:
        join = stages.join
        patched.setattr(stages, "join", lambda *arguments: thesis("mine") and join(*arguments))
        with pytest.raises(DataError, match="holds something other than a store"):
            run(tmp_path / "mine")
    assert contents(tmp_path / "mine") == {"thesis.txt": b"years of work"}
    (tmp_path / "mine").rename(tmp_path / "moved")
    run(tmp_path / "mine")
    assert contents(tmp_path / "mine") == expected


def test_killed_after_the_store_has_moved_the_rest_is_done_at_the_next_start(tmp_path, expected):
    out = tmp_path / "store"
    killed = in_a_process_of_its_own(out, "kill_at(staging, 'settle', 1)")
    assert killed.returncode == -signal.SIGKILL
    assert run(out)[0].reused
    assert contents(out) == expected
