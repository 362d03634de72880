import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

from dist_plm.config import credentials
from dist_plm.core.errors import DataError
from dist_plm.data.store import index
from dist_plm.data.store.splits import find_split
from dist_plm.data.store.store import HEADER, TokenStore, TokenStoreWriter, dtype_for

DOCUMENTS = [[5, 6, 7], [8], [], [9, 10, 11, 12], []]
TOKENS = [5, 6, 7, 8, 9, 10, 11, 12]
documents_strategy = st.lists(st.lists(st.lists(st.integers(0, 60000), max_size=5), min_size=1, max_size=3), max_size=6)


@pytest.fixture(params=[index.HELD_BYTES, 0], ids=["index held", "index in its file"], scope="module", autouse=True)
def held_bytes(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "HELD_BYTES", request.param)
        yield


def write(prefix, documents=DOCUMENTS, dtype=np.uint16):
    with TokenStoreWriter(prefix, np.dtype(dtype)) as writer:
        for document in documents:
            writer.add_document(document)
    return str(prefix)


def test_reads_back_what_was_written(tmp_path):
    store = TokenStore.open(write(tmp_path / "s"))
    assert (store.num_tokens, store.num_documents, store.num_sequences) == (8, 5, 5)
    assert store.read(0, 8).tolist() == TOKENS
    assert store.read(2, 3).tolist() == [7, 8, 9]
    assert store.read(8, 0).tolist() == []
    assert store.read(0, 8).dtype == np.int64
    assert store.document_offsets.tolist() == [0, 3, 4, 4, 8]
    assert [store.document_start(i) for i in range(6)] == [0, 3, 4, 4, 8, 8]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64])
def test_megatron_reads_ours(tmp_path, dtype):
    theirs = IndexedDataset(write(tmp_path / "s", dtype=dtype))
    assert [theirs[i].tolist() for i in range(len(theirs))] == DOCUMENTS
    assert theirs.document_indices.tolist() == [0, 1, 2, 3, 4, 5]
    assert theirs.index.dtype == dtype


@pytest.mark.parametrize("multimodal", [False, True])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_we_read_megatrons(tmp_path, dtype, multimodal):
    builder = IndexedDatasetBuilder(str(tmp_path / "s.bin"), dtype=dtype, multimodal=multimodal)
    for sequences in ([[1, 2], [3]], [[4, 5, 6]], [[7], [8, 9]]):
        for sequence in sequences:
            builder.add_item(torch.tensor(sequence))
        builder.end_document()
    builder.finalize(str(tmp_path / "s.idx"))
    store = TokenStore.open(tmp_path / "s")
    assert store.read(0, 9).tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert store.document_offsets.tolist() == [0, 3, 6]
    assert store.sequence_lengths().tolist() == [2, 1, 3, 1, 2]


@given(documents=documents_strategy)
def test_same_bytes_as_megatron(tmp_path_factory, documents):
    folder = tmp_path_factory.mktemp("same")
    builder = IndexedDatasetBuilder(str(folder / "theirs.bin"), dtype=np.uint16)
    with TokenStoreWriter(folder / "ours", dtype_for(60001)) as writer:
        for sequences in documents:
            for sequence in sequences:
                builder.add_item(torch.tensor(sequence, dtype=torch.int64))
            builder.end_document()
            writer.add_document([token for sequence in sequences for token in sequence], [len(s) for s in sequences])
    builder.finalize(str(folder / "theirs.idx"))
    for suffix in ("bin", "idx"):
        assert (folder / f"ours.{suffix}").read_bytes() == (folder / f"theirs.{suffix}").read_bytes()


@given(documents=documents_strategy, data=st.data())
def test_document_starts_equal_a_scan_of_the_offsets(tmp_path_factory, documents, data):
    prefix = tmp_path_factory.mktemp("starts") / "s"
    with TokenStoreWriter(prefix, dtype_for(60001)) as writer:
        for sequences in documents:
            writer.add_document([t for s in sequences for t in s], [len(s) for s in sequences])
    store = TokenStore.open(prefix)
    offsets = store.document_offsets
    lengths = [sum(map(len, sequences)) for sequences in documents]
    assert offsets.tolist() == [sum(lengths[:i]) for i in range(len(lengths))]
    assert store.positions_of_documents(np.arange(len(lengths))).tolist() == offsets.tolist()
    starts = np.array(data.draw(st.lists(st.integers(0, store.num_tokens), max_size=5)), dtype=np.int64)
    stops = np.array([data.draw(st.integers(start, store.num_tokens)) for start in starts.tolist()], dtype=np.int64)
    ranges = zip(starts, stops, strict=True)
    expected = [(i, int(o)) for i, (a, b) in enumerate(ranges) for o in offsets if a <= o < b]
    found = store.document_starts(starts, stops)
    assert list(zip(*(part.tolist() for part in found), strict=True)) == expected


