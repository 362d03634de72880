import pytest

from tests.spec.broken import problems

#: A family that learns from each objective, and what it needs.
LEARNER = {
    "causal": {},
    "mlm": {"model__family": "bert"},
    "mlm_nsp": {"model__family": "bert"},
    "mlm_sop": {"model__family": "bert"},
    "rtd": {"model__family": "electra"},
    "span": {"model__family": "t5", "model__position": "relative"},
    "ul2": {"model__family": "t5", "model__position": "relative"},
}


#: Its targets are longer than its inputs.
LONG = {"paradigm": "X", "mask_rate": 0.5, "mean_span": 3.0}


def objective_problems(name: str = "causal", **settings):
    changes = {f"objective__{setting}": value for setting, value in settings.items()}
    return problems(objective__name=name, **LEARNER.get(name, {}), **changes)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"mask_rate": 0.2}, ["objective.mask_rate = 0.2 is not a setting of objective.name = 'causal', but of mlm"]),
        ({"name": "rtd", "mask_split": [1, 0, 0]}, ["objective.mask_split", "not a setting of objective.name = 'rtd'"]),
        ({"name": "span", "mask_units": "words"}, ["objective.mask_units = 'words'", "objective.name = 'span'"]),
        ({"name": "mlm", "mean_span": 5}, ["objective.mean_span = 5 is not a setting", "but of span"]),
        ({"name": "mlm", "span_p": 0.3}, ["objective.span_p = 0.3", "objective.mask_units = 'tokens'"]),
        (
            {"name": "mlm", "negative_rate": 0.4},
            ["objective.negative_rate = 0.4 is not a setting", "but of mlm_nsp, mlm_sop"],
        ),
        (
            {"name": "mlm_nsp", "document_mask": True},
            ["document_mask = true is not a setting", "but of causal, mlm, rtd, prefix_lm"],
        ),
        (
            {"name": "ul2", "denoisers": [{"paradigm": "X", "mask_rate": 0.5}]},
            ["objective.denoisers[0].mean_span is missing", "paradigm X"],
        ),
        (
            {"name": "ul2", "denoisers": [{"paradigm": "S", "mask_rate": 0.2, "mean_span": 4}]},
            ["objective.denoisers[0].mean_span = 4.0 has no effect with paradigm S"],
        ),
        (
            {"name": "ul2", "denoisers": [{"paradigm": "S", "mask_rate": 0.6}]},
            ["objective.denoisers[0].mask_rate = 0.6 is too high for paradigm S", "0.5 or less"],
        ),
        ({"name": "ul2", "denoisers": []}, ["objective.denoisers is empty"]),
        (
            {"name": "ul2", "document_mask": True},
            ["document_mask = true is not a setting", "causal, mlm, rtd, prefix_lm"],
        ),
        ({"name": "prefix_lm", "fim_rate": 0.5}, ["objective.fim_rate = 0.5 is not a setting", "but of causal"]),
        ({"name": "prefix_lm", "reset_positions": True}, ["needs objective.document_mask=true"]),
        ({"name": "mlm_sop", "fim_rate": 0.5}, ["objective.fim_rate = 0.5 is not a setting", "but of causal"]),
        ({"fim_spm_rate": 0.1}, ["objective.fim_spm_rate = 0.1", "objective.fim_rate = 0.0"]),
        ({"name": "mlm", "mask_split": [0.8, 0.1, 0.2]}, ["objective.mask_split = [0.8, 0.1, 0.2] sums to 1.1"]),
        ({"name": "mlm", "mask_rate": 0}, ["objective.mask_rate = 0", "more than 0 and less than 1"]),
        ({"name": "mlm", "mask_rate": 1.0}, ["objective.mask_rate = 1.0", "more than 0 and less than 1"]),
        ({"name": "bert"}, ["objective.name = 'bert'", "one of causal, mlm"]),
    ],
)
def test_one_sentence_with_key_value_and_remedy(changes, parts):
    (problem,) = objective_problems(**changes)
    for part in parts:
        assert part in problem


@pytest.mark.parametrize("name", ["span", "ul2"])
@pytest.mark.parametrize("position", ["learned", "sinusoidal"])
def test_what_a_decoder_writes_has_places(name, position):
    settings = (
        {"name": name, "mask_rate": 0.5}
        if name == "span"
        else {"name": name, "denoisers": [LONG], "paradigm_tokens": False}
    )
    model = {"model__family": "transformer", "model__position": position}
    changes = {**{f"objective__{key}": value for key, value in settings.items()}, **model}
    assert problems(**changes, model__max_positions=17) == []
    (problem,) = problems(**changes, model__max_positions=16)
    assert "model.max_positions = 16 has no places for the 17 tokens that the decoder writes" in problem
    assert problems(**changes) == []


@pytest.mark.parametrize(
    ("name", "least"), [("mlm", 4), ("rtd", 4), ("mlm_nsp", 5), ("mlm_sop", 5), ("span", 4), ("ul2", 8)]
)
def test_samples_too_short_for_special_tokens(name, least):
    (problem,) = problems(objective__name=name, data__sequence_length=least - 1, **LEARNER[name])
    assert f"data.sequence_length = {least - 1} is too short for objective.name = '{name}'" in problem
    assert problems(objective__name=name, data__sequence_length=least, **LEARNER[name]) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"fim_rate": 0.5, "fim_spm_rate": 1.0, "document_mask": True},
        {"name": "mlm", "mask_rate": 0.4, "mask_split": [1, 0, 0], "mask_units": "spans", "span_longest": 3},
        {"name": "mlm_nsp", "mask_units": "words", "short_rate": 0, "pair_weight": 0.5, "negative_rate": 0.3},
        {"name": "span", "mask_rate": 0.5, "mean_span": 8},
        {"name": "prefix_lm", "document_mask": True, "reset_positions": True},
        {"name": "ul2", "denoisers": [{"paradigm": "S", "mask_rate": 0.5, "weight": 2}], "paradigm_tokens": False},
        {"name": "rtd", "mask_rate": 0.25, "discriminator_weight": 1, "document_mask": True, "reset_positions": True},
    ],
)
def test_what_fits_passes(changes):
    assert objective_problems(**changes) == []
