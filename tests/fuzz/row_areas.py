"""Labelled rows of every task in every format."""

import json
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz import commands
from tests.fuzz.case import Case
from tests.fuzz.mutate import mutate_bytes, mutate_json
from tests.fuzz.seeds import TEXTS, Seeds

_LABELLED = [{"text": text, "label": ("bad", "good")[i % 2]} for i, text in enumerate(TEXTS)]
_RATED = [{"text": text, "label": i / 7} for i, text in enumerate(TEXTS)]
_TAGGED = [{"tokens": text.split()[:5], "tags": ["O", "B-X", "I-X", "O", "O"]} for text in TEXTS]
_WRITTEN = [{"source": text, "target": text[:20]} for text in TEXTS]
_TALKS = [
    {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text[:9]}]} for text in TEXTS
]
_CHOICES = [{"question": text, "choices": ["fox", "dog"], "label": i % 2} for i, text in enumerate(TEXTS)]
_ASKED = [
    {"id": str(i), "question": "who?", "context": text, "answers": {"text": [text[:3]], "answer_start": [0]}}
    for i, text in enumerate(TEXTS)
]
_ROWS = {
    "classify": _LABELLED,
    "regress": _RATED,
    "tag": _TAGGED,
    "seq2seq": _WRITTEN,
    "chat": _TALKS,
    "choice": _CHOICES,
    "qa": _ASKED,
}
#: Formats that not every task has.
_OTHERS = {"classify": ["csv", "tsv"], "regress": ["csv"], "seq2seq": ["tsv"], "tag": ["conll"], "qa": ["squad"]}


def rows(seeds: Seeds, rng: Random, place: Path) -> Case:
    """Labelled rows, for a fine-tuning run."""
    task = rng.choice(list(_ROWS))
    kind, data = _file_of(task, rng)
    (place / f"rows.{kind}").write_bytes(data)
    writes = task in ("seq2seq", "chat")
    model, tokenizer = ("gpt2_small", seeds.store / "tokenizer.json") if writes else ("bert_base", seeds.words)
    arguments = [f"task={task}", f"data.train=rows.{kind}", f"data.tokenizer={tokenizer}", "data.sequence_length=64"]
    arguments += [f"model={model}", "model.layers=1", "model.hidden=16", "model.heads=1", "model.max_positions=64"]
    arguments += ["train.micro_batch=2", "train.global_batch=2", "train.epochs=1", "train.eval_every=0"]
    return Case(lambda: commands.check_rows(*arguments), f"{task} rows.{kind}")


def _file_of(task: str, rng: Random) -> tuple[str, bytes]:
    """The suffix of a file, and what is in it, broken."""
    kind = rng.choice(["jsonl", "jsonl", "json", "parquet", *_OTHERS.get(task, [])])
    if kind == "jsonl":
        lines = [json.dumps(row).encode() for row in _ROWS[task]]
        at = rng.randrange(len(lines))
        lines[at] = mutate_json(lines[at], rng)
        return kind, b"\n".join(lines) + b"\n"
    if kind in ("json", "squad"):
        whole = {"version": "1", "data": [_paragraph(row) for row in _ASKED]} if kind == "squad" else _ROWS[task]
        return "json", mutate_json(json.dumps(whole).encode(), rng)
    return kind, mutate_bytes(_written(kind, task), rng)


def _written(kind: str, task: str) -> bytes:
    if kind == "parquet":
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(_ROWS[task]), buffer)
        return buffer.getvalue().to_pybytes()
    if kind == "conll":
        words = [zip(row["tokens"], row["tags"], strict=True) for row in _TAGGED]
        return "\n".join("".join(f"{word}\t{tag}\n" for word, tag in pairs) for pairs in words).encode()
    mark = "," if kind == "csv" else "\t"
    lines = [list(_ROWS[task][0]), *(row.values() for row in _ROWS[task])]
    return "".join(f"{mark.join(map(str, line))}\n" for line in lines).encode()


def _paragraph(row: dict) -> dict:
    answer = {"text": row["answers"]["text"][0], "answer_start": 0}
    asked = {"id": row["id"], "question": row["question"], "answers": [answer]}
    return {"title": "a", "paragraphs": [{"context": row["context"], "qas": [asked]}]}
