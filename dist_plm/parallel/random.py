"""Random state of each axis.

Stateful draws by modules that know nothing of samples or names come from the streams of this rank:

===================  ==================================  ============================================
stream               drawn from by                       over the ranks
===================  ==================================  ============================================
default              all that names no stream            equal on tensor ranks, different over others
data-parallel-rng    what tensor ranks hold whole        equal on tensor ranks, different over others
model-parallel-rng   what is split over tensor ranks     different on every rank
expert-parallel-rng  experts                             different on every rank
===================  ==================================  ============================================

The last three are Megatron-core's, which its layers ask for by name. Draws that must not depend on the grid, such as
the initial weights, use generators of their own, seeded by `key`.
"""

import hashlib
from dataclasses import dataclass
from typing import TypedDict

import torch

from dist_plm.parallel.grid import Coordinates
from dist_plm.parallel.groups import random_tracker


class RandomState(TypedDict):
    """What a checkpoint keeps: the state of the CPU's generator, of the device's, and of each named stream."""

    cpu: torch.Tensor
    device: torch.Tensor
    streams: dict[str, torch.Tensor]


def key(*parts: int | str) -> int:
    """A seed of 63 bits that depends on all of `parts` and their order, the same in every process and version.

    BLAKE2b (RFC 7693) of an encoding in which no two sequences of parts are alike.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        text = str(part).encode()
        digest.update(b"%c%d:%b" % (b"i" if isinstance(part, int) else b"s", len(text), text))
    return int.from_bytes(digest.digest(), "big") >> 1


@dataclass(frozen=True, slots=True)
class RandomStreams:
    """The streams of the rank at `coordinates`. A process has one set, which this seeds, reads and restores."""

    seed: int
    coordinates: Coordinates

    def start(self) -> None:
        """Seed every stream."""
        tensor, *others = self.coordinates
        tracker = random_tracker()
        tracker.reset()
        tracker.add("data-parallel-rng", key(self.seed, "data-parallel-rng", *others))
        for name in ("model-parallel-rng", "expert-parallel-rng"):
            tracker.add(name, key(self.seed, name, tensor, *others))
        default = key(self.seed, "default", *others)
        torch.default_generator.manual_seed(default)
        torch.cuda.manual_seed(default)

    def state(self) -> RandomState:
        """A copy of the state of every stream."""
        return {
            "cpu": torch.get_rng_state(),
            "device": torch.cuda.get_rng_state(),
            "streams": {name: state.clone() for name, state in random_tracker().get_states().items()},
        }

    def load_state(self, state: RandomState) -> None:
        """Continue every stream from `state`."""
        torch.set_rng_state(state["cpu"])
        torch.cuda.set_rng_state(state["device"])
        random_tracker().set_states({name: stream.clone() for name, stream in state["streams"].items()})
