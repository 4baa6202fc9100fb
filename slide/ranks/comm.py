"""Ranks: a communicator that moves arrays and counts the bytes that arrive, by their purpose.

We add up sums ourselves, in the order of the ranks: every rank gets the same bits, whichever MPI library and network it
uses.
"""

from __future__ import annotations

import pickle
from collections import Counter
from types import ModuleType
from typing import TypeVar

import numpy as np

from slide.system.extras import load_extra

T = TypeVar("T")


def mpi() -> ModuleType:
    """Return mpi4py's module ``MPI``; MissingExtra if it is not installed."""
    return load_extra("mpi4py.MPI", "mpi", "distributed training")


class Traffic:
    """Counts what a rank has received from others, over all its communicators.

    Attributes
    ----------
    bytes, calls : Counter
        Bytes received, and calls, by kind, such as ``"features"``.
    """

    def __init__(self) -> None:
        self.bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def add(self, kind: str, nbytes: int) -> None:
        """Count a call that brings `nbytes` from other ranks."""
        self.bytes[kind] += int(nbytes)
        self.calls[kind] += 1

    def copy(self) -> Traffic:
        """Return a copy, which does not count on."""
        other = Traffic()
        other.bytes, other.calls = self.bytes.copy(), self.calls.copy()
        return other


class Pending:
    """An exchange that has begun.

    Parameters
    ----------
    request : MPI.Request or None
        None if there is nothing to wait for.
    result : array
        The array that it fills.
    sent : object
        What must stay in memory until it is over.
    """

    def __init__(self, request, result: np.ndarray, sent: object):
        self._request, self._result, self._sent = request, result, sent

    def wait(self) -> np.ndarray:
        """Wait for the end and return the result."""
        if self._request is not None:
            self._request.Wait()
            self._request = self._sent = None
        return self._result


