"""Measures, in single steps, what each layer puts out and how far its weights move: a layer that blows up shows there first."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dist_plm.distributed.collectives import all_reduce, gather
from dist_plm.distributed.groups import Groups
from dist_plm.engines.base import Engine
from dist_plm.models.layers.transformer import TransformerLayer
from dist_plm.optim.square_sums import sum_squares

#: SquareSums of squares by name, and what they are divided by.
SquareSums = Mapping[str, tuple[float, float]]


class LayerSizes:
    """Measures the root mean square of each layer's output, padding included, and the norm of each layer's update by that of
    its weights.

    Args:
        chunks: of the model on this rank.
    """

    def __init__(self, engine: Engine, chunks: Sequence[nn.Module], groups: Groups) -> None:
        self._engine, self._groups = engine, groups
        self._layers = {
            name: module
            for chunk in chunks
            for name, module in chunk.named_modules()
            if isinstance(module, TransformerLayer)
        }
        self._outputs: dict[str, list[Tensor]] = {}
        self._updates: SquareSums = {}

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Is entered while a step is made. Collective, as the step is."""
        self._outputs = {}
        with ExitStack() as hooks, self._engine.measured_update() as updates:
            for name, layer in self._layers.items():
                hooks.callback(layer.register_forward_hook(partial(self._note, name)).remove)
            yield
        self._updates = updates

    def take(self) -> dict[str, float]:
        """Gives what was measured under its names in a record, on every rank. Collective."""
        parts = gather(self._groups.pipeline, (self._activations(), self._updates))
        updates = {name: both for _, found in parts for name, both in found.items()}
        activations = {name: both for found, _ in parts for name, both in found.items()}
        return {
            **{f"activation/{name}": _root(*both) for name, both in activations.items()},
            **{f"update_ratio/{name}": _root(*both) for name, both in by_layer(updates).items()},
        }

    def _note(self, name: str, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        # Recomputation makes passes twice, which leaves the mean what it is.
        count = torch.tensor(float(output.numel()), dtype=torch.float64)
        squares = sum_squares([output.detach()])
        self._outputs.setdefault(name, []).append(torch.cat([squares, count.to(squares.device)[None]]))

    def _activations(self) -> SquareSums:
        """Over all ranks of this stage. What tensor ranks compute alike counts as often in both sums."""
        groups = self._groups
        own = [torch.stack(self._outputs[name]).sum(dim=0) for name in self._layers]
        if not own:
            return {}
        sums = torch.stack(own).to(groups.device.torch_device)
        for group in (groups.data_context, groups.tensor):
            all_reduce(sums, group, dist.ReduceOp.SUM)
        return {name: (squares, count) for name, (squares, count) in zip(self._layers, sums.tolist(), strict=True)}


def by_layer(tensors: SquareSums) -> dict[str, tuple[float, float]]:
    """Adds up both sums over the tensors of each layer, and of what is no layer."""
    found: dict[str, tuple[float, float]] = {}
    for name, (upper, lower) in tensors.items():
        so_far = found.get(layer_of(name), (0.0, 0.0))
        found[layer_of(name)] = (so_far[0] + upper, so_far[1] + lower)
    return found


def layer_of(name: str) -> str:
    """Gives the layer of a tensor's canonical name, as in encoder.layers.3, or else its first word."""
    layer = re.match(r"(?:.*\.)?layers\.\d+(?=\.)", name)
    return layer[0] if layer else name.partition(".")[0]


def _root(upper: float, lower: float) -> float:
    return math.sqrt(upper / lower) if lower > 0 else 0.0
