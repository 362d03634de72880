from hypothesis import given
from hypothesis import strategies as st

from dist_plm.checkpoint.retention import Retention


def losses(*values: float) -> dict[int, dict[str, float]]:
    return {100 * (i + 1): {"loss": value} for i, value in enumerate(values)}


def test_the_last_ones_stay():
    assert Retention(latest=2).superseded(losses(5, 4, 3, 2), newest=400) == [100, 200]


def test_multiples_stay():
    assert Retention(latest=1, every=200).superseded(losses(5, 4, 3, 2, 1), newest=500) == [100, 300]


def test_the_best_stays():
    retention = Retention(latest=1, best="loss")
    assert retention.superseded(losses(5, 1, 3, 2), newest=400) == [100, 300]
    assert retention.superseded(losses(float("nan"), 1, 1, 2), newest=400) == [100, 300]
    highest = Retention(latest=1, best="loss", best_is="highest")
    assert highest.superseded(losses(5, 1, 3, 2), newest=400) == [200, 300]
    assert highest.best_of(losses(5, 1, 3, 6), newest=300) == 100
    assert Retention(latest=1).best_of(losses(5), newest=100) is None


def test_first_weights_are_never_the_best():
    first = {0: {"loss": 1.0}}
    assert Retention(latest=1, best="loss").best_of(first | losses(1, 2), newest=200) == 100
    assert Retention(latest=1, best="loss").best_of(first, newest=0) is None


def test_what_was_not_evaluated_is_not_the_best():
    evaluations = {100: {}, 200: {"loss": 3.0}, 300: {}}
    assert Retention(latest=1, best="loss").superseded(evaluations, newest=300) == [100]


def test_later_ones_do_not_count():
    assert Retention(latest=2).superseded(losses(1, 2, 3, 4, 5), newest=200) == []


@given(
    st.dictionaries(st.integers(0, 50), st.fixed_dictionaries({"loss": st.floats()}), min_size=1),
    st.integers(1, 4),
    st.integers(0, 7),
    st.sampled_from([None, "loss"]),
)
def test_never_all(checkpoints, latest, every, best):
    newest = max(checkpoints)
    gone = Retention(latest=latest, every=every, best=best).superseded(checkpoints, newest)
    assert newest not in gone
    assert len(checkpoints) - len(gone) >= min(latest, len(checkpoints))
    assert set(gone) <= set(checkpoints)
