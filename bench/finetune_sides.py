"""Both sides of bench/finetune.py: a run of ours without its loop, and a plain loop over Transformers' model."""

import csv
import itertools
import os
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers

from dist_plm.cli.app import load
from dist_plm.distributed.device import choose
from dist_plm.distributed.groups import build_groups
from dist_plm.distributed.launch_env import from_environment
from dist_plm.distributed.world import init_process_group, shutdown
from dist_plm.engines.build import build_engine
from dist_plm.models.build import build_model
from dist_plm.optim.schedules import learning_rate
from dist_plm.spec.schema_finetune import FinetuneConfig
from dist_plm.train.build import engine_settings, grid_of
from dist_plm.train.data import open_run
from dist_plm.train.loop import Position
from dist_plm.train.parts import build_evaluator, open_loader
from dist_plm.train.startup.arithmetic import prepare_cpu
from dist_plm.train.startup.load_weights import load_weights, open_weights

BATCH, LENGTH = 32, 64


class Ours:
    """Holds a fine-tuning run of ours without its loop.

    Args:
        model: a directory of Hugging Face; None: that of the data.
        fresh: begins with random weights.
        more: settings of its own.
        instead: settings in place of those of the data and the model.
    """

    def __init__(
        self,
        data: Path,
        *,
        seed: int,
        steps: int,
        eval_rows: int,
        model: Path | None = None,
        fresh: bool = False,
        more: Sequence[str] = (),
        instead: Sequence[str] = (),
    ) -> None:
        begins = str(model or data / "model")
        words = list(instead) or [f"model.init_from={begins}", f"data.train={data}/train.csv", "optim.lr=1e-4"]
        words += [] if instead else [f"data.validation={data}/dev.csv"]
        words += [f"train.steps={steps}", "train.epochs=null", f"train.eval_samples={eval_rows}", f"train.seed={seed}"]
        words += [f"train.global_batch={BATCH}", "train.micro_batch=16", f"data.sequence_length={LENGTH}"]
        words += ["cluster.device=cpu", "data.loader_workers=0", "optim.weight_decay=0", "train.eval_every=0"]
        config, _ = load(FinetuneConfig, "finetune", [*words, *more])
        self.config, self.data = open_run(config, 1)
        config = self.config
        env = from_environment({})
        device = choose("cpu", 0)
        timeout = timedelta(minutes=10)
        shutdown()  # of the run before
        init_process_group(env, device, timeout)
        self.groups = build_groups(grid_of(config.parallel), device, timeout=timeout)
        prepare_cpu(config.precision, self.groups, env, os.environ)
        sections = config.model, config.parallel, config.precision
        chunks, shards = build_model(*sections, self.groups, device.torch_device, seed=seed)
        losses = self.data.objective.losses
        self.engine = build_engine(engine_settings(config), self.groups, device.torch_device, chunks, losses)
        if not fresh:
            weights = open_weights(begins, self.groups.world)
            load_weights(weights, config.model, None, self.engine, shards, self.groups.world, seed=seed)
        self.batches = open_loader(self.data, config.data, config.train, Position(), self.groups)
        self.done = 0

    def microbatches(self) -> list[Any]:
        return list(itertools.islice(self.batches, BATCH // self.config.train.micro_batch))

    def learn(self, microbatches: list[Any]) -> float:
        train, schedule = self.config.train, self.config.schedule
        rate = learning_rate(schedule, step=self.done, steps=train.steps or 1, peak=self.config.optim.lr)
        self.done += 1
        return self.engine.train_step(microbatches, rate).loss

    def step(self) -> None:
        self.learn(self.microbatches())

    def rows(self, microbatches: list[Any]) -> list[int]:
        """Numbers the rows of the file that these microbatches hold."""
        samples = torch.cat([batch["samples"] for batch in microbatches]).numpy()
        read: Any = self.data.samples["train"].read(samples)
        return [int(row) for row in read.rows]

    def evaluate(self) -> dict[str, float]:
        evaluator = build_evaluator(self.config.train, self.data, self.groups, Path(tempfile.gettempdir()), None)
        assert evaluator is not None
        return evaluator(self.engine, lambda: None)


def rows_at(data: Path, name: str, tokenizer: Any, most: int | None = None) -> datasets.Dataset:
    rows = list(csv.DictReader((data / f"{name}.csv").open(encoding="utf-8")))[:most]
    labels = {"negative": 0, "positive": 1}
    encoded = tokenizer([row["text"] for row in rows], truncation=True, max_length=LENGTH)
    return datasets.Dataset.from_dict({**encoded, "labels": [labels[row["label"]] for row in rows]})


def classifier(data: Path, **more: Any) -> Any:
    return transformers.AutoModelForSequenceClassification.from_pretrained(data / "model", num_labels=2, **more)


class PlainLoop:
    """Fine-tunes as Transformers' examples do without a Trainer: no decay of biases and norms, a linear schedule.

    Args:
        ahead: updates by which the schedule is ahead; Transformers' own begins with a rate of 0.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        steps: int,
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        ahead: int = 0,
    ) -> None:
        self.model, self.collate = model.train(), transformers.DataCollatorWithPadding(tokenizer)
        vectors = [p for p in model.parameters() if p.dim() < 2]
        matrices = [p for p in model.parameters() if p.dim() >= 2]
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=lr)
        warmup = round(0.06 * steps)

        def share(done: int) -> float:
            return (done + ahead) / warmup if done < warmup else (steps - done) / (steps - warmup)

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, share)

    def learn(self, batch: Any) -> float:
        loss = self.model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return float(loss.detach())

    @torch.no_grad()
    def accuracy(self, rows: Any) -> float:
        self.model.eval()
        right = 0
        for batch in torch.utils.data.DataLoader(rows, BATCH, collate_fn=self.collate):
            labels = batch.pop("labels")
            right += int((self.model(**batch).logits.argmax(-1) == labels).sum())
        return right / len(rows)


def plain_run(data: Path, *, seed: int, steps: int, eval_rows: int) -> float:
    """Fine-tunes by a plain loop with an order, a head and dropout of its own, and returns the accuracy."""
    torch.manual_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(data / "model")
    plain = PlainLoop(classifier(data), tokenizer, steps=steps)
    rows: Any = rows_at(data, "train", tokenizer)
    loader = torch.utils.data.DataLoader(rows, BATCH, shuffle=True, collate_fn=plain.collate)
    for batch in itertools.islice(itertools.chain.from_iterable(itertools.repeat(loader)), steps):
        plain.learn(batch)
    return plain.accuracy(rows_at(data, "dev", tokenizer, eval_rows))


def same_steps(data: Path, *, steps: int) -> list[tuple[float, float]]:
    """Learns the same rows in the same order from the same weights, a head among them, without dropout; returns the losses of
    a plain loop and of ours."""
    torch.manual_seed(0)
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model, tokenizer = classifier(data, **none), transformers.AutoTokenizer.from_pretrained(data / "model")
    begin = Path(tempfile.mkdtemp())
    model.save_pretrained(begin)
    tokenizer.save_pretrained(begin)
    ours = Ours(data, seed=0, steps=steps, eval_rows=BATCH, model=begin, more=["optim.weight_decay=0.01"])
    plain = PlainLoop(model, tokenizer, steps=steps, weight_decay=0.01, ahead=1)
    rows: Any = rows_at(data, "train", tokenizer)
    losses = []
    for _ in range(steps):
        microbatches = ours.microbatches()
        batch = plain.collate([rows[row] for row in ours.rows(microbatches)])
        losses.append((plain.learn(batch), ours.learn(microbatches)))
    return losses
