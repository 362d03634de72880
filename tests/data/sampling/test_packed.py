import pickle
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_plm.core.errors import DataError
from dist_plm.data.sampling import packed as packing
from dist_plm.data.sampling.packed import PackedDataset, SentenceRows
from dist_plm.data.store.splits import StoreSplit
from dist_plm.data.store.store import TokenStore, TokenStoreWriter


def make(prefix, documents):
    """A store of documents of sentences of so many tokens; token n is n + 1."""
    number = 1
    with TokenStoreWriter(prefix, np.dtype(np.int32)) as writer:
        for lengths in documents:
            writer.add_document(np.arange(number, number + sum(lengths)), lengths)
            number += sum(lengths)
    return StoreSplit.whole(TokenStore.open(prefix))


def packed(split, unit="documents", capacity=16, window_length=16, seed=3, frame=0):
    return PackedDataset(split, unit=unit, window_length=window_length, capacity=capacity, seed=seed, frame=frame)


def rows_of(windows):
    return [row[:length].tolist() for row, length in zip(windows.tokens, windows.lengths, strict=True)]


@settings(max_examples=40)
@given(
    documents=st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=5), min_size=1, max_size=40),
    capacity=st.integers(4, 40),
    spare=st.integers(0, 1),
    unit=st.sampled_from(["documents", "sentences"]),
    rows=st.sampled_from([16, 128]),
)
def test_an_epoch_reads_every_token_once(tmp_path_factory, documents, capacity, spare, unit, rows):
    documents = [*documents, [1, 2]]
    split = make(tmp_path_factory.mktemp("p") / "s", documents)
    total = sum(map(sum, documents))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "ROWS", rows)
        dataset = packed(split, unit, capacity, window_length=capacity - 1 + spare)
    windows = dataset.read(np.arange(dataset.num_windows))
    assert windows.tokens.shape == (dataset.num_windows, dataset.window_length + 1)
    assert (windows.tokens.dtype, windows.documents.dtype) == (np.int64, np.int32)
    assert sorted(windows.tokens[windows.tokens > 0].tolist()) == list(range(1, total + 1))
    assert windows.lengths.tolist() == (windows.tokens > 0).sum(axis=1).tolist()
    assert windows.lengths.min() > 0
    assert windows.lengths.max() <= capacity
    assert dataset.padding == pytest.approx(1 - total / (dataset.num_windows * capacity))


@settings(max_examples=40)
@given(
    kinds=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40)), min_size=1, max_size=12),
    capacity=st.integers(4, 40),
    frame=st.integers(1, 3),
    rows=st.sampled_from([16, 128]),
)
def test_rows_have_room_for_a_frame_around_each_document(tmp_path_factory, kinds, capacity, frame, rows):
    """Also where stretches of short documents, whose frames take much room, and of long ones follow each other."""
    documents = [[length] for length, count in kinds for _ in range(count)]
    split = make(tmp_path_factory.mktemp("p") / "s", documents)
    owners = np.repeat(np.arange(len(documents)), [length for (length,) in documents])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "ROWS", rows)
        dataset = packed(split, capacity=capacity, window_length=capacity, frame=frame)
        windows = dataset.read(np.arange(dataset.num_windows))
    assert windows.frame == frame
    assert sorted(windows.tokens[windows.tokens > 0].tolist()) == list(range(1, len(owners) + 1))
    for row, numbers, length in zip(windows.tokens, windows.documents, windows.lengths, strict=True):
        assert length + frame * (numbers[length - 1] + 1) <= capacity + frame
        assert ((np.diff(owners[row[:length] - 1]) != 0) <= (np.diff(numbers[:length]) != 0)).all()
    assert dataset.padding == pytest.approx(
        1 - (len(owners) + frame * len(documents)) / (dataset.num_windows * (capacity + frame))
    )
    assert dataset.identity() != packed(split, capacity=capacity, window_length=capacity).identity()


def test_documents_are_told_apart_and_padding_is_one_of_its_own(tmp_path):
    documents = [[7, 3], [4], [20], [2, 2], [16]] * 9
    split = make(tmp_path / "s", documents)
    owners = np.repeat(np.arange(len(documents)), [sum(d) for d in documents])
    for unit in ("documents", "sentences"):
        dataset = packed(split, unit)
        windows = dataset.read(np.arange(dataset.num_windows))
        for row, numbers, length in zip(windows.tokens, windows.documents, windows.lengths, strict=True):
            changes = np.diff(owners[row[:length] - 1]) != 0
            assert (np.diff(numbers[:length]) == changes).all()
            assert numbers[0] == 0
            assert (numbers[length:] == numbers[length - 1] + 1).all()


