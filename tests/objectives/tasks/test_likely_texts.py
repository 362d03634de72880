"""Labels and choices as texts: what is read, what may be written of it, and which tokens are predicted."""

from dataclasses import replace

import numpy as np
import pytest

from dist_plm.core.errors import DataError
from dist_plm.data.labelled.columns import find_columns
from dist_plm.data.labelled.dataset import Collation, LabelledDataset
from dist_plm.data.labelled.encode import ExampleEncoder
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.objectives.base import IGNORED
from dist_plm.objectives.build import build_task
from dist_plm.objectives.tasks.base import CUT
from dist_plm.spec.tasks.choice import ChoiceConfig
from dist_plm.spec.tasks.classify import ClassifyConfig
from dist_plm.spec.tasks.regress import RegressConfig
from tests.data.labelled.words import write_vocabulary
from tests.objectives.tasks.test_tasks import rows

ROW = {"text": "the film was good", "text_b": "a play", "label": "good"}
CHOICE = {"context": "the film was", "choices": ["very good", "bad"], "label": 1}


def encoder(folder, length=16, *, has_decoder: bool) -> ExampleEncoder:
    return ExampleEncoder(Tokenizer.load(write_vocabulary(folder)), length, has_decoder, by_likelihood=True)


def table_of(config, encoder, *values):
    named = {"pair": "text_b"} if "text_b" in values[0] else {}
    return build_task(config).encode(rows(*values), find_columns(config.columns, named, values[0], "f"), encoder)


def texts(column, encoder) -> list[str]:
    return [
        encoder.tokenizer.decode([token for token in column[row] if token != IGNORED]) for row in range(len(column))
    ]


@pytest.mark.parametrize("space", ["", " "])
def test_a_label_is_a_text_that_a_decoder_writes(tmp_path, space: str) -> None:
    both = encoder(tmp_path, has_decoder=True)
    config = ClassifyConfig(
        labels=("bad", "good"), label_texts={"bad": "not good"}, prefix=f"is{space}", pair_prefix=f"very{space}"
    )
    table = table_of(config, both, ROW, {**ROW, "label": "bad"})
    assert texts(table["tokens"], both)[0].split()[:-1] == ["is", "the", "film", "was", "good", "very", "a", "play"]
    assert [text.split()[:-1] for text in texts(table["labels"], both)] == [["not", "good"], ["good"]] * 2
    assert table["class_labels"].tolist() == [1, 0]
    for row in range(4):
        assert table["labels"][row][-1] == table["tokens"][0][-1] == both.end
        assert table["decoder_tokens"][row].tolist() == [both.start, *table["labels"][row][:-1]]


def test_a_long_pair_loses_the_end_of_its_longer_text(tmp_path) -> None:
    short = encoder(tmp_path, 6, has_decoder=True)
    table = table_of(ClassifyConfig(labels=("bad", "good")), short, ROW)
    assert texts(table["tokens"], short)[0].split()[:-1] == ["the", "film", "was", "a", "play"]


def test_a_choice_follows_its_context(tmp_path) -> None:
    alone = encoder(tmp_path, has_decoder=False)
    table = table_of(ChoiceConfig(), alone, CHOICE)
    read = [alone.tokenizer.decode(list(table["tokens"][row])) for row in range(2)]
    begun = len(alone.begin)
    assert [text.split()[begun:] for text in read] == [["the", "film", "was", "very"], ["the", "film", "was"]]
    assert texts(table["labels"], alone) == ["very good", "bad"]
    for row in range(2):
        asked = table["labels"][row] != IGNORED
        assert asked.tolist() == [False] * (begun + 2) + [True] * (2 - row)


def test_a_long_context_loses_its_beginning(tmp_path) -> None:
    short = encoder(tmp_path, 4, has_decoder=False)
    table = table_of(
        ChoiceConfig(), short, {**CHOICE, "context": "a play is the film was", "choices": ["very good bad", "bad"]}
    )
    assert table["tokens"].lengths.tolist() == [4, 4]
    assert texts(table["labels"], short) == ["very good", "bad"], "and a choice its end, beyond half of a row"
    assert table["cut"].tolist() == [1], "which is told"
    assert short.tokenizer.decode(list(table["tokens"][1])).split()[len(short.begin) :][-2:] == ["film", "was"]


def test_choices_are_written_of_one_reading(tmp_path) -> None:
    both = encoder(tmp_path, has_decoder=True)
    table = table_of(ChoiceConfig(), both, CHOICE, {**CHOICE, "context": "a play is"})
    assert [text.split()[:-1] for text in texts(table["tokens"], both)] == [["the", "film", "was"], ["a", "play", "is"]]
    assert [text.split()[:-1] for text in texts(table["labels"], both)] == [["very", "good"], ["bad"]] * 2


