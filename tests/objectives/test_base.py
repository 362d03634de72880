import numpy as np
import torch

from dist_plm.objectives.base import LossTerm


def test_predictions_are_counted_in_arrays_and_tensors():
    labels = np.array([[3, -1, 0], [-1, -1, 7]])
    term = LossTerm(1.0, "labels")
    assert term.count({"labels": labels}) == 3
    assert term.count({"labels": torch.from_numpy(labels)}) == 3
