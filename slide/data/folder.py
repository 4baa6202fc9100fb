"""A data set as a folder of arrays, which are mapped into memory instead of read.

``X_indptr.npy``, ``X_indices.npy`` and ``X_data.npy`` are the CSR matrix of the features as int64, int32 and float32;
``Y_indptr.npy`` and so on are that of the labels. NumPy can read each of them. ``dataset.json`` is the manifest: the
version of the format, the sizes, the length and digest of each array, and a fingerprint of all that.

Every entry is checked before it is written. So opening a folder only compares sizes with the manifest; `verify` reads
everything.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from slide.data.dataset import MAX_IDS, DataError, Dataset
from slide.data.mapped import ArrayFile, MappedMatrix, Mapping
from slide.files.atomic import new_folder, open_regular, write_file
from slide.files.fields import read_json, shown
from slide.files.npy import read_header, write_header
from slide.kernels import dtypes

FORMAT = "slide-dataset"
VERSION = 1
MANIFEST = "dataset.json"

PARTS: dict[str, np.dtype] = {"indptr": dtypes.OFFSET, "indices": dtypes.INDEX, "data": dtypes.VALUE}
"""Arrays of a matrix, with their dtypes, in the order in which kernels take them."""

NAMES = tuple(f"{letter}_{part}" for letter in "XY" for part in PARTS)

HEADER_BYTES = 128
"""Length of each .npy file's header: NumPy pads that of any one-dimensional array of plain numbers to it."""

BLOCK_BYTES = 8 << 20
"""Bytes that are read at a time where a whole file is read."""

BLOCK_SAMPLES = 1 << 16
"""Number of samples that `save_folder` writes at a time."""


def is_folder(path: str | os.PathLike) -> bool:
    """Tell whether a path is a data set's folder, damaged or not."""
    return (Path(path) / MANIFEST).is_file()


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[FolderWriter]:
    """Yield the writer of a folder, which appears at `path`, or replaces a former one, when the block ends.

    The block appends samples and calls `FolderWriter.finish` last.

    Raises
    ------
    FileExistsError
        Something else than a data set's folder has this name.
    OSError
        The files cannot be written; what was there before is as it was.
    """
    path = Path(path)
    check_replaceable(path)
    with new_folder(path) as folder:
        writer = FolderWriter(folder)
        try:
            yield writer
        finally:
            writer.close()


def check_replaceable(path: Path) -> None:
    """Raise FileExistsError if `path` is something else than a data set's folder, which must not be lost."""
    if (path.exists() or path.is_symlink()) and not is_folder(path):
        raise FileExistsError(f"{path} exists and is not a data set's folder; choose another name or remove it")


def save_folder(path: str | os.PathLike, dataset: Dataset) -> None:
    """Write a data set that is in memory as a folder, which `load` maps into memory instead of reading it.

    Parameters
    ----------
    path : path-like
        The folder to make. A data set's folder of that name is replaced, all at once and at the end.
    dataset : Dataset
        The data to write.

    Raises
    ------
    FileExistsError
        Something else than a data set's folder has this name.
    OSError
        The files cannot be written; what was there before is as it was.
    """
    with writing(path) as writer:
        for first in range(0, dataset.n_samples, BLOCK_SAMPLES):
            writer.append_matrices(dataset.X[first : first + BLOCK_SAMPLES], dataset.Y[first : first + BLOCK_SAMPLES])
        writer.finish(dataset.n_features, dataset.n_labels)


