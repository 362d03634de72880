"""Finds where the ledgers of ranks do not fit together: on real ranks each of these is a hang, a crash or a wrong number.

Needs no PyTorch.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

from dist_plm.plan.rehearsal.ledger import Call, Ledger

#: Groups with more ranks than these are named by their first and last.
_MOST_NAMED = 8


def disagreements(ledgers: Mapping[int, Ledger]) -> list[str]:
    """Compares what the ranks said, by rank: inside every group, and of every message between two of them.

    A rank whose ledger is not here is taken to agree. Of each pair of ranks the first disagreement is told: what follows
    comes from it. Where all pairs agree, three ranks and more may still wait for each other in a circle.
    """
    return [*_in_groups(ledgers), *_of_messages(ledgers)] or list(_in_circles(ledgers))


def _in_groups(ledgers: Mapping[int, Ledger]) -> Iterator[str]:
    """Two ranks have to call what they share in one order, over all groups that hold both."""
    told: set[int] = set()
    for first, second in _pairs(ledgers):
        if second in told:  # by a pair before: it disagrees with all alike
            continue
        shared = [
            [call for call in ledgers[rank] if not call.is_message and other in call.group]
            for rank, other in ((first, second), (second, first))
        ]
        for number, (one, other) in enumerate(zip_longest(*shared)):
            if one is None or other is None or _key(one) != _key(other):
                told.add(second)
                yield _mismatch(number, (first, one), (second, other))
                break


def _pairs(ledgers: Mapping[int, Ledger]) -> list[tuple[int, int]]:
    """Joins each rank with the first of each group that holds it, whether or not it calls that group itself: agreement goes on
    from there."""
    callers: dict[tuple[int, ...], list[int]] = {}
    for rank in sorted(ledgers):
        for group in {call.group for call in ledgers[rank] if not call.is_message}:
            callers.setdefault(group, []).append(rank)
    joined = {
        (min(first, rank), max(first, rank))
        for group, (first, *_) in callers.items()
        for rank in group
        if rank in ledgers and rank != first
    }
    return sorted(joined)


def _key(call: Call) -> tuple[object, ...]:
    if call.operation == "all_to_all":  # whose parts may differ in size
        return call.operation, call.group, tuple(one.dtype for one in call.payload)
    return call.operation, call.group, call.payload, call.detail


def _mismatch(number: int, one: tuple[int, Call | None], other: tuple[int, Call | None]) -> str:
    (first, a), (second, b) = one, other
    if a is None or b is None:
        (caller, call), missing = ((second, b), first) if a is None else ((first, a), second)
        assert call is not None
        return (
            f"rank {missing} never joins collective {number + 1} that it shares with rank {caller}: {call.spoken} over "
            f"{named(call.group)} ({call.placed})"
        )
    what = _difference(a, b)
    return (
        f"ranks {first} and {second} disagree in {what} at collective {number + 1} that they share: rank {first} has "
        f"{a.spoken} over {named(a.group)} ({a.placed}), rank {second} {b.spoken} over {named(b.group)} ({b.placed})"
    )


def _difference(a: Call, b: Call) -> str:
    if a.group != b.group:
        return "order: they call different groups"
    if a.operation != b.operation:
        return "what they call"
    if [one.dtype for one in a.payload] != [one.dtype for one in b.payload]:
        return "the type of the numbers"
    return "shape" if a.payload != b.payload else "how they call it"


def _of_messages(ledgers: Mapping[int, Ledger]) -> Iterator[str]:
    """Compares what one sends with what the other receives: as many, in the same order, of the same form."""
    for sender in sorted(ledgers):
        for receiver in sorted(ledgers):
            sent = _messages(ledgers[sender], "send", receiver)
            received = _messages(ledgers[receiver], "recv", sender)
            for number, (out, back) in enumerate(zip_longest(sent, received)):
                if out is None or back is None or (out.payload, out.detail) != (back.payload, back.detail):
                    yield _unmatched(number, sender, receiver, out, back)
                    break


def _messages(ledger: Ledger, operation: str, peer: int) -> list[Call]:
    return [call for call in ledger if call.operation == operation and call.peer == peer]


def _unmatched(number: int, sender: int, receiver: int, out: Call | None, back: Call | None) -> str:
    named_message = f"message {number + 1} from rank {sender} to rank {receiver}"
    if back is None:
        assert out is not None
        return f"{named_message} is never received: rank {sender} has {out.spoken} ({out.placed})"
    if out is None:
        return f"{named_message} is never sent: rank {receiver} waits in {back.spoken} ({back.placed})"
    return (
        f"{named_message} is not what is expected: rank {sender} has {out.spoken} ({out.placed}), rank {receiver} "
        f"{back.spoken} ({back.placed})"
    )


def _in_circles(ledgers: Mapping[int, Ledger]) -> Iterator[str]:
    """Goes through the collectives, each of which begins when all that are here have come to it. Messages wait for nobody here:
    whether a rank waits for one at once, its ledger does not say."""
    calls = {rank: [call for call in ledger if not call.is_message] for rank, ledger in ledgers.items()}
    passed = dict.fromkeys(ledgers, 0)
    waiting: dict[tuple[int, ...], set[int]] = defaultdict(set)
    moving = sorted(ledgers, reverse=True)
    while moving:
        rank = moving.pop()
        if passed[rank] == len(calls[rank]):
            continue
        group = calls[rank][passed[rank]].group
        waiting[group].add(rank)
        if all(other in waiting[group] for other in group if other in ledgers):
            for other in waiting.pop(group):
                passed[other] += 1
                moving.append(other)
    stuck = {rank: calls[rank][passed[rank]] for rank in sorted(ledgers) if passed[rank] < len(calls[rank])}
    if stuck:
        yield _circle(stuck)


def _circle(stuck: Mapping[int, Call]) -> str:
    """Names ranks that wait for each other, of those that go no further; each waits in its call."""
    rank, met = min(stuck), list[int]()
    while rank not in met:
        met.append(rank)
        call = stuck[rank]
        rank = next(other for other in call.group if other in stuck and stuck[other].group != call.group)
    ranks = met[met.index(rank) :]
    waits = [f"rank {one} in {stuck[one].spoken} over {named(stuck[one].group)} ({stuck[one].placed})" for one in ranks]
    return f"{named(ranks)} wait for each other in a circle: {'; '.join(waits)}"


def named(ranks: Sequence[int]) -> str:
    """Names the ranks of a group."""
    if len(ranks) > _MOST_NAMED:
        return f"{len(ranks)} ranks ({ranks[0]}, {ranks[1]}, …, {ranks[-1]})"
    return f"ranks {', '.join(map(str, ranks))}"
