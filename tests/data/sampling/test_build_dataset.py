import json
import shutil

import numpy as np
import pytest

from dist_plm.config.decode import decode
from dist_plm.core.errors import DataError
from dist_plm.data.sampling.blend import Blend
from dist_plm.data.sampling.build_dataset import Form, open_samples, tokenizer_store
from dist_plm.data.sampling.packed import PackedDataset, SentenceRows
from dist_plm.data.sampling.pairs import PairDataset
from dist_plm.data.sampling.windows import WindowDataset
from dist_plm.data.store.store import TokenStoreWriter
from dist_plm.spec.schema import DataConfig

WINDOWS = Form("windows", 16)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Pairs of .bin and .idx of 100, 200 and 400 documents of 30 tokens: "small", "middle" and "large"."""
    folder = tmp_path_factory.mktemp("corpora")
    for i, (name, documents) in enumerate({"small": 100, "middle": 200, "large": 400}.items()):
        with TokenStoreWriter(folder / name, np.dtype(np.uint16)) as writer:
            for _ in range(documents):
                writer.add_document(np.full(30, i), [10, 20])
    return folder


def data_of(corpora, *names, **settings):
    sources = [{"path": str(corpora / name), **values} for name, values in names]
    values = {"blend": sources, "sequence_length": 16, "split": (0.5, 0.25, 0.25), **settings}
    return decode(DataConfig, values)


def single(corpora, **settings):
    return DataConfig(path=str(corpora / "large"), sequence_length=16, **settings)


@pytest.mark.parametrize(
    ("packing", "form", "kind"),
    [
        ("concat", WINDOWS, WindowDataset),
        ("best_fit", WINDOWS, PackedDataset),
        ("full_sentences", WINDOWS, PackedDataset),
        ("doc_sentences", WINDOWS, SentenceRows),
        ("concat", Form("pairs", 16), PairDataset),
    ],
)
def test_a_single_store_is_read_in_the_form_asked_for(corpora, packing, form, kind):
    dataset = open_samples(single(corpora, packing=packing), "train", form, seed=1)
    assert isinstance(dataset, kind)
    found = dataset.read(np.arange(4))
    assert found.samples.tolist() == [0, 1, 2, 3]
    assert "the train split of" in dataset.describe()
    assert f" {dataset.num_windows:,} " in dataset.describe()
    if kind is not PairDataset:
        assert found.tokens.shape == (4, 17)


def test_the_column_of_the_next_token_is_filled_where_it_is_predicted(corpora):
    lengths = [
        open_samples(single(corpora, packing="full_sentences"), "train", form, seed=1).read(np.arange(50)).lengths.max()
        for form in (WINDOWS, Form("windows", 16, predicts_next=True))
    ]
    assert lengths == [16, 17]


def test_weights_decide_shares(corpora):
    data = data_of(corpora, ("small", {"weight": 0.7}), ("large", {"weight": 0.3}))
    dataset = open_samples(data, "train", WINDOWS, seed=1)
    sources = dataset.read(np.arange(1000)).tokens[:, 0]
    assert np.bincount(sources).tolist() == [700, 0, 300]
    assert isinstance(dataset, Blend)
    assert dataset.schedule.caps == (None, None)
    assert dataset.describe().startswith("70.00% from the train split of")


@pytest.mark.parametrize(
    ("temperature", "shares"), [(None, [1, 2, 4]), (1, [1, 2, 4]), (2, [1, 2**0.5, 2]), (3e-4, [0, 0, 1])]
)
def test_shares_follow_sizes_under_a_temperature(corpora, temperature, shares):
    data = data_of(corpora, ("small", {}), ("middle", {}), ("large", {}), temperature=temperature)
    sources = open_samples(data, "train", WINDOWS, seed=1).read(np.arange(7000)).tokens[:, 0]
    exact = 7000 * np.array(shares) / sum(shares)
    assert np.abs(np.bincount(sources) - exact).max() < 1.2


def test_epochs_of_a_store_are_capped(corpora):
    data = data_of(corpora, ("small", {"weight": 1, "max_epochs": 2.5}), ("large", {"weight": 1}))
    alone = open_samples(DataConfig(path=str(corpora / "small"), sequence_length=16), "train", WINDOWS, seed=1)
    dataset = open_samples(data, "train", WINDOWS, seed=1)
    assert isinstance(dataset, Blend)
    assert dataset.schedule.caps == (int(2.5 * dataset.sources[0].num_windows), None)
    assert alone.num_windows > dataset.sources[0].num_windows
    both = data_of(corpora, ("small", {"weight": 1, "max_epochs": 2}), ("large", {"weight": 1, "max_epochs": 1}))
    limit = open_samples(both, "train", WINDOWS, seed=1).num_windows
    open_samples(both, "train", WINDOWS, seed=1, num_samples=limit)
    with pytest.raises(DataError, match=rf"end after {limit:,} .*small.*max_epochs"):
        open_samples(both, "train", WINDOWS, seed=1, num_samples=limit + 1)


def test_validation_reads_every_store_once_at_most(corpora):
    data = data_of(corpora, ("small", {"weight": 0.9}), ("large", {"weight": 0.1}))
    dataset = open_samples(data, "validation", WINDOWS, seed=1)
    assert isinstance(dataset, Blend)
    assert dataset.num_windows == sum(source.num_windows for source in dataset.sources)


def test_stores_of_different_tokenizers_do_not_mix(corpora, prepared, tmp_path):
    other = shutil.copytree(prepared, tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    names = [("small", {}), (str(prepared), {}), (str(other), {})]
    assert tokenizer_store(data_of(corpora, *names)) == str(prepared)
    assert tokenizer_store(data_of(corpora, names[0])) == str(corpora / "small")
    del manifest["manifest_sha256"]
    manifest["tokenizer"]["sha256"] = "0" * 64
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"data\.blend: .* different tokenizers"):
        open_samples(data_of(corpora, *names), "train", WINDOWS, seed=1)
    assert tokenizer_store(DataConfig(sequence_length=16)) is None


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    from dist_plm.data.prepare.prepare import prepare
    from tests.spec.make import prepare as prepare_config

    folder = tmp_path_factory.mktemp("prepared")
    (folder / "text.txt").write_text("\n\n".join(f"number {n} and {n * n}, again {n}" for n in range(300)))
    sources = [{"path": str(folder / "text.txt"), "document": "block"}]
    config = prepare_config(
        data__sources=sources, data__out=str(folder / "store"), data__split=(0.6, 0.2, 0.2), tokenizer__vocab_size=300
    )
    return prepare(config, lambda line: None).path
