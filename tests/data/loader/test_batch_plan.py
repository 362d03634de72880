import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.data.loader.batch_plan import BatchPlan, microbatch_samples, num_microbatches

sizes = st.integers(1, 6)


@given(step=st.integers(0, 10**12), micro_batch=sizes, data_size=sizes, count=sizes)
def test_every_cut_of_a_step_yields_the_global_batch_in_order(step, micro_batch, data_size, count):
    global_batch = micro_batch * data_size * count
    grid = {"global_batch": global_batch, "micro_batch": micro_batch, "data_size": data_size}
    assert num_microbatches(**grid) == count
    samples = [
        sample
        for rank in range(data_size)
        for microbatch in range(count)
        for sample in microbatch_samples(step, microbatch, rank, **grid).tolist()
    ]
    assert samples == list(range(step * global_batch, (step + 1) * global_batch))


@pytest.mark.parametrize(("microbatch", "rank", "global_batch"), [(0, 0, 7), (2, 0, 8), (-1, 0, 8), (0, 2, 8)], ids=str)
def test_impossible_positions_are_caught(microbatch, rank, global_batch):
    with pytest.raises(AssertionError):
        microbatch_samples(0, microbatch, rank, global_batch=global_batch, micro_batch=2, data_size=2)


@given(start=st.integers(0, 50), steps=st.integers(0, 5), rank=st.integers(0, 1), workers=sizes)
def test_a_plan_lists_microbatches_in_order_and_slices_deal_them_out(start, steps, rank, workers):
    grid = {"global_batch": 12, "micro_batch": 2, "data_size": 2}
    expected = [
        microbatch_samples(step, microbatch, rank, **grid).tolist()
        for step in range(start, start + steps)
        for microbatch in range(3)
    ]
    plan = BatchPlan(start, start + steps, rank, **grid)
    assert [samples.tolist() for samples in plan] == expected
    assert len(plan) == len(expected)
    for worker in range(workers):
        assert [samples.tolist() for samples in plan[worker::workers]] == expected[worker::workers]


def test_a_plan_goes_on_over_batches_of_other_sizes():
    """Ranks together take each step's samples once, and step follows step, wherever a plan begins."""
    runs = [(2, 4), (1, 8), (3, 12)]
    grid = {"global_batch": 12, "micro_batch": 2, "data_size": 2, "first_sample": 100, "runs": runs}
    per_rank = [[samples.tolist() for samples in BatchPlan(5, 11, rank, **grid)] for rank in range(2)]
    start, position = 100, 0
    for steps, batch in runs:
        for _ in range(steps):
            count = batch // 4
            taken = [s for rank in per_rank for samples in rank[position : position + count] for s in samples]
            assert taken == list(range(start, start + batch))
            start, position = start + batch, position + count
    assert position == len(per_rank[0])
    assert [samples.tolist() for samples in BatchPlan(5, 11, 0, **grid)[1::3]] == per_rank[0][1::3]
