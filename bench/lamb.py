"""What LAMB costs: its step beside AdamW's and beside a loop over parameters, same model and grid, taken in turns.

    python bench/lamb.py
    torchrun --nproc-per-node 2 bench/lamb.py --zero-stage 1

Prints medians of a whole step (forward, backward, update) and of the update alone, and LAMB's over the others'.
"""

import argparse
import os
import statistics
import time
from datetime import timedelta
from typing import Any

import torch

from dist_plm.config.decode import decode
from dist_plm.config.launchenv import from_environment
from dist_plm.config.rules import finalize, num_microbatches
from dist_plm.config.schema import PretrainConfig
from dist_plm.device.select import choose
from dist_plm.engines.build import build_engine
from dist_plm.models.build import build_model
from dist_plm.objectives.build import build_objective
from dist_plm.parallel.grid import Grid
from dist_plm.parallel.groups import Groups, build_groups
from dist_plm.parallel.world import init_process_group, shutdown

GOAL = 1.15


def settings(args: argparse.Namespace, optimizer: str) -> dict[str, Any]:
    return {
        "run": {"name": "bench"},
        "model": {
            "family": "gpt",
            "layers": args.layers,
            "hidden": args.hidden,
            "heads": args.hidden // 64,
            "vocab_size": args.vocab,
        },
        "objective": {"name": "causal"},
        "data": {"path": "none", "sequence_length": args.sequence},
        "optim": {"name": optimizer, "lr": 1e-4},
        "schedule": {"name": "constant"},
        "parallel": {"tensor": args.tensor},
        "engine": {"name": "megatron", "zero_stage": args.zero_stage},
        "precision": {"name": "fp32"},
        "train": {"steps": 1, "global_batch": args.batch, "micro_batch": args.micro_batch},
    }


class LoopLamb(torch.optim.Optimizer):
    """LAMB as most implementations have it: a handful of kernels for each parameter in turn, fragments taken for layers."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["t"], state["m"], state["v"] = 0, torch.zeros_like(p), torch.zeros_like(p)
                state["t"] += 1
                state["m"].mul_(beta1).add_(p.grad, alpha=1 - beta1)
                state["v"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                m = state["m"] / (1 - beta1 ** state["t"])
                v = state["v"] / (1 - beta2 ** state["t"])
                update = m / (v.sqrt() + group["eps"]) + group["weight_decay"] * p
                weight, direction = p.norm(), update.norm()
                ratio = float(weight / direction) if weight > 0 and direction > 0 else 1.0
                p.add_(update, alpha=-group["lr"] * ratio)


class Side:
    """One engine, timed as a whole and in its update."""

    def __init__(self, config: PretrainConfig, groups: Groups, *, loop: bool) -> None:
        self.config, self.groups = config, groups
        device = groups.device.torch_device
        model, _ = build_model(config, groups, device)
        self.engine: Any = build_engine(config, groups, device, model, build_objective(config.objective).losses)
        wrapper = self.engine._optimizer
        if loop:
            inner = LoopLamb([torch.zeros(1, requires_grad=True)], dict(wrapper.optimizer.defaults))
            inner.param_groups = wrapper.optimizer.param_groups
            wrapper.optimizer = inner
        self.steps: list[float] = []
        self.updates: list[float] = []
        wrapper.optimizer.register_step_pre_hook(lambda *_: self._began())
        wrapper.optimizer.register_step_post_hook(lambda *_: self._ended())

    def _began(self) -> None:
        self._start = time.perf_counter()

    def _ended(self) -> None:
        self.updates.append(time.perf_counter() - self._start)

    def step(self) -> None:
        draw = torch.Generator().manual_seed(len(self.steps))
        size, length = self.config.train.micro_batch, self.config.data.sequence_length
        vocab = self.config.model.vocab_size or 1
        batches = []
        for _ in range(num_microbatches(self.config)):
            tokens = torch.randint(0, vocab, (size, length + 1), generator=draw)
            batches.append({"tokens": tokens[:, :-1], "labels": tokens[:, 1:], "samples": torch.arange(size)})
        start = time.perf_counter()
        self.engine.train_step(batches, 1e-4)
        self.steps.append(time.perf_counter() - start)


def main() -> None:
    args = arguments()
    env = from_environment(os.environ)
    device = choose("auto", env.local_rank)
    timeout = timedelta(minutes=10)
    init_process_group(env, device, timeout)
    configs = {
        name: finalize(
            decode(PretrainConfig, settings(args, "adamw" if name == "adamw" else "lamb")),
            world_size=env.world_size,
            vocab_size=None,
        )
        for name in ("adamw", "lamb", "loop")
    }
    data = configs["lamb"].parallel.data
    assert data is not None
    groups = build_groups(Grid(data=data, tensor=args.tensor, pipeline=1, context=1), device, timeout=timeout)
    sides = {name: Side(config, groups, loop=name == "loop") for name, config in configs.items()}
    for _ in range(args.steps + 2):
        for side in sides.values():
            side.step()
    if env.rank == 0:
        report(sides)
    shutdown()


def report(sides: dict[str, Side]) -> None:
    whole = {name: statistics.median(side.steps[2:]) for name, side in sides.items()}
    update = {name: statistics.median(side.updates[2:]) for name, side in sides.items()}
    for name in sides:
        print(f"{name:6} step {whole[name] * 1e3:8.1f} ms   update {update[name] * 1e3:7.2f} ms")
    print(f"LAMB / AdamW: step {whole['lamb'] / whole['adamw']:.3f} (goal {GOAL}), update {ratio(update, 'adamw'):.2f}")
    print(f"LAMB / loop over parameters: step {whole['lamb'] / whole['loop']:.3f}, update {ratio(update, 'loop'):.2f}")


def ratio(seconds: dict[str, float], other: str) -> float:
    return seconds["lamb"] / seconds[other]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in [
        ("layers", 6),
        ("hidden", 384),
        ("vocab", 8192),
        ("sequence", 128),
        ("batch", 8),
        ("micro-batch", 4),
        ("tensor", 1),
        ("zero-stage", 0),
        ("steps", 10),
    ]:
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    main()
