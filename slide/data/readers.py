"""`load` reads files of every format: it finds out what a file is, and keeps parsed text in the cache."""

from __future__ import annotations

import operator
import os
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from slide.data.cache import CacheEntry, default_folder
from slide.data.dataset import MAX_IDS, Dataset
from slide.data.files import SUFFIXES, sniff
from slide.data.folder import is_folder, open_folder
from slide.data.npz import read_npz
from slide.data.text import ZeroBased, looks_like_svmlight, read_svmlight, read_xc

Format = Literal["auto", "xc", "svmlight", "npz", "folder"]
FORMATS = get_args(Format)
SVMLIGHT_SUFFIXES = (".svm", ".svmlight", ".libsvm")


def load(
    path: str | os.PathLike,
    *,
    format: Format = "auto",
    n_features: int | None = None,
    n_labels: int | None = None,
    zero_based: ZeroBased = "auto",
    cache: bool = True,
    cache_dir: str | os.PathLike | None = None,
) -> Dataset:
    """Read a data set from a file, or map a folder that `convert` wrote into memory.

    Repeated features are summed, repeated labels count once, and rows may be unsorted or empty.

    Parameters
    ----------
    path : path-like
        Text, plain or packed with gzip or xz; a NumPy archive that `save_npz` wrote; or a folder that `convert` or
        `save_folder` wrote, which is not read but mapped. The data set is named after the file.
    format : str
        ``"xc"`` is the text format of the extreme-classification repository: a header ``samples features labels``,
        then one sample per line, ``label,label feature:value feature:value``. A line without labels begins with a
        space. ``"svmlight"`` is the same without a header and with comments. ``"npz"`` is a NumPy archive, and
        ``"folder"`` a folder. ``"auto"``, the default, finds out by the file's bytes and suffixes and, for text, by the
        first line.
    n_features, n_labels : int, optional
        Numbers of columns to use in place of the file's. A file without a header says only what its largest ids are:
        give the training set's numbers when reading its test set.
    zero_based : bool or str
        Svmlight only: whether feature ids count from 0 (True) or from 1 (False). ``"auto"``, the default, takes them to
        count from 1 if 0 never occurs.
    cache : bool
        Keep the parsed arrays, and use them as long as the file's size and modification time stay the same. By default
        True.
    cache_dir : path-like, optional
        Folder of the cache. By default ``$SLIDE_CACHE_DIR``, ``$XDG_CACHE_HOME/slide`` or ``~/.cache/slide``.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        The file is missing, damaged or malformed. The message names the file, the line, the text at fault and what was
        expected.
    ValueError
        An option has a value that it may not have.

    Examples
    --------
    >>> train = load("train.txt.xz")  # doctest: +SKIP
    >>> test = load("test.svm", n_features=train.n_features, n_labels=train.n_labels)  # doctest: +SKIP
    """
    n_features, n_labels = check_options(format, n_features, n_labels, zero_based)
    path = Path(path)
    if format == "folder" or (format == "auto" and is_folder(path)):
        return open_folder(path, n_features, n_labels)
    sniff(path)  # Refuses what is not a file, before the cache looks for it.
    name = path.name.split(".")[0]
    if format == "auto":
        format = detect_format(path)
    if format == "npz":
        return replace(read_npz(path, n_features, n_labels), name=name)

    entry = None
    folder = default_folder() if cache_dir is None else Path(cache_dir)
    if cache and folder is not None:
        options = {"format": format, "n_features": n_features, "n_labels": n_labels, "zero_based": zero_based}
        entry = CacheEntry.of(path, options, folder)
    dataset = entry.read() if entry else None
    if dataset is None:
        if format == "svmlight":
            dataset = read_svmlight(path, n_features, n_labels, zero_based)
        else:
            dataset = read_xc(path, n_features, n_labels)
        if entry:
            entry.write(dataset)
    return replace(dataset, name=name)


def check_options(
    format: str, n_features: int | None, n_labels: int | None, zero_based: ZeroBased
) -> tuple[int | None, int | None]:
    """Return the sizes as whole numbers; raises ValueError if an option of `load` has a value that it may not have."""
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, not {format!r}")
    if zero_based not in (True, False, "auto"):
        raise ValueError(f'zero_based must be True, False or "auto", not {zero_based!r}')
    return _check_size("n_features", n_features), _check_size("n_labels", n_labels)


def detect_format(path: str | os.PathLike) -> Literal["xc", "svmlight", "npz", "folder"]:
    """Return the format of a file or a folder, by its bytes and suffixes and, for text, by its first line.

    Raises DataError if the file is missing, empty or damaged.
    """
    path = Path(path)
    if is_folder(path):
        return "folder"
    if sniff(path) == "zip":
        return "npz"
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in SUFFIXES:
        suffixes.pop()
    named_svmlight = bool(suffixes) and suffixes[-1] in SVMLIGHT_SUFFIXES
    return "svmlight" if named_svmlight or looks_like_svmlight(path) else "xc"


def _check_size(option: str, size: int | None) -> int | None:
    if size is None:
        return None
    size = operator.index(size)
    if not 1 <= size <= MAX_IDS:
        raise ValueError(f"{option} must be between 1 and {MAX_IDS}, not {size}")
    return size
