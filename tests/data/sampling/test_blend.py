import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.core.errors import DataError
from dist_plm.data.loader.batch_plan import microbatch_samples
from dist_plm.data.sampling.blend import Blend
from dist_plm.data.sampling.pairs import PairDataset
from dist_plm.data.sampling.windows import WindowDataset
from dist_plm.data.store.splits import StoreSplit
from dist_plm.data.store.store import TokenStore, TokenStoreWriter


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Three stores of different sizes; token n of store i is 1000 i + n."""
    folder = tmp_path_factory.mktemp("stores")
    for i, size in enumerate((150, 60, 240)):
        with TokenStoreWriter(folder / f"{i}", np.dtype(np.uint16)) as writer:
            for start in range(0, size, 30):
                writer.add_document(np.arange(start, start + 30) + 1000 * i, [7, 3, 20])
    return [TokenStore.open(folder / f"{i}") for i in range(3)]


def windows(stores):
    return [WindowDataset(store, sequence_length=6, seed=2) for store in stores]


def blend(datasets, parts=(5, 2, 1), caps=(None, None, None)):
    return Blend(datasets, parts, caps, [f"store {i}" for i in range(len(datasets))])


def test_sample_n_is_the_next_of_its_source(stores):
    datasets = windows(stores)
    found = blend(datasets).read(np.arange(160))
    assert found.samples.tolist() == list(range(160))
    sources = found.tokens[:, 0] // 1000
    assert np.bincount(sources).tolist() == [100, 40, 20]
    for i, dataset in enumerate(datasets):
        rows, alone = sources == i, dataset.read(np.arange((sources == i).sum()))
        assert np.array_equal(found.tokens[rows], alone.tokens)
        assert np.array_equal(found.documents[rows], alone.documents)


def test_pairs_blend_too(stores):
    datasets = [PairDataset(StoreSplit.whole(store), window_length=9, seed=4) for store in stores]
    found = blend(datasets).read(np.array([3, 900, 17, 4, 5, 6, 7]))
    sources, numbers = blend(datasets).schedule.locate(found.samples)
    for row, (source, number) in enumerate(zip(sources, numbers, strict=True)):
        alone = datasets[source].read(np.array([number]))
        for ours, theirs in ((found.first, alone.first), (found.second, alone.second)):
            sentences = slice(ours.runs[row], ours.runs[row + 1])
            begin = ours.ends[sentences.start - 1] if sentences.start else 0
            assert ours.tokens[begin : ours.ends[sentences.stop - 1]].tolist() == theirs.tokens.tolist()
            assert (ours.ends[sentences] - begin).tolist() == theirs.ends.tolist()


@given(samples=st.lists(st.integers(0, 400), min_size=1, max_size=9))
def test_samples_do_not_depend_on_how_they_are_asked_for(stores, samples):
    dataset = blend(windows(stores), caps=(None, 20, 30))
    found = dataset.read(np.array(samples))
    copy = pickle.loads(pickle.dumps(dataset))
    for row, sample in enumerate(samples):
        assert copy.read(np.array([sample])).tokens.tolist() == [found.tokens[row].tolist()]


@given(data_size=st.sampled_from([1, 2, 3, 4, 6, 12]), data=st.data(), start=st.integers(0, 20))
def test_any_cut_of_a_batch_and_any_resume_point_read_the_same_stream(stores, data_size, data, start):
    dataset = blend(windows(stores), caps=(None, 20, None))
    micro_batch = data.draw(st.sampled_from([m for m in (1, 2, 3, 4, 6, 12) if 12 // data_size % m == 0]))
    grid = {"global_batch": 12, "micro_batch": micro_batch, "data_size": data_size}
    whole = dataset.read(np.arange(300)).tokens
    for step in range(start, start + 3):
        rows = [
            dataset.read(microbatch_samples(step, microbatch, rank, **grid)).tokens
            for rank in range(data_size)
            for microbatch in range(12 // data_size // micro_batch)
        ]
        assert np.array_equal(np.concatenate(rows), whole[12 * step : 12 * step + 12])


def test_epochs_are_capped_and_the_end_is_announced(stores):
    datasets = windows(stores)
    caps = [dataset.num_windows for dataset in datasets]
    dataset = blend(datasets, caps=caps)
    assert dataset.num_windows == sum(caps)
    found = dataset.read(np.arange(sum(caps))).tokens[:, 1:].reshape(-1)
    assert len(set(found.tolist())) == len(found) == 6 * sum(caps)
    with pytest.raises(DataError, match=rf"{sum(caps) + 1} samples .* end after {sum(caps)} \(store 0: 24.*max_epochs"):
        dataset.read(np.array([sum(caps)]))


def test_identity_tells_apart_all_that_changes_samples(stores):
    a, b, c = windows(stores)
    variants = [
        blend([a, b, c]),
        blend([b, a, c]),
        blend([a, b, c], parts=(5, 2, 2)),
        blend([a, b, c], caps=(None, 9, None)),
        blend([a, b], parts=(5, 2), caps=(None, None)),
        blend([a, b, WindowDataset(stores[2], sequence_length=6, seed=3)]),
    ]
    assert len({variant.identity() for variant in variants}) == len(variants)
    assert blend(windows(stores)).identity() == variants[0].identity()
