"""A rank that does otherwise than the others is found before anything is queued: each fault is put into one rank of a world
that is not there, and named with rank, step and place."""

from dataclasses import replace

import pytest
import torch
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator

from dist_plm.core.errors import NotRehearsedError
from dist_plm.engines.loss_terms import LossTerms
from dist_plm.plan.rehearsal.all_ranks import problems_of
from dist_plm.plan.rehearsal.rank_rehearsal import rehearse_rank
from tests.ranks.training import configure

SMALL = {"model__layers": 2, "train__global_batch": 4}


def rehearsed(*configs):
    return {rank: rehearse_rank(config, rank, len(configs)) for rank, config in enumerate(configs)}


def problems(*configs):
    return problems_of(configs[0], rehearsed(*configs), len(configs))


def config_of(axis, **changes):
    return configure(2, **{f"parallel__{axis}": 2} if axis != "data" else {}, **{**SMALL, **changes})


def faulty(monkeypatch, rank, owner, name, wrong):
    """Puts a method in place of another on one rank."""
    right = getattr(owner, name)

    def method(self, *args, **kwargs):
        act = wrong if torch.distributed.get_rank() == rank else right
        return act(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, method)
    return right


@pytest.mark.parametrize("axis", ["tensor", "pipeline", "data"])
def test_ranks_that_do_the_same_agree(axis):
    config = config_of(axis)
    found = rehearsed(config, config)
    assert problems_of(config, found, 2) == []
    assert all(one.ledger and one.peak_bytes for one in found.values())


@pytest.mark.parametrize(
    ("axis", "said"), [("tensor", "ranks 0 and 1 disagree in shape"), ("pipeline", "is not what is")]
)
def test_another_batch_is_named(axis, said):
    problem, *_ = problems(config_of(axis), config_of(axis, train__micro_batch=2))
    assert said in problem
    assert "step 1, " in problem
    assert "dist_plm/" in problem


def test_another_type_is_named():
    problem, *_ = problems(config_of("tensor"), config_of("tensor", precision__name="bf16"))
    assert problem.startswith("ranks 0 and 1 disagree in the type of the numbers")
    assert "forward 1, dist_plm/models/layers/embedding.py:" in problem


def test_a_collective_that_one_rank_skips_is_named(monkeypatch):
    def add_up(self, sums, counts):
        return torch.zeros(3 * len(counts), dtype=torch.float64)

    faulty(monkeypatch, 1, LossTerms, "add_up", add_up)
    problem, *_ = problems(*[config_of("tensor")] * 2)
    assert "dist_plm/engines/loss_terms.py:" in problem
    assert "rank 0 has all_reduce (sum) of float64[2, 2]" in problem


def test_a_message_that_nobody_takes_is_named(monkeypatch):
    def twice(self, output, *args, **kwargs):
        right(self, output, *args, **kwargs)
        right(self, output, *args, **kwargs)

    right = faulty(monkeypatch, 0, P2PCommunicator, "send_forward", twice)
    problem, *_ = problems(*[config_of("pipeline")] * 2)
    assert problem.startswith("message ")
    assert "from rank 0 to rank 1 is never received" in problem
    assert "megatron/core/pipeline_parallel/p2p_communication.py:" in problem


def test_a_rank_that_dies_is_named(monkeypatch):
    def broken(self, *_):
        raise ValueError("no such thing")

    faulty(monkeypatch, 1, LossTerms, "scales", broken)
    (problem,) = problems(*[config_of("tensor")] * 2)
    assert problem.startswith("rank 1 fails in step 1, dist_plm/engines/megatron/engine.py:")
    assert "ValueError: no such thing" in problem


def test_what_two_ranks_save_and_what_none_does_is_named():
    config = config_of("data")
    found = rehearsed(config, config)
    name, start = next(box for box in found[0].boxes if box[0].startswith("model."))
    twice = {**found, 1: replace(found[1], boxes={**found[1].boxes, (name, start): found[0].boxes[name, start]})}
    assert problems_of(config, twice, 2)[0] == f"ranks 0 and 1 both save {name} from element {list(start)} on"
    none = {
        rank: replace(one, boxes={b: n for b, n in one.boxes.items() if b[0] != name}) for rank, one in found.items()
    }
    assert problems_of(config, none, 2) == [
        f"a checkpoint would not hold all of {name}: ranks save other parts than there are"
    ]


def test_what_depends_on_numbers_of_other_ranks_is_refused_and_leaves_nothing_behind():
    linear = torch.nn.functional.linear
    with pytest.raises(NotRehearsedError, match=r"cannot be rehearsed: .*dist_plm/optim/segment_map\.py:"):
        rehearse_rank(config_of("data", optim__name="muon", engine__name="deepspeed", engine__zero_stage=3), 0, 2)
    assert torch.nn.functional.linear is linear, "DeepSpeed's own keeps more, and would count in what is rehearsed next"
