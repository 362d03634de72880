"""Ways in which files and settings go wrong: bytes that flip, values of another kind, structures without end."""

import json
from random import Random
from typing import Any

MAGIC = (
    *(b"\0", b"\0" * 64, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\n", b"\r\n", b'"', b"{", b"]" * 9),
    *(b"\xef\xbb\xbf", b"\xed\xa0\x80"),
)
NUMBERS = (
    *(0, -1, 1, 2, 255, 2**31, 2**53, 2**63, -(2**63) - 1, 10**30),
    *(0.5, 1e308, -1e308, 1e-320, float("nan"), float("inf")),
)
TEXTS = (
    *("", " ", "x", "x" * 5000, "\0", "../x", "/dev/zero", "a\nb", "\u2028", "١٢", "010", "null", "~/x", "s3://x"),
    *("${oc.env:HOME}", "s3://user:hunter2@host", "\ud800"),
)


def mutate_bytes(data: bytes, rng: Random) -> bytes:
    """`data` with one to three changes, each in a random place."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(data) + 1)
        until = min(len(data), at + rng.choice((1, 2, 8, 100)))
        way = rng.randrange(7)
        if way == 0 and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        elif way == 1:
            data = data[:at]
        elif way == 2:
            data = data[:at] + rng.choice(MAGIC) + data[at:]
        elif way == 3:
            data = data[:at] + data[until:]
        elif way == 4:
            data = data[:at] + rng.choice(MAGIC) + data[until:]
        elif way == 5:
            data = data[:until] + data[at:]
        else:
            data = data[:at] + rng.randbytes(until - at) + data[until:]
    return data


def odd_value(rng: Random) -> Any:
    way = rng.randrange(8)
    if way < 3:
        return rng.choice(NUMBERS)
    if way < 5:
        return rng.choice(TEXTS)
    if way == 5:
        return rng.choice((None, True, False))
    if way == 6:
        return rng.choice(([], {}, [[]], [1], {"x": 1}, [None], {"": {}}))
    deep: Any = 1
    for _ in range(rng.choice((3, 60, 400))):
        deep = [deep]
    return deep


def mutate_value(value: Any, rng: Random) -> Any:
    """`value` of JSON or YAML with one of its parts dropped, doubled, renamed or become another."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.15:
            return {name: inner for name, inner in value.items() if name != key}
        if rng.random() < 0.1:
            return {**value, rng.choice((f"{key}x", "", "__class__", "0")): value[key]}
        return {**value, key: mutate_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            return value[:at] + value[at + 1 :]
        if rng.random() < 0.1:
            return value[: at + 1] + value[at:]
        return [*value[:at], mutate_value(value[at], rng), *value[at + 1 :]]
    return odd_value(rng)


def mutate_json(data: bytes, rng: Random) -> bytes:
    """A JSON text with another value in it, or other bytes."""
    if rng.random() < 0.25:
        return mutate_bytes(data, rng)
    return json.dumps(mutate_value(json.loads(data), rng)).encode()
