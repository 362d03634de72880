"""Sound inputs of every kind, from which broken ones are made: texts, a store, a run with its checkpoint, a model."""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from tests.fuzz import child, commands
from tests.train.conftest import TINY

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "snow",
    "falls",
    "on",
    "seven",
    "quiet",
    "hills",
    "at",
    "dusk",
]
TEXTS = [" ".join(WORDS[(i * j) % len(WORDS)] for j in range(3, 33)) + f" number {i}." for i in range(40)]


@dataclass(frozen=True, slots=True)
class Seeds:
    sources: dict[str, bytes]
    store: Path
    run: Path
    model: Path
    words: Path

    @property
    def settings(self) -> list[str]:
        """Of a run on the store."""
        return [f"data.path={self.store}", *TINY, "train.steps=2", "data.loader_workers=0"]


def make(place: Path) -> Seeds:
    """Makes them in `place`, each by the command that makes it for a person."""
    store, run, model, words = place / "store", place / "run", place / "model", place / "vocab.txt"
    letters = [chr(number) for number in range(ord("a"), ord("z") + 1)] + list("0123456789.?")
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        *(f"##{letter}" for letter in letters),
        *WORDS[:6],
    ]
    words.write_text("".join(f"{piece}\n" for piece in dict.fromkeys(pieces)))
    (place / "texts.jsonl").write_bytes(_sources()["jsonl"])
    seeds = Seeds(_sources(), store, run, model, words)
    settings = [f"data.sources=[{{path: {place}/texts.jsonl}}]", f"data.out={store}", "data.split=[0.8,0.1,0.1]"]
    _must(lambda: commands.prepare(*settings, "tokenizer.vocab_size=300"), place)
    _must(lambda: commands.train(*seeds.settings, f"run.dir={run}", "checkpoint.background=false"), place)
    _must(lambda: commands.convert_to(f"from={run}", f"to={model}", "format=hf"), place)
    return seeds


def _sources() -> dict[str, bytes]:
    rows = [{"text": text, "id": i} for i, text in enumerate(TEXTS)]
    jsonl = "".join(json.dumps(row) + "\n" for row in rows).encode()
    table = pa.Table.from_pylist(rows)
    parquet, arrow = pa.BufferOutputStream(), pa.BufferOutputStream()
    pq.write_table(table, parquet, row_group_size=10)
    with pa.ipc.new_stream(arrow, table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    return {
        "txt": "\n\n".join(TEXTS).encode(),
        "jsonl": jsonl,
        "csv": ("text,id\n" + "".join(f'"{row["text"]}",{row["id"]}\n' for row in rows)).encode(),
        "tsv": ("text\tid\n" + "".join(f"{row['text']}\t{row['id']}\n" for row in rows)).encode(),
        "jsonl.gz": gzip.compress(jsonl, mtime=0),
        "jsonl.zst": zstandard.compress(jsonl),
        "parquet": parquet.getvalue().to_pybytes(),
        "arrow": arrow.getvalue().to_pybytes(),
    }


def _must(case: Callable[[], int], place: Path) -> None:
    ended = child.run(case, place)
    assert ended.code == 0, ended.error
