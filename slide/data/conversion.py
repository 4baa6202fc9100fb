"""Converts a file of any format into a folder that can be mapped into memory, a piece at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from slide.data.dataset import DataError
from slide.data.folder import FolderWriter, check_replaceable, is_folder, writing
from slide.data.npz import scan_npz
from slide.data.readers import Format, check_options, detect_format
from slide.data.samples import SampleSink
from slide.data.text import ZeroBased, scan_svmlight, scan_xc


def convert(
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    format: Format = "auto",
    n_features: int | None = None,
    n_labels: int | None = None,
    zero_based: ZeroBased = "auto",
    on_piece: Callable[[int, int], None] | None = None,
) -> None:
    """Write the data set in a file as a folder, which `load` maps into memory instead of reading it.

    The conversion needs memory for a few pieces of the file, whatever its size.

    Parameters
    ----------
    source : path-like
        A file of any format that `load` reads.
    target : path-like
        The folder to make. A data set's folder of that name is replaced, all at once and at the end. A conversion that
        fails leaves nothing behind.
    format, n_features, n_labels, zero_based
        See `load`; `format` must not be ``"folder"``.
    on_piece : callable, optional
        Called after each piece with the numbers of samples and of bytes written so far.

    Raises
    ------
    DataError
        The source is a folder already, or cannot be read; see `load`.
    FileExistsError
        `target` exists and is not a data set's folder.
    OSError
        The folder cannot be written.
    ValueError
        An option has a value that it may not have.

    Examples
    --------
    >>> from slide.data import convert, load
    >>> convert("train.txt.gz", "train.slide")  # doctest: +SKIP
    >>> train = load("train.slide")  # doctest: +SKIP
    """
    n_features, n_labels = check_options(format, n_features, n_labels, zero_based)
    source, target = Path(source), Path(target)
    if format == "folder" or is_folder(source):
        raise DataError(f"{source} is a data set's folder already; slide.data.load maps it as it is")
    if format == "auto":
        format = detect_format(source)
    check_replaceable(target)
    with writing(target) as writer:
        sink: SampleSink = writer if on_piece is None else _Reporting(writer, on_piece)
        sizes: tuple[int, ...]
        if format == "svmlight":
            sizes = scan_svmlight(source, sink, n_features, n_labels, zero_based)
        else:
            sizes = (scan_npz if format == "npz" else scan_xc)(source, sink, n_features, n_labels)
        writer.finish(*sizes)


class _Reporting:
    """A sink that reports how much it has taken."""

    def __init__(self, writer: FolderWriter, on_piece: Callable[[int, int], None]):
        self._writer, self._on_piece = writer, on_piece

    def append(self, *samples: np.ndarray) -> None:
        self._writer.append(*samples)
        self._on_piece(self._writer.n_samples, self._writer.n_bytes)
