"""Text formats: the extreme-classification repository's, and svmlight with several labels.

Both hold one sample a line, ``label,label feature:value feature:value``, and share the compiled parser
:mod:`slide.kernels.text`. The repository's format [1]_ puts a line ``samples features labels`` on top and
counts ids from 0; svmlight [2]_ has no such line, and allows comments.

References
----------
.. [1] Bhatia et al., "The extreme classification repository: multi-label datasets and code", 2016.
.. [2] Joachims, "Making large-scale SVM learning practical", 1999; the svmlight input format.
"""

from __future__ import annotations

import gzip
import lzma
import re
from itertools import pairwise
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np

from slide.data.dataset import MAX_IDS, DataError, Dataset
from slide.data.files import SUFFIXES, open_bytes, replacing, whole_lines
from slide.data.samples import SampleArrays, SampleSink
from slide.kernels.text import ParsedLines, ParseStatus, parse_lines

ZeroBased = bool | Literal["auto"]

BLANKS = b" \t\r\n"
MAX_QUOTE = 60
MAX_ROWS = np.iinfo(np.int64).max


def read_xc(path: Path, n_features: int | None = None, n_labels: int | None = None) -> Dataset:
    """Read the text format of the extreme-classification repository.

    Parameters
    ----------
    path : Path
        Plain text, gzip or xz.
    n_features, n_labels : int, optional
        Sizes to use in place of the header's.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        If the file is missing, empty, damaged or malformed, or if the number of samples is not the header's.
    """
    arrays = SampleArrays()
    return arrays.dataset(*scan_xc(path, arrays, n_features, n_labels))


def scan_xc(path: Path, sink: SampleSink, n_features: int | None = None, n_labels: int | None = None) -> tuple[int, int]:
    """Read what :func:`read_xc` reads a piece at a time.

    Parameters
    ----------
    path : Path
    sink : SampleSink
        Takes the samples.
    n_features, n_labels : int, optional

    Returns
    -------
    n_features, n_labels : int

    Raises
    ------
    DataError
    """
    rows = None
    with open_bytes(path) as file:
        for text in whole_lines(file, path):
            if rows is None:
                header = re.match(rb"[^\n]*", text).group()
                n_samples, header_features, header_labels = _parse_header(path, header)
                n_features = header_features if n_features is None else n_features
                n_labels = header_labels if n_labels is None else n_labels
                rows = _Rows(path, sink, first_line=2, stop_feature=n_features, stop_label=n_labels)
                text = text[len(header) + 1 :]
            rest = rows.parse(text, max_rows=n_samples - rows.n_samples)
            if extra := rest.lstrip(BLANKS):
                skipped = rest[: len(rest) - len(extra)].count(b"\n")
                first = re.match(b"[^" + BLANKS + b"]+", extra)  # bytes.split would take more for blank
                _refuse(
                    path,
                    rows.line + skipped,
                    f"{_quote(first.group())} comes after the last sample",
                    f"the header announces {n_samples:,} samples: correct it, or remove the lines beyond",
                )
    if rows is None:
        raise DataError(f"{path} is empty once unpacked; the file may not have been written to the end")
    if rows.n_samples < n_samples:
        _refuse(
            path,
            rows.line - 1,
            f"the file ends here, after {rows.n_samples:,} samples",
            f"the header announces {n_samples:,} samples: the file may be truncated",
        )
    return n_features, n_labels


def read_svmlight(
    path: Path,
    n_features: int | None = None,
    n_labels: int | None = None,
    zero_based: ZeroBased = "auto",
) -> Dataset:
    """Read svmlight text whose targets are label ids, separated by commas where a sample has several.

    Blank lines and comments, from ``#`` to the end of the line, are skipped.

    Parameters
    ----------
    path : Path
        Plain text, gzip or xz.
    n_features, n_labels : int, optional
        Numbers of columns; by default as many as the largest id asks for.
    zero_based : bool or "auto", default="auto"
        Whether feature ids count from 0 or from 1; with "auto", from 1 if 0 never occurs. Label ids are taken
        as they are.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        If the file is missing, empty, damaged or malformed, or has query ids.
    """
    arrays = SampleArrays()
    return arrays.dataset(*scan_svmlight(path, arrays, n_features, n_labels, zero_based))


