import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.data.samples import Windows
from dist_plm.objectives.corruption.fill_in_the_middle import FillInTheMiddle, Pieces, fit
from tests.objectives.statistics import chi_square_z, rate_z
from tests.objectives.text import EOS, FIRST, MIDDLE, PREFIX, SPECIAL, SUFFIX, rows_of, windows_of


def filling(rate: float = 0.5, spm_rate: float = 0.5, seed: int = 1) -> FillInTheMiddle:
    return FillInTheMiddle(seed, rate, spm_rate, SPECIAL)


def one_document(rows: int, length: int) -> Windows:
    tokens = np.tile(np.arange(FIRST, FIRST + length), (rows, 1))
    return Windows(tokens, np.zeros(tokens.shape, dtype=np.int32), np.arange(rows))


def parts(document: list[int]) -> tuple[list[int], list[int], list[int]]:
    """What stands before <suffix>, after <middle>, and between them."""
    assert document[0] == PREFIX
    suffix, middle = document.index(SUFFIX), document.index(MIDDLE)
    return document[1:suffix], document[middle + 1 :], document[suffix + 1 : middle]


def original(document: list[int]) -> list[int]:
    """Undoes the rearrangement of either kind."""
    if document[:1] != [PREFIX]:
        return document
    end = document[-1:] if document[-1] == EOS else []
    before, after, suffix = parts(document[: len(document) - len(end)])
    return before + after + suffix + end


@given(
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 2**40),
    st.sampled_from([0.0, 0.05, 0.3, 0.9]),
    st.integers(0, 60),
)
def test_rows_read_back_as_their_text(rate, spm_rate, seed, end_rate, length):
    windows = windows_of(6, length, seed=seed % 1000, end_rate=end_rate)
    tokens, documents = filling(rate, spm_rate, seed)(windows.tokens, windows.documents, windows.samples)
    assert tokens.shape == documents.shape == windows.tokens.shape
    for row, numbers, text, text_numbers in zip(tokens, documents, windows.tokens, windows.documents, strict=True):
        back, owners = [], []
        for document in np.unique(numbers):
            piece = original(row[numbers == document].tolist())
            back += piece
            owners += [document] * len(piece)
        assert back == text[: len(back)].tolist()
        assert owners == text_numbers[: len(back)].tolist()
        moved = (row == PREFIX).sum()
        assert (row == SUFFIX).sum() == (row == MIDDLE).sum() == moved
        assert len(back) == len(text) - 3 * moved


def test_nothing_moves_at_rate_zero():
    windows = windows_of(6, 50)
    tokens, documents = filling(0.0)(windows.tokens, windows.documents, windows.samples)
    np.testing.assert_array_equal(tokens, windows.tokens)
    np.testing.assert_array_equal(documents, windows.documents)


def test_both_layouts():
    windows = one_document(300, 13)
    psm = filling(1.0, 0.0)(windows.tokens, windows.documents, windows.samples)[0]
    spm = filling(1.0, 1.0)(windows.tokens, windows.documents, windows.samples)[0]
    text = list(range(FIRST, FIRST + 10))
    for a, b in zip(psm.tolist(), spm.tolist(), strict=True):
        prefix, middle, suffix = parts(a)
        assert prefix + middle + suffix == text
        assert a == [PREFIX, *prefix, SUFFIX, *suffix, MIDDLE, *middle]
        assert b == [PREFIX, SUFFIX, *suffix, MIDDLE, *prefix, *middle]


def test_rates():
    whole = one_document(20_000, 30)
    tokens, _ = filling(0.3, 0.25)(whole.tokens, whole.documents, whole.samples)
    moved = tokens[:, 0] == PREFIX
    assert abs(rate_z(moved.sum(), 20_000, 0.3)) < 4
    # In PSM <suffix> comes second as well where the prefix is empty: two cuts of 28 places, the smaller at the first.
    empty = 1 - (27 / 28) ** 2
    second = (tokens[moved, 1] == SUFFIX).sum()
    assert abs(rate_z(second, moved.sum(), 0.25 + 0.75 * empty)) < 4


def test_documents_of_a_row_move_independently():
    documents = np.repeat([[0, 1]], 12, axis=1).repeat(20_000, axis=0).astype(np.int32)
    tokens = np.full((20_000, 24), FIRST)
    moved, numbers = filling(0.5)(tokens, documents, np.arange(20_000))
    second = np.take_along_axis(moved, (numbers == 1).argmax(axis=1)[:, None], axis=1)[:, 0] == PREFIX
    counts = np.bincount(2 * (moved[:, 0] == PREFIX) + second, minlength=4)
    assert abs(chi_square_z(counts, 5000)) < 4


def test_cuts_are_uniform():
    rows = 30_000
    windows = one_document(rows, 6)
    tokens, _ = filling(1.0, 0.0)(windows.tokens, windows.documents, windows.samples)
    # Three tokens of text have four places, for two cuts.
    counts = np.zeros((4, 4))
    for row in tokens.tolist():
        prefix, middle, _ = parts(row)
        counts[len(prefix), len(prefix) + len(middle)] += 1
    expected = rows / 16 * (np.triu(np.full((4, 4), 2)) - np.eye(4))
    upper = np.triu_indices(4)
    assert abs(chi_square_z(counts[upper], expected[upper])) < 4


def test_end_of_document_stays_at_the_end():
    tokens = np.array([[FIRST, FIRST + 1, FIRST + 2, EOS, *range(FIRST + 3, FIRST + 9)]] * 50)
    documents = np.array([[0] * 4 + [1] * 6] * 50, dtype=np.int32)
    moved, numbers = filling(1.0)(tokens, documents, np.arange(50))
    assert (moved[:, 6] == EOS).all()
    np.testing.assert_array_equal(numbers, [[0] * 7 + [1] * 3] * 50)


@pytest.mark.parametrize("other", [{"seed": 2}, {"epoch": 10**6}])
def test_another_epoch_or_seed_cuts_anew(other):
    windows = one_document(100, 40)
    first, _ = filling(1.0)(windows.tokens, windows.documents, windows.samples)
    samples = windows.samples + other.get("epoch", 0)
    second, _ = filling(1.0, seed=other.get("seed", 1))(windows.tokens, windows.documents, samples)
    assert (first != second).any(axis=1).mean() > 0.9


def test_a_sample_is_rearranged_alike_in_any_microbatch():
    windows = windows_of(8, 60, end_rate=0.1)
    whole = filling()(windows.tokens, windows.documents, windows.samples)
    part = rows_of(windows, [5, 2, 2])
    alone = filling()(part.tokens, part.documents, part.samples)
    np.testing.assert_array_equal(whole[0][[5, 2, 2]], alone[0])
    np.testing.assert_array_equal(whole[1][[5, 2, 2]], alone[1])


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=12))
def test_what_is_kept_and_the_sentinels_fill_the_row(documents):
    lengths, moved = (np.array(x) for x in zip(*documents, strict=True))
    width = int(lengths.sum())
    pieces = Pieces.of(np.repeat(np.arange(len(lengths)), lengths)[None].astype(np.int32))
    np.testing.assert_array_equal(pieces.length, lengths)
    still_moved, kept = fit(pieces, moved, width)
    assert (kept + 3 * still_moved).sum() == width
    assert not (still_moved & ~moved).any()
    assert (kept[still_moved] > 0).all()
    # Only the end of the row is cut: before the first piece that lost tokens all are whole.
    cut = np.flatnonzero(kept < lengths)
    assert cut.size == 0 or (kept[cut[0] + 1 :] == 0).all()
