"""Parser of lines of labels and features: bytes in, flat arrays out.

A line is ``label,label,... feature:value feature:value ...``. A line that starts with a space or a tab has no
label. Files, archives, headers and error messages are the business of :mod:`slide.data`; this module reports
where it stopped and why.
"""

from typing import NamedTuple

import numpy as np

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.conversion cimport PyOS_string_to_double
from libc.float cimport FLT_MAX
from libc.math cimport fabs
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memchr


cpdef enum ParseStatus:
    OK = 0
    BAD_LABEL = 1
    LABEL_OUT_OF_RANGE = 2
    BAD_FEATURE = 3
    FEATURE_OUT_OF_RANGE = 4
    BAD_VALUE = 5
    VALUE_OVERFLOW = 6
    NO_MEMORY = 7


class ParsedLines(NamedTuple):
    """The rows that :func:`parse_lines` read, and where it stopped.

    Attributes
    ----------
    labels : int32 array (n_labels,)
        Label ids of all rows, one row after the other.
    label_counts : int64 array (n_rows,)
    features : int32 array (n_values,)
        Feature ids of all rows, as written.
    values : float32 array (n_values,)
    feature_counts : int64 array (n_rows,)
    row_lines : int64 array (n_rows,)
        The line, counted from 0, on which each row stands.
    labels_increase, features_increase : bool
        Whether the ids of every row are strictly increasing, hence sorted and free of repeats.
    n_lines, n_bytes : int
        Lines and bytes read to the end; after an error, ``n_lines`` is the line at fault, counted from 0.
    status : ParseStatus
    token_start, token_stop : int
        The bytes of the token at fault; both 0 without an error.
    """

    labels: np.ndarray
    label_counts: np.ndarray
    features: np.ndarray
    values: np.ndarray
    feature_counts: np.ndarray
    row_lines: np.ndarray
    labels_increase: bool
    features_increase: bool
    n_lines: int
    n_bytes: int
    status: ParseStatus
    token_start: int
    token_stop: int


cdef struct Rules:
    int64_t max_rows
    int64_t first_feature
    int64_t stop_feature
    int64_t stop_label
    bint comments


cdef struct Rows:
    # Written by the parser into arrays that the caller made large enough.
    int32_t* labels
    int64_t* label_counts
    int32_t* features
    float* values
    int64_t* feature_counts
    int64_t* row_lines
    int64_t n_rows
    int64_t n_labels
    int64_t n_values
    int64_t n_lines
    bint labels_increase
    bint features_increase
    const uint8_t* token


# The powers of ten that a double holds exactly.
cdef enum:
    MAX_EXACT_POWER = 22
cdef double[MAX_EXACT_POWER + 1] POWERS_OF_TEN
for _power in range(MAX_EXACT_POWER + 1):
    POWERS_OF_TEN[_power] = 10 ** _power

cdef uint64_t MAX_EXACT_MANTISSA = <uint64_t>1 << 53
# Below this a mantissa takes one more digit without overflowing 64 bits.
cdef uint64_t MANTISSA_ROOM = 10 ** 18
# An exponent beyond this stops growing: no run of digits in memory is long enough to bring it back.
cdef int64_t EXPONENT_ROOM = 10 ** 17
# Twice the largest relative error of the inexact short cut of `read_value` (three roundings and the digits
# left out).
cdef double SHORT_CUT_ERROR = 2.0 ** -50


cdef inline bint is_digit(uint8_t byte) noexcept nogil:
    return <uint8_t>(byte - c'0') < 10


cdef inline bint is_blank(uint8_t byte) noexcept nogil:
    return byte == c' ' or byte == c'\t'


cdef inline const uint8_t* read_id(const uint8_t* at, const uint8_t* stop, int64_t* number) noexcept nogil:
    """Read digits and return where they end, which is `at` itself where there are none."""
    cdef int64_t total = 0
    while at < stop and is_digit(at[0]):
        # Past int32 every id is out of range, so the rest of a long number need not count.
        if total <= INT32_MAX:
            total = 10 * total + (at[0] - c'0')
        at += 1
    number[0] = total
    return at


cdef bint read_any_double(const uint8_t* start, const uint8_t* stop, double* value) noexcept with gil:
    """Convert a well-formed number of any length, correctly rounded in any locale; False without memory."""
    try:
        value[0] = PyOS_string_to_double(
            PyBytes_FromStringAndSize(<const char*>start, stop - start), NULL, NULL
        )
    except MemoryError:
        return False
    return True