def scan_svmlight(
    path: Path,
    sink: SampleSink,
    n_features: int | None = None,
    n_labels: int | None = None,
    zero_based: ZeroBased = "auto",
) -> tuple[int, int, int]:
    """Read what :func:`read_svmlight` reads a piece at a time.

    Parameters
    ----------
    path : Path
    sink : SampleSink
        Takes the samples, with the features' ids as they are written.
    n_features, n_labels : int, optional
    zero_based : bool or "auto", default="auto"

    Returns
    -------
    n_features, n_labels : int
    first_feature : int
        The id that is column 0.

    Raises
    ------
    DataError
    """
    rows = _Rows(
        path,
        sink,
        first_feature=1 if zero_based is False else 0,
        stop_feature=(MAX_IDS if n_features is None else n_features) + (zero_based is not True),
        stop_label=MAX_IDS if n_labels is None else n_labels,
        comments=True,
    )
    with open_bytes(path) as file:
        for text in whole_lines(file, path):
            rows.parse(text)
    if zero_based == "auto":
        zero_based = rows.smallest_feature == 0
        if zero_based and rows.largest_feature == n_features:
            # Ids from 0 to n_features fit neither way of counting; the second reading names the line.
            return scan_svmlight(path, sink, n_features, n_labels, zero_based=True)
    if n_features is None:
        n_features = max(rows.largest_feature + zero_based, 0)
    if n_labels is None:
        n_labels = rows.largest_label + 1
    return n_features, n_labels, 0 if zero_based else 1


def looks_like_svmlight(path: Path) -> bool:
    """Tell from the first line of a text file whether it is svmlight rather than the repository's format.

    Parameters
    ----------
    path : Path
        Plain text, gzip or xz.

    Returns
    -------
    bool
        True if the line has a ``feature:value`` or a comment; a header has neither.

    Raises
    ------
    DataError
        If the file is missing, empty or damaged.
    """
    with open_bytes(path) as file:
        start = next(whole_lines(file, path, chunk_bytes=4096), b"")
        first_line = bytes(start).lstrip(BLANKS).partition(b"\n")[0]
    return b":" in first_line or first_line.startswith(b"#")


