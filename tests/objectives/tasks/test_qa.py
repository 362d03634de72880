"""Questions become windows whose targets spell the answer, and windows become answers."""

import itertools
import json
from typing import Any

import numpy as np
import pytest

from dist_plm.core.errors import DataError
from dist_plm.data.labelled.encode import ExampleEncoder
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.objectives.build import build_task
from dist_plm.spec.tasks.qa import QaConfig
from tests.data.labelled.roberta import write_byte_level
from tests.data.labelled.words import write_vocabulary
from tests.objectives.tasks.test_tasks import rows

COLUMNS = {"question": "question", "context": "context", "answers": "answers", "id": "id"}
LONG = "the film was very very lovely, the play was not a boring play. " * 2 + "it was the 7th film"
#: Each with an answer that is hard to map: after a space, of several bytes a character, in the midst of a word, at both ends.
CASES = [
    (LONG, "7th"),
    ("Das Stück war größer 😀 — 很好 ends", "größer"),
    ("Das Stück war größer 😀 — 很好 ends", "😀"),
    ("Das Stück war größer 😀 — 很好 ends", "很好"),
    ("films and plays", "films and plays"),
    ("a film  was\t lovely", "  was\t"),
    ("boring", "boring"),
]


def row(context: str, *answers: str, question: str = "was it good", **more: Any) -> dict[str, Any]:
    starts = [context.index(answer) for answer in answers]
    return {
        "question": question,
        "context": context,
        "answers": {"text": list(answers), "answer_start": starts},
        **more,
    }


def encoded(folder, length: int, *values: dict[str, Any], **settings: Any):
    config = QaConfig(max_question_length=8, **settings)
    encoder = ExampleEncoder(Tokenizer.load(folder), length)
    body = build_task(config)
    return body, body.encode(rows(*values), {name: name for name in COLUMNS if name in values[0]}, encoder)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize(("context", "answer"), CASES)
def test_targets_spell_the_answer_in_every_window_that_has_it_whole(
    kind: str, context: str, answer: str, tmp_path
) -> None:
    folder = write_vocabulary(tmp_path) if kind == "bert" else write_byte_level(tmp_path)
    _, table = encoded(folder, 40, row(context, answer), doc_stride=6)
    begins = context.index(answer) + len(answer) - len(answer.lstrip())
    ends = begins + len(answer.strip())
    found = 0
    for window in range(len(table["starts"])):
        starts, stops = table["char_starts"][window], table["char_ends"][window]
        whole = starts[0] <= begins and ends <= stops[-1]
        first, last = table["starts"][window], table["ends"][window]
        if first or last:
            at = table["context_at"][window]
            first, last = first - at, last - at
            text = context[starts[first] : stops[last]]
            assert text == answer.strip() or (text.startswith(answer.strip()) and kind == "bert")
            assert first == 0 or stops[first - 1] <= begins, "all tokens of the first character"
            assert last == len(stops) - 1 or starts[last + 1] >= ends, "and of the last"
            found += 1
        else:
            assert not whole or kind == "roberta", "an answer is cut between the bytes of a character there"
    assert found >= 1


def test_an_answer_that_a_window_cuts_is_none_there(tmp_path) -> None:
    """Windows of 6 and of 5 tokens of a text whose answer are tokens 4 and 5."""
    folder, value = write_vocabulary(tmp_path), row("a a a a good film a a", "good film", question="is it")
    for length, starts, ends in ((12, [9, 6], [10, 7]), (11, [0, 6], [0, 7])):
        _, table = encoded(folder, length, value, doc_stride=3)
        assert table["context_at"].tolist() == [5, 5]
        assert (table["starts"].tolist(), table["ends"].tolist()) == (starts, ends)


