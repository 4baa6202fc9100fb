"""A saved network in shards: each of several processes writes the rows that it has, and reads those that it needs.

The format, layout ``"shards"``
-------------------------------
A saved network (`slide.persist.format`, version 3) whose arrays are in several files each: shards. Beside
``network.json`` is ``shards.json``: ``format`` (``"slide-shards"``), ``version`` (1) and ``arrays``, a list of shards
for each array by its name, in any order. A shard has

- ``file``: an array in NumPy's format, ``NAME.SHARD.npy``: some rows of the whole array;
- ``rows``: which rows of the whole array these are: ``[start, stop, step]`` as of a Python range, or the name of a file
  with their numbers, int64, if they are not a range;
- ``crc32``: a checksum of each block of ``block`` rows, so that a reader can check the rows that it reads without
  reading all.

Reading does not depend on how many processes wrote: any number can read, each the rows it needs, and one process can
read everything. Hash tables over only some of the labels are an exception: their codes and, in ``network.json``, their
state have names that say which labels they cover (``LayerStack.table_name``). A process with other labels builds its
tables anew before the next batch.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slide.files.atomic import write_file
from slide.files.fields import read_json
from slide.files.npy import write_blocks
from slide.kernels.bfloat16 import BFloat16View
from slide.persist import format
from slide.persist.checks import CheckpointError, checked
from slide.persist.format import Arrays, map_file, read_manifest

FORMAT = "slide-shards"
VERSION = 1
MANIFEST = "shards.json"

BLOCK_BYTES = 1 << 22
"""Approximate number of bytes that are written, checked and read at a time."""

Rows = range | NDArray[np.int64]
"""Numbers of some rows of a whole array, in order."""


class Part(NamedTuple):
    """Some rows of an array in memory; `rows` says which rows of the whole array these are."""

    array: np.ndarray | BFloat16View
    rows: Rows

    def piece(self, piece: int, pieces: int) -> Part:
        """Return one of `pieces` nearly equal pieces."""
        own = even_part(len(self.rows), piece, pieces)
        some = slice(own.start, own.stop)
        array = self.array
        return Part(BFloat16View(array.bits[some]) if isinstance(array, BFloat16View) else array[some], self.rows[some])


def even_part(n: int, part: int, parts: int) -> range:
    """Return one of `parts` nearly equal ranges of n rows."""
    return range(n * part // parts, n * (part + 1) // parts)


def write_shard(folder: Path, name: str, shard: str, part: Part) -> dict:
    """Write some rows of an array and flush them to the disk; return the shard's entry in ``shards.json``.

    Parameters
    ----------
    folder : Path
        Folder of the saved network.
    name : str
        Name of the array.
    shard : str
        Name of the shard, different for each process.
    part : Part
        The rows.

    Raises
    ------
    OSError
        A file cannot be written.
    """
    array, rows = part
    if len(array) != len(rows):
        raise ValueError(f"{name}: {len(array)} rows, but {len(rows)} row numbers")
    # bfloat16 numbers are written as float32, as in every saved network.
    dtype = np.dtype(array.dtype)
    size = max(1, BLOCK_BYTES // max(1, dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))))
    sums: list[int] = []

    def write(stream: BinaryIO) -> None:
        def summed() -> Iterator[np.ndarray]:
            for first in range(0, len(rows), size):
                block = np.ascontiguousarray(array[first : first + size])
                sums.append(zlib.crc32(block.data))
                yield block

        write_blocks(stream, dtype, array.shape, summed())

    file = f"{name}.{shard}.npy"
    write_file(folder / file, write)
    entry = {"file": file, "rows": None, "block": size, "crc32": sums}
    if isinstance(rows, range):
        return entry | {"rows": [rows.start, rows.stop, rows.step]}
    numbers = f"{name}.{shard}.rows.npy"
    write_file(folder / numbers, lambda stream: np.lib.format.write_array(stream, np.asarray(rows, np.int64)))
    return entry | {"rows": numbers}


def write_manifest(folder: Path, entries: Iterable[dict[str, dict]]) -> None:
    """Write ``shards.json``; `entries` has, for each process, the entries of its shards by array."""
    arrays: dict[str, list[dict]] = {}
    for written in entries:
        for name, entry in written.items():
            arrays.setdefault(name, []).append(entry)
    text = json.dumps({"format": FORMAT, "version": VERSION, "arrays": arrays})
    write_file(folder / MANIFEST, lambda stream: stream.write(text.encode()))


class ShardedFolder:
    """The files of a network that was saved in shards; see `slide.persist.format.Source`.

    Raises
    ------
    CheckpointError
        ``shards.json`` is damaged or of another version.
    """

    def __init__(self, path: Path):
        self._path = path
        self.manifest = path / format.MANIFEST
        where = path / MANIFEST
        try:
            values = read_json(where)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{where}: {error}") from None
        if not isinstance(values, dict) or (values.get("format"), values.get("version")) != (FORMAT, VERSION):
            raise CheckpointError(f"{where}: not a {FORMAT} file of version {VERSION}; a newer slide may read it")
        try:
            self._shards = {name: [_Shard(path, e) for e in entries] for name, entries in values["arrays"].items()}
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise CheckpointError(f"{where}: {error!r}") from None

    @property
    def names(self) -> list[str]:
        """Names of all arrays."""
        return sorted(self._shards)

    def about(self) -> object:
        """Return what ``network.json`` says."""
        return read_manifest(self._path)

    def name(self, name: str) -> Path:
        """Return where an array is, for messages."""
        return self._path / name

    def size(self, name: str) -> int:
        """Return the bytes that could be an array's, 0 if it is not there."""
        # Count each file once, however often a manifest lists it.
        return sum({shard.file: shard.size() for shard in self._shards.get(name, ())}.values())

    def read(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return a whole array; CheckpointError if it is not there, incomplete, damaged or not as expected."""
        if not np.prod(shape, dtype=np.int64):
            return np.empty(shape, dtype)
        # Check before memory is allocated for what a manifest promises.
        if self.size(name) < int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize:
            raise CheckpointError(f"{self.name(name)}: incomplete, its shards together are not {dtype} {list(shape)}")
        whole = np.empty(shape, dtype)
        for places, values in self.blocks(name, shape, whole.dtype, range(len(whole))):
            whole[places] = values
        return whole

    def blocks(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype, wanted: Rows
    ) -> Iterator[tuple[slice | np.ndarray, np.ndarray]]:
        """Yield the wanted rows of an array, a block at a time: their places among those wanted, and their values.

        Only blocks with wanted rows are read. `shape` is that of the whole array.

        Raises
        ------
        CheckpointError
            A row is in no shard or in two, or a shard is damaged or not as expected.
        """
        if name not in self._shards:
            raise CheckpointError(f"{self._path / MANIFEST}: there is no {name}; the network was not saved completely")
        found = np.zeros(len(wanted), np.uint8)
        finder = _Finder(wanted)
        for shard in self._shards[name]:
            for places, values in shard.blocks(shape, dtype, finder):
                found[places] += 1
                yield places, values
        if (found != 1).any():
            row = wanted[int(np.flatnonzero(found != 1)[0])]
            raise CheckpointError(
                f"{self.name(name)}: row {row:,} is in {found[found != 1][0]} of the shards that {MANIFEST} lists, "
                "expected in one; the checkpoint is incomplete or is a mixture of several: take an older one"
            )


class _Shard:
    """A file with some rows of an array."""

    def __init__(self, folder: Path, entry: dict):
        for name in {entry["file"], *([entry["rows"]] if isinstance(entry["rows"], str) else ())}:
            # A manifest may come from anywhere: it must not make us read files outside its folder.
            if not isinstance(name, str) or os.path.basename(name) != name:
                raise ValueError(f"{name!r} is not the name of a file")
        self.file, self._folder = folder / entry["file"], folder
        self._rows: str | range = entry["rows"] if isinstance(entry["rows"], str) else range(*entry["rows"])
        # Raises OverflowError for more rows than any array can have.
        len(self._rows)
        self._block, self._sums = int(entry["block"]), list(entry["crc32"])
        if self._block < 1:
            raise ValueError(f"blocks of {self._block} rows")

    def size(self) -> int:
        """Return the bytes of the file, 0 if there is none."""
        return self.file.stat().st_size if self.file.is_file() else 0

    def blocks(
        self, shape: tuple[int, ...], dtype: np.dtype, finder: _Finder
    ) -> Iterator[tuple[slice | np.ndarray, np.ndarray]]:
        """Yield the wanted rows, a block at a time; see `ShardedFolder.blocks`."""
        array, rows = self._open(shape, dtype)
        for i, expected in enumerate(self._sums):
            block = slice(i * self._block, (i + 1) * self._block)
            mine, places = finder.find(rows[block])
            if not len(places):
                continue
            values = np.asarray(array[block])
            if zlib.crc32(np.ascontiguousarray(values).data) != expected:
                raise CheckpointError(
                    f"{self.file}: rows {block.start:,} to {block.stop:,} are not what was written; the disk or the "
                    "copy is damaged: take an older checkpoint"
                )
            yield _as_slice(places), values if mine is None else values[mine]

    def _open(self, shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, Rows]:
        """Return the rows and their numbers, checked except for the checksums."""
        array = map_file(self.file)
        if isinstance(self._rows, str):
            numbers = map_file(self._folder / self._rows)
            # An array without dimensions has no length; it is refused below.
            n = array.shape[:1] or (0,)
            rows: Rows = np.asarray(checked(self._folder / self._rows, numbers, n, np.dtype(np.int64)))
        else:
            rows = self._rows
        checked(self.file, array, (len(rows), *shape[1:]), np.dtype(dtype))
        if len(self._sums) != -(-len(rows) // self._block):
            raise CheckpointError(f"{self.file}: {len(self._sums)} sums for {len(rows):,} rows in {MANIFEST}")
        return array, rows


class _Finder:
    """Finds the places of rows among those wanted."""

    def __init__(self, wanted: Rows):
        self._wanted = wanted
        if not isinstance(wanted, range):
            self._order = np.argsort(wanted, kind="stable")
            self._sorted = np.asarray(wanted)[self._order]

    def find(self, some: Rows) -> tuple[np.ndarray | None, np.ndarray]:
        """Return which of some rows are wanted (None for all), and their places among those wanted."""
        rows = np.arange(some.start, some.stop, some.step) if isinstance(some, range) else np.asarray(some)
        if isinstance(self._wanted, range):
            places, rest = np.divmod(rows - self._wanted.start, self._wanted.step)
            hit = (rest == 0) & (places >= 0) & (places < len(self._wanted))
        else:
            at = np.minimum(np.searchsorted(self._sorted, rows), max(0, len(self._sorted) - 1))
            hit = self._sorted[at] == rows if len(self._sorted) else np.zeros(len(rows), bool)
            places = self._order[at] if len(self._sorted) else at
        return (None, places) if hit.all() else (np.flatnonzero(hit), places[hit])


def _as_slice(places: np.ndarray) -> slice | np.ndarray:
    """Return consecutive places as a slice, so that their rows are copied faster; other places as they are."""
    first, last = int(places[0]), int(places[-1])
    if last - first + 1 == len(places) and (np.diff(places) == 1).all():
        return slice(first, last + 1)
    return places


def take_rows(
    source: Arrays, name: str, shape: tuple[int, ...], dtype: np.dtype, wanted: Rows
) -> Iterator[tuple[slice | np.ndarray, np.ndarray]]:
    """Yield the wanted rows of an array of any saved network; see `ShardedFolder.blocks`."""
    if isinstance(source, ShardedFolder):
        yield from source.blocks(name, shape, dtype, wanted)
        return
    whole = source.read(name, shape, dtype)
    size = max(1, BLOCK_BYTES // max(1, np.dtype(whole.dtype).itemsize * int(np.prod(shape[1:], dtype=np.int64))))
    for first in range(0, len(wanted), size):
        places = slice(first, min(len(wanted), first + size))
        rows = wanted[places]
        yield places, whole[rows.start : rows.stop : rows.step] if isinstance(rows, range) else whole[rows]