cdef inline ParseStatus read_value(const uint8_t** where, const uint8_t* stop, float* value) noexcept nogil:
    """Read a decimal number, round it to double, then to float, and move `where` past it.

    The method for up to 53 bits of mantissa is Clinger's ("How to Read Floating Point Numbers Accurately", PLDI
    1990). Longer ones are computed with a small error, and kept if the whole interval of that error rounds to
    one float.
    """
    cdef const uint8_t* start = where[0]
    cdef const uint8_t* at = start
    cdef const uint8_t* digits
    cdef uint64_t mantissa = 0
    cdef int64_t exponent = 0
    cdef int64_t written_exponent = 0
    cdef bint negative = False
    cdef bint negative_exponent = False
    cdef bint has_digits
    cdef double number

    if at < stop and (at[0] == c'-' or at[0] == c'+'):
        negative = at[0] == c'-'
        at += 1
    digits = at
    while at < stop and is_digit(at[0]):
        if mantissa < MANTISSA_ROOM:
            mantissa = 10 * mantissa + (at[0] - c'0')
        else:
            exponent += 1
        at += 1
    has_digits = at > digits
    if at < stop and at[0] == c'.':
        at += 1
        digits = at
        while at < stop and is_digit(at[0]):
            if mantissa < MANTISSA_ROOM:
                mantissa = 10 * mantissa + (at[0] - c'0')
                exponent -= 1
            at += 1
        has_digits = has_digits or at > digits
    if not has_digits:
        return BAD_VALUE
    if at < stop and (at[0] == c'e' or at[0] == c'E'):
        at += 1
        if at < stop and (at[0] == c'-' or at[0] == c'+'):
            negative_exponent = at[0] == c'-'
            at += 1
        digits = at
        while at < stop and is_digit(at[0]):
            if written_exponent < EXPONENT_ROOM:
                written_exponent = 10 * written_exponent + (at[0] - c'0')
            at += 1
        if at == digits:
            return BAD_VALUE
        exponent += -written_exponent if negative_exponent else written_exponent
    if at < stop and not is_blank(at[0]):
        return BAD_VALUE
    where[0] = at

    if mantissa == 0:
        number = -0.0 if negative else 0.0
    elif -MAX_EXACT_POWER <= exponent <= MAX_EXACT_POWER:
        number = <double>mantissa
        if exponent < 0:
            number /= POWERS_OF_TEN[-exponent]
        else:
            number *= POWERS_OF_TEN[exponent]
        if negative:
            number = -number
        if mantissa > MAX_EXACT_MANTISSA and (
            <float>(number * (1.0 - SHORT_CUT_ERROR)) != <float>(number * (1.0 + SHORT_CUT_ERROR))
        ):
            if not read_any_double(start, at, &number):
                return NO_MEMORY
    elif not read_any_double(start, at, &number):
        return NO_MEMORY
    value[0] = <float>number
    return VALUE_OVERFLOW if fabs(value[0]) > FLT_MAX else OK


cdef inline ParseStatus read_line(
    const uint8_t* at, const uint8_t* stop, const Rules* rules, Rows* rows
) noexcept nogil:
    """Append one line to `rows`; on an error leave `rows.token` at the token at fault."""
    cdef int64_t first_label = rows.n_labels
    cdef int64_t first_value = rows.n_values
    cdef int64_t number
    cdef int64_t previous
    cdef const uint8_t* after
    cdef ParseStatus status

    rows.token = at
    if at < stop and not is_blank(at[0]):
        previous = -1
        while True:
            after = read_id(at, stop, &number)
            if after == at:
                return BAD_LABEL
            if number >= rules.stop_label:
                return LABEL_OUT_OF_RANGE
            rows.labels[rows.n_labels] = <int32_t>number
            rows.n_labels += 1
            rows.labels_increase &= number > previous
            previous = number
            at = after
            if at == stop or is_blank(at[0]):
                break
            if at[0] != c',':
                return BAD_LABEL
            at += 1

    previous = -1
    while True:
        while at < stop and is_blank(at[0]):
            at += 1
        if at == stop:
            break
        rows.token = at
        after = read_id(at, stop, &number)
        if after == at or after == stop or after[0] != c':':
            return BAD_FEATURE
        if number < rules.first_feature or number >= rules.stop_feature:
            return FEATURE_OUT_OF_RANGE
        at = after + 1
        status = read_value(&at, stop, &rows.values[rows.n_values])
        if status != OK:
            return status
        rows.features[rows.n_values] = <int32_t>number
        rows.n_values += 1
        rows.features_increase &= number > previous
        previous = number

    rows.label_counts[rows.n_rows] = rows.n_labels - first_label
    rows.feature_counts[rows.n_rows] = rows.n_values - first_value
    rows.row_lines[rows.n_rows] = rows.n_lines
    rows.n_rows += 1
    return OK


cdef ParseStatus read_lines(
    const uint8_t** where, const uint8_t* stop, const Rules* rules, Rows* rows
) noexcept nogil:
    """Append lines to `rows` until text or wanted rows run out; move `where` past them."""
    cdef const uint8_t* line
    cdef const uint8_t* newline
    cdef const uint8_t* line_stop
    cdef const uint8_t* comment
    cdef const uint8_t* ink
    cdef int64_t n_labels, n_values
    cdef ParseStatus status

    while where[0] < stop and rows.n_rows < rules.max_rows:
        line = where[0]
        newline = <const uint8_t*>memchr(line, c'\n', stop - line)
        line_stop = stop if newline == NULL else newline
        if line_stop > line and (line_stop - 1)[0] == c'\r':
            line_stop -= 1
        if rules.comments:
            comment = <const uint8_t*>memchr(line, c'#', line_stop - line)
            if comment != NULL:
                line_stop = comment
            ink = line
            while ink < line_stop and is_blank(ink[0]):
                ink += 1
        if not rules.comments or ink < line_stop:
            n_labels, n_values = rows.n_labels, rows.n_values
            status = read_line(line, line_stop, rules, rows)
            if status != OK:
                rows.n_labels, rows.n_values = n_labels, n_values
                return status
        rows.n_lines += 1
        where[0] = stop if newline == NULL else newline + 1
    return OK


