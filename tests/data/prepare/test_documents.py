import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.data.prepare import documents
from dist_plm.data.prepare.documents import (
    DROPPED,
    DocumentShard,
    Selection,
    first_of_equals,
    repeated_documents,
    split_of,
    write_documents,
)

SHARES = (0.5, 0.3, 0.2)
uint64s = st.integers(0, 3)  # few values, so that equals are common


def make(path, texts):
    shard = DocumentShard(path)
    write_documents(shard, iter(texts))
    return shard


def test_shards_give_back_the_chosen_texts(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "_BLOCK", 2)
    texts = ["one", "", "zwölf 猫\n", " \n", "five"]
    shard = make(tmp_path / "0", texts)
    assert shard.is_complete
    assert list(shard.texts(np.ones(5, bool))) == ["one", "", "zwölf 猫\n", "", "five"]
    assert list(shard.texts(np.array([0, 0, 1, 0, 1], bool))) == ["zwölf 猫\n", "five"]
    assert len(shard.entries()) == 5


def test_an_empty_shard(tmp_path):
    shard = make(tmp_path / "0", [])
    assert list(shard.texts(np.ones(0, bool))) == []
    selection = Selection.of([shard], SHARES)
    assert [len(splits) for splits in selection.splits] == [0]
    assert Selection.of([], SHARES).splits == []


def test_a_failed_shard_is_not_complete(tmp_path):
    def texts():
        yield "one"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        make(tmp_path / "0", texts())
    assert not DocumentShard(tmp_path / "0").is_complete
    assert list(tmp_path.iterdir()) == []


def test_equal_and_empty_documents_are_dropped_and_counted(tmp_path):
    shards = [make(tmp_path / "0", ["a", "b", "a", ""]), make(tmp_path / "1", ["c", "b", " ", "dd", "dd"])]
    reasons = [("equal", repeated_documents(shards)), ("short", np.array([0, 0, 1, 0, 1, 0, 0, 0, 0], bool))]
    selection = Selection.of(shards, SHARES, reasons)
    dropped = [(splits == DROPPED).tolist() for splits in selection.splits]
    assert dropped == [[False, False, True, True], [True, True, True, False, True]]
    assert [(r.name, r.removed, r.removed_bytes) for r in selection.removed] == [("equal", 3, 4), ("short", 1, 1)]
    assert sum(selection.split_bytes.values()) == 4


@pytest.mark.parametrize("sizes", [[], [0], [3, 0, 2]])
def test_a_selection_can_be_saved(tmp_path, sizes):
    shards = [make(tmp_path / str(i), [f"{i} {j}" for j in range(size)]) for i, size in enumerate(sizes)]
    selection = Selection.of(shards, SHARES, [("equal", repeated_documents(shards))])
    selection.save(tmp_path / "saved.npz")
    loaded = Selection.load(tmp_path / "saved.npz")
    assert [s.tolist() for s in loaded.splits] == [s.tolist() for s in selection.splits]
    assert (loaded.split_bytes, loaded.removed) == (selection.split_bytes, selection.removed)


def test_a_documents_split_depends_on_its_text_alone(tmp_path):
    texts = [f"document {i}" for i in range(20)]
    together = Selection.of([make(tmp_path / "0", texts)], SHARES).splits[0]
    reversed_order = Selection.of([make(tmp_path / "1", texts[::-1])], SHARES).splits[0]
    alone = [Selection.of([make(tmp_path / f"one{i}", [text])], SHARES).splits[0][0] for i, text in enumerate(texts)]
    assert together.tolist() == reversed_order[::-1].tolist() == alone


def test_splits_have_the_shares_asked_for(tmp_path):
    shard = make(tmp_path / "0", [f"document {i}" for i in range(10_000)])
    for shares in [SHARES, (5, 3, 2)]:
        counts = np.bincount(Selection.of([shard], shares).splits[0], minlength=3)
        assert np.allclose(counts / 10_000, SHARES, atol=0.02)
    assert set(Selection.of([shard], (1, 0, 0)).splits[0]) == {0}
    assert set(Selection.of([shard], (0, 0, 1)).splits[0]) == {2}


def test_split_of_the_largest_hash():
    assert split_of(np.array([0, 2**64 - 1], dtype=np.uint64), (0.9, 0.1, 0.0)).tolist() == [0, 1]


@given(pairs=st.lists(st.tuples(uint64s, uint64s), max_size=30))
def test_first_of_equals_is_the_first(pairs):
    high, low = (np.array([p[i] for p in pairs], dtype=np.uint64) for i in (0, 1))
    assert first_of_equals(high, low).tolist() == [pair not in pairs[:i] for i, pair in enumerate(pairs)]
