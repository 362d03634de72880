"""Ledgers that do not fit together are told apart, each with the ranks, the moment and the place."""

from dataclasses import replace

import pytest

from dist_plm.plan.rehearsal.disagreements import disagreements
from dist_plm.plan.rehearsal.ledger import Call, Payload

FLOATS = Payload("float32", (4, 8))


def call(operation="all_reduce", group=(0, 1), payload=FLOATS, detail="sum", peer=None, line=1):
    return Call(operation, group, (payload,), detail, peer, "step 1, forward 1", f"dist_plm/some.py:{line}")


def send(to, payload=FLOATS, tag=0):
    return call("send", (0, 1), payload, f"tag {tag}", to)


def receive(source, payload=FLOATS, tag=0):
    return call("recv", (0, 1), payload, f"tag {tag}", source)


def test_equal_ledgers_agree_whatever_the_place():
    ledger = [call(line=1), call(group=(0, 1, 2, 3), line=2)]
    other = [replace(one, where="dist_plm/other.py:9", when="step 1, forward 2") for one in ledger]
    assert disagreements({0: ledger, 1: other}) == []


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (call(payload=Payload("float32", (2, 8))), "disagree in shape at collective 2"),
        (call(payload=Payload("bfloat16", (4, 8))), "disagree in the type of the numbers"),
        (call(detail="max"), "disagree in how they call it"),
        (call("broadcast", detail="root 0"), "disagree in what they call"),
        (call(group=(0, 1, 2, 3)), "disagree in order: they call different groups"),
    ],
)
def test_another_call_is_named_on_both_sides(other, said):
    (problem,) = disagreements({0: [call(), call(line=7)], 1: [call(), replace(other, where="dist_plm/some.py:8")]})
    assert problem.startswith("ranks 0 and 1 ")
    assert said in problem
    assert "step 1, forward 1, dist_plm/some.py:7" in problem
    assert "step 1, forward 1, dist_plm/some.py:8" in problem


def test_a_call_that_a_rank_lacks_is_named():
    (problem,) = disagreements({0: [call(), call(line=5)], 1: [call()]})
    assert problem.startswith("rank 1 never joins collective 2 that it shares with rank 0: all_reduce (sum)")
    assert "dist_plm/some.py:5" in problem
    (problem,) = disagreements({0: [call()], 1: []})
    assert problem.startswith("rank 1 never joins collective 1 that it shares with rank 0")


def test_the_order_of_two_groups_counts_where_they_share_ranks():
    tensor, world = call(group=(0, 1)), call(group=(0, 1, 2, 3))
    assert "in order" in disagreements({0: [tensor, world], 1: [world, tensor]})[0]
    assert disagreements({0: [tensor, world], 2: [world, call(group=(2, 3))]}) == []


def test_ranks_that_wait_for_each_other_in_a_circle_are_named():
    """Each two of them agree."""
    first, second, third = (call(group=group, line=line) for line, group in enumerate([(0, 1), (1, 2), (0, 2)], 7))
    ledgers = {0: [first, third], 1: [second, first], 2: [third, second], 3: [call(group=(3,))]}
    (problem,) = disagreements(ledgers)
    assert problem.startswith(
        "ranks 0, 1, 2 wait for each other in a circle: rank 0 in all_reduce (sum) of float32[4, 8]"
    )
    for line in (7, 8, 9):
        assert f"dist_plm/some.py:{line}" in problem
    assert disagreements(ledgers | {2: [second, third]}) == []


def test_ranks_behind_a_circle_are_not_blamed():
    first, second, third = (call(group=group) for group in [(1, 2), (2, 3), (1, 3)])
    ledgers = {0: [call(group=(0, 1))], 1: [first, third, call(group=(0, 1))], 2: [second, first], 3: [third, second]}
    (problem,) = disagreements(ledgers)
    assert problem.startswith("ranks 1, 2, 3 wait")


def test_a_rank_that_is_not_here_is_taken_to_agree():
    assert disagreements({0: [call(group=(0, 1)), send(1)], 5: [call(group=(4, 5))]}) == []


@pytest.mark.parametrize(
    ("sent", "received", "said"),
    [
        ([send(1), send(1)], [receive(0)], "message 2 from rank 0 to rank 1 is never received"),
        ([send(1)], [receive(0), receive(0)], "message 2 from rank 0 to rank 1 is never sent"),
        ([send(1)], [receive(0, Payload("float32", (2, 8)))], "is not what is expected"),
        ([send(1)], [receive(0, tag=1)], "is not what is expected"),
    ],
)
def test_a_message_without_its_counterpart_is_named(sent, received, said):
    (problem,) = disagreements({0: sent, 1: received})
    assert said in problem
    assert "dist_plm/some.py:1" in problem


def test_rings_send_what_they_send():
    assert call().bytes_sent == 2 * 128 * 1 / 2
    assert call("all_gather", (0, 1, 2, 3)).bytes_sent == 3 * 128
    assert call("reduce_scatter", (0, 1, 2, 3)).bytes_sent == 128 * 3 / 4
    assert call(group=(0,)).bytes_sent == 0
    assert send(1).bytes_sent == 128
    assert receive(0).bytes_sent == 0
