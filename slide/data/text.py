"""Text formats: that of the extreme-classification repository, and svmlight with several labels.

Both have one sample per line, ``label,label feature:value feature:value``, and use the compiled parser
`slide.kernels.text`. The repository's format [1]_ begins with a line ``samples features labels`` and counts ids from 0.
Svmlight [2]_ has no such line, and allows comments.

References
----------
.. [1] Bhatia et al., "The extreme classification repository: multi-label datasets and code", 2016.
.. [2] Joachims, "Making large-scale SVM learning practical", 1999; the svmlight input format.
"""

from __future__ import annotations

import gzip
import lzma
import os
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import IO, Literal, NoReturn

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
    """Read the text format of the extreme-classification repository, plain or packed with gzip or xz.

    Parameters
    ----------
    n_features, n_labels : int, optional
        Sizes to use in place of the header's.

    Raises
    ------
    DataError
        The file is missing, empty, damaged or malformed, or has more or fewer samples than its header says.
    """
    arrays = SampleArrays()
    return arrays.dataset(*scan_xc(path, arrays, n_features, n_labels))


def scan_xc(
    path: Path, sink: SampleSink, n_features: int | None = None, n_labels: int | None = None
) -> tuple[int, int]:
    """Read a file as `read_xc` does, but a piece at a time; give the samples to `sink` and return the columns.

    Returns
    -------
    n_features, n_labels : int
    """
    rows: _Rows | None = None
    n_samples, columns = 0, (0, 0)
    with open_bytes(path) as file:
        for text in whole_lines(file, path):
            if rows is None:
                # Not bytes.partition, which would copy the whole chunk.
                header = _matched(rb"[^\n]*", text)
                n_samples, header_features, header_labels = _parse_header(path, header)
                columns = (
                    header_features if n_features is None else n_features,
                    header_labels if n_labels is None else n_labels,
                )
                rows = _Rows(path, sink, first_line=2, stop_feature=columns[0], stop_label=columns[1])
                text = text[len(header) + 1 :]
            rest = rows.parse(text, max_rows=n_samples - rows.n_samples)
            if extra := rest.lstrip(BLANKS):
                skipped = rest[: len(rest) - len(extra)].count(b"\n")
                # Not bytes.split, which takes more characters for blank.
                first = _matched(b"[^" + BLANKS + b"]+", extra)
                _refuse(
                    path,
                    rows.line + skipped,
                    f"{_quote(first)} comes after the last sample",
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
    return columns


def read_svmlight(
    path: Path,
    n_features: int | None = None,
    n_labels: int | None = None,
    zero_based: ZeroBased = "auto",
) -> Dataset:
    """Read svmlight text, plain or packed with gzip or xz, whose targets are label ids with commas between them.

    Blank lines and comments, from ``#`` to the end of the line, are skipped.

    Parameters
    ----------
    n_features, n_labels : int, optional
        Numbers of columns. By default they follow from the largest ids.
    zero_based : bool or str
        Whether feature ids count from 0 (True) or from 1 (False). ``"auto"`` takes them to count from 1 if 0 never
        occurs. Label ids always count from 0.

    Raises
    ------
    DataError
        The file is missing, empty, damaged or malformed, or has query ids.
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
    """Read a file as `read_svmlight` does, but a piece at a time; `sink` is given feature ids as the file has them.

    Returns
    -------
    n_features, n_labels : int
    first_feature : int
        Feature id that is column 0.
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
            # Ids from 0 to n_features fit neither way of counting. Reading again raises an error that names the line.
            return scan_svmlight(path, sink, n_features, n_labels, zero_based=True)
    if n_features is None:
        n_features = max(rows.largest_feature + zero_based, 0)
    if n_labels is None:
        n_labels = rows.largest_label + 1
    return n_features, n_labels, 0 if zero_based else 1


def looks_like_svmlight(path: Path) -> bool:
    """Tell whether a text file is svmlight and not the repository's format, by its first line.

    It is svmlight if that line has a ``feature:value`` or a comment; a header has neither. Raises DataError if the file
    is missing, empty or damaged.
    """
    with open_bytes(path) as file:
        start = next(whole_lines(file, path, chunk_bytes=4096), b"")
        first_line = bytes(start).lstrip(BLANKS).partition(b"\n")[0]
    return b":" in first_line or first_line.startswith(b"#")


def save_xc(path: str | os.PathLike, dataset: Dataset) -> None:
    """Write a data set in the text format of the extreme-classification repository; `load` reads the same values back.

    Parameters
    ----------
    path : path-like
        The file to make, packed if its name ends in ``.gz`` or ``.xz``. A former file is replaced all at once.
    dataset : Dataset
        The data to write.

    Raises
    ------
    OSError
        The file cannot be written; what was there before is as it was.
    """
    path = Path(path)
    openers: dict[str | None, Callable[..., IO[str]]] = {"gzip": gzip.open, "xz": lzma.open}
    opener = openers.get(SUFFIXES.get(path.suffix.lower()), open)
    X, Y = dataset.X, dataset.Y
    with replacing(path) as temporary, opener(temporary, "wt", encoding="ascii", newline="\n") as file:
        file.write(f"{dataset.n_samples} {dataset.n_features} {dataset.n_labels}\n")
        for (start, stop), (first, last) in zip(pairwise(X.indptr), pairwise(Y.indptr), strict=True):
            labels = ",".join(map(str, Y.indices[first:last].tolist()))
            entries = zip(X.indices[start:stop].tolist(), X.data[start:stop].tolist(), strict=True)
            # Nine digits are enough to restore every float32.
            features = " ".join(f"{feature}:{value:.9g}" for feature, value in entries)
            file.write(f"{labels} {features}\n")


class _Rows:
    """The rows of one file, parsed chunk by chunk and given to a sink.

    The bounds of ids are those of `slide.kernels.text.parse_lines`.
    """

    def __init__(
        self,
        path: Path,
        sink: SampleSink,
        *,
        first_line: int = 1,
        first_feature: int = 0,
        stop_feature: int,
        stop_label: int,
        comments: bool = False,
    ):
        self.path = path
        self.sink = sink
        self.line = first_line
        self.first_feature, self.stop_feature, self.stop_label = first_feature, stop_feature, stop_label
        self.comments = comments
        self.n_samples = 0
        self.smallest_feature = MAX_IDS
        self.largest_feature = -1
        self.largest_label = -1

    def parse(self, text: memoryview, max_rows: int = MAX_ROWS) -> bytes:
        """Parse at most `max_rows` rows of `text`, and return the text after them."""
        parsed = parse_lines(
            text,
            max_rows=max_rows,
            first_feature=self.first_feature,
            stop_feature=self.stop_feature,
            stop_label=self.stop_label,
            comments=self.comments,
        )
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

    def _merge_features(self, parsed: ParsedLines) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sort the features of every row and sum the values of repeats; return features, values and counts."""
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
                return f"{quoted} stands where labels belong", "start the line of a sample without labels with a space"
            return f"{quoted} is not a list of labels", "expected whole numbers with commas between, such as 3,17"
        if status == ParseStatus.LABEL_OUT_OF_RANGE:
            return f"a label id in {quoted} is out of range", f"label ids must be below {self.stop_label}"
        if status == ParseStatus.BAD_FEATURE:
            if token.startswith(b"qid:"):
                return f"{quoted} is a query id", "this is data for ranking; remove the query ids to read it"
            if re.match(rb"-\d+:", token):
                return f"the feature id of {quoted} is negative", f"ids count from {self.first_feature}"
            return f"{quoted} is not a feature", "expected feature:value, such as 12:0.5"
        if status == ParseStatus.FEATURE_OUT_OF_RANGE:
            return (
                f"the feature id of {quoted} is out of range",
                f"ids must be at least {self.first_feature} and below {self.stop_feature}",
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
        # The length is checked first, because Python refuses to convert thousands of digits.
        if len(field.lstrip(b"0")) > 10 or int(field) > MAX_IDS:
            _refuse(path, 1, f"{_quote(field)} in the header is too large", f"at most {MAX_IDS} can be indexed")
    n_samples, n_features, n_labels = map(int, fields)
    return n_samples, n_features, n_labels


def _matched(pattern: bytes, text: memoryview | bytes) -> bytes:
    """Return what a pattern matches at the beginning of a text where it must match."""
    match = re.match(pattern, text)
    assert match is not None
    return match.group()


def _keys(counts: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return int64 keys that sort by row, then by id."""
    return np.repeat(np.arange(len(counts), dtype=np.int64) << 32, counts) | ids


def _split_keys(keys: np.ndarray, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the counts by row and the int32 ids of sorted keys."""
    return np.bincount(keys >> 32, minlength=n_rows), (keys & 0xFFFFFFFF).astype(np.int32)


def _quote(token: bytes) -> str:
    shown = repr(token[:MAX_QUOTE].decode("utf-8", "backslashreplace"))
    return shown + "..." if len(token) > MAX_QUOTE else shown


def _refuse(path: Path, line: int, problem: str, expected: str) -> NoReturn:
    raise DataError(f"{path}, line {line}: {problem}; {expected}")
