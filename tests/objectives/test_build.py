import pickle
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from dist_plm.core.errors import ConfigError
from dist_plm.objectives import causal
from dist_plm.objectives.base import LossTerm
from dist_plm.objectives.build import build_objective, build_task
from dist_plm.objectives.tasks import tag
from dist_plm.spec.objectives import OBJECTIVES
from dist_plm.spec.tasks.tag import TagConfig
from tests.objectives.text import SENTINELS, SPECIAL, windows_of

#: The special tokens that each objective needs.
NEEDED = {name: section.special_tokens for name, section in OBJECTIVES.items()}


def build(name: str, special=SPECIAL, sequence_length: int = 64, **settings):
    return build_objective(OBJECTIVES[name](**settings), special, seed=1, sequence_length=sequence_length)


@pytest.mark.parametrize("name", list(NEEDED))
def test_every_objective_goes_to_a_worker_and_works_alike_there(name):
    objective = build(name)
    collate = pickle.loads(pickle.dumps(objective.collate))
    if objective.source == "windows":
        windows = windows_of(2, objective.window_length(64))
        for array, other in zip(objective.collate(windows).values(), collate(windows).values(), strict=True):
            np.testing.assert_array_equal(array, other)


@pytest.mark.parametrize(("name", "needed"), [(n, token) for n, tokens in NEEDED.items() for token in tokens])
def test_a_missing_special_token_is_refused(name, needed):
    with pytest.raises(ConfigError, match=rf"objective.name = '{name}' needs .* does not have \({needed}\)"):
        build(name, replace(SPECIAL, **{needed: None}))


def test_fill_in_the_middle_needs_its_tokens():
    build("causal", None)
    build("causal", replace(SPECIAL, fim_middle=None))
    with pytest.raises(ConfigError, match="fim_middle"):
        build("causal", replace(SPECIAL, fim_middle=None), fim_rate=0.5)


@pytest.mark.parametrize("name", [n for n, tokens in NEEDED.items() if tokens])
def test_an_unknown_tokenizer_is_refused(name):
    with pytest.raises(ConfigError, match="nothing is known of the data's tokenizer"):
        build(name, None)


@pytest.mark.parametrize("units", ["words", "spans"])
def test_words_need_a_tokenizer_that_marks_them(units):
    with pytest.raises(ConfigError, match=f"objective.mask_units = '{units}' needs .*mask_units=tokens"):
        build("mlm", replace(SPECIAL, continues=None), mask_units=units)
    build("mlm", replace(SPECIAL, continues=None))


def test_as_many_sentinels_as_spans():
    build("span", replace(SPECIAL, sentinels=SENTINELS[:28]), 512)
    with pytest.raises(ConfigError, match=r"512 .* makes 28 spans a sample, but the data's tokenizer has 27 sentinels"):
        build("span", replace(SPECIAL, sentinels=SENTINELS[:27]), 512)


def test_spans_leave_text_between_them():
    build("span", mask_rate=0.5, mean_span=2.0)
    with pytest.raises(ConfigError, match="no room for text between so many spans: lengthen the spans"):
        build("span", mask_rate=0.9, mean_span=1.0)


@pytest.mark.parametrize("parts", [("other",), (), ("causal", "other")])
def test_losses_that_a_section_does_not_declare_are_refused(parts, monkeypatch):
    built = SimpleNamespace(losses={name: LossTerm(1.0, "labels") for name in parts})
    monkeypatch.setattr(causal, "build", lambda config, special, seed, reader: built)
    told = (
        f"objective.name = 'causal': the losses of dist_plm/objectives/causal.py are {', '.join(parts) or 'none'}, and "
        "loss_terms of CausalConfig in dist_plm/spec/objectives/causal.py are causal: give both the same names"
    )
    with pytest.raises(ConfigError, match=told):
        build("causal")


def test_losses_of_a_task_are_those_that_it_declares(monkeypatch):
    monkeypatch.setattr(tag, "build", lambda config: SimpleNamespace(losses={"tags": LossTerm(1.0, "tags")}))
    with pytest.raises(
        ConfigError, match=r"task.name = 'tag': the losses of .*/tag.py are tags, and loss_terms of .* are tag:"
    ):
        build_task(TagConfig())
