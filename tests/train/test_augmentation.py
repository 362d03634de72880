"""Words of training texts are changed so that what is learned of them stays: each task by its own rows, as a run reads them."""

import itertools
import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dist_plm.objectives.base import IGNORED
from dist_plm.objectives.metrics.entities import entities
from dist_plm.train.data import RunData, open_run
from tests.train.finetuning import make_rows, settings

SHARES = {"delete": 0.3, "swap": 0.6, "mask": 0.2}
NO_MASK = {"delete": 0.3, "swap": 0.6}
SIZES = {"layers": 2, "hidden": 32, "heads": 2}
T5 = {"family": "t5", "position": "relative", "norm": "rmsnorm", "bias": False, **SIZES}
GPT = {"family": "gpt", **SIZES}
SEQ2SEQ = {
    "task__name": "seq2seq",
    "task__prefix": "a film: ",
    "task__suffix": " is it good?",
    "data__columns": {"source": "turn.en", "target": "turn.answer"},
    "data__sequence_length": 40,
}
CHOICE = {
    "task__name": "choice",
    "data__columns": {"context": "text", "question": "text_b", "choices": "options", "label": "right"},
    "data__sequence_length": 32,
}
TAG = {"task__name": "tag", "data__sequence_length": 32}
#: Entities of several words, and words of several tokens, among them an unknown one inside a word.
NAMES = [
    ("the goodly film \u2603s was boringly, bad", "O B-FILM I-FILM B-FILM O O B-WORD"),
    ("a play is films a\u2603b not very x.y", "O B-PLAY O B-FILM I-FILM O O B-PLAY"),
]
ALL = {
    "classify": ({}, SHARES),
    "regress": ({"task__name": "regress", "data__columns": {"text": "text", "label": "number"}}, SHARES),
    "tag": (TAG, SHARES),
    "choice": (CHOICE, SHARES),
    "classify_by_t5": ({"model": T5}, NO_MASK),
    "choice_by_gpt": ({"model": GPT, **CHOICE}, NO_MASK),
    "t5": ({"model": T5, **SEQ2SEQ}, NO_MASK),
    "gpt": ({"model": GPT, **SEQ2SEQ}, NO_MASK),
    "prefix": ({"model": GPT, **SEQ2SEQ, "task__prefix_lm": True}, NO_MASK),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_rows(tmp_path_factory.mktemp("rows"))
    lines = [json.dumps({"tokens": words, "tags": tags}) for words, tags in NAMES]
    (folder / "names.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def opened(rows: Path, **changes: Any) -> RunData:
    return open_run(settings(rows, rows / "run", **changes), 1)[1]


def read(data: RunData, samples: Any = range(120)) -> dict[str, Any]:
    return data.learned.collate(data.samples["train"].read(np.asarray(samples)))


@pytest.mark.parametrize("task", list(ALL))
def test_it_follows_from_seed_and_sample_and_leaves_evaluation_alone(rows: Path, task: str) -> None:
    changes, shares = ALL[task]
    data, plain = opened(rows, **changes, data__augment=shares), opened(rows, **changes)
    together, alone = read(data, [3, 9, 70]), read(data, [9])
    for name, array in alone.items():
        assert np.array_equal(together[name][len(array) : 2 * len(array)], array), name
    there = pickle.loads(pickle.dumps(data.learned.collate))  # where batches are read ahead
    assert all(np.array_equal(there(data.samples["train"].read(np.array([9])))[name], alone[name]) for name in alone)
    assert not np.array_equal(read(data)["tokens"], read(plain)["tokens"])
    assert not np.array_equal(
        read(opened(rows, **changes, data__augment=shares, train__seed=5))["tokens"], read(data)["tokens"]
    )
    held_out = [one.objective.collate(one.samples["validation"].read(np.arange(21))) for one in (data, plain)]
    assert all(np.array_equal(held_out[0][name], array) for name, array in held_out[1].items())
    assert "tags_soft" not in held_out[0]


def tagged(batch: dict[str, Any], row: int) -> list[tuple[tuple[int, ...], int]]:
    """The words of a row with their tags, having looked at what stands around them."""
    tokens, tags = batch["tokens"][row], batch["tags"][row]
    length, starts = int(batch["lengths"][row]), np.flatnonzero(batch["tags"][row] != IGNORED)
    assert starts[0] == 1
    assert set(tokens[length:]) <= {0}
    assert (tags[length - 1 :] == IGNORED).all()
    bounds = [*starts, length - 1]
    return [(tuple(tokens[a:b].tolist()), int(tags[a])) for a, b in itertools.pairwise(bounds)]


@pytest.mark.parametrize("shares", [{"swap": 0.9}, {"delete": 0.6}, {"swap": 0.5, "delete": 0.3, "mask": 0.2}])
@pytest.mark.parametrize("train", ["names", "train"])
def test_words_and_their_tags_stay_together(rows: Path, train: str, shares: dict[str, float]) -> None:
    changes = {**TAG, "data__train": str(rows / f"{train}.jsonl"), "task__balanced": True}
    plain, changed = read(opened(rows, **changes)), read(opened(rows, **changes, data__augment=shares))
    outside, mask = int(plain["tags"].max()), 4  # O, the last one of the alphabet
    for row in range(120):
        before, after = tagged(plain, row), tagged(changed, row)
        if "mask" not in shares:
            assert not Counter(after) - Counter(before), "each word with its own tag"
        assert all(set(word) == {mask} or (word, tag) in before for word, tag in after)
        entities = [tag for _, tag in before if tag != outside]
        assert [tag for _, tag in after if tag != outside] == entities, "as many, of the same kinds"
        if "delete" not in shares:
            assert [tag for _, tag in before] == [tag for _, tag in after]
    weights = {tuple(row) for row in changed["tags_soft"][changed["tags"] == outside].tolist()}
    assert len(weights) == 1, "what a tag counts goes with it"
    assert (changed["tokens"] != plain["tokens"]).any(axis=1).mean() > 0.7


def test_entities_stay_apart_whose_labels_do_not_begin_them(rows: Path, tmp_path: Path) -> None:
    """As those of IO and IOB1: what stands between two of a kind is not left out."""
    texts = [
        ("film was the play bad not very good play", "I-X O O I-X O O O I-X I-X"),
        ("a film and film is bad", "O I-X O B-X O O"),
    ]
    (tmp_path / "io.jsonl").write_text(
        "".join(json.dumps({"tokens": words, "tags": tags}) + "\n" for words, tags in texts)
    )
    changes = {"data__train": str(tmp_path / "io.jsonl"), "data__validation": None, "data__augment": {"delete": 0.6}}
    data = opened(rows, **TAG, **changes)
    names, shorter = ("B-X", "I-X", "O"), 0
    for row in range(120):
        batch = read(data, [row])
        found = [names[tag] for _, tag in tagged(batch, 0)]
        assert len(list(entities(found))) == (3 if "B-X" not in found else 2), found
        shorter += len(found) < (6 if "B-X" in found else 9)
    assert shorter > 60


def test_choices_stay_and_stand_behind_the_same_context(rows: Path) -> None:
    plain, changed = (read(opened(rows, **CHOICE, **more)) for more in ({}, {"data__augment": SHARES}))
    different = 0
    for sample in range(120):
        pairs = []
        for batch in (plain, changed):
            two = slice(2 * sample, 2 * sample + 2)
            rows_of = zip(batch["tokens"][two], batch["segments"][two], batch["lengths"][two], strict=True)
            parts = [[tokens[:n][segments[:n] == side].tolist() for side in (0, 1)] for tokens, segments, n in rows_of]
            pairs.append(parts)
        before, after = pairs
        assert after[0][0] == after[1][0], "the context of both choices"
        assert [choice for _, choice in after] == [choice for _, choice in before]
        different += before != after
    assert different > 100
    assert np.array_equal(plain["choice_labels"], changed["choice_labels"])


def parted(batch: dict[str, Any], row: int, *, is_decoder: bool) -> tuple[list[int], list[int]]:
    """The source with what is around it, and the target behind it, which a decoder alone reads."""
    tokens = batch["tokens"][row][: batch["lengths"][row]].tolist()
    end = int((batch["labels"][row] != IGNORED).argmax()) + 1 if is_decoder else len(tokens)
    return tokens[:end], tokens[end:]


@pytest.mark.parametrize("task", ["t5", "gpt", "prefix"])
def test_of_a_source_alone_words_change(rows: Path, task: str) -> None:
    changes, shares = ALL[task]
    is_decoder = task != "t5"
    head, tail = (4, 5) if is_decoder else (3, 6)  # a film :, is it good ?, the frame
    plain, changed = read(opened(rows, **changes)), read(opened(rows, **changes, data__augment=shares))
    for row in range(120):
        (before, target), (after, same) = (parted(batch, row, is_decoder=is_decoder) for batch in (plain, changed))
        assert (after[:head], after[-tail:], same) == (before[:head], before[-tail:], target)
        inside = Counter(after[head:-tail])
        assert inside, "a word stays"
        assert not inside - Counter(before[head:-tail])
        learned = [batch["labels"][row][batch["labels"][row] != IGNORED].tolist() for batch in (plain, changed)]
        assert learned[0] == learned[1]
        if is_decoder:
            assert same == learned[1][:-1], "each predicts the next one"
        if task == "prefix":
            assert changed["seen_from"][row].tolist() == [0] * len(after) + [*range(len(after), 40)]
    lost = plain["lengths"] - changed["lengths"]
    assert lost.min() == 0
    assert lost.mean() > 0.5
    assert (changed["tokens"] != plain["tokens"]).any(axis=1).mean() > 0.7
    for name in set(plain) - {"tokens", "lengths", "labels", "seen_from"}:
        assert np.array_equal(plain[name], changed[name]), name
