"""Counts the operations that one microbatch dispatches, ours beside `transformers`: on CUDA each is a kernel to launch.

    python bench/launches.py
    python bench/launches.py --models bert_large gpt2_medium

Views and other operations that move no data are left out. Networks have their published settings, dropout among them, but
few layers and small matrices, as the number of operations does not depend on sizes: what two layers dispatch more than one
is counted for each of the others. Both run in fp32 on the CPU, where some operations are made of parts that CUDA has in one
kernel. They are counted as one: ours of dist_plm.models.kernels, and the peer's attention with dropout.

Waits of the host for the device are counted too: numbers that are read, and shapes that depend on values.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import yaml
from launches_peers import CASES, batch_of
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from dist_plm.config.decode import decode
from dist_plm.distributed.device import choose
from dist_plm.distributed.grid import Grid
from dist_plm.distributed.groups import Groups, build_groups
from dist_plm.distributed.launch_env import from_environment
from dist_plm.distributed.world import init_process_group, shutdown
from dist_plm.models.build import build_model
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema import PretrainConfig

#: Of the operations of a peer, ours are at most so many.
BOUND = 0.75
ROWS, LENGTH, VOCAB = 2, 32, 320
WIDTH, HEADS, INNER = 64, 2, 128
PRESETS = Path(__file__).parents[1] / "conf" / "model"

#: Operations that move no data, and those that only make room.
_FREE = {
    "aten::empty",
    "aten::empty_like",
    "aten::empty_strided",
    "aten::new_empty",
    "aten::detach",
    "aten::lift_fresh",
}
_WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::unique_dim", "aten::_unique2"}


class Launches(TorchDispatchMode):
    """Operations dispatched within it, but for views."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        # A mask of booleans as index is found by nonzero on the host.
        indexed = name in ("aten::index", "aten::index_put_", "aten::index_put") and any(
            isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1]
        )
        if name in _WAITS or indexed:
            self.waits[name] += 1
        if name not in _FREE and not func.is_view and name != "aten::_local_scalar_dense":
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True, slots=True)
class Counted:
    """Of one microbatch."""

    forward: int
    backward: int
    waits: int

    @property
    def total(self) -> int:
        return self.forward + self.backward


def count(model: nn.Module, step: Callable[[], Tensor]) -> Counted:
    """Of the second of two steps: what is made once is there by then."""
    step().backward()
    model.zero_grad(set_to_none=True)
    with _one_attention(), Launches() as forward:
        loss = step()
    with _one_attention(), Launches() as backward:
        loss.backward()
    waits = forward.waits.total() + backward.waits.total()
    return Counted(forward.counts.total(), backward.counts.total(), waits)


class _OneAttention(torch.autograd.Function):
    """Stands for attention with dropout in one kernel forward and one backward, as CUDA has it."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(key, value)
        return query.clone(memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        key, value = ctx.saved_tensors
        return torch.neg(grads[0]), torch.empty_like(key), torch.empty_like(value)


@contextmanager
def _one_attention() -> Iterator[None]:
    whole = functional.scaled_dot_product_attention

    def attend(query: Tensor, key: Tensor, value: Tensor, *args: Any, dropout_p: float = 0.0, **more: Any) -> Tensor:
        if dropout_p == 0.0:
            return whole(query, key, value, *args, dropout_p=dropout_p, **more)
        return _OneAttention.apply(query, key, value)

    functional.scaled_dot_product_attention = nn.functional.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = nn.functional.scaled_dot_product_attention = whole


def small(preset: dict[str, Any], layers: int) -> dict[str, Any]:
    """The preset with few layers and small matrices."""
    sizes = {"layers": layers, "hidden": WIDTH, "heads": HEADS, "ffn": INNER, "vocab_size": VOCAB, "vocab_multiple": 8}
    sizes |= {key: HEADS // 2 for key in ("kv_heads",) if key in preset}
    sizes |= {key: WIDTH // HEADS for key in ("head_size",) if key in preset}
    sizes |= {key: WIDTH for key in ("embedding_size",) if key in preset}
    sizes |= {f"generator_{key}": sizes[key] for key in ("hidden", "heads", "ffn") if f"generator_{key}" in preset}
    return preset | sizes


def our_config(name: str, preset: dict[str, Any]) -> PretrainConfig:
    values = {
        "run": {"name": "bench"},
        "model": preset,
        "objective": {"name": CASES[name].objective},
        "data": {"path": "unused", "sequence_length": LENGTH},
        "optim": {"name": "adamw", "lr": 1e-3},
        "schedule": {"name": "constant"},
        "engine": {"name": "megatron"},
        "precision": {"name": "fp32"},
        "train": {"steps": 1, "global_batch": ROWS, "micro_batch": ROWS},
        "cluster": {"device": "cpu"},
    }
    return finalize(decode(PretrainConfig, values), world_size=1, vocab_size=VOCAB)


def count_ours(name: str, preset: dict[str, Any], groups: Groups) -> Counted:
    config = our_config(name, preset)
    (chunk,), _ = build_model(
        config.model, config.parallel, config.precision, groups, torch.device("cpu"), seed=config.train.seed
    )
    batch = batch_of(CASES[name].objective, ROWS, LENGTH, VOCAB)

    def step() -> Tensor:
        terms = chunk(batch)
        return torch.stack([term.loss for term in terms.values()]).sum()

    return count(chunk, step)


def count_theirs(name: str, preset: dict[str, Any]) -> Counted:
    case = CASES[name]
    model = case.build(preset).train()
    batch = batch_of(case.objective, ROWS, LENGTH, VOCAB)
    return count(model, lambda: case.loss(model, batch))


def whole(of: Callable[[int], Counted], layers: int) -> Counted:
    """Of all layers, from the counts of one and of two."""
    one, two = of(1), of(2)

    def grown(name: str) -> int:
        first, second = getattr(one, name), getattr(two, name)
        return first + (layers - 1) * (second - first)

    return Counted(grown("forward"), grown("backward"), grown("waits"))


def compare(name: str, groups: Groups) -> tuple[Counted, Counted]:
    """Ours and theirs, of the preset's whole depth."""
    preset = yaml.safe_load((PRESETS / f"{name}.yaml").read_text())
    ours = whole(lambda layers: count_ours(name, small(preset, layers), groups), preset["layers"])
    theirs = whole(lambda layers: count_theirs(name, small(preset, layers)), preset["layers"])
    return ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--models", nargs="*", default=list(CASES), choices=list(CASES))
    args = parser.parse_args()
    device, timeout = choose("cpu", 0), timedelta(minutes=1)
    init_process_group(from_environment({}), device, timeout=timeout)
    groups = build_groups(Grid(), device, timeout=timeout)
    print(
        f"{'':14}{'forward':>9}{'backward':>10}{'waits':>7}   peer: {'forward':>9}{'backward':>10}{'waits':>7}   ratio"
    )
    for name in args.models:
        ours, theirs = compare(name, groups)
        print(
            f"{name:14}{ours.forward:9}{ours.backward:10}{ours.waits:7}         {theirs.forward:9}{theirs.backward:10}"
            f"{theirs.waits:7}   {ours.total / theirs.total:.2f}"
        )
    shutdown()


if __name__ == "__main__":
    main()
