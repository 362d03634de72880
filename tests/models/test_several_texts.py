"""Several texts that are written of one row take its keys and values once, and are what they are of rows of their own."""

import numpy as np
import pytest
import torch

from dist_plm.distributed.groups import build_groups
from dist_plm.models.layers.attention import CrossAttention
from tests.parts import model_of
from tests.ranks.pool import World
from tests.ranks.times import LONG
from tests.ranks.training import batch_of, configure, grid_of
from tests.reference.hf import SMOOTH_T5

ROWS, TEXTS = 2, 3


def logits(world: World, changes: dict) -> list[tuple[torch.Tensor, list[int], list[torch.Tensor]]]:
    config = configure(1, **changes)
    groups = build_groups(grid_of(config), world.device, timeout=LONG)
    (chunk,), _ = model_of(config, groups, torch.device("cpu"))
    draws = torch.Generator().manual_seed(0)
    for parameter in chunk.parameters():  # the second halves of adapters begin at zero
        parameter.data.normal_(0.0, 0.1, generator=draws)
    rows: list[int] = []
    for module in chunk.modules():
        if isinstance(module, CrossAttention):
            module.kv.register_forward_pre_hook(lambda _, given: rows.append(given[0].shape[1]))
    read = {key: values for key, values in batch_of(config, np.arange(ROWS)).items() if key in ("tokens", "samples")}
    read["lengths"] = torch.tensor([32, 20])
    written = torch.randint(5, 100, (ROWS * TEXTS, 8), generator=draws)
    apart = {key: values.repeat_interleave(TEXTS, dim=0) for key, values in read.items()}
    found = []
    for batch in (read, apart):
        rows.clear()
        chunk.zero_grad(set_to_none=True)
        given = chunk({**batch, "decoder_tokens": written})
        given.float().square().mean().backward()
        found.append((given.detach(), list(rows), [one.grad for one in chunk.parameters() if one.grad is not None]))
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {"model__hidden_dropout": 0.1, "model__attention_dropout": 0.1},
        {"model__lora": {"rank": 4, "dropout": 0.3, "targets": ("key", "value")}},
        {"model__recompute": "full", "model__hidden_dropout": 0.1},
    ],
    ids=["dropout", "adapters", "recomputed"],
)
def test_texts_of_one_row_are_those_of_rows_of_their_own(ranks, changes):
    (((given, rows, gradients), (expected, apart, theirs)),) = ranks.run(1, logits, {**SMOOTH_T5.changes, **changes})
    assert set(rows) == {ROWS}
    assert set(apart) == {ROWS * TEXTS}
    torch.testing.assert_close(given, expected)
    for one, other in zip(gradients, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
