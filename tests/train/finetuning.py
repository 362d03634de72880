"""Small fine-tuning runs: rows of a few words whose labels follow from them, and a tiny BERT."""

import json
import random
from pathlib import Path
from typing import Any

from dist_plm.config.decode import decode
from dist_plm.monitor.metrics_file import read_metrics
from dist_plm.spec.schema_finetune import FinetuneConfig
from tests.data.labelled.words import write_vocabulary
from tests.train.running import timeless

_NOUNS, _GOOD, _BAD = ("film", "play"), ("good", "lovely"), ("bad", "boring")

SETTINGS: dict[str, Any] = {
    "run": {"name": "run"},
    "model": {"family": "bert", "layers": 2, "hidden": 32, "heads": 2, "segments": 2, "init_std": 0.1},
    "data": {"sequence_length": 16, "loader_workers": 0},
    "optim": {"name": "adamw", "lr": 5e-3, "eps": 1e-5},
    "schedule": {"name": "linear", "warmup_ratio": 0.1},
    "engine": {"name": "megatron", "zero_stage": 0},
    "precision": {"name": "fp32"},
    "train": {"epochs": 8, "global_batch": 12, "micro_batch": 2},
    "cluster": {"device": "cpu", "peak_tflops": 0.1},
}


def make_rows(folder: Path) -> Path:
    """Writes train.jsonl and dev.jsonl, whose rows serve every task, and a vocabulary."""
    draw = random.Random(0)
    write_vocabulary(folder / "vocabulary")
    for name, count in (("train", 61), ("dev", 21)):  # neither fills its last batch
        rows = [_row(draw) for _ in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _row(draw: random.Random) -> dict[str, Any]:
    good, noun = draw.random() < 0.6, draw.choice(_NOUNS)
    said = ["very"] * draw.randint(0, 3) + [draw.choice(_GOOD if good else _BAD)]
    words = ["the", noun, "was", *said]
    tags = ["O", f"B-{noun.upper()}", "O", *["O"] * (len(said) - 1), "B-WORD"]
    other = ["a", draw.choice(_NOUNS), "is", draw.choice(_GOOD + _BAD)]
    return {
        "text": " ".join(words),
        "text_b": " ".join(other),
        "label": "good" if good else "bad",
        "both": [name for name in (noun, words[-1]) if name in ("film", "good", "bad")],
        "number": len(said) * (1.0 if good else -1.0),
        "tokens": words,
        "tags": tags,
        "messages": [
            {"role": "user", "content": " ".join(words)},
            {"role": "assistant", "content": f"{words[-1]} {noun}"},
        ],
        "turn": {"en": " ".join(words), "answer": f"{words[-1]} {noun}"},
        "options": (options := ["bad", "good"] if len(said) % 2 else ["good", "bad"]),
        "right": options.index("good" if good else "bad"),
        **_question(random.Random(" ".join((*words, *other)))),
    }


def _question(draw: random.Random) -> dict[str, Any]:
    """A text that is longer than a window, and the one word of it that is asked for."""
    fillers = draw.choices(("the", "a", "was", "is", "very", "not"), k=draw.randint(6, 20))
    at, answer = draw.randint(0, len(fillers)), draw.choice(_GOOD + _BAD)
    start = len(" ".join(fillers[:at])) + (at > 0)
    context = " ".join([*fillers[:at], answer, *fillers[at:]])
    return {"question": "film", "context": context, "answers": {"text": [answer], "answer_start": [start]}}


def settings(folder: Path, run_dir: Path, **overrides: Any) -> FinetuneConfig:
    """The small configuration with `section__key=value` changes, or other sections."""
    values = {section: dict(content) for section, content in SETTINGS.items()}
    values["data"] |= {
        name: str(folder / f"{file}.jsonl") for name, file in (("train", "train"), ("validation", "dev"))
    }
    values["data"]["tokenizer"] = str(folder / "vocabulary")
    values["run"]["dir"], values["task"] = str(run_dir), {"name": "classify"}
    for path, value in overrides.items():
        section, _, key = path.partition("__")
        if key:
            values.setdefault(section, {})[key] = value
        else:
            values[section] = value
    return decode(FinetuneConfig, values)


def records(run_dir: Path) -> list[dict[str, Any]]:
    """Reads what does not depend on the clock."""
    return [timeless(record) for record in read_metrics(run_dir / "metrics.jsonl")]
