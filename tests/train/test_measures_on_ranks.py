"""What evaluations in training measure of 21 rows is what the libraries find of these rows, on 1, 2 and 4 ranks: rows that only
fill the last round of microbatches count nowhere."""

import functools
import json
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from scipy import stats
from seqeval import metrics as seqeval
from seqeval.scheme import IOB2
from sklearn import metrics as sklearn
from sklearn.preprocessing import MultiLabelBinarizer

from dist_plm.tasks.generate.written_rows import text_measures
from dist_plm.train.data import open_run
from dist_plm.train.evaluation import Evaluator
from tests.parts import engine_of, model_of
from tests.ranks.ports import free_port
from tests.ranks.selection import covering
from tests.ranks.training import groups_of
from tests.train.finetuning import make_rows, records, settings
from tests.train.running import make_store, run_case
from tests.train.running import settings as pretraining
from tests.train.test_finetune import GPT, TASKS
from tests.train.test_finetune_qa import QA

pytestmark = pytest.mark.ranks

Rows = list[dict[str, Any]]
Found = tuple[dict[str, float], dict[str, Any]]
WRITTEN = {"model": {**GPT, "init_std": 0.5}, "task": {"name": "seq2seq", "measure_writing": True}}
ASKED: dict[str, dict[str, Any]] = {
    **{name: TASKS[name][0] for name in ("classify", "multi_label", "regress", "choice")},
    "tag": {"task__name": "tag"},
    "qa": QA,
    "written": WRITTEN,
}
#: Of so many ranks, and of 2 of 4 a model's halves.
GRIDS: dict[str, tuple[int, dict[str, Any]]] = {
    "alone": (1, {}),
    "data2": (2, {}),
    "data4": (4, {}),
    "data2_tensor2": (4, {"parallel__tensor": 2}),
    "data2_context2": (4, {"parallel__context": 2}),
}


def evaluate_cases(world, configs) -> dict[str, Found]:
    """Measures models that have learned nothing; returns measures and predictions by task."""
    found = {}
    groups = groups_of(world, open_run(next(iter(configs.values())), world.size)[0])  # all are of one grid
    for name, given in configs.items():
        config, data = open_run(given, world.size)
        model, _ = model_of(config, groups, world.device.torch_device)
        engine = engine_of(config, groups, world.device.torch_device, model, data.objective.losses)
        kept: dict[str, Any] = {}
        read = config.train, groups, data.samples["validation"], data.objective, data.trim, data.scorer
        measures = Evaluator(*read, kept.update, text_measures(config, groups))(engine, lambda: None)
        found[name] = dict(measures), kept
    return found


@pytest.fixture(scope="module")
def rows(ranks, tmp_path_factory) -> Path:
    """Rows of which the models that have learned nothing say some right, also where they write or answer."""
    folder = make_rows(tmp_path_factory.mktemp("rows"))
    lines = [json.loads(line) for line in (folder / "dev.jsonl").read_text().splitlines()]
    for row in lines:
        row.update(source=row["text"], target="good")
    write(folder, lines)
    configs = {name: config_of(folder, name) for name in ("qa", "written")}
    (said,) = ranks.run(1, evaluate_cases, configs)
    answers, texts = said["qa"][1]["predictions.json"], said["written"][1]["predictions.jsonl"]
    for number, (row, text) in enumerate(zip(lines, texts, strict=True)):
        words = text["prediction"].split()
        row["target"] = " ".join([*words[: len(words) - number % 3], *["film"] * (number % 2)]) or "good"
        answer = answers[str(number)] + " " * (number % 4 == 0)
        answer = answer if number % 3 else answer.split()[0]
        at = row["context"].find(answer.strip())
        row["answers"] = {"text": [answer.strip()], "answer_start": [at]}
    write(folder, lines)
    return folder


def write(folder: Path, lines: Rows) -> None:
    """Writes rows of validation, and as many of training, which nothing learns from."""
    for name in ("dev", "train"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))


