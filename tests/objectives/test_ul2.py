import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dist_plm.core.errors import ConfigError
from dist_plm.objectives.base import IGNORED
from dist_plm.objectives.build import build_objective
from dist_plm.spec.objectives import OBJECTIVES
from dist_plm.spec.objectives.ul2 import SEVEN, DenoiserConfig, Ul2Config, Ul2Input
from tests.objectives.statistics import rate_z
from tests.objectives.text import EOS, FIRST, LAST, PAD, SENTINELS, SPECIAL, rows_of, windows_of

#: Unused tokens of the toy vocabulary.
PARADIGMS = {"[NLU]": 1, "[S2S]": 2, "[NLG]": 3}
MARKED = dataclasses.replace(SPECIAL, named=PARADIGMS)
BY_PARADIGM = {"R": "[NLU]", "S": "[S2S]", "X": "[NLG]"}


def ul2(sequence_length: int = 64, seed: int = 1, *, has_decoder: bool = True, special=SPECIAL, **settings):
    config = Ul2Config(**settings)
    return build_objective(config, special, seed=seed, sequence_length=sequence_length, has_decoder=has_decoder)


def denoiser(paradigm, mask_rate, mean_span=None, weight=1.0):
    return DenoiserConfig(paradigm=paradigm, mask_rate=mask_rate, mean_span=mean_span, weight=weight)


def woven(inputs: list[int], targets: list[int]) -> list[int]:
    """The text of an input and its target: at each sentinel what the target has behind the same."""
    if not set(inputs) & set(SENTINELS):
        return inputs + targets
    spans: dict[int, list[int]] = {}
    for token in targets:
        if token in SENTINELS:
            spans[token] = current = []
        else:
            current.append(token)
    assert list(spans) == list(SENTINELS[: len(spans)])
    return [t for token in inputs for t in (spans[token] if token in SENTINELS else [token])]


def samples_of(objective, batch) -> list[tuple[list[int], list[int]]]:
    """Inputs and targets of a batch, without what stands around them, read token by token."""
    pairs = []
    for row in range(len(batch["tokens"])):
        tokens, labels = batch["tokens"][row].tolist(), batch["labels"][row].tolist()
        if objective.frame.has_decoder:
            inputs, rest = tokens[: batch["lengths"][row]], tokens[batch["lengths"][row] :]
            targets = [label for label in labels if label != IGNORED]
            assert labels == targets + [IGNORED] * (len(labels) - len(targets))
            assert set(rest) <= {PAD}
            assert batch["decoder_tokens"][row].tolist() == [PAD, *(max(label, 0) for label in labels[:-1])]
            assert (inputs.pop(), targets.pop()) == (EOS, EOS)
        else:
            predicted = [place for place, label in enumerate(labels) if label != IGNORED]
            assert predicted == list(range(predicted[0], predicted[-1] + 1))
            inputs, targets = tokens[: predicted[0] + 1], [labels[place] for place in predicted]
            # What is read both ways is the input; the target is written in the same row.
            assert batch["seen_from"][row].tolist() == [0 if i < len(inputs) else i for i in range(len(tokens))]
            assert [*tokens, labels[-1]][len(inputs) : predicted[-1] + 1] == targets[:-1]
            if set(inputs) & set(SENTINELS):
                assert (inputs.pop(), targets.pop()) == (EOS, EOS)
        pairs.append((inputs, targets))
    return pairs


@pytest.mark.parametrize("has_decoder", [True, False])
@given(st.integers(24, 200), st.booleans(), st.integers(0, 2**40))
def test_input_and_target_weave_to_the_window(has_decoder, sequence_length, marked, seed):
    objective = ul2(sequence_length, seed, has_decoder=has_decoder, special=MARKED if marked else SPECIAL)
    windows = windows_of(6, objective.window_length(sequence_length), seed=seed % 1000, end_rate=0)
    batch = objective.collate(windows)
    assert batch["tokens"].shape == (6, sequence_length)
    chosen = objective._chosen(windows.samples).tolist()
    for (inputs, targets), text, number in zip(
        samples_of(objective, batch), windows.tokens[:, :-1].tolist(), chosen, strict=True
    ):
        one = SEVEN[number]
        if marked:
            assert inputs.pop(0) == PARADIGMS[BY_PARADIGM[one.paradigm]]
        assert woven(inputs, targets) == text
        assert (one.paradigm == "S") == (not set(inputs) & set(SENTINELS))
        if one.paradigm != "S":
            counts = one.counts(len(text))
            assert sum(token in SENTINELS for token in inputs) == counts.spans
            assert sum(token not in SENTINELS for token in targets) == counts.noise


