"""The pipeline's timeline keeps its order, and waits as long as the bubble's formula says."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_plm.plan.timeline import timeline


@settings(max_examples=30)
@given(stages=st.integers(1, 6), rounds=st.integers(1, 4), chunks=st.integers(1, 3))
def test_a_step_takes_its_passes_and_the_bubble(stages, rounds, chunks):
    """(p - 1) / v passes of a stage are waited (Narayanan et al. 2021, section 2.2.2)."""
    chunks, microbatches = chunks if stages > 1 else 1, stages * rounds
    passes = timeline([(1.0, 2.0)] * stages, microbatches, chunks)
    assert len(passes) == 2 * stages * microbatches * chunks
    assert max(one.stop for one in passes) == pytest.approx(3 * (microbatches + (stages - 1) / chunks))


@settings(max_examples=30)
@given(stages=st.integers(2, 5), microbatches=st.integers(1, 9), slow=st.integers(0, 4))
def test_no_pass_begins_before_what_it_needs(stages, microbatches, slow):
    seconds = [(1.0 + (stage == slow), 2.0 + (stage == slow)) for stage in range(stages)]
    passes = timeline(seconds, microbatches)
    stops = {(one.forward, one.stage, one.microbatch): one.stop for one in passes}
    for one in passes:
        if one.forward and one.stage > 0:
            assert one.start >= stops[True, one.stage - 1, one.microbatch]
        if not one.forward:
            needed = (False, one.stage + 1) if one.stage < stages - 1 else (True, one.stage)
            assert one.start >= stops[*needed, one.microbatch]
    for stage in range(stages):
        own = sorted((one.start, one.stop) for one in passes if one.stage == stage)
        assert all(before[1] <= after[0] + 1e-9 for before, after in itertools.pairwise(own))
