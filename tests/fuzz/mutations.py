"""What is done to bytes and to trees of values so that they are wrong, mostly a little."""

import copy
import json
import math
import random
import struct
from collections.abc import Callable
from typing import Any

NUMBERS = (0, 1, -1, 2, 7, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, -(2**63))
VALUES: tuple[Callable[[], Any], ...] = (
    *(lambda number=number: number for number in (*NUMBERS, 10**7, 10**12, 10**30, 10**400)),
    *(lambda number=number: number for number in (0.0, -0.5, 1e-320, 1e300, math.nan, math.inf, -math.inf)),
    *(lambda text=text: text for text in ("", "x", "\0", "../../etc/passwd", "a" * 5000, "\ud800", "\u202e", "NaN")),
    *(lambda value=value: value for value in (None, True, False)),
    lambda: [],
    lambda: {},
    lambda: [1] * 500,
    lambda: _nested(list, 50),
    lambda: _nested(list, 600),
    lambda: _nested(dict, 300),
)


def _nested(kind: type, depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


def mutate_bytes(rng: random.Random, data: bytes, others: list[bytes] | None = None) -> bytes:
    """One to eight changes: flipped bits, numbers, pieces cut out, doubled, moved, put in, or of another file."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        rng.choice((_flip, _flip, _number, _number, _cut, _double, _truncate, _noise, _splice))(
            rng, changed, rng.choice(others or [data])
        )
    return bytes(changed)


def _flip(rng: random.Random, data: bytearray, _other: bytes) -> None:
    if data:
        place = _place(rng, data)
        data[place] ^= 1 << rng.randrange(8)


def _number(rng: random.Random, data: bytearray, _other: bytes) -> None:
    form, bits = rng.choice((("B", 8), ("<H", 16), (">H", 16), ("<I", 32), (">I", 32), ("<Q", 64), (">Q", 64)))
    packed = struct.pack(form, rng.choice(NUMBERS) % 2**bits)
    place = _place(rng, data)
    data[place : place + len(packed)] = packed


def _cut(rng: random.Random, data: bytearray, _other: bytes) -> None:
    place = _place(rng, data)
    del data[place : place + rng.choice((1, 4, 16, 200))]


def _double(rng: random.Random, data: bytearray, _other: bytes) -> None:
    place = _place(rng, data)
    data[place:place] = data[place : place + rng.choice((1, 4, 16, 200))] * rng.choice((1, 1, 50))


def _truncate(rng: random.Random, data: bytearray, _other: bytes) -> None:
    del data[_place(rng, data) :]


def _noise(rng: random.Random, data: bytearray, _other: bytes) -> None:
    place = _place(rng, data)
    data[place : place + 8] = rng.randbytes(rng.choice((1, 8, 64)))


def _splice(rng: random.Random, data: bytearray, other: bytes) -> None:
    data[_place(rng, data) :] = other[_place(rng, other) :]


def _place(rng: random.Random, data: bytes | bytearray) -> int:
    """Anywhere; every other time near the beginning or the end, where headers and directories are."""
    if not data:
        return 0
    near = min(len(data), rng.choice((16, 64, 512)))
    return rng.choice((rng.randrange(len(data)), rng.randrange(near), len(data) - 1 - rng.randrange(near)))


def mutate_tree(rng: random.Random, tree: Any) -> Any:
    """A copy of a JSON tree with one to three values, keys or entries changed."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return rng.choice(VALUES)()
        holder, key = rng.choice(places)
        what = rng.randrange(10)
        if what < 7:
            holder[key] = rng.choice(VALUES)()
        elif what == 7:
            del holder[key]
        elif isinstance(holder, dict):
            holder[rng.choice(("dtype", "__metadata__", "_class_name", "quantization_config", "", "a" * 3000))] = (
                rng.choice(VALUES)()
            )
        else:
            holder.append(rng.choice(VALUES)())
    return tree


def _places(tree: Any, depth: int = 0):
    if depth > 20:
        return
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from _places(value, depth + 1)


def to_json(tree: Any) -> bytes:
    """JSON, with Python's NaN and numbers of any length."""
    return json.dumps(tree).encode("utf-8", "surrogatepass")
