"""NumPy archives of a data set: eight arrays, ``X_data X_indices X_indptr X_shape`` and the same for Y."""

from __future__ import annotations

import lzma
import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from scipy.sparse import csr_matrix

from slide.data.dataset import DataError, Dataset
from slide.data.files import replacing, sniff
from slide.data.samples import SampleSink
from slide.files.npy import read_header

PARTS = {"data": "fiu", "indices": "iu", "indptr": "iu", "shape": "iu"}
"""Arrays of a matrix, and the kinds of dtype that each may have."""

BLOCK_ROWS = 4096
"""Number of rows that `scan_npz` has in memory at a time."""

MAX_DEFLATE_RATIO = 1032
"""Largest number of bytes that one deflated byte can stand for (RFC 1951: a match of 258 bytes in two bits)."""

DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)
"""Errors that zipfile and numpy.lib.format raise when an archive is damaged."""


def save_npz(path: str | os.PathLike, dataset: Dataset) -> None:
    """Write a data set as an uncompressed NumPy archive, which `load` reads.

    Parameters
    ----------
    path : path-like
        The file to make; no suffix is added. A former file is replaced all at once.
    dataset : Dataset
        The data to write.

    Raises
    ------
    OSError
        The file cannot be written; what was there before is as it was.
    """
    arrays = {
        f"{letter}_{part}": np.asarray(getattr(matrix, part))
        for letter, matrix in (("X", dataset.X), ("Y", dataset.Y))
        for part in PARTS
    }
    with replacing(Path(path)) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # for mypy an array could be savez's own option