def test_whole_documents_share_rows_with_little_padding(tmp_path):
    draw = np.random.default_rng(0)
    documents = [[int(n)] for n in np.minimum(draw.lognormal(4, 0.8, 8000).astype(int) + 5, 2000)]
    split = make(tmp_path / "s", documents)
    dataset = packed(split, capacity=512, window_length=512)
    assert dataset.padding < 0.02
    starts = dict(zip(accumulate((d[0] for d in documents), initial=1), (d[0] for d in documents), strict=False))
    windows = dataset.read(np.arange(dataset.num_windows))
    whole = 0
    for row, numbers, length in zip(windows.tokens, windows.documents, windows.lengths, strict=True):
        pieces = np.split(row[:length], np.flatnonzero(np.diff(numbers[:length])) + 1)
        whole += sum(starts.get(int(piece[0])) == len(piece) for piece in pieces)
    short = sum(d[0] <= 512 for d in documents)
    assert whole > 0.99 * short


def test_whole_sentences_fill_rows_in_the_order_of_the_text(tmp_path):
    draw = np.random.default_rng(0)
    documents = [draw.integers(5, 46, 30).tolist() for _ in range(300)]
    dataset = packed(make(tmp_path / "s", documents), "sentences", capacity=510, window_length=510)
    assert dataset.padding < 0.05
    starts = set(accumulate((n for d in documents for n in d), initial=1))
    rows = rows_of(dataset.read(np.arange(dataset.num_windows)))
    assert all(row == list(range(row[0], row[0] + len(row))) for row in rows)
    assert np.mean([row[0] in starts and row[-1] + 1 in starts for row in rows]) > 0.98


def test_sentence_rows_stay_within_documents(tmp_path):
    documents = [[5, 6, 7], [3], [4] * 50, [40, 2, 9]]
    dataset = SentenceRows(make(tmp_path / "s", documents), window_length=16, capacity=16, seed=3)
    bounds = list(accumulate((sum(d) for d in documents), initial=1))
    sentences = set(accumulate((n for d in documents for n in d), initial=1)) | {*range(222, 265, 16), 255}
    windows = dataset.read(np.arange(200))
    for row, numbers, length in zip(rows_of(windows), windows.documents, windows.lengths, strict=True):
        assert row == list(range(row[0], row[0] + length))
        assert np.searchsorted(bounds, row[0], "right") == np.searchsorted(bounds, row[-1], "right")
        assert numbers.tolist() == [0] * length + [1] * (17 - length)
        assert row[0] in sentences
        assert row[-1] + 1 in sentences
    assert {len(row) for row in rows_of(windows)} >= {3, 16}


@pytest.mark.parametrize("make_dataset", [packed, lambda s: SentenceRows(s, window_length=9, capacity=8, seed=1)])
def test_samples_do_not_depend_on_how_they_are_asked_for(tmp_path, make_dataset):
    dataset = make_dataset(make(tmp_path / "s", [[3, 4, 5], [9, 9, 9]] * 40))
    samples = np.arange(2 * dataset.num_windows)
    whole, copy = dataset.read(samples), pickle.loads(pickle.dumps(dataset))
    for n in samples[::-3]:
        assert copy.read(np.array([n])).tokens.tolist() == [whole.tokens[n].tolist()]
    assert copy.identity() == dataset.identity()
    one, two = np.array_split(whole.tokens, 2)
    assert not np.array_equal(one, two)
    if make_dataset is packed:
        assert sorted(one.tolist()) == sorted(two.tolist())


def test_identity_tells_apart_all_that_changes_samples(tmp_path):
    split, other = make(tmp_path / "s", [[3, 4]] * 9), make(tmp_path / "o", [[4, 3]] * 8)
    variants = [
        packed(split),
        packed(other),
        packed(split, "sentences"),
        packed(split, capacity=15),
        packed(split, window_length=17),
        packed(split, seed=4),
        SentenceRows(split, window_length=16, capacity=16, seed=3),
    ]
    assert len({v.identity() for v in variants}) == len(variants)


def test_stores_that_cannot_serve_are_refused(tmp_path):
    plain = make(tmp_path / "plain", [[5]] * 9)
    assert packed(plain).num_windows > 0
    with pytest.raises(DataError, match=r"no sentence boundaries.*packing of whole sentences.*data\.sentences=true"):
        packed(plain, "sentences")
    with pytest.raises(DataError, match="holds no tokens"):
        packed(make(tmp_path / "empty", [[0]]))
    with pytest.raises(DataError, match=r"hold 2 tokens of text beside 2 .* raise data\.sequence_length"):
        packed(make(tmp_path / "short", [[6]] * 4000), capacity=2, window_length=4, frame=2)
