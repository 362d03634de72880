import pickle
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.core.errors import DataError
from dist_plm.core.randomness.permutation import window_of
from dist_plm.data.sampling.windows import WindowDataset, open_split
from dist_plm.data.store.manifest import SPLITS
from dist_plm.data.store.splits import share
from dist_plm.data.store.store import TokenStore, TokenStoreWriter


def make(prefix, documents):
    with TokenStoreWriter(prefix, np.dtype(np.uint16)) as writer:
        for document in documents:
            writer.add_document(document)
    return TokenStore.open(prefix)


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=30),
    sequence_length=st.integers(1, 12),
    seed=st.integers(0, 2**63 - 1),
    data=st.data(),
)
def test_windows_equal_a_plain_slice_of_the_joined_documents(tmp_path_factory, lengths, sequence_length, seed, data):
    owner = [d for d, length in enumerate(lengths) for _ in range(length)]
    total = len(owner)
    start = data.draw(st.integers(0, total))
    stop = data.draw(st.integers(start, total))
    tokens = iter(range(total))
    store = make(tmp_path_factory.mktemp("w") / "s", [[next(tokens) for _ in range(n)] for n in lengths])
    arguments = {"sequence_length": sequence_length, "seed": seed, "start": start, "stop": stop}
    count = max(0, stop - start - 1) // sequence_length
    if count == 0:
        with pytest.raises(DataError):
            WindowDataset(store, **arguments)
        return
    dataset = WindowDataset(store, **arguments)
    assert dataset.num_windows == count
    samples = np.arange(2 * count)
    windows = dataset.read(samples)
    assert windows.samples.tolist() == samples.tolist()
    assert (windows.tokens.dtype, windows.documents.dtype) == (np.int64, np.int32)
    for sample, row, documents in zip(samples, windows.tokens, windows.documents, strict=True):
        first = start + window_of(int(sample), count, seed) * sequence_length
        assert row.tolist() == list(range(first, first + sequence_length + 1))
        owners = owner[first : first + sequence_length + 1]
        assert documents.tolist() == [sorted(set(owners)).index(o) for o in owners]


def test_an_epoch_predicts_every_token_but_the_first_once(tmp_path):
    store = make(tmp_path / "s", [range(100), range(100, 161)])
    dataset = WindowDataset(store, sequence_length=16, seed=3)
    assert dataset.num_windows == 10
    predicted = dataset.read(np.arange(10)).tokens[:, 1:]
    assert sorted(predicted.reshape(-1).tolist()) == list(range(1, 161))


def test_samples_do_not_depend_on_how_they_are_asked_for(tmp_path):
    store = make(tmp_path / "s", [range(1000)])
    dataset = WindowDataset(store, sequence_length=7, seed=3)
    whole = dataset.read(np.arange(400))
    pieces = [dataset.read(np.array([n])).tokens[0].tolist() for n in range(399, -1, -1)]
    assert pieces[::-1] == whole.tokens.tolist()


def test_a_copy_in_a_worker_reads_the_same(tmp_path):
    dataset = WindowDataset(make(tmp_path / "s", [range(100)]), sequence_length=7, seed=3)
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.read(np.arange(5)).tokens.tolist() == dataset.read(np.arange(5)).tokens.tolist()
    assert copy.identity() == dataset.identity()


def test_too_little_data_says_how_much_and_what_to_do(tmp_path):
    store = make(tmp_path / "s", [range(8)])
    assert WindowDataset(store, sequence_length=7, seed=0).num_windows == 1
    with pytest.raises(DataError, match=r"s holds 8 tokens, too few .*\+ 1 = 9: prepare more text.*sequence_length"):
        WindowDataset(store, sequence_length=8, seed=0)


def test_identity_tells_apart_all_that_changes_samples(tmp_path):
    store = make(tmp_path / "s", [range(100)])
    other = make(tmp_path / "o", [range(1, 101)])
    base = {"sequence_length": 7, "seed": 3}
    variants = [
        WindowDataset(store, **base),
        WindowDataset(other, **base),
        WindowDataset(store, sequence_length=8, seed=3),
        WindowDataset(store, sequence_length=7, seed=4),
        WindowDataset(store, **base, stop=99),
        WindowDataset(store, **base, start=1),
        WindowDataset(store, **base, content="abc"),
    ]
    assert len({v.identity() for v in variants}) == len(variants)
    moved = make(tmp_path / "moved", [range(100)])
    assert WindowDataset(moved, **base).identity() == variants[0].identity()


SPLIT = {"sequence_length": 4, "seed": 0}


def test_a_bare_pair_is_cut_by_document(tmp_path):
    store = make(tmp_path / "s", [range(10 * i, 10 * i + 10) for i in range(20)])
    parts = [open_split(tmp_path / "s", name, (0.8, 0.1, 0.1), **SPLIT) for name in ("train", "validation", "test")]
    assert [(p.start, p.stop) for p in parts] == [(0, 160), (160, 180), (180, 200)]
    assert store.num_tokens == 200
    for suffix in (".bin", ".idx"):
        assert open_split(str(tmp_path / "s") + suffix, "test", (0.8, 0.1, 0.1), **SPLIT).start == 180


@given(documents=st.integers(0, 50), weights=st.tuples(*[st.integers(0, 1000)] * 3))
def test_shares_cover_all_documents_without_overlap(documents, weights):
    if sum(weights) == 0:
        return
    shares = [share(documents, split, weights) for split in SPLITS]
    assert [n for first, last in shares for n in range(first, last)] == list(range(documents))


@pytest.mark.parametrize("fractions", [(0, 0, 0), (1.5, -0.5, 0), (1.0,)])
def test_impossible_fractions_are_refused(tmp_path, fractions):
    make(tmp_path / "s", [range(10)])
    with pytest.raises(DataError, match=r"data\.split"):
        open_split(tmp_path / "s", "train", fractions, **SPLIT)


def test_an_empty_share_is_refused_by_name(tmp_path):
    make(tmp_path / "s", [range(100)])
    with pytest.raises(DataError, match=r"the validation split of .*s \(0 of 1 documents\) holds 0 tokens"):
        open_split(tmp_path / "s", "validation", (0.98, 0.01, 0.01), **SPLIT)


def test_paths_that_hold_no_data(tmp_path):
    with pytest.raises(DataError, match=r"neither such a directory nor .*x\.idx; make a store with prepare_data"):
        open_split(tmp_path / "x", "train", (1, 0, 0), **SPLIT)
    with pytest.raises(DataError, match=r"has no manifest\.json: it is not a store"):
        open_split(tmp_path, "train", (1, 0, 0), **SPLIT)


def test_reading_is_fast_enough_not_to_matter(tmp_path):
    """A generous bound: a quadratic scan or a copy of the index per sample would miss it a hundredfold."""
    dataset = WindowDataset(make(tmp_path / "s", [range(50)] * 20_000), sequence_length=1024, seed=0)
    began = time.process_time()
    dataset.read(np.arange(200))
    assert time.process_time() - began < 1.0
