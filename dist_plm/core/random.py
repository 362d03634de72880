"""Seeds by name: every draw is keyed by what it is for, so no random state is kept, and none depends on the grid.

Initial weights are keyed by parameter, dropout by layer and sample, corruption and order by sample.
"""

import hashlib


def key(*parts: int | str) -> int:
    """A seed of 63 bits that depends on all of `parts` and their order, the same in every process and version.

    BLAKE2b (RFC 7693) of an encoding in which no two sequences of parts are alike.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        text = str(part).encode()
        digest.update(b"%c%d:%b" % (b"i" if isinstance(part, int) else b"s", len(text), text))
    return int.from_bytes(digest.digest(), "big") >> 1
