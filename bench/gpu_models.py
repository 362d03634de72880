"""Whole training steps in bf16 with AdamW, ours beside `transformers`, eager and compiled, and nanoGPT."""

import contextlib
import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from gpu_timing import Notes, load_of, peak_gib, seconds_of
from launches_peers import CASES, Batch, batch_of
from nanogpt import NanoGPT, Sizes, optimizer_of

from dist_plm.config.decode import decode
from dist_plm.distributed.device import sent
from dist_plm.distributed.groups import Groups
from dist_plm.engines.build import build_engine
from dist_plm.models.build import build_model
from dist_plm.monitor.peak_flops import device_peak_tflops
from dist_plm.objectives.base import LossTerm
from dist_plm.spec.flops import flops_per_step, utilisation
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema import PretrainConfig
from dist_plm.train.build import engine_settings

PRESETS = Path(__file__).parents[1] / "conf" / "model"
#: Rows and tokens of a microbatch.
SIZES = {"bert_large": (128, 128), "gpt2_medium": (16, 1024), "t5_base": (32, 512)}
SMALL = {"layers": 2, "hidden": 64, "heads": 2, "ffn": 128, "vocab_size": 320, "max_positions": 64}
#: The parts of each loss: without a corpus there is no tokenizer, of which objectives ask which tokens are special.
LOSSES = {
    "causal": {"causal": LossTerm(1.0, "labels")},
    "mlm_nsp": {"mlm": LossTerm(1.0, "labels"), "nsp": LossTerm(1.0, "pair_labels")},
    "span": {"span": LossTerm(1.0, "labels")},
}
#: What else a preset is trained with.
MORE: dict[str, dict[str, dict[str, Any]]] = {
    "bert_large": {"ours, optim=lamb": {"optim__name": "lamb"}},
    "gpt2_medium": {
        "ours, engine=deepspeed": {"engine__name": "deepspeed", "engine__zero_stage": 2},
        "ours, precision=fp8": {"precision__name": "fp8"},
    },
}
#: Share of the tokens that a masked model predicts.
MASKED = 0.15


@dataclass(frozen=True, slots=True)
class Workload:
    """A preset, and the microbatch that it is trained with."""

    name: str
    preset: dict[str, Any]
    rows: int
    length: int

    @classmethod
    def of(cls, name: str, *, small: bool) -> "Workload":
        preset = yaml.safe_load((PRESETS / f"{name}.yaml").read_text())
        if not small:
            return cls(name, preset, *SIZES[name])
        sizes = {key: value for key, value in SMALL.items() if key in preset or key == "ffn"}
        sizes |= {"head_size": 32} if "head_size" in preset else {}
        return cls(name, preset | sizes, 2, 32)

    @property
    def batch(self) -> Batch:
        return batch_of(CASES[self.name].objective, self.rows, self.length, self.preset["vocab_size"])

    def config(self, **settings: Any) -> PretrainConfig:
        values = {
            "run": {"name": "bench", "root": "unused"},
            "model": {**self.preset},
            "objective": {"name": CASES[self.name].objective},
            "data": {"path": "unused", "sequence_length": self.length},
            "optim": {"name": "adamw", "lr": 1e-4},
            "schedule": {"name": "constant"},
            "engine": {"name": "megatron", "zero_stage": 0},
            "precision": {"name": "bf16"},
            "train": {"steps": 1, "global_batch": self.rows, "micro_batch": self.rows},
        }
        for path, value in settings.items():
            section, key = path.split("__")
            values[section][key] = value
        return finalize(decode(PretrainConfig, values), world_size=1, vocab_size=self.preset["vocab_size"])

    @property
    def flops(self) -> float:
        share = MASKED if CASES[self.name].objective.startswith("mlm") else 1.0
        return flops_per_step(self.config().model, self.length, self.rows, predicted=share)


def our_step(work: Workload, groups: Groups, **settings: Any) -> Callable[[], Any]:
    config, device = work.config(**settings), groups.device.torch_device
    sections = (config.model, config.parallel, config.precision)
    model, _ = build_model(*sections, groups, device, seed=config.train.seed)
    engine = build_engine(engine_settings(config), groups, device, model, LOSSES[config.objective.name])
    batch = work.batch
    return lambda: engine.train_step([batch], 1e-4)


