"""A file of any format into a folder that is mapped into memory, a piece at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from slide.data.dataset import DataError
from slide.data.folder import FolderWriter, check_replaceable, is_folder, writing
from slide.data.npz import scan_npz
from slide.data.readers import check_options, detect_format
from slide.data.text import ZeroBased, scan_svmlight, scan_xc


def convert(
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    format: Literal["auto", "xc", "svmlight", "npz"] = "auto",
    n_features: int | None = None,
    n_labels: int | None = None,
    zero_based: ZeroBased = "auto",
    on_piece: Callable[[int, int], None] | None = None,
) -> None:
    """Write what :func:`slide.data.load` reads of a file as a folder, for `load` to map into memory.

    Memory is a few pieces of the file, whatever its size.

    Parameters
    ----------
    source : path-like
    target : path-like
        The folder to create; a data set's folder of that name is replaced, all at once and at the end. Whatever ends
        the conversion before leaves nothing behind.
    format, n_features, n_labels, zero_based
        As for `load`.
    on_piece : callable, optional
        Called with the samples and the bytes written so far.

    Raises
    ------
    DataError
        The file cannot be read, as `load` says.
    FileExistsError
        `target` exists and is not a data set's folder.
    OSError
        The folder cannot be written.
    ValueError
        An option has a value it may not have.
    """
    n_features, n_labels = check_options(format, n_features, n_labels, zero_based)
    source, target = Path(source), Path(target)
    if format == "folder" or is_folder(source):
        raise DataError(f"{source} is such a folder already; slide.data.load maps it as it is")
    if format == "auto":
        format = detect_format(source)
    check_replaceable(target)
    with writing(target) as writer:
        sink = writer if on_piece is None else _Reporting(writer, on_piece)
        if format == "svmlight":
            sizes = scan_svmlight(source, sink, n_features, n_labels, zero_based)
        else:
            sizes = (scan_npz if format == "npz" else scan_xc)(source, sink, n_features, n_labels)
        writer.finish(*sizes)


class _Reporting:
    """A sink that tells how far things have got."""

    def __init__(self, writer: FolderWriter, on_piece):
        self._writer, self._on_piece = writer, on_piece

    def append(self, *samples: np.ndarray) -> None:
        self._writer.append(*samples)
        self._on_piece(self._writer.n_samples, self._writer.n_bytes)
