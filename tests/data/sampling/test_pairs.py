import pickle
from collections import Counter
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dist_plm.core.errors import DataError
from dist_plm.data.sampling.pairs import PairDataset, open_pairs
from dist_plm.data.special_tokens import SpecialTokens
from dist_plm.data.store.splits import StoreSplit
from dist_plm.data.store.store import TokenStore, TokenStoreWriter
from dist_plm.objectives.build import build_objective
from dist_plm.spec.objectives import OBJECTIVES

CLOSING = 9999


def make(prefix, documents, *, closing=False):
    """A store of documents of sentences of so many tokens; token n is n, but for those that close documents."""
    number = 0
    with TokenStoreWriter(prefix, np.dtype(np.int32)) as writer:
        for lengths in documents:
            lengths = list(lengths)
            tokens = list(range(number, number + sum(lengths)))
            number += sum(lengths)
            if closing and tokens:
                tokens.append(CLOSING)
                number += 1
                lengths[-1] += 1
            writer.add_document(tokens, lengths)
    return TokenStore.open(prefix)


def dataset_of(store, *, closing=False, window_length=8, seed=3, with_second=True):
    split = StoreSplit.whole(store, end_of_document=CLOSING if closing else None)
    return PairDataset(split, window_length=window_length, seed=seed, with_second=with_second)


def runs_of(sentences):
    """The runs as lists of sentences, each a list of tokens."""
    pieces = np.split(sentences.tokens, sentences.ends[:-1])
    return [[p.tolist() for p in pieces[a:b]] for a, b in zip(sentences.runs, sentences.runs[1:], strict=False)]


class Text:
    """What the runs of a store made by `make` may be."""

    def __init__(self, documents, closing, most):
        self.owner, self.sentence_starts, self.document_ends, self.cuts = {}, set(), [], set()
        position = 0
        for number, lengths in enumerate(documents):
            begin = position
            for length in lengths:
                if length:
                    self.sentence_starts.add(position)
                    self.cuts |= set(range(position, position + length, most))
                position += length
            self.owner |= dict.fromkeys(range(begin, position), number)
            self.document_ends.append(position)
            if closing and begin < position:
                position += 1


texts = st.lists(st.lists(st.integers(0, 20), max_size=6), min_size=1, max_size=8)


@given(documents=texts, most=st.integers(1, 12), seed=st.integers(0, 2**63 - 1), closing=st.booleans())
def test_runs_are_whole_sentences_of_one_document_until_they_are_full(tmp_path_factory, documents, most, seed, closing):
    assume(sum(map(len, documents)) > len(documents) and sum(any(d) for d in documents) > 1)
    store = make(tmp_path_factory.mktemp("p") / "s", documents, closing=closing)
    dataset = dataset_of(store, closing=closing, window_length=most, seed=seed)
    text = Text(documents, closing, most)
    pairs = dataset.read(np.arange(2 * dataset.num_windows))
    assert pairs.second is not None
    for first, second in zip(runs_of(pairs.first), runs_of(pairs.second), strict=True):
        assert text.owner[first[0][0]] != text.owner[second[0][0]]
        for run in (first, second):
            tokens = [t for sentence in run for t in sentence]
            document = text.owner[tokens[0]]
            assert tokens == list(range(tokens[0], tokens[0] + len(tokens)))
            assert {text.owner[t] for t in tokens} == {document}
            starts = [sentence[0] for sentence in run]
            assert set(starts) <= text.cuts
            inside = set(range(tokens[0], tokens[-1] + 1))
            assert set(starts) >= inside & text.sentence_starts
            assert all(len(sentence) <= most for sentence in run)
            before_last = len(tokens) - len(run[-1])
            assert before_last < most
            assert len(tokens) >= most or tokens[-1] + 1 == text.document_ends[document]


def test_an_epoch_begins_at_every_document_and_reads_every_sentence_of_long_ones(tmp_path):
    documents = [[5, 5], [3], [4] * 100, [1, 2, 3]]
    dataset = dataset_of(make(tmp_path / "s", documents))
    starts = list(accumulate((sum(d) for d in documents), initial=0))[:-1]
    pairs = dataset.read(np.arange(dataset.num_windows))
    begins = [run[0][0] for run in runs_of(pairs.first)]
    assert set(starts) <= set(begins)
    seen = Counter(pairs.first.tokens.tolist())
    assert set(seen) == set(range(419))
    assert max(seen.values()) <= 4


