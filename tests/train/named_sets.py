"""Small runs of pretraining that measure named sets: documents, the objective on a store, and a probe."""

import json
import shutil
from pathlib import Path
from typing import Any

from dist_plm.data.prepare.prepare import prepare
from dist_plm.spec.prepare.schema import PrepareConfig, PrepareDataConfig, SourceConfig, TokenizerConfig
from dist_plm.spec.schema import PretrainConfig
from tests.train.finetuning import make_rows
from tests.train.running import settings

TRAIN: dict[str, Any] = {
    "model__vocab_size": None,
    "model__layers": 4,
    "objective__name": "causal",
    "train__steps": 4,
    "train__eval_every": 2,
    "checkpoint__every": 2,
    "checkpoint__keep": 9,
    "optim__lr": 2e-3,
}
BERT = {"model__family": "bert", "model__segments": 2, "objective__name": "mlm"}


def make_corpus(folder: Path) -> Path:
    """Writes labelled rows, texts and a store of them."""
    make_rows(folder)
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    (folder / "text.txt").write_text("\n".join(row["text"] for row in rows))
    for number in range(3):  # of which two data ranks have different shares
        (folder / f"other{number}.txt").write_text(" ".join(row["text"] for row in rows[number :: number + 2]))
    make_store(folder, folder / "store")
    return folder


def make_store(folder: Path, out: Path, *, words_turned: bool = False) -> None:
    """Writes a store of a corpus' text, with a vocabulary whose words are in another order where they are turned."""
    vocabulary = folder / "vocabulary"
    if words_turned:
        words = (vocabulary / "vocab.txt").read_text().splitlines()
        vocabulary = folder / "turned_vocabulary"
        shutil.copytree(folder / "vocabulary", vocabulary)
        (vocabulary / "vocab.txt").write_text("\n".join([*words[:8], *words[:7:-1]]))
    data = PrepareDataConfig(
        sources=(SourceConfig(path=str(folder / "text.txt"), document="line"),), out=str(out), split=(0.6, 0.2, 0.2)
    )
    tokenizer = TokenizerConfig(name="file", path=str(vocabulary))
    prepare(PrepareConfig(data=data, tokenizer=tokenizer), lambda line: None)


def sets(folder: Path) -> list[dict[str, Any]]:
    """The named sets of a corpus."""
    labelled = {"rows": str(folder / "dev.jsonl"), "train_rows": str(folder / "train.jsonl")}
    columns = {"text": "text", "pair": "text_b"}
    return [
        {"name": "texts", "data": {"text": f"{folder}/other*.txt"}, "window": 12, "limit": 3},
        {"name": "test", "on": "objective", "data": {"path": str(folder / "store")}},
        {"name": "probe", "on": "probe", "data": {**labelled, "columns": columns}},
    ]


def case(folder: Path, run_dir: Path, **changes: Any) -> PretrainConfig:
    """A run of four steps on a corpus, with `section__key=value` changes."""
    return settings(folder / "store", run_dir, **{**TRAIN, **changes})
