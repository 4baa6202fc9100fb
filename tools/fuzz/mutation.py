"""Seeded mutations of inputs, for runs of a few seconds without libFuzzer: the same ones on every machine."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

TOKENS = (
    b"\n", b" ", b",", b":", b"#", b"\r\n", b"-", b".", b"e", b"0", b"1", b"2147483647", b"2147483648", b"1000000000",
    b"99999999999999999999", b"1e39", b"nan", b"\x00", b"\xff", b"\xff\xff\xff\xff", b"[", b"{", b"=", b'"', b"true",
    b"PK\x05\x06", b"\x93NUMPY", b"'shape': (", b"<f4", b"|O",
)  # fmt: skip


def mutants(seeds: Sequence[bytes], count: int, seed: int = 0) -> Iterator[bytes]:
    """Return changed inputs.

    Parameters
    ----------
    seeds : sequence of bytes
    count : int
    seed : int
    """
    draw = random.Random(seed)
    for _ in range(count):
        data = bytearray(draw.choice(seeds))
        for _ in range(draw.choice((1, 1, 2, 3, 8))):
            at = draw.randrange(len(data) + 1)
            kind = draw.randrange(6)
            if kind == 0 and at < len(data):
                data[at] ^= 1 << draw.randrange(8)
            elif kind == 1 and at < len(data):
                data[at] = draw.randrange(256)
            elif kind == 2:
                data[at:at] = draw.choice(TOKENS)
            elif kind == 3:
                del data[at : at + draw.randrange(1, 9)]
            elif kind == 4:
                data[at : at + 4] = draw.randbytes(4)
            else:
                other = draw.choice(seeds)
                begin = draw.randrange(len(other) + 1)
                data[at:at] = other[begin : begin + draw.randrange(1, 17)]
        yield bytes(data)
