"""What LAMB costs: its step beside AdamW's and beside a loop over parameters, same model and grid, taken in turns.

    python bench/lamb.py
    torchrun --nproc-per-node 2 bench/lamb.py --zero-stage 1

Every round makes one step of each side, in an order that turns from round to round. Prints medians of a whole step
(forward, backward, update) and of the update alone, in wall time and in the processor's; and the medians, over the rounds,
of LAMB's over the others' in the same round, with the quartiles: what else the machine does falls on both sides alike.
"""

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import torch

from dist_plm.config.decode import decode
from dist_plm.distributed.device import choose
from dist_plm.distributed.grid import Grid
from dist_plm.distributed.groups import Groups, build_groups
from dist_plm.distributed.launch_env import from_environment
from dist_plm.distributed.world import init_process_group, shutdown
from dist_plm.engines.build import build_engine
from dist_plm.models.build import build_model
from dist_plm.objectives.build import build_objective
from dist_plm.spec.rules.finalize import finalize, num_microbatches
from dist_plm.spec.schema import PretrainConfig
from dist_plm.train.build import engine_settings

GOAL = 1.15
#: Rounds that do not count: the first steps allocate.
WARM_UP = 2


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


class Cost(NamedTuple):
    """Seconds: by the clock, and of this process's processors. The second is hardly moved by what others do on the machine,
    and leaves out waiting for other ranks."""

    wall: float
    processor: float

    @classmethod
    def now(cls) -> "Cost":
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.wall - other.wall, self.processor - other.processor)


class Side:
    """One engine, timed as a whole and in its update."""

    def __init__(self, config: PretrainConfig, groups: Groups, *, loop: bool) -> None:
        self.config, self.groups = config, groups
        device = groups.device.torch_device
        sections = (config.model, config.parallel, config.precision)
        model, _ = build_model(*sections, groups, device, seed=config.train.seed)
        self.engine: Any = build_engine(
            engine_settings(config), groups, device, model, build_objective(config.objective).losses
        )
        wrapper = self.engine._optimizer
        if loop:
            inner = LoopLamb([torch.zeros(1, requires_grad=True)], dict(wrapper.optimizer.defaults))
            inner.param_groups = wrapper.optimizer.param_groups
            wrapper.optimizer = inner
        self.steps: list[Cost] = []
        self.updates: list[Cost] = []
        wrapper.optimizer.register_step_pre_hook(lambda *_: self._began())
        wrapper.optimizer.register_step_post_hook(lambda *_: self._ended())

    def _began(self) -> None:
        self._start = Cost.now()

    def _ended(self) -> None:
        self.updates.append(Cost.now() - self._start)

    def step(self) -> None:
        draw = torch.Generator().manual_seed(len(self.steps))
        size, length = self.config.train.micro_batch, self.config.data.sequence_length
        vocab = self.config.model.vocab_size or 1
        batches = []
        for _ in range(num_microbatches(self.config.train, self.config.parallel)):
            tokens = torch.randint(0, vocab, (size, length + 1), generator=draw)
            batches.append({"tokens": tokens[:, :-1], "labels": tokens[:, 1:], "samples": torch.arange(size)})
        start = Cost.now()
        self.engine.train_step(batches, 1e-4)
        self.steps.append(Cost.now() - start)


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
    order = list(sides.values())
    for number in range(args.steps + WARM_UP):
        turn = number % len(order)
        for side in order[turn:] + order[:turn]:
            side.step()
    if env.rank == 0:
        report(sides)
    shutdown()


def report(sides: dict[str, Side]) -> None:
    for name, side in sides.items():
        step, update = (median_of(costs[WARM_UP:]) for costs in (side.steps, side.updates))
        print(
            f"{name:6} step {step.wall * 1e3:8.1f} ms ({step.processor * 1e3:8.1f} of processors)   "
            f"update {update.wall * 1e3:7.2f} ms ({update.processor * 1e3:7.2f})"
        )
    for other, called in (("adamw", "AdamW"), ("loop", "loop over parameters")):
        goal = f", goal {GOAL}" if other == "adamw" else ""
        steps = ratios(sides["lamb"].steps, sides[other].steps)
        updates = ratios(sides["lamb"].updates, sides[other].updates)
        print(f"LAMB / {called}: step {steps}{goal}; update {updates}")


def median_of(costs: Sequence[Cost]) -> Cost:
    return Cost(*(statistics.median(values) for values in zip(*costs, strict=True)))


def ratios(ours: Sequence[Cost], theirs: Sequence[Cost]) -> str:
    """Of the same rounds: median and quartiles, by the clock and by the processor's time."""
    told = []
    for field in ("wall", "processor"):
        pairs = zip(ours[WARM_UP:], theirs[WARM_UP:], strict=True)
        found = [getattr(one, field) / getattr(other, field) for one, other in pairs]
        low, middle, high = statistics.quantiles(found, n=4)
        told.append(f"{middle:.3f} [{low:.3f}, {high:.3f}] {field}")
    return ", ".join(told)


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
        ("steps", 15),
    ]:
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    main()
