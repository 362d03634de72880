"""Those that take turns in bench/train_cpu.py: each is something that makes one training step when it is called."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from importlib.util import find_spec
from tempfile import mkdtemp
from typing import Any, NamedTuple

import torch
import transformers
from launches_peers import Batch, batch_of, hf_labels
from nanogpt import NanoGPT, Sizes, optimizer_of
from torch import nn

from dist_plm.config.decode import decode
from dist_plm.distributed.device import choose
from dist_plm.distributed.grid import grid_of
from dist_plm.distributed.groups import build_groups
from dist_plm.distributed.launch_env import from_environment
from dist_plm.distributed.world import init_process_group
from dist_plm.engines.build import build_engine
from dist_plm.models.build import build_model
from dist_plm.objectives.base import LossTerm
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema import PretrainConfig
from dist_plm.train.build import engine_settings
from dist_plm.train.startup.arithmetic import prepare_cpu

TIMEOUT = timedelta(minutes=10)


class Cost(NamedTuple):
    """Seconds of a step: by the clock, and of the processors."""

    wall: float
    processor: float


#: Makes a step, and says what it cost.
Side = Callable[[], Cost]


@dataclass(frozen=True, slots=True)
class Case:
    """What all sides of a table train."""

    family: str
    precision: str
    dropout: float = 0.0
    layers: int = 6
    hidden: int = 384
    heads: int = 6
    vocab: int = 50_304
    length: int = 256
    rows: int = 8
    #: Of one turn: where a step is so short that waking up would be measured with it, a turn takes several.
    steps: int = 1

    @property
    def name(self) -> str:
        dropout = f", dropout {self.dropout}" if self.dropout else ""
        return f"{self.family} {self.precision}{dropout}"

    @property
    def objective(self) -> str:
        return "causal" if self.family == "gpt" else "mlm"

    @property
    def batch(self) -> Batch:
        return batch_of(self.objective, self.rows, self.length, self.vocab)

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.layers, self.hidden, self.heads, self.vocab, self.length, self.dropout)

    def config(self, world_size: int = 1, **parallel: int) -> PretrainConfig:
        model = {"layers": self.layers, "hidden": self.hidden, "heads": self.heads, "vocab_size": self.vocab}
        drops = {"hidden_dropout": self.dropout, "attention_dropout": self.dropout}
        kind = {"segments": 2, "activation": "gelu", "norm_placement": "post"} if self.family == "bert" else {}
        ranks = {"tensor": 1, "pipeline": 1, **parallel}
        data = world_size // (ranks["tensor"] * ranks["pipeline"])
        micro = self.rows // 2 if ranks["pipeline"] > 1 else self.rows // data
        values = {
            "run": {"name": "bench", "root": "unused"},
            "model": {"family": self.family, **model, **drops, **kind},
            "objective": {"name": self.objective},
            "data": {"path": "unused", "sequence_length": self.length},
            "optim": {"name": "adamw", "lr": 1e-4},
            "schedule": {"name": "constant"},
            "parallel": ranks,
            "engine": {"name": "megatron"},
            "precision": {"name": self.precision},
            "train": {"steps": 1, "global_batch": self.rows, "micro_batch": micro},
        }
        return finalize(decode(PretrainConfig, values), world_size=world_size, vocab_size=None)


def timed(step: Callable[[], Any], steps: int = 1) -> Side:
    """A side whose turn is so many steps; it tells what each cost on average."""

    def side() -> Cost:
        began, processor = time.perf_counter(), time.process_time()
        for _ in range(steps):
            step()
        return Cost((time.perf_counter() - began) / steps, (time.process_time() - processor) / steps)

    return side


def ours(case: Case, parallel: dict[str, int], compiled: str = "off") -> Callable[[], Any]:
    """A step of this rank, set up as a run sets up its own, with the loss and the norm of the gradient that it reports."""
    env = from_environment(os.environ)
    config = case.config(env.world_size, **parallel)
    config = replace(config, engine=replace(config.engine, compile=compiled))
    device = choose("cpu", env.local_rank)
    init_process_group(env, device, TIMEOUT)
    groups = build_groups(grid_of(config.parallel), device, timeout=TIMEOUT)
    prepare_cpu(config.precision, groups, env, os.environ)
    sections = (config.model, config.parallel, config.precision)
    model, _ = build_model(*sections, groups, device.torch_device, seed=config.train.seed)
    term = LossTerm(1.0, "labels")
    engine = build_engine(engine_settings(config), groups, device.torch_device, model, {config.objective.name: term})
    size, own = config.train.micro_batch, case.rows // groups.grid.data
    first = own * groups.coordinates.data
    batches = [
        {name: values[row : row + size] for name, values in case.batch.items()}
        for row in range(first, first + own, size)
    ]
    return lambda: engine.train_step(batches, 1e-4)


def nanogpt(case: Case, *, compiled: bool) -> Callable[[], None]:
    model = NanoGPT(case.sizes).train()
    run, optimizer, batch = torch.compile(model) if compiled else model, optimizer_of(model), case.batch
    return bare_loop(case, model, optimizer, lambda: run(batch["tokens"], batch["labels"]))


def bare_loop(
    case: Case, model: nn.Module, optimizer: torch.optim.Optimizer, loss_of: Callable[[], torch.Tensor]
) -> Callable[[], None]:
    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=case.precision == "bf16"):
            loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()

    return step


def hf_model(case: Case) -> nn.Module:
    if case.family == "gpt":
        sizes = {"n_layer": case.layers, "n_embd": case.hidden, "n_head": case.heads, "n_positions": case.length}
        drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), case.dropout)
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=case.vocab, **sizes, **drops))
    config = transformers.BertConfig(
        num_hidden_layers=case.layers,
        hidden_size=case.hidden,
        num_attention_heads=case.heads,
        intermediate_size=4 * case.hidden,
        vocab_size=case.vocab,
        hidden_dropout_prob=case.dropout,
        attention_probs_dropout_prob=case.dropout,
    )
    return transformers.BertForMaskedLM(config)


def hf_batch(case: Case) -> Batch:
    batch = case.batch
    if case.family == "gpt":  # it shifts labels itself
        return {"input_ids": batch["tokens"], "labels": batch["tokens"].clone()}
    return {"input_ids": batch["tokens"], "labels": hf_labels(batch)}


def hf_loop(case: Case) -> Callable[[], None]:
    model, batch = hf_model(case).train(), hf_batch(case)
    more = {"use_cache": False} if case.family == "gpt" else {}
    return bare_loop(case, model, torch.optim.AdamW(model.parameters(), lr=1e-4), lambda: model(**batch, **more).loss)


class Trainer:
    """The Trainer of `transformers`, in a thread of its own, which waits for its turn before each step."""

    def __init__(self, case: Case, steps: int) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._case, self._steps, self._error = case, steps, None
        threading.Thread(target=self._train, daemon=True).start()
        self._done.acquire()

    def __call__(self) -> None:
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise self._error

    def _train(self) -> None:
        try:
            self._run()
        except Exception as error:  # told by whoever waits for the step
            self._error = error
            self._done.release()

    def _run(self) -> None:
        outer, rows = self, self._case.rows

        class Turns(transformers.TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                outer._done.release()
                outer._go.acquire()

        batch = hf_batch(self._case)
        data = [{name: values[row % rows] for name, values in batch.items()} for row in range(rows * self._steps)]
        settings = transformers.TrainingArguments(
            output_dir=mkdtemp(prefix="bench_cpu_"),
            per_device_train_batch_size=rows,
            max_steps=self._steps,
            bf16=self._case.precision == "bf16",
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        quiet: Any = transformers.utils.logging
        quiet.set_verbosity_error()
        trainer = transformers.Trainer(hf_model(self._case), settings, train_dataset=data, callbacks=[Turns()])
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()


#: A step of ours, from the case and how ranks share it.
OURS: dict[str, Callable[[Case, dict[str, int]], Callable[[], Any]]] = {
    "ours": ours,
    "ours compiled": partial(ours, compiled="layers"),
}
#: A step of a peer, from the case and the number of steps.
PEERS: dict[str, Callable[[Case, int], Callable[[], Any]]] = {
    "nanogpt": lambda case, _: nanogpt(case, compiled=False),
    "nanogpt compiled": lambda case, _: nanogpt(case, compiled=True),
    "transformers": lambda case, _: hf_loop(case),
    "Trainer": lambda case, steps: Trainer(case, steps + 1),  # where a step begins it says that the one before is done
}


def has_trainer() -> bool:
    return find_spec("accelerate") is not None
