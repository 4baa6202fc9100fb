"""Matrices whose arrays are files mapped into memory: read where needed, and let go of behind the reader."""

from __future__ import annotations

import mmap
import operator
from pathlib import Path
from typing import NoReturn

import numpy as np
from scipy.sparse import csr_matrix

from slide.data.dataset import DataError
from slide.kernels import dtypes
from slide.kernels.sparse import take_rows

ADVICE = {name: getattr(mmap, f"MADV_{name}", None) for name in ("DONTNEED", "WILLNEED")}
"""What to tell the system of pages; None where it does not listen."""


class Mapping:
    """The files of one matrix, mapped.

    Parameters
    ----------
    folder : Path
        Of the data set, for messages.
    letter : str
        The matrix.
    maps : tuple of mmap
        Of the offsets, the column ids and the values.
    arrays : tuple of int64, int32, float32 arrays
        What stands in them, as CSR.

    Attributes
    ----------
    indptr, indices, data : arrays
    """

    def __init__(self, folder: Path, letter: str, maps: tuple[mmap.mmap, ...], arrays: tuple[np.ndarray, ...]):
        self.folder = folder
        self.letter = letter
        self.indptr, self.indices, self.data = arrays
        self._maps = maps

    def release(self) -> None:
        """Take all pages out of this process; the next access finds them in the system's cache, or reads them again."""
        if ADVICE["DONTNEED"] is not None:
            for file in self._maps:
                file.madvise(ADVICE["DONTNEED"])

    def fetch(self, starts: np.ndarray, stops: np.ndarray) -> None:
        """Have the system read ranges of rows, which will soon be asked for, in its own time.

        Parameters
        ----------
        starts, stops : int64 arrays
        """
        if ADVICE["WILLNEED"] is None:
            return
        entries = list(zip(self.indptr[starts].tolist(), self.indptr[stops].tolist(), strict=True))
        for file, array in zip(self._maps[1:], (self.indices, self.data), strict=True):
            header = len(file) - array.nbytes
            for first, last in entries:
                if first < last:
                    begin, end = (header + entry * array.itemsize for entry in (first, last))
                    begin -= begin % mmap.PAGESIZE
                    file.madvise(ADVICE["WILLNEED"], begin, end - begin)

    def refuse(self, part: str, problem: str) -> NoReturn:
        """Raise DataError: a file does not hold what was once checked and written."""
        raise DataError(
            f"{self.folder / f'{self.letter}_{part}.npy'}: {problem}; the folder is damaged, convert the data again"
        )


class MappedMatrix(csr_matrix):
    """A float32 CSR matrix in files, canonical and finite: checked when it was written, and not again.

    Row selection, ``matrix[rows]``, copies the rows alone. Whatever else SciPy does with it may copy all of it, among
    other reasons since the offsets are int64 and the column ids int32.

    Attributes
    ----------
    mapping : Mapping or None
        None for what SciPy derived from such a matrix, which is in memory.
    skipped : int64 array
        Rows of the files, ascending, that the matrix does not have.
    """

    mapping: Mapping | None = None
    skipped: np.ndarray = np.zeros(0, dtypes.OFFSET)

    @classmethod
    def over(cls, mapping: Mapping, n_columns: int) -> MappedMatrix:
        """Return the matrix of mapped files.

        Parameters
        ----------
        mapping : Mapping
        n_columns : int
        """
        matrix = cls((len(mapping.indptr) - 1, n_columns), dtype=dtypes.VALUE)
        matrix.indptr, matrix.indices, matrix.data = mapping.indptr, mapping.indices, mapping.data
        matrix.has_canonical_format = True
        matrix.mapping = mapping
        return matrix

    def without(self, rows: np.ndarray) -> MappedMatrix:
        """Return the matrix without some rows, for row selection, batches and `slide.data.statistics` alone.

        It has no arrays that SciPy could read.

        Parameters
        ----------
        rows : int64 array
            Ascending.
        """
        matrix = MappedMatrix((0, 0), dtype=dtypes.VALUE)
        matrix._shape = (self.shape[0] - len(rows), self.shape[1])
        matrix.mapping, matrix.skipped = self.mapping, rows
        return matrix

    def places(self, numbers: np.ndarray) -> np.ndarray:
        """Return where some rows stand in the files.

        Parameters
        ----------
        numbers : int64 array
        """
        if not len(self.skipped):
            return numbers
        # How many rows the matrix has before each that it skips.
        before = self.skipped - np.arange(len(self.skipped))
        return numbers + np.searchsorted(before, numbers, side="right")

    def __getitem__(self, key):
        """Return rows, or what SciPy returns of these rows, as a matrix in memory."""
        if self.mapping is None:
            return super().__getitem__(key)
        if isinstance(key, tuple):
            rows, *columns = key
            return self[rows][(slice(None), *columns)]
        return self.rows(_row_numbers(key, self.shape[0]))

    def rows(self, numbers: np.ndarray) -> csr_matrix:
        """Return some rows as a matrix in memory.

        Parameters
        ----------
        numbers : int64 array [n]
            From 0, in any order.

        Raises
        ------
        DataError
            The files are damaged.
        """
        source, places = self.mapping, self.places(numbers)
        total = max(int((source.indptr[places + 1] - source.indptr[places]).sum()), 0)
        indptr = np.zeros(len(places) + 1, dtypes.OFFSET)
        indices, data, plain = np.zeros(total, dtypes.INDEX), np.zeros(total, dtypes.VALUE), np.zeros(0, dtypes.VALUE)
        try:
            take_rows(source.indptr, source.indices, source.data, plain, places, False, indptr, indices, data)
        except ValueError as error:
            source.refuse("indptr", str(error))
        self.check(indices, data)
        source.release()
        return csr_matrix((data, indices, indptr), shape=(len(numbers), self.shape[1]))

    def check(self, indices: np.ndarray, values: np.ndarray) -> None:
        """Raise DataError if entries that were read cannot be what was written: kernels trust ids.

        Parameters
        ----------
        indices : int32 array
        values : float32 array
        """
        if len(indices) and not 0 <= indices.min() <= indices.max() < self.shape[1]:
            wrong = indices[(indices < 0) | (indices >= self.shape[1])][0]
            self.mapping.refuse("indices", f"the id {wrong} is not one of the {self.shape[1]:,} columns")
        if not np.isfinite(values).all():
            self.mapping.refuse("data", "a value is not finite")

    def __reduce__(self):
        """Pickle as a matrix in memory."""
        return csr_matrix, ((np.array(self.data), np.array(self.indices), np.array(self.indptr)), self.shape)


def _row_numbers(key, n: int) -> np.ndarray:
    if isinstance(key, slice):
        return np.arange(*key.indices(n), dtype=dtypes.OFFSET)
    rows = np.asarray(key)
    if rows.dtype == bool:
        if rows.shape != (n,):
            raise IndexError(f"a mask of shape {rows.shape} for {n} rows")
        return np.flatnonzero(rows).astype(dtypes.OFFSET, copy=False)
    rows = np.atleast_1d(rows if rows.size else rows.astype(dtypes.OFFSET))
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise IndexError(f"rows are selected by whole numbers, a mask or a slice, not by {rows.ndim}-D {rows.dtype}")
    if ((rows < -n) | (rows >= n)).any():
        wrong = rows[(rows < -n) | (rows >= n)][0]
        raise IndexError(f"row {operator.index(wrong)} is not one of {n}")
    return np.where(rows < 0, rows + n, rows).astype(dtypes.OFFSET, copy=False)