def test_runs_reach_back_from_a_documents_end(tmp_path):
    """Otherwise a document's last sentences would be pairs mostly of padding."""
    dataset = dataset_of(make(tmp_path / "s", [[4] * 20, [1, 1]]), window_length=12)
    runs = runs_of(dataset.read(np.arange(50)).first)
    assert {sum(map(len, run)) for run in runs} == {12, 2}


def test_samples_do_not_depend_on_how_they_are_asked_for(tmp_path):
    dataset = dataset_of(make(tmp_path / "s", [[3, 4, 5]] * 9))
    whole, copy = dataset.read(np.arange(60)), pickle.loads(pickle.dumps(dataset))
    for part, name in ((dataset, "first"), (copy, "second")):
        single = [runs_of(getattr(part.read(np.array([n])), name))[0] for n in range(60)]
        assert single == runs_of(getattr(whole, name))
    assert copy.identity() == dataset.identity()


def test_second_runs_come_from_all_other_documents_in_proportion(tmp_path):
    dataset = dataset_of(make(tmp_path / "s", [[2, 2], [2, 2], [4, 4, 4]]), window_length=1)
    pairs = dataset.read(np.arange(20_000))
    owners = np.repeat([0, 1, 2], [4, 4, 12])
    first = owners[[run[0][0] for run in runs_of(pairs.first)]]
    second = owners[[run[0][0] for run in runs_of(pairs.second)]]
    for owner, shares in {0: (0, 0.25, 0.75), 1: (0.25, 0, 0.75), 2: (0.5, 0.5, 0)}.items():
        chosen = second[first == owner]
        counts = np.bincount(chosen, minlength=3)
        for count, share in zip(counts, shares, strict=True):
            assert abs(count - share * len(chosen)) <= 4 * np.sqrt(len(chosen) * share * (1 - share))


def test_identity_tells_apart_all_that_changes_samples(tmp_path):
    store, other = make(tmp_path / "s", [[3, 4]] * 9), make(tmp_path / "o", [[4, 3]] * 8)
    variants = [
        dataset_of(store),
        dataset_of(other),
        dataset_of(store, window_length=9),
        dataset_of(store, seed=4),
        PairDataset(StoreSplit(store, 0, 8, "x"), window_length=8, seed=3),
        PairDataset(StoreSplit(store, 0, 9, "x", content="abc"), window_length=8, seed=3),
    ]
    assert len({v.identity() for v in variants}) == len(variants)


def test_stores_that_cannot_serve_are_refused(tmp_path):
    plain = make(tmp_path / "plain", [[5]] * 9)
    with pytest.raises(DataError, match=r"plain has no sentence boundaries \(9 sequences.*data\.sentences=true"):
        dataset_of(plain)
    with pytest.raises(DataError, match=r"holds no tokens"):
        dataset_of(make(tmp_path / "empty", [[0, 0], [0]]))
    single = make(tmp_path / "single", [[5, 5]])
    with pytest.raises(DataError, match=r"one document alone.*objective=mlm_sop"):
        dataset_of(single)
    assert dataset_of(single, with_second=False).read(np.arange(4)).second is None
    with pytest.raises(DataError, match=r"text in one document alone.*objective=mlm_sop"):
        dataset_of(make(tmp_path / "other", [[5, 5, 5], [0]])).read(np.arange(4))


def test_a_bare_pair_is_cut_by_document(tmp_path):
    make(tmp_path / "s", [[5, 5]] * 20)
    dataset = open_pairs(tmp_path / "s", "validation", (0.8, 0.2, 0), window_length=8, seed=0)
    pairs = dataset.read(np.arange(dataset.num_windows))
    for run in (pairs.first, pairs.second):
        assert run is not None
        assert run.tokens.min() >= 160
    with pytest.raises(DataError, match=r"the test split of .* holds no tokens"):
        open_pairs(tmp_path / "s", "test", (0.8, 0.2, 0), window_length=8, seed=0)


@pytest.mark.parametrize("name", ["mlm_nsp", "mlm_sop"])
def test_objectives_take_the_pairs(tmp_path, name):
    store = make(tmp_path / "s", [[7, 9, 200, 3], [6], [1] * 40, [12, 8]] * 5)
    special = SpecialTokens(vocab_size=2000, ids=(1996, 1997, 1998, 1999), pad=1996, cls=1997, sep=1998, mask=1999)
    objective = build_objective(OBJECTIVES[name](), special, seed=1, sequence_length=32)
    dataset = dataset_of(store, window_length=objective.window_length(32), with_second=name == "mlm_nsp")
    batch = objective.collate(dataset.read(np.arange(64)))
    assert batch["tokens"].shape == (64, 32)
    assert (batch["lengths"] > 3).all()
    assert (batch["lengths"] > 30).mean() > 0.6