@pytest.mark.parametrize("has_decoder", [True, False])
def test_choices_end_where_the_setting_says(tmp_path, has_decoder) -> None:
    one = encoder(tmp_path, has_decoder=has_decoder)
    room = 3 + has_decoder  # for the token that ends texts
    long = {**CHOICE, "choices": ["very very good film", "bad"]}
    table = table_of(ChoiceConfig(max_target_length=room), one, CHOICE, long)
    assert [text.split()[:3] for text in texts(table["labels"], one)][2] == ["very", "very", "good"]
    assert table["cut"].tolist() == [0, 1]
    with pytest.raises(
        DataError, match=r"line 1: choices are the same in their first 3 tokens, and the rest is beyond"
    ):
        table_of(
            ChoiceConfig(max_target_length=room), one, {**long, "choices": ["a very good play", "a very good film"]}
        )


def test_a_label_is_never_cut(tmp_path) -> None:
    both = encoder(tmp_path, has_decoder=True)
    config = ClassifyConfig(labels=("bad", "good"), label_texts={"good": "very very good"}, max_target_length=3)
    with pytest.raises(
        DataError, match=r"'very very good' is 4 tokens .*, more than task\.max_target_length = 3: raise"
    ):
        table_of(config, both, ROW)
    raised = table_of(replace(config, max_target_length=4), both, ROW)
    assert texts(raised["labels"], both)[1].split()[:3] == ["very", "very", "good"]
    with pytest.raises(DataError, match=r"more than task\.max_target_length = 3: raise it, or change task\.lowest"):
        table_of(RegressConfig(lowest=0, highest=1, step=0.5, max_target_length=3), both, {**ROW, "label": 1})


def test_labels_that_cannot_be_told_apart_are_refused(tmp_path) -> None:
    both = encoder(tmp_path, has_decoder=True)
    with pytest.raises(
        DataError, match=r"'good' and 'Good' are the same tokens in this vocabulary: change task.labels"
    ):
        table_of(ClassifyConfig(labels=("good", "Good")), both, {**ROW, "label": "good"})


def test_a_number_is_the_nearest_of_those_that_may_be_written(tmp_path) -> None:
    both = encoder(tmp_path, has_decoder=True)
    config = RegressConfig(lowest=0, highest=4, step=1)
    given = [{**ROW, "label": number} for number in (0.1, 1.49, 4.2)]
    table = table_of(config, both, *given)
    assert [config.text_of(level) for level in config.levels] == ["0", "1", "2", "3", "4"]
    assert texts(table["labels"], both)[3].split()[:-1] == ["3"]
    assert len(table["labels"]) == 3 * 5
    assert table["class_labels"].tolist() == [0, 1, 4]
    scorer = build_task(config).scorer(table)
    scorer.add(np.array([0, 1, 2]), np.eye(5, dtype=np.float32)[[0, 1, 4]])
    assert scorer.measures()["mse"] == pytest.approx((0.1**2 + 0.49**2 + 0.2**2) / 3, rel=1e-4), (
        "of the row's own numbers"
    )
    assert [RegressConfig(lowest=1, highest=5).text_of(level) for level in (1.0, 3.8)] == ["1.0", "3.8"]
    around_0 = RegressConfig(lowest=-0.9, highest=0.3, step=0.3)
    assert [around_0.text_of(level) for level in around_0.levels] == ["-0.9", "-0.6", "-0.3", "0.0", "0.3"]
    with pytest.raises(DataError, match=r"holds 4.7, which is not between task.lowest = 0 and task.highest = 4"):
        table_of(config, both, {**ROW, "label": 4.7})


@pytest.mark.parametrize("reads", ["each", "likely", "once"])
def test_choices_are_smoothed_by_how_many_a_row_has(tmp_path, reads: str) -> None:
    """Whether each is read behind its context, by a head or not, or a decoder says all of what an encoder reads once."""
    row = {"context": "the film was", "choices": ["very good", "bad", "good"], "label": 2}
    config, body = ChoiceConfig(label_smoothing=0.3), build_task(ChoiceConfig(label_smoothing=0.3))
    by = replace(encoder(tmp_path, has_decoder=reads == "once"), by_likelihood=reads != "each")
    table = {name: column for name, column in table_of(config, by, row, {**row, "label": 0}).items() if name != CUT}
    soft = body.soft(table)
    assert soft["choice_labels"] == pytest.approx(np.full((3, 3), 0.1) + 0.7 * np.eye(3))
    batch = Collation(16, body.fills, 8 if reads == "once" else None, soft=soft)(
        LabelledDataset(table, None, "f").read(np.array([0, 1]))
    )
    assert batch["choice_labels_soft"] == pytest.approx(np.array([[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]]))