def test_windows_are_joined_to_the_best_answer_of_all(tmp_path) -> None:
    """Against every span of every window."""
    values = [row(LONG, "7th", "film", id="one"), row("the film was boring", "boring", id="two")]
    body, table = encoded(write_vocabulary(tmp_path), 24, *values, doc_stride=6, max_answer_length=3)
    count = len(table["starts"])
    outputs = np.random.default_rng(0).normal(size=(count, 24, 2)).astype(np.float32)
    scorer = body.scorer(table)
    for part in np.array_split(np.random.default_rng(1).permutation(count), 3):
        scorer.add(part, outputs[part])
    files = scorer.predictions()
    for number, value in enumerate(values):
        spans: dict[tuple[int, int], float] = {}
        for window in np.flatnonzero(np.cumsum(table["is_first"]) - 1 == number):
            at, starts, stops = (table[name][window] for name in ("context_at", "char_starts", "char_ends"))
            for i, j in itertools.combinations_with_replacement(range(len(starts)), 2):
                if j - i < 3:
                    score = float(outputs[window, at + i, 0] + outputs[window, at + j, 1])
                    place = int(starts[i]), int(stops[j])
                    spans[place] = max(score, spans.get(place, -np.inf))
        ranked = sorted(spans, key=lambda place: -spans[place])
        texts = [value["context"][a:b] for a, b in ranked]
        assert files["predictions.json"][value["id"]] == texts[0]
        listed = files["nbest_predictions.json"][value["id"]]
        assert [one["text"] for one in listed] == texts[: len(listed)]
        assert len(listed) == min(20, len(texts))
        assert sum(one["probability"] for one in listed) == pytest.approx(1.0)
        assert listed[0]["start_logit"] + listed[0]["end_logit"] == pytest.approx(spans[ranked[0]])


def say(table, window: int, length: int, answer: tuple[int, int, float] | None, none: float) -> np.ndarray:
    """Scores of a window: 0, but `answer` (first, last and score of both) and the first token."""
    scores = np.zeros((1, length, 2), dtype=np.float32)
    scores[0, 0] = none / 2
    if answer is not None:
        scores[0, table["context_at"][window] + answer[0], 0] = answer[2] / 2
        scores[0, table["context_at"][window] + answer[1], 1] = answer[2] / 2
    return scores


def test_no_answer_is_said_where_every_window_says_so_by_more_than_the_threshold(tmp_path) -> None:
    values = [row("the film was good", "good"), row("the play was bad"), row("a play is a play", "a play")]
    measures, files = {}, {}
    for threshold in (0.0, 2.5):
        body, table = encoded(write_vocabulary(tmp_path), 16, *values, no_answer=True, no_answer_threshold=threshold)
        scorer = body.scorer(table)
        scorer.add(np.array([0]), say(table, 0, 16, (3, 3, 5.0), none=1.0))
        scorer.add(np.array([1]), say(table, 1, 16, (1, 1, 3.0), none=6.0))
        scorer.add(np.array([2]), say(table, 2, 16, (3, 4, 4.0), none=6.0))
        measures[threshold], files[threshold] = scorer.measures(), scorer.predictions()
        assert sorted(body.config.measured) == sorted(["loss", *measures[threshold]])
        with_answers = build_task(QaConfig()).scorer(table)
        assert sorted(QaConfig().measured) == sorted(["loss", *with_answers.measures()])
    assert files[0.0]["predictions.json"] == {"0": "good", "1": "", "2": ""}
    assert files[2.5]["predictions.json"] == {"0": "good", "1": "", "2": "a play"}
    assert files[0.0]["null_odds.json"] == {"0": -4.0, "1": 3.0, "2": 2.0}
    assert [one["text"] for one in files[0.0]["nbest_predictions.json"]["1"]][:2] == ["", "play"]
    assert measures[0.0]["exact_match"] == pytest.approx(2 / 3)
    assert measures[0.0]["has_answer_f1"] == pytest.approx(1 / 2)
    assert measures[0.0]["no_answer_accuracy"] == 1.0
    assert measures[0.0]["best_f1"] == measures[2.5]["f1"] == 1.0


def test_every_question_is_kept_whatever_ids_there_are(tmp_path) -> None:
    ids = ("a", "a", None, "2", "a")
    texts = ("the film was good", "the play was bad", "a play", "a film was", "a film was bad")
    body, table = encoded(
        write_vocabulary(tmp_path), 16, *(row(text, "a", id=one) for text, one in zip(texts, ids, strict=True))
    )
    scorer = body.scorer(table)
    for window in range(len(texts)):
        scorer.add(np.array([window]), say(table, window, 16, (1, 1, 2.0), none=0.0))
    files = scorer.predictions()
    said = {"a": "film", "a#1": "play", "2#2": "play", "2": "film", "a#4": "film"}
    assert files["predictions.json"] == said
    assert list(files["predictions.json"]) == list(said), "in the order of the questions"
    assert files["nbest_predictions.json"].keys() == said.keys()


