"""Saved networks in shards: each of several processes writes the rows that it has, and reads those that it wants.

The format, layout ``"shards"``
-------------------------------
A saved network (`slide.persist.saved_network`, version 3) whose arrays are not in one file each but in shards. Beside
``network.json`` stands ``shards.json``: ``format`` (``"slide-shards"``), ``version`` (1) and ``arrays``, by name a list
of shards, in any order. A shard has

- ``file``: an array in NumPy's format, ``NAME.SHARE.npy``, some rows of the whole, whose other axes it has;
- ``rows``: which rows of the whole these are, ``[start, stop, step]`` as of a Python range, or the name of a file with
  their numbers, int64, for those that follow no rule;
- ``crc32``: of each block of ``block`` rows, so that a reader checks what it reads without reading all.

Who wrote how much is of no account for who reads it: any number of processes, each the rows that it asks for, or one
that puts the whole together. Hash tables over some of the labels alone are another matter: their codes and, in
``network.json``, where they stand have names of their own, which say of which part (``Network.table_name``); who has
other labels builds its tables anew before the next batch.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slide.files.atomic import write_file
from slide.files.fields import read_json
from slide.files.npy import write_blocks
from slide.kernels.bfloat16 import BFloat16View
from slide.persist import format
from slide.persist.checks import CheckpointError, checked
from slide.persist.format import map_file, read_manifest

FORMAT = "slide-shards"
VERSION = 1
MANIFEST = "shards.json"

BLOCK_BYTES = 1 << 22
"""What is written, summed and read at a time, about."""

Rows = range | NDArray[np.int64]
"""Which rows of a whole a part of it has, in its order."""


class Part(NamedTuple):
    """Some rows of an array, as they are in memory.

    Attributes
    ----------
    array : array or BFloat16View
    rows : range or int64 array
        Which rows of the whole these are.
    """

    array: np.ndarray | BFloat16View
    rows: Rows

    def piece(self, piece: int, pieces: int) -> Part:
        """Return one of so many nearly equal pieces.

        Parameters
        ----------
        piece, pieces : int
        """
        own = even_part(len(self.rows), piece, pieces)
        own = slice(own.start, own.stop)
        array = self.array
        return Part(BFloat16View(array.bits[own]) if isinstance(array, BFloat16View) else array[own], self.rows[own])


def even_part(n: int, part: int, parts: int) -> range:
    """Return the part-th of so many nearly equal parts of n rows.

    Parameters
    ----------
    n, part, parts : int
    """
    return range(n * part // parts, n * (part + 1) // parts)


def write_shard(folder: Path, name: str, shard: str, part: Part) -> dict:
    """Write some rows of an array, to the disk itself; return the shard's entry in the manifest.

    Parameters
    ----------
    folder : Path
    name : str
        Of the array.
    shard : str
        Tells the shard's file from those of others.
    part : Part

    Raises
    ------
    OSError
        A file cannot be written.
    """
    array, rows = part
    if len(array) != len(rows):
        raise ValueError(f"{name}: {len(array)} rows, but the numbers of {len(rows)}")
    # bfloat16 numbers are written as float32, as in every saved network.
    dtype = np.dtype(array.dtype)
    size = max(1, BLOCK_BYTES // max(1, dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))))
    sums = []

    def write(stream):
        def summed():
            for first in range(0, len(rows), size):
                block = np.ascontiguousarray(array[first : first + size])
                sums.append(zlib.crc32(block))
                yield block

        write_blocks(stream, dtype, array.shape, summed())

    file = f"{name}.{shard}.npy"
    write_file(folder / file, write)
    if isinstance(rows, range):
        numbers = [rows.start, rows.stop, rows.step]
    else:
        numbers = f"{name}.{shard}.rows.npy"
        write_file(folder / numbers, lambda stream: np.lib.format.write_array(stream, np.asarray(rows, np.int64)))
    return {"file": file, "rows": numbers, "block": size, "crc32": sums}


def write_manifest(folder: Path, entries: list[dict[str, dict]]) -> None:
    """Write ``shards.json``.

    Parameters
    ----------
    folder : Path
    entries : list of dict
        Of each process that wrote shards: their entries, by array.
    """
    arrays = {}
    for written in entries:
        for name, entry in written.items():
            arrays.setdefault(name, []).append(entry)
    text = json.dumps({"format": FORMAT, "version": VERSION, "arrays": arrays})
    write_file(folder / MANIFEST, lambda stream: stream.write(text.encode()))


class ShardedFolder:
    """The arrays of a network that was saved in shards: what `slide.persist.saved_network` reads other saved networks by.

    Parameters
    ----------
    path : Path

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
        """Of the arrays that there are."""
        return sorted(self._shards)

    def about(self) -> object:
        """Return what ``network.json`` says."""
        return read_manifest(self._path)

    def name(self, name: str) -> Path:
        """Return where an array is, for messages.

        Parameters
        ----------
        name : str
        """
        return self._path / name

    def size(self, name: str) -> int:
        """Return the bytes that could be an array's, 0 if it is not there.

        Parameters
        ----------
        name : str
        """
        # Each file once, however often a manifest lists it.
        return sum({shard.file: shard.size() for shard in self._shards.get(name, ())}.values())

    def read(self, name: str, shape: tuple, dtype: np.dtype) -> np.ndarray:
        """Return a whole array.

        Parameters
        ----------
        name : str
        shape : tuple
        dtype : dtype

        Raises
        ------
        CheckpointError
            It is not there, incomplete, damaged or not what was expected.
        """
        if not np.prod(shape, dtype=np.int64):
            return np.empty(shape, dtype)
        # Before memory is allocated for what a manifest promises.
        if self.size(name) < int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize:
            raise CheckpointError(f"{self.name(name)}: incomplete, its shards are not {dtype} {list(shape)} together")
        whole = np.empty(shape, dtype)
        for places, values in self.blocks(name, shape, whole.dtype, range(len(whole))):
            whole[places] = values
        return whole

    def blocks(
        self, name: str, shape: tuple, dtype: np.dtype, wanted: Rows
    ) -> Iterator[tuple[slice | np.ndarray, np.ndarray]]:
        """Give the wanted rows of an array, a block at a time: their places among those wanted, and their values.

        Of a shard's blocks those are read that have any.

        Parameters
        ----------
        name : str
        shape : tuple
            Of the whole.
        dtype : dtype
        wanted : range or int64 array
            Numbers of rows.

        Raises
        ------
        CheckpointError
            A row is in no shard or in two, or a shard is damaged or not what was expected.
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
                "expected in one; the checkpoint is incomplete or was put together from several: take an older one"
            )


class _Shard:
    """A file with some rows of an array."""

    def __init__(self, folder, entry):
        for name in {entry["file"], *([entry["rows"]] if isinstance(entry["rows"], str) else ())}:
            # A manifest that came from elsewhere reads nothing outside its folder.
            if not isinstance(name, str) or os.path.basename(name) != name:
                raise ValueError(f"{name!r} is no file's name")
        self.file, self._folder = folder / entry["file"], folder
        self._rows = entry["rows"] if isinstance(entry["rows"], str) else range(*entry["rows"])
        # More than any array can have raises OverflowError.
        len(self._rows)
        self._block, self._sums = int(entry["block"]), list(entry["crc32"])
        if self._block < 1:
            raise ValueError(f"blocks of {self._block} rows")

    def size(self):
        return self.file.stat().st_size if self.file.is_file() else 0

    def blocks(self, shape, dtype, finder):
        array, rows = self._open(shape, dtype)
        for i, expected in enumerate(self._sums):
            block = slice(i * self._block, (i + 1) * self._block)
            mine, places = finder.find(rows[block])
            if not len(places):
                continue
            values = np.asarray(array[block])
            if zlib.crc32(np.ascontiguousarray(values)) != expected:
                raise CheckpointError(
                    f"{self.file}: rows {block.start:,} to {block.stop:,} are not what was written; the disk or the "
                    "copy is damaged: take an older checkpoint"
                )
            yield _as_slice(places), values if mine is None else values[mine]

    def _open(self, shape, dtype):
        array = map_file(self.file)
        rows = self._rows
        if isinstance(rows, str):
            numbers = map_file(self._folder / rows)
            # An array without dimensions has no length; it is refused below.
            n = array.shape[:1] or (0,)
            rows = np.asarray(checked(self._folder / rows, numbers, n, np.dtype(np.int64)))
        checked(self.file, array, (len(rows), *shape[1:]), np.dtype(dtype))
        if len(self._sums) != -(-len(rows) // self._block):
            raise CheckpointError(f"{self.file}: {len(self._sums)} sums for {len(rows):,} rows in {MANIFEST}")
        return array, rows



class _Finder:
    """Where rows stand among those wanted."""

    def __init__(self, wanted):
        self._wanted = wanted
        if not isinstance(wanted, range):
            self._order = np.argsort(wanted, kind="stable")
            self._sorted = np.asarray(wanted)[self._order]

    def find(self, rows):
        """Which of some rows are wanted (None for all), and their places among the wanted."""
        rows = np.arange(rows.start, rows.stop, rows.step) if isinstance(rows, range) else np.asarray(rows)
        if isinstance(self._wanted, range):
            places, rest = np.divmod(rows - self._wanted.start, self._wanted.step)
            hit = (rest == 0) & (places >= 0) & (places < len(self._wanted))
        else:
            at = np.minimum(np.searchsorted(self._sorted, rows), max(0, len(self._sorted) - 1))
            hit = self._sorted[at] == rows if len(self._sorted) else np.zeros(len(rows), bool)
            places = self._order[at] if len(self._sorted) else at
        return (None, places) if hit.all() else (np.flatnonzero(hit), places[hit])


def _as_slice(places):
    """Places as a slice where they follow each other: rows that lie together are copied faster."""
    first, last = int(places[0]), int(places[-1])
    if last - first + 1 == len(places) and (np.diff(places) == 1).all():
        return slice(first, last + 1)
    return places


def take_rows(source, name: str, shape: tuple, dtype: np.dtype, wanted: Rows):
    """Give the wanted rows of an array of any saved network, as ``ShardedFolder.blocks`` does.

    Parameters
    ----------
    source : object
        From `slide.persist.saved_network.open_arrays`.
    name : str
    shape : tuple
        Of the whole.
    dtype : dtype
    wanted : range or int64 array

    Raises
    ------
    CheckpointError
        As ``ShardedFolder.blocks`` raises it.
    """
    if isinstance(source, ShardedFolder):
        yield from source.blocks(name, shape, dtype, wanted)
        return
    whole = source.read(name, shape, dtype)
    size = max(1, BLOCK_BYTES // max(1, np.dtype(whole.dtype).itemsize * int(np.prod(shape[1:], dtype=np.int64))))
    for first in range(0, len(wanted), size):
        places = slice(first, min(len(wanted), first + size))
        rows = wanted[places]
        yield places, whole[rows.start : rows.stop : rows.step] if isinstance(rows, range) else whole[rows]