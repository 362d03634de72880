"""Has context ranks share every sequence: each holds a slice of it, and attends with a part of the heads over all of it.

Before attention ranks exchange tokens for heads, and behind it heads for tokens (DeepSpeed-Ulysses, Jacobs et al. 2023, arXiv
2309.14509, section 3.1). Masks, windows, relative positions and dropout so see whole sequences, and all ranks have the same
work, be attention causal or not. Where each head has keys of its own, C ranks send 2 / C of what would go round a ring of keys
and values (Liu et al. 2023, arXiv 2310.01889).
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.tensor_parallel.mappings import all_to_all
from torch import Tensor

from dist_plm.distributed.collectives import all_reduce
from dist_plm.models.loss_sums import Scores
from dist_plm.models.model_context import ModelContext


def heads_for_tokens(slices: Sequence[Tensor], group: dist.ProcessGroup) -> list[Tensor]:
    """Gives away tokens for heads: of [S / C, B, A, D] each [S, B, A / C, D], in one message to each rank. Collective.

    Heads that are fewer than ranks are sent to several of them, and their gradients added up.
    """
    size = group.size()
    parts = [_times(one, -(-size // one.shape[2])) for one in slices]
    told = torch.cat([part.unflatten(2, (size, -1)).movedim(2, 0) for part in parts], dim=3)
    # [ranks, S / C, B, heads, D]: of each rank what it had of our heads, in the order of tokens.
    return list(all_to_all(group, told).flatten(0, 1).split([part.shape[2] // size for part in parts], dim=2))


def tokens_for_heads(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Undoes `heads_for_tokens`: [S, B, A / C, D] -> [S / C, B, A, D]. Collective."""
    return all_to_all(group, x.unflatten(0, (group.size(), -1))).movedim(0, 2).flatten(2, 3)


def _times(x: Tensor, times: int) -> Tensor:
    return x if times == 1 else x.repeat_interleave(times, dim=2)


def whole_context(hidden: Tensor, shared: ModelContext) -> Tensor:
    """[S / C, B, H] -> [S, B, H]. Gradients of the result are added up: where all ranks compute the same of it, `counted_once`
    says whose count. Collective."""
    if shared.context_ranks == 1:
        return hidden
    return gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=True, group=shared.groups.context)


def counted_once(scores: Scores, shared: ModelContext) -> Scores:
    """Has scores that all context ranks have alike, or the first one alone has, count on the first one alone."""
    if shared.context_ranks == 1:
        return scores
    counts = float(shared.context_index == 0)
    return {
        over: one._replace(loss=one.loss * counts, correct=None if one.correct is None else one.correct * counts)
        for over, one in scores.items()
    }


def added_up(sums: Tensor, shared: ModelContext) -> Tensor:
    """Adds up what context ranks have of the same sums, without gradients. Collective."""
    if shared.context_ranks == 1:
        return sums
    total = sums.detach().clone()
    all_reduce(total, shared.groups.context)
    return total