@given(documents=documents_strategy)
def test_every_token_is_found_in_its_sequence_and_document(tmp_path_factory, documents):
    prefix = tmp_path_factory.mktemp("at") / "s"
    with TokenStoreWriter(prefix, dtype_for(60001)) as writer:
        for sequences in documents:
            writer.add_document([t for s in sequences for t in s], [len(s) for s in sequences])
    store = TokenStore.open(prefix)
    positions = np.arange(store.num_tokens)
    sequences = [s for document in documents for s in document]
    assert store.sequences_at(positions).tolist() == [i for i, s in enumerate(sequences) for _ in s]
    assert store.documents_at(positions).tolist() == [i for i, d in enumerate(documents) for s in d for _ in s]
    found = store.sequences_at(positions)
    for off in (0, -2, 2):  # some beyond either end
        assert store.sequences_at(positions, near=found + off).tolist() == found.tolist()
    ends = np.cumsum([len(s) for s in sequences], dtype=np.int64)
    assert store.positions_of_sequences(np.arange(len(sequences) + 1)).tolist() == [0, *ends.tolist()]


def test_runs_of_tokens_are_read_one_after_another(tmp_path):
    store = TokenStore.open(write(tmp_path / "s"))
    whole = store.read(0, store.num_tokens).tolist()
    found = store.read_many(np.array([5, 0, 2, 8]), np.array([3, 2, 0, 0]))
    assert found.tolist() == whole[5:8] + whole[:2]
    assert store.read_many(np.array([], dtype=np.int64), np.array([], dtype=np.int64)).tolist() == []
    for start, length in ((7, 2), (-1, 1)):
        with pytest.raises(DataError, match="runs outside of"):
            store.read(start, length)


def test_append_joins_stores(tmp_path):
    a, b = (TokenStore.open(write(tmp_path / name)) for name in "ab")
    with TokenStoreWriter(tmp_path / "joined", np.dtype(np.uint16)) as writer:
        writer.append(a)
        writer.append(b)
    write(tmp_path / "whole", DOCUMENTS + DOCUMENTS)
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"joined{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()


def test_an_empty_store_opens(tmp_path):
    store = TokenStore.open(write(tmp_path / "s", []))
    assert (store.num_tokens, store.num_documents) == (0, 0)
    assert store.document_offsets.tolist() == store.read(0, 0).tolist() == []
    ranges, positions = store.document_starts(np.array([0]), np.array([0]))
    assert len(ranges) == len(positions) == 0


def test_pickles_as_its_prefix(tmp_path):
    store = TokenStore.open(write(tmp_path / "s"))
    message = pickle.dumps(store)
    assert len(message) < 300
    assert pickle.loads(message).read(0, 8).tolist() == TOKENS


def test_nothing_remains_of_a_failed_write(tmp_path):
    with pytest.raises(AssertionError), TokenStoreWriter(tmp_path / "s", np.dtype(np.uint16)) as writer:
        writer.add_document([1, 2], lengths=[1])
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_store(tmp_path):
    prefix = write(tmp_path / "s")
    with pytest.raises(RuntimeError), TokenStoreWriter(prefix, np.dtype(np.uint16)):
        raise RuntimeError
    assert TokenStore.open(prefix).read(0, 8).tolist() == TOKENS


def test_tokens_that_do_not_fit_are_caught(tmp_path):
    for token in (70000, -1):
        with pytest.raises(AssertionError), TokenStoreWriter(tmp_path / "s", np.dtype(np.uint16)) as writer:
            writer.add_document([1, token])


def test_dtype_is_megatrons_choice():
    from megatron.core.datasets.indexed_dataset import DType

    for vocab_size in (10, 65499, 65500, 65536, 250000):
        assert dtype_for(vocab_size) == np.dtype(DType.optimal_dtype(vocab_size))


def damage_header(field, value):
    def damage(prefix):
        with open(prefix + ".idx", "r+b") as file:
            fields = list(HEADER.unpack(file.read(HEADER.size)))
            fields[field] = value
            file.seek(0)
            file.write(HEADER.pack(*fields))

    return damage


def cut(suffix, size):
    return lambda prefix: os.truncate(prefix + suffix, size)


def overwrite(offset, data):
    def damage(prefix):
        with open(prefix + ".idx", "r+b") as file:
            file.seek(offset)
            file.write(data)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda prefix: os.remove(prefix + ".idx"), r"cannot open .*s\.idx: No such file"),
        (lambda prefix: os.remove(prefix + ".bin"), r"cannot open .*s\.bin: No such file"),
        (cut(".idx", 0), "not the index of a Megatron token store"),
        (cut(".idx", 20), "not the index of a Megatron token store"),
        (cut(".idx", 100), r"holds 100 bytes where its header asks for 142: it is truncated"),
        (cut(".bin", 15), r"s\.bin holds 15 bytes where .*s\.idx speaks of 16"),
        (cut(".bin", 0), "one of them is truncated or they do not belong together"),
        (damage_header(0, b"MMIDIDY\x00\x00"), "no MMIDIDX header"),
        (damage_header(1, 2), "format version 2; this program reads version 1"),
        (damage_header(2, 7), "dtype code 7"),
        (damage_header(3, 2**60), "truncated or damaged"),
        (damage_header(2, 4), "do not cover each other"),
        (overwrite(34 + 5 * 12, b"\x01"), "do not cover each other"),
        (overwrite(34 + 5 * 12 + 5 * 8, b"\x04"), "do not cover each other"),
    ],
)
def test_damage_is_refused_on_opening(tmp_path, damage, message):
    prefix = write(tmp_path / "s")
    damage(prefix)
    with pytest.raises(DataError, match=message):
        TokenStore.open(prefix)