class Ranks:
    """A group of processes that exchange arrays. All of them must call every method, in the same order.

    The argument `kind` of the methods says under which name the bytes are counted.

    Parameters
    ----------
    comm : mpi4py communicator
        Must have no other user: give a duplicate if it has.
    traffic : Traffic, optional
        Where received bytes are counted.

    Attributes
    ----------
    rank : int
        Number of this process, from 0.
    size : int
        Number of processes.
    """

    def __init__(self, comm, traffic: Traffic | None = None):
        self.comm = comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.traffic = traffic or Traffic()
        self._byte = mpi().BYTE

    def split(self, colour: int, key: int) -> Ranks:
        """Return the ranks of one colour, in the order of their keys; they count in the same `Traffic`."""
        return Ranks(self.comm.Split(colour, key), self.traffic)

    def allgather(self, kind: str, array: np.ndarray) -> np.ndarray:
        """Return every rank's array [size, ...]; all have the same shape and type."""
        return self.iallgather(kind, array).wait()

    def iallgather(self, kind: str, array: np.ndarray) -> Pending:
        """Begin what ``allgather`` does."""
        array = np.ascontiguousarray(array)
        out = np.empty((self.size, *array.shape), array.dtype)
        self.traffic.add(kind, out.nbytes - array.nbytes)
        if self.size == 1:
            out[0] = array
            return Pending(None, out, None)
        return Pending(self.comm.Iallgather(self._bytes(array), self._bytes(out)), out, array)

    def allgatherv(self, kind: str, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Return the rows of all ranks, those of rank 0 first; `counts` has the number of rows of each rank."""
        return self.iallgatherv(kind, rows, counts).wait()

    def iallgatherv(self, kind: str, rows: np.ndarray, counts: np.ndarray) -> Pending:
        """Begin what ``allgatherv`` does."""
        rows = np.ascontiguousarray(rows)
        out = np.empty((int(np.sum(counts)), *rows.shape[1:]), rows.dtype)
        self.traffic.add(kind, out.nbytes - rows.nbytes)
        if self.size == 1:
            out[:] = rows
            return Pending(None, out, None)
        sizes = np.asarray(counts, np.int64) * _row_bytes(rows)
        to = [_flat(out), (sizes, _starts(sizes)), self._byte]
        return Pending(self.comm.Iallgatherv(self._bytes(rows), to), out, rows)

    def alltoallv(self, kind: str, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Send every rank its rows of this rank's array; return the rows that all ranks have for this one.

        Parameters
        ----------
        kind : str
            Name under which the bytes are counted.
        rows : array [sum of counts, ...]
            Rows for rank 0 first.
        counts : int array [size]
            Number of rows that each rank gets; the same on all ranks.

        Returns
        -------
        array [size, counts[rank], ...]
            Rows from rank 0 first.
        """
        return self.ialltoallv(kind, rows, counts).wait()

    def ialltoallv(self, kind: str, rows: np.ndarray, counts: np.ndarray) -> Pending:
        """Begin what ``alltoallv`` does."""
        rows = np.ascontiguousarray(rows)
        mine = int(counts[self.rank])
        out = np.empty((self.size, mine, *rows.shape[1:]), rows.dtype)
        self.traffic.add(kind, out.nbytes - out.nbytes // self.size)
        if self.size == 1:
            out[0] = rows
            return Pending(None, out, None)
        sizes = np.asarray(counts, np.int64) * _row_bytes(rows)
        back = np.full(self.size, mine * _row_bytes(rows), np.int64)
        ends = [[_flat(rows), (sizes, _starts(sizes)), self._byte], [_flat(out), (back, _starts(back)), self._byte]]
        return Pending(self.comm.Ialltoallv(*ends), out, rows)

    def ordered_sum(self, kind: str, array: np.ndarray) -> np.ndarray:
        """Return the sum of all ranks' arrays, the same bits on every rank; all have the same shape and type."""
        flat = np.ascontiguousarray(array).reshape(-1)
        counts = np.diff(len(flat) * np.arange(self.size + 1) // self.size)
        return self.allgatherv(kind, in_order(self.alltoallv(kind, flat, counts)), counts).reshape(np.shape(array))

    def bcast(self, kind: str, value: T, root: int = 0) -> T:
        """Return the value that the root has, which must be possible to pickle."""
        if self.size == 1:
            return value
        mine = pickle.dumps(value) if self.rank == root else b""
        size = np.array([len(mine)], np.int64)
        self.comm.Bcast(self._bytes(size), root)
        content = np.frombuffer(mine, np.uint8).copy() if mine else np.empty(int(size[0]), np.uint8)
        self.comm.Bcast(self._bytes(content), root)
        self.traffic.add(kind, 0 if self.rank == root else content.nbytes + size.nbytes)
        return pickle.loads(content.tobytes())

    def agree(self, kind: str, value: bool) -> bool:
        """Return rank 0's answer to a question."""
        return bool(self.bcast_array(kind, np.array([value]))[0])

    def bcast_array(self, kind: str, array: np.ndarray) -> np.ndarray:
        """Return the array of rank 0, which has the same shape and type."""
        array = np.ascontiguousarray(array)
        if self.size > 1:
            array = array if array.flags.writeable else array.copy()
            self.comm.Bcast(self._bytes(array), 0)
        self.traffic.add(kind, 0 if self.rank == 0 else array.nbytes)
        return array

    def gatherv(self, kind: str, rows: np.ndarray, counts: np.ndarray) -> np.ndarray | None:
        """Return on rank 0 what ``allgatherv`` returns, and None on the others."""
        rows = np.ascontiguousarray(rows)
        if self.size == 1:
            return rows
        if self.rank:
            self.comm.Gatherv(self._bytes(rows), None, 0)
            self.traffic.add(kind, 0)
            return None
        out = np.empty((int(np.sum(counts)), *rows.shape[1:]), rows.dtype)
        sizes = np.asarray(counts, np.int64) * _row_bytes(rows)
        self.comm.Gatherv(self._bytes(rows), [_flat(out), (sizes, _starts(sizes)), self._byte], 0)
        self.traffic.add(kind, out.nbytes - rows.nbytes)
        return out

    def _bytes(self, array: np.ndarray) -> list:
        return [_flat(array), self._byte]


def in_order(parts: np.ndarray) -> np.ndarray:
    """Return the sum over the first axis, added one after the other."""
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)


def _row_bytes(rows: np.ndarray) -> int:
    return int(np.prod(rows.shape[1:], dtype=np.int64)) * rows.itemsize


def _starts(sizes: np.ndarray) -> np.ndarray:
    return np.cumsum(sizes) - sizes