def config_of(folder: Path, name: str, **more: Any):
    changes = {**ASKED[name], "train__global_batch": 8, **more}
    changes = {key: value for key, value in changes.items() if key != "data__augment"}
    return settings(folder, folder / "run", **({"model__init_std": 0.5} | changes))


def said_of(kept: Mapping[str, Any], name: str) -> list[Any]:
    return [line[name] for line in kept["predictions.jsonl"]]


def of_classes(rows: Rows, kept) -> dict[str, float]:
    truth, said = [row["label"] for row in rows], said_of(kept, "label")
    return {
        "accuracy": sklearn.accuracy_score(truth, said),
        "f1": sklearn.f1_score(truth, said, pos_label="good"),
        "f1_macro": sklearn.f1_score(truth, said, average="macro"),
        "f1_micro": sklearn.f1_score(truth, said, average="micro"),
        "matthews": sklearn.matthews_corrcoef(truth, said),
    }


def of_sets(rows: Rows, kept) -> dict[str, float]:
    binarizer = MultiLabelBinarizer(classes=["bad", "film", "good"]).fit([])
    truth, said = binarizer.transform([row["both"] for row in rows]), binarizer.transform(said_of(kept, "labels"))
    f1 = {average: sklearn.f1_score(truth, said, average=average, zero_division=0) for average in ("micro", "macro")}
    return {
        "accuracy": sklearn.accuracy_score(truth, said),
        "f1": f1["micro"],
        "f1_micro": f1["micro"],
        "f1_macro": f1["macro"],
    }


def of_numbers(rows: Rows, kept) -> dict[str, float]:
    truth, said = [row["number"] for row in rows], said_of(kept, "number")
    return {
        "pearson": stats.pearsonr(truth, said)[0],
        "spearman": stats.spearmanr(truth, said)[0],
        "mse": sklearn.mean_squared_error(truth, said),
    }


def of_entities(rows: Rows, kept) -> dict[str, float]:
    truth, said = [row["tags"] for row in rows], said_of(kept, "tags")
    found = {"accuracy": seqeval.accuracy_score(truth, said)}
    for before, options in (("", {}), ("strict_", {"mode": "strict", "scheme": IOB2})):
        for name in ("f1", "precision", "recall"):
            found[before + name] = getattr(seqeval, f"{name}_score")(truth, said, zero_division=0, **options)
    return found


def of_choices(rows: Rows, kept) -> dict[str, float]:
    return {"accuracy": sklearn.accuracy_score([row["right"] for row in rows], said_of(kept, "choice"))}


def of_answers(rows: Rows, kept) -> dict[str, float]:
    """As evaluate-v1.1.py of SQuAD counts, but that it prints percent."""
    pairs = [(kept["predictions.json"][str(row)], value["answers"]["text"][0]) for row, value in enumerate(rows)]
    words = [tuple(_words(text) for text in pair) for pair in pairs]
    return {
        "exact_match": mean(float(said == truth) for said, truth in words),
        "f1": mean(_shared(said, truth) for said, truth in words),
    }


def _words(text: str) -> list[str]:
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def _shared(said: list[str], truth: list[str]) -> float:
    same = sum((Counter(said) & Counter(truth)).values())
    return 2 * same / (len(said) + len(truth)) if same else 0.0


def of_texts(rows: Rows, kept) -> dict[str, float]:
    truth, said = [row["target"] for row in rows], said_of(kept, "prediction")
    names = ["rouge1", "rouge2", "rougeL"]
    rouge = [RougeScorer(names).score(*pair) for pair in zip(truth, said, strict=True)]
    return {
        "bleu": sacrebleu.corpus_bleu(said, [truth]).score,
        "chrf": sacrebleu.corpus_chrf(said, [truth]).score,
        "exact_match": 100 * mean(float(one == other) for one, other in zip(truth, said, strict=True)),
        **{name: 100 * mean(one[name].fmeasure for one in rouge) for name in names},
    }


