"""A fine-tuning run without dropout is, step by step, a plain loop over Transformers' model: rows, schedule, decay and all."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from dist_plm.core.randomness.permutation import windows_of
from tests.ranks.ports import free_port
from tests.train.finetuning import make_rows, records, settings
from tests.train.running import run_case

pytestmark = pytest.mark.ranks

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
OURS = {
    "family": "bert",
    "layers": 2,
    "hidden": 32,
    "heads": 2,
    "segments": 2,
    "max_positions": 16,
    "activation": "gelu",
    "norm_placement": "post",
    "norm_eps": 1e-12,
}
EPOCHS, BATCH, RATE, WARMUP, DECAY, SEED = 4, 12, 5e-3, 2, 0.1, 3
CLASSES = {"classify": "SequenceClassification", "tag": "TokenClassification"}
LABELS = {"classify": ("bad", "good"), "tag": ("B-FILM", "B-PLAY", "B-WORD", "O")}


def encoded(task: str, tokenizer: Any, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch as Transformers' examples make it: of a word the first token is labelled."""
    if task == "classify":
        batch = tokenizer(
            [row["text"] for row in rows], truncation=True, max_length=16, padding=True, return_tensors="pt"
        )
        return {**batch, "labels": torch.tensor([LABELS[task].index(row["label"]) for row in rows])}
    words = [row["tokens"] for row in rows]
    batch = tokenizer(
        words, is_split_into_words=True, truncation=True, max_length=16, padding=True, return_tensors="pt"
    )
    labels = torch.full_like(batch["input_ids"], -100)
    for number, row in enumerate(rows):
        for place, word in enumerate(found := batch.word_ids(number)):
            if word is not None and word != found[place - 1]:
                labels[number, place] = LABELS[task].index(row["tags"][word])
    return {**batch, "labels": labels}


def plain_losses(task: str, model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> list[float]:
    count = EPOCHS * len(rows)
    steps = -(-count // BATCH)
    order = windows_of(np.arange(count), len(rows), SEED)
    matrices, vectors = ([p for p in model.parameters() if (p.dim() > 1) == wanted] for wanted in (True, False))
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, eps=1e-5)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (step + 1) / WARMUP if step < WARMUP else (steps - step) / (steps - WARMUP)
    )
    losses = []
    for first in range(0, count, BATCH):
        loss = model(**encoded(task, tokenizer, [rows[row] for row in order[first : first + BATCH]])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("task", CLASSES)
def test_losses_of_a_run_are_those_of_a_plain_loop(ranks, task: str, tmp_path: Path) -> None:
    """The last batch is short, and a step may hold rows of two epochs."""
    make_rows(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    rows[5]["text"] = " ".join(["The FILM was very, very"] * 4)  # cut, and lower case
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "vocabulary")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=16,
        initializer_range=0.1,
        **SIZES,
        num_labels=len(LABELS[task]),
    )
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    model = getattr(transformers, f"BertFor{CLASSES[task]}")(config).train()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    run = settings(
        tmp_path,
        tmp_path / "run",
        model=OURS | {"init_from": str(tmp_path / "model")},
        task__name=task,
        optim__lr=RATE,
        optim__weight_decay=DECAY,
        optim__betas=(0.9, 0.999),
        schedule={"name": "linear", "warmup_steps": WARMUP},
        train__epochs=EPOCHS,
        train__seed=SEED,
    )
    assert ranks.run(1, run_case, run, free_port()) == [0]
    ours = [record["loss"] for record in records(tmp_path / "run")]
    assert ours == pytest.approx(plain_losses(task, model, tokenizer, rows), rel=1e-5)
    assert len(ours) == 21