def test_an_answer_in_a_column_within_a_column(tmp_path) -> None:
    plain, encoder = row("the film was good", "good"), ExampleEncoder(Tokenizer.load(write_vocabulary(tmp_path)), 16)
    nested = {**plain, "qa": {"answers": plain["answers"], "id": "one"}}
    del nested["answers"]
    columns = {"question": "question", "context": "context", "answers": "qa.answers", "id": "qa.id"}
    table = build_task(QaConfig(max_question_length=8)).encode(rows(nested), columns, encoder)
    _, expected = encoded(tmp_path, 16, {**plain, "id": "one"})
    assert (table["starts"].tolist(), table["ends"].tolist()) == (
        expected["starts"].tolist(),
        expected["ends"].tolist(),
    )
    assert table["about"][0].tobytes() == expected["about"][0].tobytes()


def test_the_least_that_a_window_gives_no_answer_counts(tmp_path) -> None:
    body, table = encoded(write_vocabulary(tmp_path), 14, row("a " * 9 + "film", "film"), no_answer=True, doc_stride=2)
    assert len(table["starts"]) == 3
    scorer = body.scorer(table)
    for window, none in enumerate((9.0, 1.0, 9.0)):
        scorer.add(np.array([window]), say(table, window, 14, (0, 0, 2.0) if window == 1 else None, none))
    assert scorer.predictions()["null_odds.json"] == {"0": -1.0}


@pytest.mark.parametrize("form", ["lists", "objects", "text", "one", "python", "python_objects", "python_one"])
def test_the_ways_in_which_answers_are_written(form: str, tmp_path) -> None:
    value: dict[str, Any] = row("the film was good", "film", "the film")
    lists = value["answers"]
    objects = [{"text": t, "answer_start": s} for t, s in zip(lists["text"], lists["answer_start"], strict=True)]
    value["answers"] = {"lists": lists, "objects": objects, "text": json.dumps(lists), "one": objects[0]}.get(
        form, {"python": str(lists), "python_objects": f" {objects}\n", "python_one": str(objects[0])}.get(form)
    )
    _, table = encoded(write_vocabulary(tmp_path), 16, value)
    assert table["starts"].tolist() == [table["context_at"][0] + 1]


@pytest.mark.parametrize(
    ("answers", "part"),
    [
        ({"text": ["film"], "answer_start": [5]}, "'film' does not stand in the text at character 5; it stands at 4"),
        (
            {"text": ["movie"], "answer_start": [4]},
            "'movie' does not stand in the text at character 4, nor does it stand",
        ),
        ({"text": [" "], "answer_start": [3]}, "holds an answer without text"),
        ({"text": ["film"], "answer_start": ["4"]}, "has answer_start = '4', which is no whole number of"),
        ({"text": ["film"], "answer_start": []}, "holds no answers: they are written"),
        ("film", "holds no answers: they are written"),
        ("[{", "holds broken JSON"),
        ("{'text': ['film'], 'answer_start': [4}", "holds broken JSON"),
        (
            "{'text': array(['film'], dtype=object), 'answer_start': array([4])}",
            "column 'answers' holds \"{'text': array(['film'], dtype=object), \"…, which is of numpy's arrays, and neither "
            "JSON nor as Python writes lists: write JSON lines or Parquet, which keep lists, or mend the row",
        ),
        ("{'text': ['the' 'film'], 'answer_start': [0 4]}", "which is of numpy's arrays"),
        ("{'text': ['the' \n 'film'], 'answer_start': [0]}", "which is of numpy's arrays"),
        ("{'text': ['film'], 'answer_start': [4 7]}", "which is of numpy's arrays"),
        ([], "the question has no answer: set task.no_answer=true"),
        (None, "the question has no answer"),
    ],
)
def test_answers_that_cannot_be_used(answers: Any, part: str, tmp_path) -> None:
    with pytest.raises(DataError) as refused:
        encoded(
            write_vocabulary(tmp_path), 16, {"question": "is it", "context": "the film was good", "answers": answers}
        )
    assert "line 1: " in str(refused.value)
    assert part in str(refused.value)
