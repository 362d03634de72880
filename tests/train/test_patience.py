import math

import pytest

from dist_plm.spec.schema_run import EarlyStoppingConfig
from dist_plm.train.ending.patience import Patience


@pytest.mark.parametrize(
    ("values", "grows", "threshold", "waited", "best"),
    [
        ((0.1, 0.2, 0.3), True, 0.0, [0, 0, 0], 0.3),
        ((0.3, 0.3, 0.2, 0.4), True, 0.0, [0, 1, 2, 0], 0.4),
        ((0.3, 0.35, 0.42), True, 0.1, [0, 1, 2], 0.42),  # the best rises with every small step, as in Transformers
        ((0.3, 0.3, 0.2), False, 0.0, [0, 1, 0], 0.2),
        ((math.nan, 0.5), False, 0.0, [1, 0], 0.5),
        ((math.nan, 0.5, 0.4), True, 0.0, [1, 0, 1], 0.5),
        ((math.nan, math.nan), True, 0.0, [1, 2], None),
        ((0.5, math.nan, 0.4), False, 0.0, [0, 1, 0], 0.4),
    ],
)
def test_evaluations_that_are_not_better_are_counted(values, grows, threshold, waited, best) -> None:
    settings = EarlyStoppingConfig(patience=2, threshold=threshold, metric="f1", greater_is_better=grows)
    patience = Patience(settings)
    found = []
    for step, value in enumerate(values, 1):
        patience.note(step, {"loss": 9.0, "f1": value})
        found.append(patience.waited)
        assert patience.is_over == (patience.waited >= 2)
        patience = Patience.after(settings, patience.state())  # as a checkpoint keeps it
    assert found == waited
    assert patience.best == (None if best is None else pytest.approx(best))


def test_another_measure_is_waited_for_anew() -> None:
    accuracy = EarlyStoppingConfig(patience=2, metric="accuracy", greater_is_better=True)
    before = Patience(accuracy)
    before.note(4, {"accuracy": 0.5, "loss": 2.0})
    before.note(8, {"accuracy": 0.4, "loss": 1.0})
    kept = before.state()
    assert Patience.after(accuracy, kept) == before
    loss = EarlyStoppingConfig(patience=2, metric="loss", greater_is_better=False)
    assert Patience.after(loss, kept) == Patience(loss)
    falling = EarlyStoppingConfig(patience=2, metric="accuracy", greater_is_better=False)
    assert Patience.after(falling, kept) == Patience(falling)
    older = {name: kept[name] for name in ("best", "best_step", "waited")}  # of before it told of what
    assert Patience.after(accuracy, older) == before
