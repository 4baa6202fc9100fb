"""Matrices whose arrays are files: mapped into memory for SciPy and for users, read in pieces for training.

Once a page of a mapped file has been read, it counts as memory of this process, and so do the neighbouring pages that
the system reads with it. Samples from all over the file would therefore fill memory with the whole data. So batches,
and figures of the whole data, are read with ordinary calls into memory of their own. This also turns a fault of the
disk into an error, where a mapped page would end the process.
"""

from __future__ import annotations

import mmap
import operator
import os
import weakref
from pathlib import Path
from typing import NoReturn

import numpy as np
from scipy.sparse import csr_matrix

from slide.data.dataset import DataError
from slide.kernels import dtypes


class ArrayFile:
    """A file of `length` numbers after a header of `header` bytes.

    Attributes
    ----------
    array : array [length]
        The numbers, mapped into memory and read-only.
    """

    def __init__(self, path: Path, dtype: np.dtype, length: int, header: int):
        self.path = path
        self._header = header
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._handle)
        mapped = mmap.mmap(self._handle, 0, access=mmap.ACCESS_READ)
        self.array = np.frombuffer(mapped, dtype, length, header)

    def __len__(self) -> int:
        return len(self.array)

    def read(self, first: int, last: int, out: np.ndarray | None = None) -> np.ndarray:
        """Return a copy of the numbers from `first` to before `last`, in `out` if it is given.

        Raises DataError if the file has become shorter, OSError if it cannot be read.
        """
        if out is None:
            out = np.empty(last - first, self.array.dtype)
        view, position = out.data.cast("B"), self._header + first * self.array.itemsize
        while view:
            count = os.preadv(self._handle, [view], position)
            if not count:
                self.refuse(f"the file ends after {position:,} bytes; it had more when it was opened")
            view, position = view[count:], position + count
        return out

    def expect(self, first: int, last: int) -> None:
        """Let the system read some of the numbers in the background, if it can: `read` will ask for them soon."""
        if hasattr(os, "posix_fadvise"):
            size = self.array.itemsize
            begin, length = self._header + first * size, (last - first) * size
            os.posix_fadvise(self._handle, begin, length, os.POSIX_FADV_WILLNEED)

    def refuse(self, problem: str) -> NoReturn:
        """Raise DataError: the file does not hold what was checked when it was written."""
        raise DataError(f"{self.path}: {problem}; the folder is damaged, convert the data again")


class Mapping:
    """The files of one matrix, ``"X"`` or ``"Y"``: the arrays of its CSR form."""

    def __init__(self, letter: str, indptr: ArrayFile, indices: ArrayFile, data: ArrayFile):
        self.letter = letter
        self.indptr, self.indices, self.data = indptr, indices, data