class FolderWriter:
    """Appends samples to the arrays of a folder; memory does not grow with their number.

    Parameters
    ----------
    folder : Path
        An empty folder.

    Attributes
    ----------
    n_samples : int
        Number of samples written so far.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._files: dict[str, _ArrayFile] = {}
        self.n_samples = 0
        self._ends = {"X": 0, "Y": 0}
        try:
            for name in NAMES:
                self._files[name] = _ArrayFile(folder / f"{name}.npy", _dtype_of(name))
            for letter in "XY":
                self._files[f"{letter}_indptr"].append(np.zeros(1))
        except OSError:
            self.close()
            raise

    @property
    def n_bytes(self) -> int:
        """Bytes written so far."""
        return sum(file.n_bytes for file in self._files.values())

    def append(
        self,
        labels: np.ndarray,
        label_counts: np.ndarray,
        features: np.ndarray,
        values: np.ndarray,
        feature_counts: np.ndarray,
    ) -> None:
        """Append samples; see `slide.data.samples.SampleSink`."""
        for letter, counts, ids, data in (
            ("X", feature_counts, features, values),
            ("Y", label_counts, labels, np.ones(len(labels))),
        ):
            ends = self._ends[letter] + np.cumsum(counts, dtype=dtypes.OFFSET)
            self._ends[letter] = int(ends[-1]) if len(ends) else self._ends[letter]
            for part, array in zip(PARTS, (ends, ids, data), strict=True):
                self._files[f"{letter}_{part}"].append(array)
        self.n_samples += len(label_counts)

    def append_matrices(self, X: csr_matrix, Y: csr_matrix) -> None:
        """Append the samples of the two matrices of a `Dataset`."""
        self.append(Y.indices, np.diff(Y.indptr), X.indices, X.data, np.diff(X.indptr))

    def finish(self, n_features: int, n_labels: int, first_feature: int = 0) -> None:
        """Complete the files, for these numbers of columns; the feature id `first_feature` becomes column 0."""
        if first_feature:
            self._files["X_indices"].subtract(first_feature)
        arrays = {name: file.finish() for name, file in self._files.items()}
        about = {
            "format": FORMAT,
            "version": VERSION,
            "n_points": self.n_samples,
            "n_features": n_features,
            "n_labels": n_labels,
            "arrays": arrays,
        }
        about["fingerprint"] = _fingerprint(about)
        write_file(self._folder / MANIFEST, lambda file: file.write(json.dumps(about, indent=2).encode() + b"\n"))

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()


class _ArrayFile:
    """A one-dimensional .npy file that grows, and the digest of its numbers."""

    def __init__(self, path: Path, dtype: np.dtype):
        self._dtype = dtype
        self._digest = hashlib.blake2b(digest_size=16)
        self._length = 0
        self._file = io.FileIO(path, "w+")
        try:
            self._file.write(_header(dtype, 0))
        except OSError:
            self._file.close()
            raise

    @property
    def n_bytes(self) -> int:
        return HEADER_BYTES + self._length * self._dtype.itemsize

    def append(self, array):
        content = np.ascontiguousarray(array, self._dtype).tobytes()
        self._write(content)
        self._length += len(array)

    def _write(self, content):
        self._digest.update(content)
        view = memoryview(content)
        while view:
            view = view[self._file.write(view) :]

    def subtract(self, number):
        """Subtract a number from all numbers of the file, in place."""
        self._digest = hashlib.blake2b(digest_size=16)
        block = BLOCK_BYTES // self._dtype.itemsize
        for first in range(0, self._length, block):
            position = HEADER_BYTES + first * self._dtype.itemsize
            self._file.seek(position)
            numbers = np.fromfile(self._file, self._dtype, min(block, self._length - first))
            self._file.seek(position)
            self._write((numbers - self._dtype.type(number)).tobytes())

    def finish(self):
        self._file.seek(0)
        self._file.write(_header(self._dtype, self._length))
        os.fsync(self._file.fileno())
        return {"dtype": self._dtype.str, "length": self._length, "digest": self._digest.hexdigest()}

    def close(self):
        self._file.close()


def open_folder(path: str | os.PathLike, n_features: int | None = None, n_labels: int | None = None) -> Dataset:
    """Map a folder's arrays into memory: the matrices of the data set are `slide.data.mapped.MappedMatrix`.

    Parameters
    ----------
    n_features, n_labels : int, optional
        Numbers of columns to use in place of the folder's. They must not be smaller, because ids are not read here and
        so cannot be checked against them.

    Raises
    ------
    DataError
        The folder is incomplete, damaged or of another version. The message names the file, what is wrong and what was
        expected.
    """
    path = Path(path)
    about = describe(path)
    columns = {"X": about["n_features"], "Y": about["n_labels"]}
    for letter, what, wanted in (("X", "features", n_features), ("Y", "labels", n_labels)):
        if wanted is not None and wanted < columns[letter]:
            raise DataError(f"{path} has {columns[letter]:,} {what}; it cannot be read with fewer, {wanted:,}")
        columns[letter] = columns[letter] if wanted is None else wanted
    matrices = {}
    for letter in "XY":
        mapping = Mapping(letter, *(_open_array(path, f"{letter}_{part}", about) for part in PARTS))
        first, last = mapping.indptr.read(0, 1)[0], mapping.indptr.read(len(mapping.indptr) - 1, len(mapping.indptr))[0]
        if (first, last) != (0, len(mapping.indices)):
            mapping.indptr.refuse(f"the offsets go from {first:,} to {last:,}, not from 0 to {len(mapping.indices):,}")
        matrices[letter] = MappedMatrix.over(mapping, columns[letter])
    return Dataset(matrices["X"], matrices["Y"], name=path.name.split(".")[0])


def describe(path: str | os.PathLike) -> dict:
    """Return what the manifest of a folder says: sizes, and for each array its dtype, length and digest.

    Raises DataError if the manifest is missing, damaged or of another version.
    """
    path = Path(path)
    manifest = path / MANIFEST
    try:
        about = read_json(manifest)
    except FileNotFoundError:
        raise DataError(f"{path} is not a folder that `slide convert` wrote: it has no {MANIFEST}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{manifest}: {error}; the folder is damaged, convert the data again") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise DataError(f'{manifest}: field format must be "{FORMAT}"; this is another kind of folder')
    if about.get("version") != VERSION:
        raise DataError(
            f"{manifest}: field version is {shown(about.get('version'))}, expected {VERSION}; convert the data again "
            "with this version of slide"
        )
    for name in ("n_points", "n_features", "n_labels"):
        value, most = about.get(name), np.iinfo(np.int64).max if name == "n_points" else MAX_IDS
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise DataError(f"{manifest}: field {name} must be a number from 0 to {most:,}, not {shown(value)}")
    arrays = about.get("arrays")
    if not isinstance(arrays, dict) or not all(_is_described(arrays.get(name)) for name in NAMES):
        raise DataError(f"{manifest}: field arrays must give the length and digest of {', '.join(NAMES)}")
    if about.get("fingerprint") != _fingerprint(about):
        raise DataError(
            f"{manifest}: field fingerprint does not belong to the other fields; the file was changed or damaged, "
            "convert the data again"
        )
    return about


def verify(path: str | os.PathLike) -> None:
    """Read every array of a data set's folder, in blocks, and compare it with its digest.

    Parameters
    ----------
    path : path-like
        A folder that `convert` or `save_folder` wrote.

    Raises
    ------
    DataError
        The folder is incomplete, damaged or of another version, or a byte differs from what was written. The message
        names the file.
    """
    path = Path(path)
    open_folder(path)
    arrays = describe(path)["arrays"]
    # The names are those that every folder has: names in the manifest could lead anywhere.
    for name in NAMES:
        array, digest = arrays[name], hashlib.blake2b(digest_size=16)
        with open_regular(path / f"{name}.npy") as file:
            file.seek(HEADER_BYTES)
            while content := file.read(BLOCK_BYTES):
                digest.update(content)
        if digest.hexdigest() != array["digest"]:
            raise DataError(
                f"{path / f'{name}.npy'}: the numbers are not those that were written, expected the digest "
                f"{array['digest']}, found {digest.hexdigest()}; convert the data again"
            )


def _open_array(path: Path, name: str, about: dict) -> ArrayFile:
    """Return an array of a folder, after comparing its header and size with the manifest."""
    file, dtype = path / f"{name}.npy", _dtype_of(name)
    length = about["arrays"][name]["length"]
    if name.endswith("indptr") and length != about["n_points"] + 1:
        raise DataError(f"{path / MANIFEST}: {name} must have an offset for each sample and one more, not {length:,}")
    expected = HEADER_BYTES + length * dtype.itemsize
    try:
        with open_regular(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size != expected:
                raise DataError(
                    f"{file}: {expected:,} bytes expected for {length:,} numbers, found {size:,}; "
                    "the file was not copied completely or is damaged, copy or convert it again"
                )
            found = read_header(stream)
    except FileNotFoundError:
        raise DataError(f"{file}: there is no such file; the folder is incomplete, copy or convert it again") from None
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: {error}; the file is damaged, convert the data again") from None
    if found != ((length,), False, dtype):
        shape, _, kind = found
        raise DataError(f"{file}: expected {dtype} [{length}], found {kind} {list(shape)}; convert the data again")
    return ArrayFile(file, dtype, length, HEADER_BYTES)


def _is_described(array):
    return isinstance(array, dict) and type(array.get("length")) is int and array["length"] >= 0 and "digest" in array


def _fingerprint(about):
    """Return the digest of what the manifest says, which includes the arrays' digests."""
    content = {name: value for name, value in about.items() if name != "fingerprint"}
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def _dtype_of(name: str) -> np.dtype:
    return PARTS[name.partition("_")[2]]


def _header(dtype, length):
    stream = io.BytesIO()
    write_header(stream, dtype, (length,))
    header = stream.getvalue()
    if len(header) != HEADER_BYTES:
        raise RuntimeError(f"NumPy's header for {length:,} numbers takes {len(header)} bytes, not {HEADER_BYTES}")
    return header

