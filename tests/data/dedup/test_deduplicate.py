import numpy as np
import psutil

from dist_plm.data.dedup import deduplicate as deduplicate_module
from dist_plm.data.dedup.deduplicate import deduplicate
from dist_plm.data.prepare.documents import DROPPED, DocumentShard, write_documents
from dist_plm.data.prepare.worker_group import WorkerGroup
from dist_plm.distributed.launch_env import LaunchEnv
from dist_plm.spec.prepare.clean import DedupConfig

LONG = "This paragraph is long enough to be remembered wherever it comes again."
OTHER = "Another one that is long enough, too, and says something else altogether."
NEAR = " ".join(f"word{i}" for i in range(100))


def run(tmp_path, *contents, **settings):
    """What is left of shards with these texts, and (name, removed, changed) of the stages."""
    shards = []
    for i, texts in enumerate(contents):
        shards.append(DocumentShard(tmp_path / f"{i:06}"))
        write_documents(shards[-1], iter(texts))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    group = WorkerGroup(LaunchEnv(), 1, 1.0)
    left, selection, removed = deduplicate(DedupConfig(**settings), shards, (1.0, 0.0, 0.0), scratch, group)
    texts = [list(s.texts(np.array(kept) != DROPPED)) for s, kept in zip(left, selection.splits, strict=True)]
    sizes = [sum(len(text.encode()) for text in texts) for texts in contents]
    kept_bytes = sum(len(text.encode()) for shard in texts for text in shard)
    assert sum(sizes) - sum(record.removed_bytes for record in removed) == kept_bytes
    assert selection.split_bytes["train"] == kept_bytes
    return texts, [(record.name, record.removed, record.changed) for record in removed]


def test_none(tmp_path):
    assert run(tmp_path, ["a", "a"], ["a"], documents=False) == ([["a", "a"], ["a"]], [])


def test_equal_documents(tmp_path):
    assert run(tmp_path, ["a", "b", "a"], ["c", "b"]) == ([["a", "b"], ["c"]], [("equal documents", 2, 0)])


def test_equal_paragraphs(tmp_path):
    contents = [[LONG, f"one\n\n{LONG}\n \n\ntwo", f"short\n\n{OTHER}"], [f"{OTHER}\n\n{LONG}", "short", f"{LONG}\n\n"]]
    texts, removed = run(tmp_path, *contents, paragraphs=True)
    assert texts == [[LONG, "one\n\ntwo", f"short\n\n{OTHER}"], ["short"]]
    assert removed == [("equal documents", 0, 0), ("equal paragraphs", 2, 1)]


def test_dropping_paragraphs_reads_as_much_a_shard_however_many_there_are(tmp_path, monkeypatch):
    read, rewrite = [], deduplicate_module._rewrite

    def counted(task):
        before = psutil.Process().io_counters().read_chars
        rewrite(task)
        read.append(psutil.Process().io_counters().read_chars - before)

    monkeypatch.setattr(deduplicate_module, "_rewrite", counted)
    for count in (2, 80):
        folder = tmp_path / f"{count}"
        folder.mkdir()
        texts, removed = run(folder, *[[f"{LONG}\n\ntext {i}"] for i in range(count)], paragraphs=True)
        assert texts == [[f"{LONG}\n\ntext 0"], *([f"text {i}"] for i in range(1, count))]
        assert removed[1] == ("equal paragraphs", 0, count - 1)
    # The flags of all 160 paragraphs come with the header, in reads of a buffer's size.
    assert max(read[2:]) <= max(read[:2]) + 512


def test_no_paragraphs_at_all(tmp_path):
    assert run(tmp_path, [], [], paragraphs=True) == ([[], []], [("equal documents", 0, 0), ("equal paragraphs", 0, 0)])


def test_the_length_from_which_paragraphs_count(tmp_path):
    texts, _ = run(tmp_path, ["abc\n\nx", "abc\n\ny", "ab\n\nz", "ab\n\nzz"], paragraphs=True, min_paragraph_chars=3)
    assert texts == [["abc\n\nx", "y", "ab\n\nz", "ab\n\nzz"]]


def test_of_near_duplicates_the_first_is_kept(tmp_path):
    near = NEAR.replace("word50", "other")
    contents = [["something else entirely", NEAR, NEAR], [near, NEAR + " end"], ["and one more text"]]
    texts, removed = run(tmp_path, *contents, near=True)
    assert texts == [["something else entirely", NEAR], [], ["and one more text"]]
    assert removed == [("equal documents", 1, 0), ("near duplicates", 2, 0)]


def test_all_stages_together(tmp_path):
    contents = [[f"{NEAR}\n\n{LONG}", LONG], [f"{NEAR} end\n\n{OTHER}", f"{NEAR}\n\n{LONG}"], []]
    texts, removed = run(tmp_path, *contents, paragraphs=True, near=True, threshold=0.7)
    assert texts == [[f"{NEAR}\n\n{LONG}"], [], []]
    assert removed == [("equal documents", 1, 0), ("equal paragraphs", 1, 0), ("near duplicates", 1, 0)]