class MappedMatrix(csr_matrix):
    """A float32 CSR matrix in files, canonical and finite, which was checked when it was written.

    Row selection, ``matrix[rows]``, reads only these rows. Any other operation of SciPy may copy the whole matrix, for
    instance because the offsets are int64 and the column ids int32.

    Attributes
    ----------
    mapping : Mapping or None
        None for a matrix that SciPy derived from a mapped one; it is in memory.
    first : int
        Row of the files with which the matrix begins.
    skipped : int64 array
        Rows that the matrix leaves out, ascending and counted from `first`.
    """

    mapping: Mapping | None = None
    first: int = 0
    skipped: np.ndarray = np.zeros(0, dtypes.OFFSET)

    @property
    def files(self) -> Mapping:
        """The files, of a matrix that has them."""
        assert self.mapping is not None, "SciPy derived this matrix from a mapped one; it is in memory"
        return self.mapping

    @classmethod
    def over(cls, mapping: Mapping, n_columns: int) -> MappedMatrix:
        """Return the whole matrix that some files hold."""
        # SciPy's stubs do not have sizes with a dtype for subclasses.
        matrix = cls((len(mapping.indptr) - 1, n_columns), dtype=dtypes.VALUE)  # type: ignore[arg-type]
        matrix.indptr, matrix.indices, matrix.data = (
            file.array for file in (mapping.indptr, mapping.indices, mapping.data)
        )
        matrix.has_canonical_format = True
        matrix.mapping = mapping
        return matrix

    def without(self, rows: np.ndarray) -> MappedMatrix:
        """Return the matrix without some rows, an ascending int64 array.

        The result has no arrays that SciPy could read: it serves row selection, batches and `slide.data.statistics`.
        """
        matrix = self.part(0, self.shape[0] - len(rows))
        matrix.skipped = rows
        return matrix

    def part(self, first: int, last: int) -> MappedMatrix:
        """Return the rows from `first` to before `last`, for the same uses as `without`; no row may be skipped yet."""
        matrix = MappedMatrix((0, 0), dtype=dtypes.VALUE)  # type: ignore[arg-type]
        matrix._shape = (last - first, self.shape[1])  # type: ignore[attr-defined]
        matrix.mapping, matrix.first = self.mapping, self.first + first
        return matrix

    def extent(self) -> tuple[int, int]:
        """Return the first and last (excluded) row of the files that the matrix spans, skipped rows included."""
        return self.first, self.first + self.shape[0] + len(self.skipped)

    def places(self, numbers: np.ndarray) -> np.ndarray:
        """Return the rows of the files that belong to some rows of the matrix, both int64 arrays."""
        if self.first:
            numbers = numbers + self.first
        if not len(self.skipped):
            return numbers
        # Number of rows that the matrix has before each skipped one.
        before = self.skipped - np.arange(len(self.skipped))
        return numbers + np.searchsorted(before, numbers - self.first, side="right")

    def __getitem__(self, key):
        """Return rows, or what SciPy selects from them, as a matrix in memory."""
        if self.mapping is None:
            return super().__getitem__(key)
        if isinstance(key, tuple):
            rows, *columns = key
            part = self[rows]
            # SciPy pairs an array of rows with an array of columns.
            every = 0 if np.isscalar(rows) else slice(None) if isinstance(rows, slice) else np.arange(part.shape[0])
            entries = (every, *columns)
            return part[entries]
        return self.rows(_row_numbers(key, self.shape[0]))

    def rows(self, numbers: np.ndarray) -> csr_matrix:
        """Return rows, int64 [n] from 0 in any order, as a matrix in memory; DataError if the files are damaged."""
        indptr, indices, data = self.read(*stretches(self.places(numbers)))
        return csr_matrix((data, indices, indptr), shape=(len(numbers), self.shape[1]))

    def read(
        self, starts: np.ndarray, stops: np.ndarray, *, with_values: bool = True
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ranges of rows, one after the other, checked because kernels trust ids.

        Parameters
        ----------
        starts, stops : int64 arrays
            Rows of the files, as `places` returns them.
        with_values : bool
            If False, the values returned are empty.

        Returns
        -------
        indptr, indices, values : int64, int32, float32 arrays

        Raises
        ------
        DataError
            The files are damaged.
        """
        files = self.files
        lengths = stops - starts
        indptr = np.zeros(int(lengths.sum()) + 1, dtypes.OFFSET)
        ranges, row, total = [], 0, 0
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            ends = files.indptr.read(start, stop + 1)
            if ends[0] < 0 or ends[-1] > len(files.indices) or (np.diff(ends) < 0).any():
                files.indptr.refuse(f"the offsets of the rows {start:,} to {stop - 1:,} do not ascend within the data")
            indptr[row + 1 : row + 1 + stop - start] = ends[1:] - ends[0] + total
            row += stop - start
            ranges.append((int(ends[0]), int(ends[-1]), total))
            total += int(ends[-1] - ends[0])
        indices, values = np.empty(total, dtypes.INDEX), np.empty(total if with_values else 0, dtypes.VALUE)
        for first, last, at in ranges:
            files.indices.read(first, last, indices[at : at + last - first])
            if with_values:
                files.data.read(first, last, values[at : at + last - first])
        self.check_ids(indices)
        if not np.isfinite(values).all():
            files.data.refuse("a value is not finite")
        return indptr, indices, values

    def expect(self, starts: np.ndarray, stops: np.ndarray, *, with_values: bool = True) -> None:
        """Let the system read ranges of rows in the background: `read` will ask for them soon."""
        files = self.files
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            files.indptr.expect(start, stop + 1)
            first, last = int(files.indptr.read(start, start + 1)[0]), int(files.indptr.read(stop, stop + 1)[0])
            # Wrong offsets are left to `read`, which refuses them.
            if 0 <= first <= last <= len(files.indices):
                files.indices.expect(first, last)
                if with_values:
                    files.data.expect(first, last)

    def check_ids(self, ids: np.ndarray) -> None:
        """Raise DataError if ids that were read are not columns of the matrix."""
        if len(ids) and not 0 <= ids.min() <= ids.max() < self.shape[1]:
            wrong = ids[(ids < 0) | (ids >= self.shape[1])][0]
            self.files.indices.refuse(f"the id {wrong} is not one of the {self.shape[1]:,} columns")

    def __reduce__(self):
        """Pickle as a matrix in memory."""
        return csr_matrix, ((np.array(self.data), np.array(self.indices), np.array(self.indptr)), self.shape)


def as_mapped(matrix: csr_matrix) -> MappedMatrix | None:
    """Return the matrix if it is mapped into memory, as `slide.data.dataset.is_mapped` says, and None if it is not."""
    return matrix if isinstance(matrix, MappedMatrix) and matrix.mapping is not None else None


def stretches(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the starts and the stops of the ranges that an int64 array consists of, in its order."""
    cuts = np.flatnonzero(np.diff(numbers) != 1) + 1
    starts = np.concatenate([[0], cuts]) if len(numbers) else cuts
    stops = np.append(starts[1:], len(numbers)) if len(numbers) else cuts
    return numbers[starts], numbers[starts] + stops - starts


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
