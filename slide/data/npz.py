"""NumPy archives of a data set: eight arrays, ``X_data X_indices X_indptr X_shape`` and the same of Y."""

from __future__ import annotations

import lzma
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from slide.data.dataset import DataError, Dataset
from slide.data.files import replacing, sniff

PARTS = {"data": "fiu", "indices": "iu", "indptr": "iu", "shape": "iu"}
"""The arrays of a matrix and the kinds of dtype each may have."""

MAX_DEFLATE_RATIO = 1032
"""No deflated byte stands for more bytes than this (RFC 1951: a match of 258 bytes in two bits)."""

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
"""What zipfile and numpy.lib.format raise on bytes that make no sense."""


def save_npz(path: str | Path, dataset: Dataset) -> None:
    """Write a data set as an uncompressed NumPy archive.

    Parameters
    ----------
    path : path-like
        The file to create or replace; the name is used as it is. Replaced all at once.
    dataset : Dataset
        What to write.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    arrays = {
        f"{letter}_{part}": np.asarray(getattr(matrix, part))
        for letter, matrix in (("X", dataset.X), ("Y", dataset.Y))
        for part in PARTS
    }
    with replacing(Path(path)) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def read_npz(path: Path, n_features: int | None = None, n_labels: int | None = None) -> Dataset:
    """Read what :func:`save_npz` wrote, or anyone else in the same layout, trusting nothing in it.

    Parameters
    ----------
    path : Path
        The archive.
    n_features, n_labels : int, optional
        Numbers of columns to use in place of the file's.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        If the file is missing or damaged, if an array is missing or of the wrong type or shape, or if the
        arrays do not make up two valid matrices of finite values.
    """
    if sniff(path) != "zip":
        raise DataError(f"{path} is not a NumPy archive; write it with save_npz, or give the format it has")
    X = _read_matrix(path, "X", n_features)
    Y = _read_matrix(path, "Y", n_labels)
    try:
        return Dataset.from_arrays(X, Y)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _read_matrix(path: Path, letter: str, n_columns: int | None) -> csr_matrix:
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for part, kinds in PARTS.items():
                arrays[part] = _read_array(path, archive, f"{letter}_{part}", kinds)
    except DataError:
        raise
    except DAMAGE as error:
        raise DataError(f"{path}: the archive is damaged ({error}); write or fetch it again") from None
    if len(arrays["shape"]) != 2 or (arrays["shape"] < 0).any():
        raise DataError(
            f"{path}: {letter}_shape must be two numbers, rows and columns, not {arrays['shape']}"
        )
    n_rows, columns = map(int, arrays["shape"])
    indptr = arrays["indptr"]
    if len(indptr) != n_rows + 1 or indptr[-1] != len(arrays["indices"]):
        raise DataError(
            f"{path}: {letter}_indptr must have {n_rows + 1} entries, one more than rows, and end with the "
            f"{len(arrays['indices'])} entries of {letter}_indices"
        )
    try:
        return csr_matrix(
            (arrays["data"], arrays["indices"], indptr),
            shape=(n_rows, columns if n_columns is None else n_columns),
        )
    except ValueError as error:
        raise DataError(f"{path}: {letter} is not a valid sparse matrix: {error}") from None


def _read_array(path: Path, archive: zipfile.ZipFile, name: str, kinds: str) -> np.ndarray:
    """Read one array, after its header has been held against the bytes that are there."""
    try:
        member = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise DataError(f"{path}: there is no array {name}; expected those that save_npz writes") from None
    if member.file_size > MAX_DEFLATE_RATIO * min(member.compress_size, path.stat().st_size):
        raise DataError(f"{path}: {name} announces more bytes than the archive can hold; it is damaged")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read_header(file)
        if len(shape) != 1 or dtype.kind not in kinds:
            raise DataError(
                f"{path}: {name} has shape {shape} and dtype {dtype}; expected one dimension of numbers"
            )
        if file.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
            raise DataError(
                f"{path}: {name} announces {shape[0]:,} values, but the archive holds fewer or more"
            )
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)
