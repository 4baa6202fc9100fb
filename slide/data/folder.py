"""A data set as a folder of arrays, which are mapped into memory instead of read.

``X_indptr.npy``, ``X_indices.npy`` and ``X_data.npy`` are the features' CSR matrix as int64, int32 and float32, the
same of Y the labels'; NumPy reads each. ``dataset.json`` has the format's version, the sizes, each array's length and
digest, and a fingerprint of all that. What is written was checked before, entry by entry: opening a folder holds the
sizes against the manifest and reads no more; `verify` reads everything.
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

from slide.data.dataset import MAX_IDS, DataError, Dataset
from slide.data.mapped import ArrayFile, MappedMatrix, Mapping
from slide.files.atomic import new_folder, open_regular, write_file
from slide.files.fields import read_json, shown
from slide.files.npy import read_header, write_header
from slide.kernels import dtypes

FORMAT = "slide-dataset"
VERSION = 1
MANIFEST = "dataset.json"

PARTS = {"indptr": dtypes.OFFSET, "indices": dtypes.INDEX, "data": dtypes.VALUE}
"""The arrays of a matrix, in the order in which kernels take them."""

NAMES = tuple(f"{letter}_{part}" for letter in "XY" for part in PARTS)

HEADER_BYTES = 128
"""Of each .npy file: what NumPy pads the header of any one-dimensional array of plain numbers to."""

BLOCK_BYTES = 8 << 20
"""Read at a time where a whole file is."""

BLOCK_SAMPLES = 1 << 16
"""Samples of a data set in memory that are written at a time."""


def is_folder(path: str | os.PathLike) -> bool:
    """Tell whether there is a data set's folder, sound or not."""
    return (Path(path) / MANIFEST).is_file()


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[FolderWriter]:
    """Write a folder, which appears, or replaces a former one, once the block has ended well.

    The block appends samples and at the end calls ``finish``.

    Parameters
    ----------
    path : path-like

    Yields
    ------
    FolderWriter

    Raises
    ------
    FileExistsError
        There is something of this name that is not a data set's folder.
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
    """Raise FileExistsError if something stands at `path` that is not a data set's folder and must not be lost."""
    if (path.exists() or path.is_symlink()) and not is_folder(path):
        raise FileExistsError(f"{path} exists and is not a data set's folder; choose another name or remove it")


def save_folder(path: str | os.PathLike, dataset: Dataset) -> None:
    """Write a data set that is in memory as a folder.

    Parameters
    ----------
    path : path-like
    dataset : Dataset

    Raises
    ------
    FileExistsError, OSError
        As :func:`writing` does.
    """
    with writing(path) as writer:
        for first in range(0, dataset.n_samples, BLOCK_SAMPLES):
            writer.append_matrices(dataset.X[first : first + BLOCK_SAMPLES], dataset.Y[first : first + BLOCK_SAMPLES])
        writer.finish(dataset.n_features, dataset.n_labels)


class FolderWriter:
    """Appends samples to the arrays of a folder; nothing of their size is in memory.

    Parameters
    ----------
    folder : Path
        There, and empty.

    Attributes
    ----------
    n_samples, n_bytes : int
        Written so far.
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

    def append_matrices(self, X, Y) -> None:
        """Append the samples of two canonical matrices.

        Parameters
        ----------
        X, Y : csr_matrix
            As a `Dataset` has them.
        """
        self.append(Y.indices, np.diff(Y.indptr), X.indices, X.data, np.diff(X.indptr))

    def finish(self, n_features: int, n_labels: int, first_feature: int = 0) -> None:
        """Complete the files.

        Parameters
        ----------
        n_features, n_labels : int
            Columns.
        first_feature : int
            The id that becomes column 0.
        """
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
    """A .npy file of one dimension that grows, and the digest of its numbers."""

    def __init__(self, path, dtype):
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
    def n_bytes(self):
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
        """Subtract a number from all, in place."""
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
    """Map a folder's arrays into memory.

    Parameters
    ----------
    path : path-like
    n_features, n_labels : int, optional
        Numbers of columns to use in place of the folder's; not fewer, for no id would be checked against them.

    Returns
    -------
    Dataset
        Its matrices are `slide.data.mapped.MappedMatrix`.

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

    Parameters
    ----------
    path : path-like

    Raises
    ------
    DataError
        It is missing, damaged or of another version.
    """
    path = Path(path)
    manifest = path / MANIFEST
    try:
        about = read_json(manifest)
    except FileNotFoundError:
        raise DataError(f"{path} is no folder that `slide convert` wrote: it has no {MANIFEST}") from None
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
    """Read a whole folder, in blocks, and hold every array against its digest.

    Parameters
    ----------
    path : path-like

    Raises
    ------
    DataError
        As :func:`open_folder` does, and if a byte is not what was written.
    """
    path = Path(path)
    open_folder(path)
    arrays = describe(path)["arrays"]
    # By the names that there must be: the manifest's may lead anywhere.
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


def _open_array(path, name, about):
    """Return an array of a folder, held against the manifest."""
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
    """A digest of what the manifest says, in which the arrays' digests are."""
    content = {name: value for name, value in about.items() if name != "fingerprint"}
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def _dtype_of(name):
    return PARTS[name.partition("_")[2]]


def _header(dtype, length):
    stream = io.BytesIO()
    write_header(stream, dtype, (length,))
    header = stream.getvalue()
    if len(header) != HEADER_BYTES:
        raise RuntimeError(f"NumPy's header for {length:,} numbers takes {len(header)} bytes, not {HEADER_BYTES}")
    return header

