"""The batch of every step is Megatron-core's, and whatever a run has seen, the rest of it is the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from megatron.core import num_microbatches_calculator

from dist_plm.core.errors import ConfigError
from dist_plm.spec.batch_sizes import BatchSizes
from dist_plm.spec.rules.finalize import finalize
from tests.spec.make import pretrain


@st.composite
def ramps(draw):
    first, increment, count = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, 7))
    samples = draw(st.integers(1, 500))
    return BatchSizes(first + increment * count, first, increment, samples)


@given(ramps(), st.integers(0, 80))
def test_runs_are_what_asking_step_by_step_gives(sizes, steps):
    samples, batches = 0, []
    for _ in range(steps):
        batches.append(sizes.at(samples))
        samples += batches[-1]
    runs = sizes.runs(0, steps)
    assert [batch for count, batch in runs for _ in range(count)] == batches
    assert all(count > 0 for count, _ in runs)
    assert batches == sorted(batches)
    assert sizes.after(steps) == samples
    for made in range(0, steps, 7):
        rest = sizes.runs(sizes.after(made), steps - made)
        assert [batch for count, batch in rest for _ in range(count)] == batches[made:]


@pytest.mark.skipif(
    not hasattr(num_microbatches_calculator, "RampupBatchsizeNumMicroBatchesCalculator"),
    reason="Megatron-core 0.18 took it away",
)
@given(ramps(), st.integers(1, 60))
def test_they_are_megatron_cores(sizes, per_increment):
    increments = (sizes.whole - sizes.first) // sizes.increment
    sizes = BatchSizes(sizes.whole, sizes.first, sizes.increment, per_increment * increments)
    theirs = num_microbatches_calculator.RampupBatchsizeNumMicroBatchesCalculator(
        rank=1,
        global_batch_size=sizes.whole,
        micro_batch_size=1,
        data_parallel_size=1,
        decrease_batch_size_if_needed=False,
        start_global_batch_size=sizes.first,
        batch_size_increment=sizes.increment,
        ramup_samples=sizes.samples,
    )
    for samples in range(0, sizes.samples + 2 * sizes.whole, 3):
        theirs.update(samples, consistency_check=False)
        assert sizes.at(samples) == theirs.get_current_global_batch_size(), samples


def test_without_a_ramp_all_steps_are_alike():
    sizes = BatchSizes.of(pretrain(train__global_batch=6).train)
    assert sizes.runs(0, 5) == [(5, 6)]
    assert sizes.runs(7, 2) == [(2, 6)]
    assert sizes.after(5) == 30


@pytest.mark.parametrize(
    ("ramp", "sentence"),
    [
        ({"start": 3, "increment": 2, "samples": 20}, "start = 3 is not a multiple of train.micro_batch = 2"),
        ({"start": 2, "increment": 3, "samples": 20}, "increment = 3 is not a multiple of train.micro_batch = 2"),
        ({"start": 2, "increment": 4, "samples": 20}, "does not reach train.global_batch = 8 in whole steps"),
        ({"start": 8, "increment": 2, "samples": 20}, "does not reach train.global_batch = 8 in whole steps"),
        ({"start": 2, "increment": 2, "samples": 1000}, "the whole batch is never reached"),
    ],
)
def test_what_does_not_divide_is_refused(ramp, sentence):
    with pytest.raises(ConfigError) as refused:
        finalize(pretrain(train__batch_rampup=ramp), world_size=1, vocab_size=1000)
    assert sentence in str(refused.value)


def test_interleaved_pipelines_want_their_multiple():
    changes = {"parallel__pipeline": 2, "parallel__virtual_pipeline": 2, "train__micro_batch": 1}
    ramp = {"start": 3, "increment": 1, "samples": 20}
    with pytest.raises(ConfigError, match=r"1 data ranks x parallel\.pipeline = 2 = 2"):
        finalize(pretrain(train__batch_rampup=ramp, **changes), world_size=2, vocab_size=1000)
    ramp = {"start": 2, "increment": 2, "samples": 20}
    finalize(pretrain(train__batch_rampup=ramp, **changes), world_size=2, vocab_size=1000)