def test_a_file_that_shrinks_after_opening_is_reported(tmp_path):
    store = TokenStore.open(write(tmp_path / "s"))
    os.truncate(tmp_path / "s.bin", 6)
    with pytest.raises(DataError, match="truncated after it was opened"):
        store.read(0, 8)


def test_a_path_that_holds_a_credential_is_not_shown(tmp_path, monkeypatch):
    write(tmp_path / "s3cret_word")
    monkeypatch.setattr(credentials, "_known", {"s3cret_word": "${oc.env:KEY}"})
    assert "/${oc.env:KEY} (" in find_split(tmp_path / "s3cret_word", "train", (1, 0, 0)).name


def test_fingerprint_tells_stores_apart(tmp_path):
    contents = {"a": DOCUMENTS, "b": DOCUMENTS, "c": [[5, 6, 7], [8], [], [9, 10, 11, 13], []]}
    prints = [TokenStore.open(write(tmp_path / name, documents)).fingerprint() for name, documents in contents.items()]
    assert prints[0] == prints[1] != prints[2]


def test_opening_maps_and_does_not_read(tmp_path):
    """Sparse files stand in for a corpus of a billion documents and two terabytes."""
    count, prefix = 10**9, str(tmp_path / "big")
    with open(prefix + ".idx", "wb") as file:
        file.write(HEADER.pack(b"MMIDIDX\x00\x00", 1, 8, count, count + 1))
        file.seek(34 + 4 * count - 4)
        file.write(np.int32(1000).tobytes())
        file.seek(34 + 12 * count - 8)
        file.write(np.int64(2 * 10**12 - 2000).tobytes())
        file.seek(34 + 20 * count)
        file.write(np.int64(count).tobytes())
    with open(prefix + ".bin", "wb") as file:
        file.truncate(2 * 10**12)
    before = _resident_kib()
    store = TokenStore.open(prefix)
    assert store.num_tokens == 10**12
    assert store.read(10**12 - 5, 5).tolist() == [0] * 5
    assert _resident_kib() - before < 10_000


def _resident_kib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


@given(documents=documents_strategy)
def test_many_documents_at_once_are_the_same_as_one_by_one(tmp_path_factory, documents):
    folder = tmp_path_factory.mktemp("store")
    with TokenStoreWriter(folder / "one", np.dtype(np.uint16)) as writer:
        for document in documents:
            writer.add_document([i for ids in document for i in ids], [len(ids) for ids in document])
    with TokenStoreWriter(folder / "all", np.dtype(np.uint16)) as writer:
        writer.add_documents([ids for document in documents for ids in document], [len(d) for d in documents])
    for suffix in (".bin", ".idx"):
        assert Path(f"{folder}/one{suffix}").read_bytes() == Path(f"{folder}/all{suffix}").read_bytes()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_tokens_beyond_the_vocabulary_are_refused_by_place(tmp_path, dtype):
    prefix = write(tmp_path / "s", dtype=dtype)
    store = TokenStore.open(prefix, vocab_size=12)
    assert store.read(0, 7).tolist() == TOKENS[:7]
    for opened in (store, pickle.loads(pickle.dumps(store))):
        with pytest.raises(
            DataError, match=r"s\.bin holds 12 as its token number 7, where the vocabulary has 12 tokens"
        ):
            opened.read_many(np.array([3, 5]), np.array([2, 3]))
    assert TokenStore.open(prefix).read(0, 8).tolist() == TOKENS


def test_tokens_below_zero_are_refused(tmp_path):
    store = TokenStore.open(write(tmp_path / "s", [[5, -1]], dtype=np.int32), vocab_size=12)
    with pytest.raises(DataError, match=r"holds -1 as its token number 1"):
        store.read(0, 2)


def test_splits_know_the_vocabulary(tmp_path):
    write(tmp_path / "s")
    split = find_split(tmp_path / "s", "train", (1, 0, 0), vocab_size=10)
    with pytest.raises(DataError, match=r"s\.bin holds 10 as its token number 5"):
        split.store.read(0, 8)


def test_a_damaged_index_is_a_refusal_or_reads(tmp_path):
    prefix = write(tmp_path / "s", [list(range(n % 7)) for n in range(40)])
    path, chance, refused = tmp_path / "s.idx", random.Random(0), 0
    whole = path.read_bytes()
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(chance.choice([1, 1, 3])):
            content[chance.randrange(len(content))] = chance.choice([0, 1, 127, 128, 255])
        path.write_bytes(content)
        try:
            store = TokenStore.open(prefix, vocab_size=100)
            for document in range(store.num_documents):
                start, stop = store.document_start(document), store.document_start(document + 1)
                store.read(start, stop - start)
            store.document_starts(np.array([0]), np.array([store.num_tokens]))
        except DataError:
            refused += 1
    assert refused > 200