@pytest.mark.parametrize(
    ("has_decoder", "marks", "window"),
    [
        # T5's 568 tokens at 15 % in spans of 3, which have room among 512 (Raffel et al. 2020); one less with a paradigm token.
        (True, 0, 568),
        (True, 1, 567),
        # Half of the tokens in spans of 3 need a sentinel on either side for every six: 383 + 2 · 64 + 2 = 513.
        (False, 0, 383),
        (False, 1, 382),
    ],
)
def test_windows_are_as_long_as_the_longest_form_allows(has_decoder, marks, window):
    assert Ul2Config().window_length(Ul2Input(512, marks, has_decoder)) == window


@given(
    st.integers(16, 400),
    st.integers(0, 1),
    st.booleans(),
    st.lists(st.tuples(st.floats(0.05, 0.5), st.one_of(st.none(), st.floats(1, 64))), min_size=1, max_size=4),
)
def test_no_longer_window_has_room(length, marks, has_decoder, rates):
    denoisers = tuple(denoiser("S" if span is None else "X", rate, span) for rate, span in rates)
    frame = Ul2Input(length, marks, has_decoder)
    window = Ul2Config(denoisers=denoisers).window_length(frame)
    assume(window >= 2)
    assert all(one.fits(window, frame) for one in denoisers)
    assert not all(one.fits(window + 1, frame) for one in denoisers)


def test_denoisers_are_chosen_by_their_weights():
    denoisers = (denoiser("R", 0.15, 3, weight=1), denoiser("S", 0.25, weight=0.5), denoiser("X", 0.5, 3, weight=2.5))
    counts = np.bincount(ul2(denoisers=denoisers)._chosen(np.arange(40_000)), minlength=3)
    expected = 10_000 * np.array([1, 0.5, 2.5])
    assert (abs(counts - expected) < 4 * np.sqrt(expected)).all()


def test_the_end_that_is_taken_away_is_any_length_alike_around_its_share():
    objective = ul2(512, denoisers=(denoiser("S", 0.25),))
    windows = windows_of(20_000, objective.window_length(512), end_rate=0)
    lengths = (objective.collate(windows)["labels"] != IGNORED).sum(axis=1) - 1
    least, most = SEVEN[2].suffixes(windows.tokens.shape[1] - 1, objective.frame)
    assert (lengths.min(), lengths.max()) == (least, most)
    assert lengths.mean() == pytest.approx(0.25 * (windows.tokens.shape[1] - 1), rel=0.01)


def test_spans_take_their_share():
    objective = ul2(512, denoisers=(denoiser("X", 0.5, 8),))
    windows = windows_of(500, objective.window_length(512), end_rate=0)
    labels = objective.collate(windows)["labels"]
    text = (labels >= FIRST) & (labels <= LAST)
    assert abs(rate_z(text.sum(), windows.tokens[:, :-1].size, 0.5)) < 4


@pytest.mark.parametrize("has_decoder", [True, False])
def test_a_sample_is_corrupted_alike_in_any_microbatch_and_anew_in_another_epoch(has_decoder):
    objective = ul2(has_decoder=has_decoder)
    windows = windows_of(40, objective.window_length(64))
    whole = objective.collate(windows)
    for name, array in objective.collate(rows_of(windows, [6, 0, 6])).items():
        np.testing.assert_array_equal(whole[name][[6, 0, 6]], array)
    later = dataclasses.replace(windows, samples=windows.samples + 10**6)
    for other in (objective.collate(later), ul2(seed=2, has_decoder=has_decoder).collate(windows)):
        assert (other["tokens"] != whole["tokens"]).any(axis=1).mean() > 0.9


def test_what_a_decoder_writes_on_average():
    objective = ul2(512)
    windows = windows_of(4000, objective.window_length(512), end_rate=0)
    written = (objective.collate(windows)["labels"] != IGNORED).sum(axis=1).mean()
    target_length = objective.config.target_length(512)
    assert target_length is not None
    assert written == pytest.approx(target_length, rel=0.03)


@pytest.mark.parametrize(
    ("special", "settings", "words"),
    [
        ({}, {"paradigm_tokens": True}, "needs [NLG], [NLU], [S2S], which the data's tokenizer does not have"),
        ({"sentinels": SENTINELS[:4]}, {}, "tokenizer has 4 sentinels: prepare data with tokenizer.sentinels="),
        ({"pad": None}, {}, "needs the special token pad"),
        ({"eos": None}, {}, "special tokens that the data's tokenizer does not have (eos)"),
        ({}, {"sequence_length": 2}, "has no room for text"),
    ],
)
def test_what_the_tokenizer_or_the_length_does_not_allow_is_said(special, settings, words):
    lacking = dataclasses.replace(SPECIAL, **special)
    with pytest.raises(ConfigError) as refused:
        ul2(special=lacking, **settings)
    assert words in str(refused.value)


def test_paradigm_tokens_are_left_out_where_they_are_unwanted():
    assert ul2(special=MARKED).frame.marks == 1
    assert ul2(special=MARKED, paradigm_tokens=False).frame.marks == 0
    assert ul2().frame.marks == 0
    assert "ul2" in OBJECTIVES
