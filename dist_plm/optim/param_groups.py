"""Sorts parameters into groups that are decayed, adapted and slowed: rules on the parameter, so that no architecture
needs a list."""

from collections.abc import Iterable
from typing import TypedDict

from torch.nn import Parameter

from dist_plm.optim.depth import Depths
from dist_plm.spec.optimizers import OptimConfig


class ParamGroup(TypedDict):
    """One entry of a torch optimizer's `param_groups`.

    `adapt`: whether LAMB scales the update by the layer's trust ratio. `lr_scale`: share of the learning rate. `apart`:
    whether the optimizer updates these matrices by a rule of their own. `depth`: where they lie, the head's where
    groups are not made by depth.
    """

    params: list[Parameter]
    weight_decay: float
    adapt: bool
    lr_scale: float
    apart: bool
    depth: int


def parameter_groups(
    named_parameters: Iterable[tuple[str, Parameter]],
    optim: OptimConfig,
    depths: Depths,
    *,
    by_depth: bool = False,
) -> list[ParamGroup]:
    """Matrices in one group; in the other norms and biases, which by default are neither decayed nor adapted; where the
    optimizer sets matrices apart, these in a third.

    Norms and biases are vectors and scalars, and whatever is called `bias`, which also catches biases stacked into a
    matrix; all else, embeddings included, counts as a matrix. The original BERT code and Megatron-LM follow the same rule.

    With `by_depth`, or `optim.layer_decay` below 1, there are such groups for each depth, and a depth learns at layer_decay
    times the rate of the one above it (Clark et al. 2020, arXiv 2003.10555, appendix B; Howard & Ruder 2018, arXiv 1801.06146,
    section 3.2): the head at the full rate, embeddings slowest; `depths` says where a parameter lies. With `optim.head_lr` the
    head has groups of its own.

    The groups are of the same number and meaning on every pipeline stage, so some may be empty. A tied parameter met
    twice is taken once; frozen ones are left out. Shapes must be the logical ones, so call this before an engine flattens
    or partitions the parameters.
    """
    scales = [optim.layer_decay ** (depths.layers + 1 - depth) for depth in range(depths.layers + 2)]
    by_depth = by_depth or optim.layer_decay != 1.0
    if not by_depth:
        scales = [1.0]
    places = [*range(len(scales))] if by_depth else [depths.layers + 1]
    if optim.head_lr is not None:
        scales.append(optim.head_lr / optim.lr)
        places.append(depths.layers + 1)
    kinds = ("matrices", "vectors", "apart")[: 3 if optim.has_two_rules else 2]
    groups = [_group(optim, scale, kind, place) for scale, place in zip(scales, places, strict=True) for kind in kinds]
    seen: set[int] = set()
    for name, parameter in named_parameters:
        if id(parameter) in seen or not parameter.requires_grad:
            continue
        seen.add(id(parameter))
        # The copy of a tied weight on the last pipeline stage has to learn like the one on the first.
        name = getattr(parameter, "canonical_name", name)
        place = depths.of_parameter(name) if by_depth else 0
        if optim.head_lr is not None and depths.is_of_head(name):
            place = len(scales) - 1
        if _is_norm_or_bias(name, parameter):
            kind = "vectors"
        else:
            kind = "apart" if optim.sets_apart(name, tuple(parameter.shape)) else "matrices"
        groups[len(kinds) * place + kinds.index(kind)]["params"].append(parameter)
    return groups


def _group(optim: OptimConfig, scale: float, kind: str, depth: int) -> ParamGroup:
    vectors = kind == "vectors"
    decayed = optim.decay_norms_and_biases or not vectors
    return {
        "params": [],
        "weight_decay": optim.weight_decay if decayed else 0.0,
        "adapt": optim.adapts_vectors or not vectors,
        "lr_scale": scale,
        "apart": kind == "apart",
        "depth": depth,
    }


def _is_norm_or_bias(name: str, parameter: Parameter) -> bool:
    return parameter.dim() < 2 or name.rpartition(".")[2] == "bias"
