import re
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.data.prepare import training_text
from dist_plm.data.prepare.documents import DocumentShard, Selection, write_documents
from dist_plm.data.prepare.training_text import TrainingText, fitting_share
from dist_plm.spec.prepare.schema import TokenizerConfig

WORDS = re.compile(r"\w+")
BAR = SimpleNamespace(reset=lambda: None, update=lambda count: None, set_description=lambda text: None)


def cost(pieces, share):
    words = {word for key, piece in pieces if key < share for word in WORDS.findall(piece)}
    return sum(len(word.encode()) + 8 for word in words)


@given(
    pieces=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.text("ab字 ", max_size=8)), max_size=30),
    budget=st.integers(1, 300),
    order=st.randoms(),
)
def test_the_largest_share_that_fits_whatever_the_order(pieces, budget, order):
    share = fitting_share(iter(pieces), WORDS, budget)
    assert cost(pieces, share) <= budget
    assert share == 1 or cost(pieces, share * 2) > budget
    order.shuffle(pieces)
    assert fitting_share(iter(pieces), WORDS, budget) == share


@pytest.fixture
def selected(tmp_path):
    shards = [DocumentShard(tmp_path / str(i)) for i in range(3)]
    for i, shard in enumerate(shards):
        write_documents(shard, (" ".join(f"w{i}x{j}y{k}" for k in range(20)) for j in range(40)))
    return shards, Selection.of(shards, (1.0, 0.0, 0.0))


def test_all_text_is_seen_each_time_where_there_is_memory(selected, monkeypatch):
    monkeypatch.setattr(training_text, "_PIECE_CHARS", 50)
    monkeypatch.setattr(training_text, "_BATCH_CHARS", 200)
    shards, selection = selected
    text = TrainingText.of(TokenizerConfig(name="bpe"), shards, selection, BAR)
    expected = "".join(one for shard in shards for one in shard.texts(np.ones(40, bool)))
    for _ in range(2):
        batches = list(text)
        assert "".join(piece for batch in batches for piece in batch) == expected
        assert all(len(piece) <= 50 for batch in batches for piece in batch)
        assert all(sum(map(len, batch)) < 250 for batch in batches)


def test_an_even_sample_is_seen_where_there_is_less(selected, monkeypatch):
    shards, selection = selected
    monkeypatch.setattr(training_text, "TRAINER_BYTES", 60_000)
    text = TrainingText.of(TokenizerConfig(name="bpe", memory_mb=600), shards, selection, BAR)
    assert text.pieces in (1 / 4, 1 / 8)
    pieces = [piece for batch in text for piece in batch]
    assert cost([(0, piece) for piece in pieces], 1) <= 10_000
    assert {piece[:2] for piece in pieces} == {"w0", "w1", "w2"}