def read_npz(path: Path, n_features: int | None = None, n_labels: int | None = None) -> Dataset:
    """Read an archive that `save_npz` or another program wrote; nothing in it is trusted.

    Parameters
    ----------
    n_features, n_labels : int, optional
        Numbers of columns to use in place of the file's.

    Raises
    ------
    DataError
        The file is missing or damaged, an array is missing or of the wrong type or shape, or the arrays are not two
        valid matrices of finite values.
    """
    if sniff(path) != "zip":
        raise DataError(f"{path} is not a NumPy archive; write it with save_npz, or give the format it has")
    X = _read_matrix(path, "X", n_features)
    Y = _read_matrix(path, "Y", n_labels)
    try:
        return Dataset.from_arrays(X, Y)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def scan_npz(
    path: Path, sink: SampleSink, n_features: int | None = None, n_labels: int | None = None
) -> tuple[int, int]:
    """Read an archive as `read_npz` does, but a piece at a time; give the samples to `sink` and return the columns.

    Returns
    -------
    n_features, n_labels : int
    """
    if sniff(path) != "zip":
        raise DataError(f"{path} is not a NumPy archive; write it with save_npz, or give the format it has")
    with ExitStack() as stack:
        with _reading(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            X = _MatrixStream(path, archive, "X", n_features, stack)
            Y = _MatrixStream(path, archive, "Y", n_labels, stack)
        if X.n_rows != Y.n_rows:
            raise DataError(f"{path}: X has {X.n_rows:,} rows and Y has {Y.n_rows:,}: both need one for each sample")
        for first in range(0, X.n_rows, BLOCK_ROWS):
            with _reading(path):
                count = min(BLOCK_ROWS, X.n_rows - first)
                pair = X.read(first, count), Y.read(first, count)
            try:
                block = Dataset.from_arrays(*pair)
            except DataError as error:
                raise DataError(f"{path}, in the rows from {first:,} on, numbered from 0 there: {error}") from None
            sink.append(
                block.Y.indices, np.diff(block.Y.indptr), block.X.indices, block.X.data, np.diff(block.X.indptr)
            )
        with _reading(path):
            X.close()
            Y.close()
    return X.n_columns, Y.n_columns


class _MatrixStream:
    """A matrix of an archive, read block after block of rows; `stack` closes its files."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, letter: str, n_columns: int | None, stack: ExitStack):
        self._path, self._letter = path, letter
        with open_array(path, archive, f"{letter}_shape", PARTS["shape"])[0] as file:
            self.n_rows, columns = _shape(path, letter, np.lib.format.read_array(rewound(file), allow_pickle=False))
        self.n_columns = columns if n_columns is None else n_columns
        self._files: dict[str, IO[bytes]] = {}
        self._dtypes: dict[str, np.dtype] = {}
        lengths = {}
        for part in ("data", "indices", "indptr"):
            file, (lengths[part],), self._dtypes[part] = open_array(path, archive, f"{letter}_{part}", PARTS[part])
            self._files[part] = stack.enter_context(file)
        if lengths["indptr"] != self.n_rows + 1 or lengths["data"] != lengths["indices"]:
            raise DataError(_misfit(path, letter, self.n_rows, lengths["indices"]))
        self._n_entries, self._end = lengths["indices"], int(self._take("indptr", 1)[0])
        if self._end:
            raise DataError(f"{path}: {letter}_indptr must begin with 0, not {self._end}")

    def read(self, first: int, count: int) -> csr_matrix:
        """Return the next `count` rows, which begin with row `first`."""
        ends = np.append(self._end, self._take("indptr", count).astype(np.int64))
        past = first + count == self.n_rows and ends[-1] != self._n_entries
        if (np.diff(ends) < 0).any() or ends[-1] > self._n_entries or past:
            raise DataError(_misfit(self._path, self._letter, self.n_rows, self._n_entries))
        self._end = int(ends[-1])
        data, indices = (self._take(part, self._end - int(ends[0])) for part in ("data", "indices"))
        try:
            return csr_matrix((data, indices, ends - ends[0]), shape=(count, self.n_columns))
        except ValueError as error:
            raise DataError(f"{self._path}: {self._letter} is not a valid sparse matrix: {error}") from None

    def close(self) -> None:
        """Read to the end, where the archive compares check sums, and close the files."""
        for file in self._files.values():
            if file.read(1):
                raise EOFError("bytes are left over")
            file.close()

    def _take(self, part: str, count: int) -> np.ndarray:
        size = count * self._dtypes[part].itemsize
        content = self._files[part].read(size)
        if len(content) != size:
            raise EOFError(f"{self._letter}_{part} breaks off")
        return np.frombuffer(content, self._dtypes[part])


def _read_matrix(path: Path, letter: str, n_columns: int | None) -> csr_matrix:
    arrays = {}
    with _reading(path), zipfile.ZipFile(path) as archive:
        for part, kinds in PARTS.items():
            with open_array(path, archive, f"{letter}_{part}", kinds)[0] as file:
                arrays[part] = np.lib.format.read_array(rewound(file), allow_pickle=False)
    n_rows, columns = _shape(path, letter, arrays["shape"])
    indptr = arrays["indptr"]
    if len(indptr) != n_rows + 1 or indptr[-1] != len(arrays["indices"]):
        raise DataError(_misfit(path, letter, n_rows, len(arrays["indices"])))
    try:
        return csr_matrix(
            (arrays["data"], arrays["indices"], indptr),
            shape=(n_rows, columns if n_columns is None else n_columns),
        )
    except ValueError as error:
        raise DataError(f"{path}: {letter} is not a valid sparse matrix: {error}") from None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the errors that a damaged archive causes into DataError."""
    try:
        yield
    except DataError:
        raise
    except DAMAGE as error:
        raise DataError(f"{path}: the archive is damaged ({error}); write or fetch it again") from None


def _shape(path: Path, letter: str, shape: np.ndarray) -> tuple[int, int]:
    if len(shape) != 2 or (shape < 0).any():
        raise DataError(f"{path}: {letter}_shape must be two numbers, rows and columns, not {shape}")
    return int(shape[0]), int(shape[1])


def _misfit(path: Path, letter: str, n_rows: int, n_entries: int) -> str:
    return (
        f"{path}: {letter}_indptr must have {n_rows + 1} entries, one more than rows, and end with the "
        f"{n_entries} entries of {letter}_indices"
    )


def rewound(file: IO[bytes]) -> IO[bytes]:
    """Return an array's file at its beginning, before the header."""
    file.seek(0)
    return file


def open_array(
    path: Path, archive: zipfile.ZipFile, name: str, kinds: str, dimensions: int = 1
) -> tuple[IO[bytes], tuple[int, ...], np.dtype]:
    """Open one array of the archive at `path`, and compare its header with the number of bytes that are there.

    Parameters
    ----------
    kinds : str
        Kinds of dtype that the array may have, such as ``"iu"``.

    Returns
    -------
    file : binary file
        Open at the first number, after the header.
    shape : tuple of int
    dtype : dtype

    Raises
    ------
    DataError
        There is no such array, or it is not as expected.
    """
    try:
        member = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise DataError(
            f"{path}: there is no array {name}; the archive was not saved completely, or is another kind of archive"
        ) from None
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{path}: {name} is neither stored nor deflated, as NumPy does it; save it again with NumPy")
    if member.file_size > MAX_DEFLATE_RATIO * min(member.compress_size, path.stat().st_size):
        raise DataError(f"{path}: {name} announces more bytes than the archive can hold; it is damaged")
    with ExitStack() as stack:
        # A member that stays open keeps the archive's file open, even after the archive is closed.
        file = stack.enter_context(archive.open(member))
        try:
            shape, _, dtype = read_header(file)
        except ValueError as error:
            raise DataError(f"{path}: the archive is damaged ({name}: {error}); write or fetch it again") from None
        if len(shape) != dimensions or dtype.kind not in kinds:
            what = "float32 numbers" if kinds == "f" else "numbers"
            raise DataError(
                f"{path}: {name} has shape {list(shape)} and dtype {dtype}; expected {what}, dimensions: {dimensions}"
            )
        values = math.prod(shape)
        if file.tell() + values * dtype.itemsize != member.file_size:
            raise DataError(f"{path}: {name} announces {values:,} values, but the archive holds fewer or more")
        stack.pop_all()
    return file, shape, dtype