def their_step(work: Workload, device: torch.device, *, compiled: bool) -> Callable[[], Any]:
    """As the Trainer of `transformers` does with bf16=True: weights in fp32, autocast, fused AdamW, clipping."""
    case = CASES[work.name]
    model: Any = case.build(work.preset).to(device).train()
    run = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    return bare_step(work, device, model, optimizer, lambda batch: case.loss(run, batch))


def nanogpt_step(work: Workload, device: torch.device) -> Callable[[], Any]:
    """The loop of nanoGPT, compiled as a whole; its vocabulary is padded to a multiple of 64."""
    preset = work.preset
    assert preset["attention_dropout"] == preset["hidden_dropout"]
    vocab = -(-preset["vocab_size"] // 64) * 64
    sizes = Sizes(
        preset["layers"], preset["hidden"], preset["heads"], vocab, preset["max_positions"], preset["hidden_dropout"]
    )
    model = NanoGPT(sizes).to(device).train()
    run = torch.compile(model)
    return bare_step(work, device, model, optimizer_of(model), lambda batch: run(batch["tokens"], batch["labels"]))


def bare_step(
    work: Workload,
    device: torch.device,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[Batch], torch.Tensor],
) -> Callable[[], Any]:
    batch = work.batch

    def step() -> None:
        here = {name: sent(values, device) for name, values in batch.items()}
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            loss = loss_of(here)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


#: Sides whose step is compiled: their code is made before any is timed.
COMPILED = "compiled"


def sides_of(work: Workload, groups: Groups, *, quick: bool) -> dict[str, Callable[[], Callable[[], Any]]]:
    """What builds a step, by the name of its row."""
    device = groups.device.torch_device
    found: dict[str, dict[str, Any]] = {"ours": {}}
    if work.preset["attention_dropout"]:
        found["ours, attention dropout 0"] = {"model__attention_dropout": 0.0}
    other = "off" if device.type == "cuda" else "layers"
    found[f"ours, engine.compile={other}"] = {"engine__compile": other}
    if not quick:
        found |= MORE.get(work.name, {})
    sides = {name: lambda settings=settings: our_step(work, groups, **settings) for name, settings in found.items()}
    if work.name == "gpt2_medium":
        sides[f"nanoGPT, {COMPILED}"] = lambda: nanogpt_step(work, device)
    sides["transformers"] = lambda: their_step(work, device, compiled=False)
    if not quick:  # minutes of compilation
        sides[f"transformers, {COMPILED}"] = lambda: their_step(work, device, compiled=True)
    return sides


def prepare(name: str, groups: Groups, *, quick: bool, small: bool) -> None:
    """Takes one step of each side that compiles, so that PyTorch's caches have its code; failures show when they are timed."""
    for label, build in sides_of(Workload.of(name, small=small), groups, quick=quick).items():
        if "compile=off" not in label and (COMPILED in label or "ours" in label):
            with contextlib.suppress(Exception):
                build()()
            torch._dynamo.reset()
            gc.collect()
            if groups.device.kind == "cuda":
                torch.cuda.empty_cache()


def models(notes: Notes, name: str, groups: Groups, *, quick: bool, small: bool) -> None:
    """One row for each side of a workload."""
    work = Workload.of(name, small=small)
    device = groups.device.torch_device
    peak = device_peak_tflops(device, "bf16")
    for label, build in sides_of(work, groups, quick=quick).items():
        notes.attempt(name, label, lambda build=build: trained(build, work, device, peak, quick=quick))
        torch._dynamo.reset()
        gc.collect()  # modules refer to each other: their memory would count for the next
        if device.type == "cuda":
            torch.cuda.empty_cache()


def trained(
    build: Callable[[], Callable[[], Any]], work: Workload, device: torch.device, peak: float | None, *, quick: bool
) -> dict[str, Any]:
    torch.manual_seed(0)
    step = build()
    seconds = seconds_of(step, device, warm=5, budget=0.3 if device.type == "cpu" else 2.0 if quick else 4.0)
    share = utilisation(work.flops, seconds, peak)
    tokens = work.rows * work.length
    return {
        "tokens_per_second": round(tokens / seconds),
        "ms": 1e3 * seconds,
        "mfu": None if share is None else round(share, 4),
        "gib": peak_gib(step, device),
        **load_of(step, device),
    }
