"""Declares what a rank says to others in a step: its collectives and messages, in the order that it issues them."""

import math
from dataclasses import dataclass

#: Bytes of an element, by the names of PyTorch's types.
ITEM_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int64": 8, "int32": 4, "uint8": 1, "bool": 1}


@dataclass(frozen=True, slots=True)
class Payload:
    """A tensor that a rank gives to a collective or message, or makes room for."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES.get(self.dtype, 1)


@dataclass(frozen=True, slots=True)
class Call:
    """One collective or message of one rank.

    Args:
        operation: "all_reduce", "send", …
        group: the ranks that take part, of the whole job.
        payload: what the rank gives, or of a receiver where it puts what comes.
        detail: what all have to agree on as well: "sum", "root 0", "tag 0".
        peer: the other rank of a message.
        when: in the step.
        where: in the code.
    """

    operation: str
    group: tuple[int, ...]
    payload: tuple[Payload, ...]
    detail: str
    peer: int | None
    when: str
    where: str

    @property
    def is_message(self) -> bool:
        """Whether it joins two ranks rather than all of the group."""
        return self.peer is not None

    @property
    def spoken(self) -> str:
        """Says what it is, without whom it joins."""
        given = ", ".join(map(str, self.payload)) or "nothing"
        return f"{self.operation}{f' ({self.detail})' if self.detail else ''} of {given}"

    @property
    def placed(self) -> str:
        """Says where it stands."""
        return f"{self.when}, {self.where}"

    @property
    def bytes_sent(self) -> float:
        """Counts what the rank puts onto its links: collectives in rings (Thakur et al. 2005, section 4), each message once."""
        size, others = sum(one.num_bytes for one in self.payload), len(self.group) - 1
        share = others / len(self.group)
        if self.operation == "recv":
            return 0.0
        return size * {"all_reduce": 2 * share, "all_gather": float(others), "reduce_scatter": share}.get(
            self.operation, 1.0 if others else 0.0
        )


#: What one rank says, in order.
Ledger = list[Call]
