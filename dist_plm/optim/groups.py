"""Which parameters are decayed: a rule on the parameter, so that no architecture needs a list of names."""

from collections.abc import Iterable
from typing import TypedDict

from torch.nn import Parameter


class ParamGroup(TypedDict):
    """One entry of a torch optimizer's `param_groups`."""

    params: list[Parameter]
    weight_decay: float


def decay_groups(
    named_parameters: Iterable[tuple[str, Parameter]], weight_decay: float, decay_norms_and_biases: bool
) -> list[ParamGroup]:
    """Splits parameters into those that weight decay shrinks and those it leaves alone.

    Left alone, unless `decay_norms_and_biases`, are vectors and scalars (norm weights, biases of linear layers) and
    whatever is called `bias`, which also catches biases stacked into a matrix. Matrices and embeddings are decayed. The
    original BERT code and Megatron-LM follow the same rule.

    Always returns two groups, decayed first, each in the order given, even where one is empty: every pipeline stage
    then has groups of the same number and meaning. A tied parameter met twice is taken once; frozen ones are left out.
    Shapes must be the logical ones, so call this before an engine flattens or partitions the parameters.
    """
    decayed: list[Parameter] = []
    spared: list[Parameter] = []
    seen: set[int] = set()
    for name, parameter in named_parameters:
        if id(parameter) in seen or not parameter.requires_grad:
            continue
        seen.add(id(parameter))
        is_spared = not decay_norms_and_biases and (parameter.dim() < 2 or name.rpartition(".")[2] == "bias")
        (spared if is_spared else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
