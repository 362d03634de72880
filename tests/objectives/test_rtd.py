import numpy as np

from dist_plm.objectives.base import IGNORED
from dist_plm.objectives.build import build_objective
from dist_plm.spec.objectives import OBJECTIVES
from tests.objectives.statistics import rate_z
from tests.objectives.text import MASK, SPECIAL, padded, windows_of


def rtd(**settings):
    return build_objective(OBJECTIVES["rtd"](**settings), SPECIAL, seed=1)


def test_all_that_is_predicted_is_masked_and_nothing_else_changes():
    windows = windows_of(200, 126)
    batch = rtd().collate(windows)
    masked = batch["labels"] != IGNORED
    np.testing.assert_array_equal(batch["tokens"] == MASK, masked)
    np.testing.assert_array_equal(batch["originals"][:, 1:-1], windows.tokens[:, :-1])
    np.testing.assert_array_equal(batch["originals"], np.where(masked, batch["labels"], batch["tokens"]))


def test_the_rate_of_large_models():
    batch = rtd(mask_rate=0.25).collate(windows_of(2000, 126, end_rate=0))
    assert abs(rate_z((batch["labels"] != IGNORED).sum(), 2000 * 126, 0.25)) < 4


def test_the_discriminator_counts_every_token():
    objective = rtd()
    batch = objective.collate(windows_of(10, 62))
    assert {name: term.weight for name, term in objective.losses.items()} == {"generator": 1.0, "discriminator": 50.0}
    assert objective.losses["discriminator"].count(batch) == 10 * 64
    assert objective.losses["generator"].count(batch) == (batch["labels"] != IGNORED).sum()
    assert rtd(discriminator_weight=1.0).losses["discriminator"].weight == 1.0


def test_documents_when_asked_for():
    batch = rtd(document_mask=True).collate(windows_of(4, 30, end_rate=0.2))
    assert batch["documents"].shape == (4, 32)


def test_padding_is_neither_masked_nor_judged():
    windows = padded(windows_of(30, 62))
    batch = rtd().collate(windows)
    beyond = np.arange(64) >= windows.lengths[:, None] + 2
    assert (batch["originals"][beyond] == IGNORED).all()
    assert (batch["originals"][~beyond] != IGNORED).all()
    assert (batch["labels"][beyond] == IGNORED).all()
