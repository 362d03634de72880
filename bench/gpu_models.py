"""Whole training steps in bf16 with AdamW, ours beside `transformers`, eager and compiled."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
import yaml
from gpu_timing import Notes, kernels_of, load_of, peak_gib, profiled, seconds_of, union
from launches_peers import CASES, Batch, batch_of

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
            "run": {"name": "bench", "root": mkdtemp(prefix="bench_gpu_")},
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
    batch = work.batch

    def step() -> None:
        here = {name: sent(values, device) for name, values in batch.items()}
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            loss = case.loss(run, here)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def sides_of(work: Workload, groups: Groups, *, quick: bool) -> dict[str, Callable[[], Callable[[], Any]]]:
    """What builds a step, by the name of its row."""
    device = groups.device.torch_device
    sides: dict[str, Callable[[], Callable[[], Any]]] = {"ours": lambda: our_step(work, groups)}
    if work.preset["attention_dropout"]:
        sides["ours, attention dropout 0"] = lambda: our_step(work, groups, model__attention_dropout=0.0)
    other = "off" if device.type == "cuda" else "layers"
    sides[f"ours, engine.compile={other}"] = lambda: our_step(work, groups, engine__compile=other)
    sides["transformers"] = lambda: their_step(work, device, compiled=False)
    if not quick:  # minutes of compilation
        sides["transformers, compiled"] = lambda: their_step(work, device, compiled=True)
    return sides


def models(notes: Notes, name: str, groups: Groups, *, quick: bool, small: bool) -> None:
    """One row for each side of a workload."""
    work = Workload.of(name, small=small)
    device = groups.device.torch_device
    peak = device_peak_tflops(device, "bf16")
    for label, build in sides_of(work, groups, quick=quick).items():
        notes.attempt(name, label, lambda build=build: trained(build, work, device, peak, quick=quick))
        torch._dynamo.reset()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def trained(
    build: Callable[[], Callable[[], Any]], work: Workload, device: torch.device, peak: float | None, *, quick: bool
) -> dict[str, Any]:
    torch.manual_seed(0)
    step = build()
    seconds = seconds_of(step, device, warm=5, budget=0.3 if device.type == "cpu" else 2.0 if quick else 6.0)
    share = utilisation(work.flops, seconds, peak)
    tokens = work.rows * work.length
    return {
        "tokens_per_second": round(tokens / seconds),
        "ms": 1e3 * seconds,
        "mfu": None if share is None else round(share, 4),
        "gib": peak_gib(step, device),
        **load_of(step, device),
    }


def profile(notes: Notes, groups: Groups, out: Path, *, quick: bool, small: bool) -> None:
    """The longest kernels of a step of ours, and a trace of it for chrome://tracing."""
    device = groups.device.torch_device
    step = our_step(Workload.of("bert_large", small=small), groups)
    for _ in range(3):
        step()
    found = profiled(step, device)
    found.export_chrome_trace(str(out / "trace.json"))
    kernels = kernels_of(found)
    if not kernels:  # of the CPU: its operations
        rows = sorted(found.key_averages(), key=lambda row: -row.self_cpu_time_total)
        for row in rows[:25]:
            notes.add("profile", row.key[:80], calls=row.count, ms=row.self_cpu_time_total / 1e3)
        return
    sums: dict[str, list[float]] = {}
    for name, _, length in kernels:
        sums.setdefault(name, []).append(length)
    for name, lengths in sorted(sums.items(), key=lambda pair: -sum(pair[1]))[:25]:
        notes.add("profile", name[:80], calls=len(lengths), ms=sum(lengths) / 1e3)
    whole = max(begin + length for _, begin, length in kernels) - kernels[0][1]
    notes.add(
        "profile", "gaps between kernels", ms=(whole - union(kernels)) / 1e3, share=round(1 - union(kernels) / whole, 3)
    )