def save_xc(path: str | Path, dataset: Dataset) -> None:
    """Write the text format of the extreme-classification repository; every value reads back as it was.

    Parameters
    ----------
    path : path-like
        The file to create or replace, compressed if the name ends in ``.gz`` or ``.xz``. Replaced all at
        once.
    dataset : Dataset
        What to write.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    path = Path(path)
    opener = {"gzip": gzip.open, "xz": lzma.open}.get(SUFFIXES.get(path.suffix.lower()), open)
    X, Y = dataset.X, dataset.Y
    with replacing(path) as temporary, opener(temporary, "wt", encoding="ascii", newline="\n") as file:
        file.write(f"{dataset.n_samples} {dataset.n_features} {dataset.n_labels}\n")
        for (start, stop), (first, last) in zip(pairwise(X.indptr), pairwise(Y.indptr), strict=True):
            labels = ",".join(map(str, Y.indices[first:last].tolist()))
            entries = zip(X.indices[start:stop].tolist(), X.data[start:stop].tolist(), strict=True)
            # Nine digits bring every float32 back.
            features = " ".join(f"{feature}:{value:.9g}" for feature, value in entries)
            file.write(f"{labels} {features}\n")


class _Rows:
    """The rows of one file, parsed chunk by chunk and handed on.

    Bounds are those of :func:`slide.kernels.text.parse_lines`.
    """

    def __init__(self, path, sink, *, first_line=1, first_feature=0, stop_feature, stop_label, comments=False):
        self.path = path
        self.sink = sink
        self.line = first_line
        self.rules = {
            "first_feature": first_feature,
            "stop_feature": stop_feature,
            "stop_label": stop_label,
            "comments": comments,
        }
        self.n_samples = 0
        self.smallest_feature = MAX_IDS
        self.largest_feature = -1
        self.largest_label = -1

    def parse(self, text: memoryview, max_rows: int = MAX_ROWS) -> bytes:
        """Take in the rows of `text`, at most `max_rows`, and return the text beyond them."""
        parsed = parse_lines(text, max_rows=max_rows, **self.rules)
        if parsed.status != ParseStatus.OK:
            token = bytes(text[parsed.token_start : parsed.token_stop])
            _refuse(self.path, self.line + parsed.n_lines, *self._explain(parsed.status, token))
        labels, label_counts = parsed.labels, parsed.label_counts
        if not parsed.labels_increase:
            label_counts, labels = _split_keys(np.unique(_keys(label_counts, labels)), len(label_counts))
        features, values, feature_counts = parsed.features, parsed.values, parsed.feature_counts
        if not parsed.features_increase:
            features, values, feature_counts = self._merge_features(parsed)
        self.sink.append(labels, label_counts, features, values, feature_counts)
        self.smallest_feature = int(features.min(initial=self.smallest_feature))
        self.largest_feature = int(features.max(initial=self.largest_feature))
        self.largest_label = int(labels.max(initial=self.largest_label))
        self.n_samples += len(label_counts)
        self.line += parsed.n_lines
        return bytes(text[parsed.n_bytes :])

    def _merge_features(self, parsed: ParsedLines):
        """Sort the features of every row and sum the values of repeats."""
        keys, entry = np.unique(_keys(parsed.feature_counts, parsed.features), return_inverse=True)
        counts, features = _split_keys(keys, len(parsed.feature_counts))
        with np.errstate(over="ignore"):
            values = np.bincount(entry, weights=parsed.values).astype(np.float32)
        overflows = np.isinf(values)
        if overflows.any():
            row, feature = keys[np.argmax(overflows)] >> 32, features[np.argmax(overflows)]
            _refuse(
                self.path,
                self.line + int(parsed.row_lines[row]),
                f"the values of the repeated feature {feature} add up to more than float32 holds",
                "scale the values down or name the feature once",
            )
        return features, values, counts

    def _explain(self, status: ParseStatus, token: bytes) -> tuple[str, str]:
        """Say what is wrong with a token, and what was expected."""
        quoted = _quote(token)
        if status == ParseStatus.BAD_LABEL:
            if re.match(rb"(\d+,)*-\d", token):
                return f"a label id in {quoted} is negative", "label ids count from 0"
            if b":" in token:
                return (
                    f"{quoted} stands where labels belong",
                    "start the line of a sample without labels with a space",
                )
            return (
                f"{quoted} is not a list of labels",
                "expected whole numbers with commas between, such as 3,17",
            )
        if status == ParseStatus.LABEL_OUT_OF_RANGE:
            return (
                f"a label id in {quoted} is out of range",
                f"label ids must be below {self.rules['stop_label']}",
            )
        if status == ParseStatus.BAD_FEATURE:
            if token.startswith(b"qid:"):
                return f"{quoted} is a query id", "this is data for ranking; remove the query ids to read it"
            if re.match(rb"-\d+:", token):
                return (
                    f"the feature id of {quoted} is negative",
                    f"ids count from {self.rules['first_feature']}",
                )
            return f"{quoted} is not a feature", "expected feature:value, such as 12:0.5"
        if status == ParseStatus.FEATURE_OUT_OF_RANGE:
            return (
                f"the feature id of {quoted} is out of range",
                f"ids must be at least {self.rules['first_feature']} and below {self.rules['stop_feature']}",
            )
        if status == ParseStatus.VALUE_OVERFLOW:
            return f"the value of {quoted} is too large for float32", "values must stay below 3.4e38"
        value = token.partition(b":")[2].lower().lstrip(b"+-")
        if value in (b"nan", b"inf", b"infinity"):
            return f"the value of {quoted} is not finite", "replace it by a number or leave the feature out"
        return f"the value of {quoted} is not a number", "expected feature:value, such as 12:0.5"


def _parse_header(path: Path, header: bytes) -> tuple[int, int, int]:
    fields = header.split()
    if len(fields) != 3 or not all(field.isdigit() for field in fields):
        _refuse(
            path,
            1,
            f"{_quote(header)} is not a header",
            "expected three whole numbers, 'samples features labels' (svmlight has none: format=\"svmlight\")",
        )
    for field in fields:
        # The length first: Python refuses to convert thousands of digits.
        if len(field.lstrip(b"0")) > 10 or int(field) > MAX_IDS:
            _refuse(
                path, 1, f"{_quote(field)} in the header is too large", f"at most {MAX_IDS} can be indexed"
            )
    return tuple(map(int, fields))


def _keys(counts: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return int64 keys that sort by row, then by id."""
    return np.repeat(np.arange(len(counts), dtype=np.int64) << 32, counts) | ids


def _split_keys(keys: np.ndarray, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (counts by row, int32 ids) of sorted keys."""
    return np.bincount(keys >> 32, minlength=n_rows), (keys & 0xFFFFFFFF).astype(np.int32)


def _quote(token: bytes) -> str:
    shown = repr(token[:MAX_QUOTE].decode("utf-8", "backslashreplace"))
    return shown + "..." if len(token) > MAX_QUOTE else shown


def _refuse(path: Path, line: int, problem: str, expected: str) -> NoReturn:
    raise DataError(f"{path}, line {line}: {problem}; {expected}")