cdef Py_ssize_t count_lines(const uint8_t* at, const uint8_t* stop) noexcept nogil:
    cdef Py_ssize_t count = 0
    while at < stop:
        count += 1
        at = <const uint8_t*>memchr(at, c'\n', stop - at)
        if at == NULL:
            break
        at += 1
    return count


def parse_lines(
    const uint8_t[::1] text not None,
    *,
    int64_t max_rows,
    int64_t first_feature,
    int64_t stop_feature,
    int64_t stop_label,
    bint comments=False,
):
    """Parse whole lines of labels and features, on one thread and without the GIL.

    Parameters
    ----------
    text : bytes-like, contiguous uint8
        Whole lines; the last newline may be missing, and a carriage return before a newline is ignored.
    max_rows : int
        Stop after so many rows.
    first_feature, stop_feature : int
        Feature ids must be in ``[first_feature, stop_feature)``; at most ``2**31``.
    stop_label : int
        Label ids must be in ``[0, stop_label)``; at most ``2**31``.
    comments : bool, default=False
        Ignore ``#`` and what follows it, and lines that are then blank. Without it a blank line is a row with
        neither labels nor features.

    Returns
    -------
    ParsedLines
        The rows before the first error, which ``status`` names. Values are rounded to double, then to
        float32, both to nearest even.

    Raises
    ------
    ValueError
        If a bound exceeds what an int32 id can hold.
    MemoryError
        If memory runs out.
    """
    if max(stop_feature, stop_label) > <int64_t>INT32_MAX + 1:
        raise ValueError("feature and label ids are int32: their bounds must not exceed 2**31")

    cdef Py_ssize_t size = text.shape[0]
    cdef const uint8_t* start = &text[0] if size > 0 else NULL
    cdef const uint8_t* at = start
    cdef const uint8_t* stop = start + size
    cdef const uint8_t* token_stop
    cdef Py_ssize_t most_rows
    cdef ParseStatus status
    cdef Rules rules
    cdef Rows rows

    with nogil:
        most_rows = count_lines(start, stop)
    # A label takes at least a digit and a separator, a feature at least a blank, a digit, a colon and a
    # digit. One spare element lets the views below have an address even where there is nothing to hold.
    labels = np.empty(size // 2 + 1, dtype=np.int32)
    features = np.empty(size // 4 + 1, dtype=np.int32)
    values = np.empty(size // 4 + 1, dtype=np.float32)
    label_counts = np.empty(most_rows + 1, dtype=np.int64)
    feature_counts = np.empty(most_rows + 1, dtype=np.int64)
    row_lines = np.empty(most_rows + 1, dtype=np.int64)
    cdef int32_t[::1] labels_view = labels
    cdef int32_t[::1] features_view = features
    cdef float[::1] values_view = values
    cdef int64_t[::1] label_counts_view = label_counts
    cdef int64_t[::1] feature_counts_view = feature_counts
    cdef int64_t[::1] row_lines_view = row_lines

    rules.max_rows = max_rows
    rules.first_feature = first_feature
    rules.stop_feature = stop_feature
    rules.stop_label = stop_label
    rules.comments = comments
    rows.labels = &labels_view[0]
    rows.label_counts = &label_counts_view[0]
    rows.features = &features_view[0]
    rows.values = &values_view[0]
    rows.feature_counts = &feature_counts_view[0]
    rows.row_lines = &row_lines_view[0]
    rows.n_rows = 0
    rows.n_labels = 0
    rows.n_values = 0
    rows.n_lines = 0
    rows.labels_increase = True
    rows.features_increase = True
    rows.token = start

    with nogil:
        status = read_lines(&at, stop, &rules, &rows)
        token_stop = rows.token
        if status != OK:
            while token_stop < stop and not is_blank(token_stop[0]) and token_stop[0] != c'\n':
                token_stop += 1
    if status == NO_MEMORY:
        raise MemoryError

    # Copies, so that what is kept is as large as what was read, not as what the bytes might have held.
    return ParsedLines(
        labels[:rows.n_labels].copy(),
        label_counts[:rows.n_rows].copy(),
        features[:rows.n_values].copy(),
        values[:rows.n_values].copy(),
        feature_counts[:rows.n_rows].copy(),
        row_lines[:rows.n_rows].copy(),
        bool(rows.labels_increase),
        bool(rows.features_increase),
        rows.n_lines,
        at - start,
        ParseStatus(status),
        0 if status == OK else rows.token - start,
        0 if status == OK else token_stop - start,
    )