LIBRARIES: dict[str, Callable[[Rows, Mapping[str, Any]], dict[str, float]]] = {
    "classify": of_classes,
    "multi_label": of_sets,
    "regress": of_numbers,
    "tag": of_entities,
    "choice": of_choices,
    "qa": of_answers,
    "written": of_texts,
}


@pytest.fixture(scope="module")
def measured(ranks, rows):
    """What every rank of a grid measures of every task, found once."""

    @functools.cache
    def of(grid: str) -> list[dict[str, Found]]:
        size, changes = GRIDS[grid]
        return ranks.run(size, evaluate_cases, {name: config_of(rows, name, **changes) for name in LIBRARIES})

    return of


@pytest.mark.parametrize("task", LIBRARIES)
@pytest.mark.parametrize("grid", covering(list(GRIDS), ["alone", "data2"]))
def test_measures_are_the_libraries_of_the_whole_set(rows, measured, grid: str, task: str) -> None:
    held_out = [json.loads(line) for line in (rows / "dev.jsonl").read_text().splitlines()]
    whole, _ = measured("alone")[0][task]
    for found in measured(grid):
        measures, kept = found[task]
        expected = LIBRARIES[task](held_out, kept)
        assert {name: measures[name] for name in expected} == pytest.approx(expected, rel=1e-6)
        for name, value in whole.items():
            near = 5e-3 if name == "spearman" else 1e-6  # ranks of what is all but equal change places
            assert measures[name] == pytest.approx(value, rel=1e-4, abs=near), name
    assert any(0.02 < value < 0.98 or 2 < value < 98 for value in expected.values()), "something is right, not all"


def places_case(world, given) -> tuple[int, list[int]]:
    """Counts the places that an evaluation computes, and the tokens of each row."""
    config, data = open_run(given, world.size)
    groups, device = groups_of(world, config), world.device.torch_device
    engine = engine_of(config, groups, device, model_of(config, groups, device)[0], data.objective.losses)
    places, predict = [], engine.predict_step

    def counting(microbatches):
        places.extend(batch["tokens"].numel() for batch in microbatches)
        return predict(microbatches)

    engine.predict_step = counting
    validation = data.samples["validation"]
    Evaluator(config.train, groups, validation, data.objective, data.trim, data.scorer)(engine, lambda: None)
    return sum(places), validation.table["tokens"].lengths.tolist()


def test_rows_of_a_microbatch_are_about_as_long(ranks, rows) -> None:
    """All are padded to the longest of them, a multiple of 8."""
    ((places, lengths),) = ranks.run(1, places_case, config_of(rows, "classify", train__micro_batch=4))
    ordered = sorted(lengths, reverse=True)
    assert places == sum(4 * -(-ordered[first] // 8) * 8 for first in range(0, len(ordered), 4))
    as_they_come = sum(4 * -(-max(lengths[first : first + 4]) // 8) * 8 for first in range(0, len(lengths), 4))
    assert places < 0.9 * as_they_come


def test_held_out_samples_of_a_blend_are_the_same_on_every_grid(ranks, tmp_path) -> None:
    """No number of samples a round divides theirs, which no source has more of."""
    sources = [
        {"path": str(make_store(tmp_path / name)), "weight": weight} for name, weight in (("a", 0.8), ("b", 0.2))
    ]
    told = []
    for size, micro_batch in ((1, 1), (1, 8), (2, 4)):
        run_dir = tmp_path / f"{size}-{micro_batch}"
        changes = {"train__steps": 2, "train__micro_batch": micro_batch, "train__eval_samples": 1000}
        config = pretraining(tmp_path, run_dir, data__path=None, data__blend=sources, **changes)
        assert ranks.run(size, run_case, config, free_port()) == [0] * size
        told.append(records(run_dir)[0]["eval/initial/loss"])
    assert told == pytest.approx([told[0]] * 3, rel=1e-6)
