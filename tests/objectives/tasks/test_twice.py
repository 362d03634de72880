"""Rows that are read twice: side by side, compared as Liang et al. 2021 do, and labelled as they were."""

import numpy as np
import torch
from torch.nn import functional

from dist_plm.models.heads.losses import score_sequences
from dist_plm.objectives.base import IGNORED
from dist_plm.objectives.tasks.twice import Twice

LABELS = np.array([2, 0, IGNORED])


def collate(samples):
    return {"tokens": np.arange(12).reshape(3, 4), "class_labels": LABELS, "samples": np.array(samples)}


def test_rows_follow_their_twins_with_draws_of_their_own():
    batch = Twice(collate, learns=True)([5, 6, 7])
    assert batch["tokens"][::2].tolist() == batch["tokens"][1::2].tolist() == collate([0])["tokens"].tolist()
    assert batch["class_labels"].tolist() == [2, 2, 0, 0, IGNORED, IGNORED]
    assert batch["samples"][::2].tolist() == [5, 6, 7]
    assert len(set(batch["samples"].tolist())) == 6
    assert (batch["twins"] >= 0).tolist() == [True, False, True, False, False, False]
    once = Twice(collate, learns=False)([5, 6, 7])
    assert once["samples"].tolist() == [5, 6, 7]
    assert (once["twins"] == IGNORED).all()


def test_what_is_learned_is_the_published_loss():
    """Half of equation 4: the mean of both likelihoods, and half of alpha times the mean of both divergences."""
    torch.manual_seed(0)
    logits = torch.randn(6, 3)
    batch = {name: torch.from_numpy(array) for name, array in Twice(collate, learns=True)([5, 6, 7]).items()}
    scores = score_sequences(logits, batch, evaluate=False)
    first, second = logits[:4:2].log_softmax(-1), logits[1:4:2].log_softmax(-1)
    labels = torch.tensor([2, 0])
    likelihoods = sum(functional.nll_loss(one, labels, reduction="sum") for one in (first, second))
    both = ((first, second), (second, first))
    divergences = sum(functional.kl_div(a, b, reduction="sum", log_target=True) for a, b in both) / 2
    torch.testing.assert_close(scores["class_labels"].loss, likelihoods)
    torch.testing.assert_close(scores["twins"].loss, divergences)
    assert float(score_sequences(logits, {**batch}, evaluate=True)["twins"].loss) == 0.0


def test_of_several_labels_each_has_a_divergence_of_its_own():
    def collate_sets(samples):
        sets = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]], dtype=np.float32)
        return {"label_sets": sets, "target_mask": np.array([1, 1, 0]), "samples": np.array(samples)}

    torch.manual_seed(1)
    logits = torch.randn(6, 2)
    batch = {name: torch.from_numpy(array) for name, array in Twice(collate_sets, learns=True)([5, 6, 7]).items()}
    scores = score_sequences(logits, batch, evaluate=False)
    # Each label's probabilities, of yes and of no, by the logits of both.
    first, second = (
        torch.stack([x, torch.zeros_like(x)], dim=-1).log_softmax(-1) for x in (logits[:4:2], logits[1:4:2])
    )
    both = ((first, second), (second, first))
    divergences = sum(functional.kl_div(a, b, reduction="sum", log_target=True) for a, b in both) / 2
    torch.testing.assert_close(scores["twins"].loss, divergences)
