"""Long steps are gone through by the microbatches that differ, of which there are never many."""

import pytest

from dist_plm.plan.rehearsal import repeated_passes
from dist_plm.plan.rehearsal.all_ranks import problems_of
from dist_plm.plan.rehearsal.rank_rehearsal import rehearse_rank
from dist_plm.plan.rehearsal.repeated_passes import RepeatedPass, alike
from tests.ranks.training import batch_of, configure

MASKED = {"model__family": "bert", "objective__name": "mlm", "model__layers": 2}


def batches_of(config, count: int):
    return [batch_of(config, [number]) for number in range(count)]


def test_few_sizes_stay_as_they_are():
    batches = batches_of(configure(1, **MASKED), 8)
    assert all(one is other for one, other in zip(alike(batches), batches, strict=True))


def test_of_many_sizes_the_largest_stands_for_all():
    (first,) = batches_of(configure(1, **MASKED), 1)
    batches = []
    for predicted in range(20):
        batch = {name: values.clone() for name, values in first.items()}
        batch["labels"][:] = -1
        batch["labels"][0, :predicted] = 1
        batches.append(batch)
    found = alike([*batches[10:], *batches[:10]])
    assert len(found) == 20
    assert all(one is batches[19] for one in found)


@pytest.mark.parametrize(("most", "repeats"), [(2, 12 - 4), (16, 2)])
def test_masked_models_repeat_passes_of_a_long_step(monkeypatch, most, repeats):
    repeated, repeat = [], RepeatedPass._repeat

    def count(self):
        repeated.append(self)
        return repeat(self)

    monkeypatch.setattr(repeated_passes, "_MOST_SIZES", most)
    monkeypatch.setattr(RepeatedPass, "_repeat", count)
    config = configure(2, **MASKED, parallel__pipeline=2, train__global_batch=48, train__micro_batch=4)
    found = {rank: rehearse_rank(config, rank, 2) for rank in range(2)}
    assert problems_of(config, found, 2) == []
    assert found[1].microbatches == 12
    # The last stage alone sees how many tokens are predicted: 11 to 14, and in two of its middle passes as many as before.
    assert sum(one.outputs[0].shape == () for one in repeated) == repeats


def test_a_deep_pipeline_repeats_passes_that_are_in_flight_together(monkeypatch):
    """What repeated passes say and keep is what they would."""
    repeated, repeat = [], RepeatedPass._repeat

    def count(self):
        repeated.append(self)
        return repeat(self)

    monkeypatch.setattr(RepeatedPass, "_repeat", count)
    sizes = {"model__layers": 8, "model__hidden": 32, "model__heads": 2, "parallel__pipeline": 8}
    config = configure(8, **sizes, train__global_batch=16)
    found = rehearse_rank(config, 0, 8)
    # Made are three, two once eight are in flight, and the last.
    assert len(repeated) == 16 - 6
    monkeypatch.setattr(repeated_passes, "FIRST", 16)
    whole = rehearse_rank(config, 0, 8)
    assert len(repeated) == 16 - 6
    assert found.ledger == whole.ledger
    assert abs(found.peak_bytes / whole.peak_bytes - 1) < 1e-3
