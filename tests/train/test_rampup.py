"""A run whose batch grows: the same on one rank and on two, and after a break, with samples counted as they were taken."""

import pytest

from tests.ranks.ports import free_port
from tests.train.running import make_store, run_case, settings, signalled_case
from tests.train.test_resume import records

pytestmark = pytest.mark.ranks

#: Batches 4 4 4 8 8 12 12 12 12 12: the first 20 samples in two halves.
RAMP = {"train__batch_rampup": {"start": 4, "increment": 4, "samples": 20}, "train__global_batch": 12}
RAMP |= {"train__steps": 10, "train__eval_every": 4}
SEEN = [4, 8, 12, 20, 32, 44, 56, 68, 80, 92]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "tokens")


def test_ranks_and_breaks_change_nothing(ranks, store, tmp_path):
    config = settings(store, tmp_path / "two", **RAMP)
    assert ranks.run(2, run_case, config, free_port()) == [0, 0]
    whole = records(tmp_path / "two")
    assert [record["samples_seen"] for record in whole] == SEEN
    assert [record["tokens_seen"] for record in whole] == [16 * seen for seen in SEEN]
    assert ranks.run(1, run_case, settings(store, tmp_path / "one", **RAMP), free_port()) == [0]
    one = records(tmp_path / "one")
    assert [r["samples_seen"] for r in one] == SEEN
    for name in ("loss", "grad_norm"):
        assert [r[name] for r in one] == pytest.approx([r[name] for r in whole], rel=1e-5)
    for at in (3, 5):  # before and within the growth
        run_dir = tmp_path / f"broken{at}"
        config = settings(store, run_dir, **RAMP)
        assert [code for code, _ in ranks.run(2, signalled_case, config, free_port(), "step", at)] == [75, 75]
        assert ranks.run(2, run_case, config, free_port()) == [0, 0]
        assert records(run_dir) == whole


def test_another_ramp_is_another_stream(ranks, store, tmp_path):
    from tests.ranks.pool import RanksError

    assert ranks.run(1, run_case, settings(store, tmp_path, **RAMP, train__stop_at=4), free_port()) == [0]
    other = RAMP | {"train__batch_rampup": {"start": 4, "increment": 4, "samples": 40}}
    with pytest.raises(RanksError, match=r"train\.batch_rampup: .*data\.allow_change=true"):
        ranks.run(1, run_case, settings(store, tmp_path, **other), free_port())
    config = settings(store, tmp_path, **other, data__allow_change=True)
    assert ranks.run(1, run_case, config, free_port()) == [0]
    # The samples go on where they were, whatever sizes the batches were before.
    assert [r["samples_seen"] for r in records(tmp_path)][:7] == [4, 8, 12, 20, 28, 36, 44]


def test_a_ramp_is_left_out_where_a_blend_has_few_samples_more(ranks, store, tmp_path):
    """Of 100: ten steps of the whole batch would take 120."""
    blend = {"data__path": None, "data__blend": [{"path": str(store), "weight": 1, "max_epochs": 0.3125}]}
    config = settings(store, tmp_path, **RAMP, **blend, train__stop_at=4)
    assert ranks.run(1, run_case, config, free_port()) == [0]
    config = settings(store, tmp_path, **RAMP | {"train__batch_rampup": None}, **blend, data__allow_change=True)
    assert ranks.run(1, run_case, config, free_port()) == [0]
    assert [r["samples_seen"] for r in records(tmp_path)] == SEEN
