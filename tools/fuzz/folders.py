"""Bytes as edits to the files of a sound folder: an input says which folder, which files and what happens to them.

Every input means something, so that nothing that libFuzzer does to one is lost. Its first byte says which of the sound
folders, and then edits follow one another until the bytes run out.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

OUTSIDE = ("/dev/zero", "../outside", "/proc/self/mem", ".", "missing")
"""Where links of a folder may sample to."""

VALUES = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    3,
    255,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**63,
    2**64,
    10**30,
    10**400,
    0.5,
    -0.0,
    1e300,
    float("inf"),
    float("nan"),
    "",
    "x",
    "../outside",
    "/dev/zero",
    "lsh",
    "full",
    "U100000000",
    "O",
    [],
    {},
    [[]],
    [0, 1],
    {"": 0},
    "BF16",
    "F8_E4M3",
    "F64",
    "BOOL",
    "require",
    "simhash",
    "sparse",
    "drift",
    "hogwild",
    "bf16",
    30,
    1024,
)
"""What a value of a JSON file may become."""

KEYS = ("", "../outside", "../../outside", "/etc/hostname", "x", "format", "hidden", "output", "__class__")
"""Names that a value of a JSON file may have besides."""

HEADERS = (
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }",
    "{'descr': '<f4', 'fortran_order': True, 'shape': (4, 4), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    "{'descr': [('bias', '<f4')], 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 4), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (), }",
    "{'descr': '<U1000000000', 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "(" * 100,
    "{'descr': '>f4', 'fortran_order': False, 'shape': (4,), }",
)
"""What the header of an array may become."""

NUMBERS = (
    b"\x00\x00\xc0\x7f",  # NaN
    b"\x00\x00\x80\xff",  # minus infinity
    b"\xff\xff\x7f\x7f",  # the largest float32
    b"\xff\xff\xff\x7f",  # the largest int32
    b"\x00\x00\x00\x80",  # the smallest int32, or minus zero
    b"\xff\xff\xff\xff",
    b"\x01\x00\x00\x00",
    b"\x00\x00\x00\x00",
)
"""What four bytes of an array may become."""


class Reader:
    """Takes numbers and bytes from the front of an input; zeros once it has run out."""

    def __init__(self, data: bytes):
        self._data, self._at = data, 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def bytes(self, count: int) -> bytes:
        """Return so many bytes, or as many as are left."""
        piece = self._data[self._at : self._at + count]
        self._at += count
        return piece

    def below(self, n: int) -> int:
        """Return a number from 0 to below `n`, of as few bytes as it takes."""
        width = 1 if n <= 256 else 2 if n <= 65536 else 4
        return int.from_bytes(self.bytes(width), "little") % max(n, 1)


def write(folder: Path, data: bytes, bases: list[dict[str, bytes]], *, links: bool = True) -> None:
    """Write one of some sound folders, edited as an input says.

    Parameters
    ----------
    folder : Path
    data : bytes
    bases : list of dict of bytes
        Each has the files of a sound folder by name.
    links : bool
        Whether files may become links, folders and pipes.
    """
    edits = Reader(data)
    files = dict(bases[edits.below(len(bases))])
    names = sorted(files)
    special: dict[str, int] = {}
    while edits:
        kind, name = edits.below(13), names[edits.below(len(names))]
        content = files.get(name, b"")
        if kind == 0:
            place = edits.below(len(content) + 1)
            piece = edits.bytes(edits.below(256))
            files[name] = content[:place] + piece + content[place + len(piece) :]
        elif kind == 1:
            files[name] = edits.bytes(edits.below(65536))
        elif kind == 2:
            files[name] = content[: edits.below(len(content) + 1)]
        elif kind == 3:
            files[name] = content + bytes(edits.below(4096))
        elif kind in (4, 5, 6, 12):
            files[name] = _edit_json(content, kind, edits)
        elif kind == 7:
            header = HEADERS[edits.below(len(HEADERS))].encode().ljust(117)
            files[name] = b"\x93NUMPY\x01\x00\x76\x00" + header + b"\n" + content[128:]
        elif kind == 8:
            # Into the numbers, which stand after the header.
            place = 128 + 4 * edits.below(max(1, (len(content) - 128) // 4))
            files[name] = content[:place] + NUMBERS[edits.below(len(NUMBERS))] + content[place + 4 :]
        elif kind == 9:
            files[name] = files.get(names[edits.below(len(names))], b"")
        elif kind == 10:
            files.pop(name, None)
        elif links:
            special[name] = edits.below(len(OUTSIDE) + 2)
    for name, content in files.items():
        if name in special:
            _make_special(folder / name, special[name])
        else:
            (folder / name).write_bytes(content)


def _make_special(path, kind):
    if kind < len(OUTSIDE):
        path.symlink_to(OUTSIDE[kind])
    elif kind == len(OUTSIDE):
        path.mkdir()
    else:
        os.mkfifo(path)


def _edit_json(content, kind, edits):
    """Change a value, take one away or add one of another name, if these bytes are JSON."""
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        return content
    places = list(_places(tree))
    if not places:
        return content
    parent, key = places[edits.below(len(places))]
    if kind == 4:
        parent[key] = VALUES[edits.below(len(VALUES))]
    elif kind == 5:
        try:
            parent[key] = json.loads(edits.bytes(edits.below(256)))
        except (ValueError, RecursionError):
            parent[key] = "?"
    elif kind == 6:
        del parent[key]
    elif isinstance(parent, dict):
        parent[KEYS[edits.below(len(KEYS))]] = parent[key]
    else:
        parent.append(parent[key])
    return json.dumps(tree).encode()


def count_places(content: bytes) -> int:
    """Return how many values JSON has, nested ones and what they are in."""
    return sum(1 for _ in _places(json.loads(content)))


def _places(tree):
    """Every (container, key) of nested JSON values."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(pairs):
        yield tree, key
        yield from _places(value)
