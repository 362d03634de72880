"""The whole job is its steps, its jobs and its checkpoints."""

import pytest

from dist_plm.plan.verdict import make_plan
from dist_plm.plan.whole_job import START_SECONDS, job_lines, job_of
from dist_plm.spec.flops import num_parameters
from dist_plm.spec.rules.finalize import finalize
from tests.plan.test_memory import SIZES
from tests.spec.make import pretrain


def planned(**changes):
    sizes = SIZES | {"cluster__gpu": "a100", "train__steps": 10_000} | changes
    return make_plan(finalize(pretrain(**sizes), world_size=8, vocab_size=None), 8)


def test_hours_energy_and_cost_follow_from_seconds():
    plan = planned(cluster__gpu_hour_price=2.0, cluster__gpu_watts=500.0)
    job = job_of(plan)
    assert job.hours == plan.run_seconds / 3600
    assert job.gpu_hours == 8 * job.hours
    assert job.cost == 2 * job.gpu_hours
    assert job.kwh == job.gpu_hours / 2
    assert job.tokens == 10_000 * 64 * 1024


@pytest.mark.parametrize("jobs", [1, 3])
def test_jobs_end_before_their_limit(jobs):
    plan = planned()
    limit = plan.run_seconds / (jobs - 0.5) + START_SECONDS + plan.config.cluster.signal_seconds
    assert job_of(plan, limit_seconds=limit).jobs == jobs
    assert job_of(plan, limit_seconds=10).jobs is None


def test_a_limit_under_which_no_step_is_trained_is_told():
    plan = planned()
    start = START_SECONDS + plan.config.cluster.signal_seconds
    for limit in (start - 1, start, start + plan.step.seconds / 2):
        job = job_of(plan, limit_seconds=limit)
        assert job.jobs is None
        (line,) = [line for line in job_lines(job) if "the job" in line]
        assert f"never trains a step: give it more than cluster.signal_seconds + {START_SECONDS} s" in line
    assert "never" not in "\n".join(job_lines(job_of(plan)))
    assert "never" not in "\n".join(job_lines(job_of(plan, limit_seconds=start + 2 * plan.step.seconds)))


def test_a_checkpoint_has_each_weight_and_its_moments_once():
    plan = planned(checkpoint__every=100, checkpoint__keep=2, checkpoint__keep_every=5000)
    size = 3 * 4 * num_parameters(plan.config.model)
    assert job_of(plan).checkpoint_bytes == size
    assert job_of(plan).disk_bytes == size * (2 + 1 + 2)
    assert job_of(planned(optim__name="sgd", optim__momentum=0.0)).checkpoint_bytes < size


def test_as_many_lie_there_as_may_stay():
    one = job_of(planned()).checkpoint_bytes
    best = planned(checkpoint__every=100, checkpoint__keep=1, checkpoint__keep_best="loss", train__eval_every=100)
    assert job_of(best).disk_bytes == 3 * one
    assert job_of(planned(checkpoint__every=0, checkpoint__at_end=False)).disk_bytes == 0


def test_epochs_are_shown_where_the_store_is_here():
    lines = "\n".join(job_lines(job_of(planned(), limit_seconds=86_400, store_samples=10_000 * 32)))
    assert "2.00 epochs" in lines
    assert "in 1 job under" in lines
    assert "kWh" not in lines
