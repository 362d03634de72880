from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dist_plm.objectives.build import build_objective
from dist_plm.objectives.corruption.noise_spans import corrupted
from dist_plm.spec.objectives import OBJECTIVES
from dist_plm.spec.objectives.span import SpanCounts, longest_window
from tests.objectives.statistics import chi_square_z, rate_z
from tests.objectives.text import EOS, FIRST, PAD, SENTINELS, SPECIAL, rows_of, windows_of


def span(sequence_length: int = 64, seed: int = 1, **settings):
    config = OBJECTIVES["span"](**settings)
    return build_objective(config, SPECIAL, seed=seed, sequence_length=sequence_length)


def helper_of_t5(inputs_length: int, density: float, mean: float) -> tuple[int, int]:
    """`random_spans_helper` of the T5 code, with one sentinel a span in inputs and targets."""

    def lengths(tokens_length: int) -> tuple[int, int]:
        num_noise_tokens = round(tokens_length * density)
        num_nonnoise_tokens = tokens_length - num_noise_tokens
        num_noise_spans = round(num_noise_tokens / mean)
        return num_nonnoise_tokens + num_noise_spans + 1, num_noise_tokens + num_noise_spans + 1

    tokens_length = inputs_length - 1
    while lengths(tokens_length + 1)[0] <= inputs_length:
        tokens_length += 1
    return tokens_length, lengths(tokens_length)[1]


def test_published_lengths():
    assert longest_window(512, 0.15, 3.0) == 568
    assert SpanCounts.of(568, 0.15, 3.0) == SpanCounts(568, noise=85, spans=28)
    assert (SpanCounts.of(568, 0.15, 3.0).inputs, SpanCounts.of(568, 0.15, 3.0).targets) == (512, 114)


@given(st.integers(24, 2000), st.floats(0.1, 0.5), st.floats(2, 12))
def test_lengths_are_those_of_the_t5_code(sequence_length, rate, mean_span):
    # With less than a span's worth of noise there is none in one place of their code and one in another.
    assume(sequence_length * rate >= mean_span)
    window = longest_window(sequence_length, rate, mean_span)
    assert (window, SpanCounts.of(window, rate, mean_span).targets) == helper_of_t5(sequence_length, rate, mean_span)


@given(st.integers(4, 600), st.floats(0.01, 0.6), st.floats(2, 20))
def test_the_longest_window_fills_the_input_exactly(sequence_length, rate, mean_span):
    counts = SpanCounts.of(longest_window(sequence_length, rate, mean_span), rate, mean_span)
    assert counts.inputs == sequence_length
    assert 1 <= counts.spans <= counts.noise <= counts.window - counts.spans


@given(st.integers(2, 200), st.floats(0.01, 0.99), st.floats(1, 20), st.integers(0, 2**40))
def test_spans_and_their_tokens_are_as_many_as_counted(window, rate, mean_span, seed):
    counts = SpanCounts.of(window, rate, mean_span)
    for row in corrupted(seed, np.arange(5), counts):
        assert not row[0]
        assert row[-1]
        assert row.sum() == counts.noise
        assert (np.diff(row.astype(int)) == 1).sum() == counts.spans


def test_all_divisions_are_equally_likely():
    rows, counts = 30_000, SpanCounts.of(10, 0.4, 2.0)
    assert (counts.noise, counts.spans) == (4, 2)
    masks = corrupted(3, np.arange(rows), counts) @ (1 << np.arange(10))
    # Six tokens that stay are cut at one of five places, four that do not at one of three.
    cells = np.unique(masks, return_counts=True)[1]
    assert cells.size == 15
    assert abs(chi_square_z(cells, rows / 15)) < 4


def test_the_papers_figure():
    """Figure 2: Thank you [for inviting] me to your party [last] week."""
    thank, you, for_, inviting, me, to, your, party, last, week = range(FIRST, FIRST + 10)
    tokens = np.array([[thank, you, for_, inviting, me, to, your, party, last, week]])
    gone = np.isin(tokens, [for_, inviting, last])
    x, y = SENTINELS[:2]
    assert span()._mark_spans(tokens, gone).tolist() == [[thank, you, x, me, to, your, party, y, week, EOS]]
    # Their figure closes the target with a third sentinel; their code, whose text never begins with a span, does not.
    assert span()._mark_spans(tokens, ~gone).tolist() == [[x, for_, inviting, y, last, SENTINELS[2], EOS]]


def woven(inputs: list[int], targets: list[int]) -> list[int]:
    """The text of an input and its target."""
    spans: dict[int, list[int]] = {}
    for token in targets[:-1]:
        if token in SENTINELS:
            spans[token] = current = []
        else:
            current.append(token)
    assert list(spans) == list(SENTINELS[: len(spans)])
    return [t for token in inputs[:-1] for t in (spans[token] if token in SENTINELS else [token])]


@given(st.integers(8, 200), st.floats(0.05, 0.6), st.floats(2, 6), st.integers(0, 2**40))
def test_input_and_target_weave_to_the_window(sequence_length, rate, mean_span, seed):
    objective = span(sequence_length, seed, mask_rate=rate, mean_span=mean_span)
    windows = windows_of(3, objective.window_length(sequence_length), seed=seed % 1000)
    batch = objective.collate(windows)
    assert batch["tokens"].shape == (3, sequence_length)
    assert batch["decoder_tokens"].shape == batch["labels"].shape
    for inputs, targets, decoder, text in zip(
        batch["tokens"].tolist(),
        batch["labels"].tolist(),
        batch["decoder_tokens"].tolist(),
        windows.tokens[:, :-1].tolist(),
        strict=True,
    ):
        assert inputs[-1] == targets[-1] == EOS
        assert woven(inputs, targets) == text
        assert decoder == [PAD, *targets[:-1]]


def test_corrupted_share_of_a_million_tokens():
    objective = span(512)
    windows = windows_of(1800, 568, end_rate=0)
    labels = objective.collate(windows)["labels"]
    text = (labels >= FIRST) & (labels < min(SENTINELS))
    assert abs(rate_z(text.sum(), 1800 * 568, 0.15)) < 4


def test_another_epoch_or_seed_corrupts_anew():
    windows = windows_of(50, 70)
    later = replace(windows, samples=windows.samples + 10**6)
    first = span().collate(windows)["tokens"]
    for other in (span().collate(later)["tokens"], span(seed=2).collate(windows)["tokens"]):
        assert (first != other).any(axis=1).all()


def test_a_sample_is_corrupted_alike_in_any_microbatch():
    windows = windows_of(8, 70)
    whole, part = span().collate(windows), span().collate(rows_of(windows, [6, 0, 6]))
    for name, array in part.items():
        np.testing.assert_array_equal(whole[name][[6, 0, 6]], array)


@pytest.mark.parametrize("sequence_length", [3, 4, 5])
def test_the_shortest_inputs(sequence_length):
    objective = span(sequence_length)
    batch = objective.collate(windows_of(2, objective.window_length(sequence_length)))
    assert batch["tokens"].shape == (2, sequence_length)


def test_the_loss_counts_targets():
    objective = span()
    batch = objective.collate(windows_of(2, objective.window_length(64)))
    assert objective.losses["span"].count(batch) == batch["labels"].size
