"""The parser of lines, against Python's own conversions and against bytes of every kind."""

import math
import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slide.kernels.text import ParseStatus, parse_lines

RULES = {"max_rows": 1 << 40, "first_feature": 0, "stop_feature": 100, "stop_label": 100}


def parse(text, **changes):
    return parse_lines(text, **(RULES | changes))


def float32_of(token):
    """Round to double, then to float32: what Python and NumPy do in two steps."""
    with np.errstate(over="ignore"):
        return np.float64(float(token)).astype(np.float32)


def rows_of(parsed):
    """Undo the flattening: a list of (labels, [(feature, value), ...])."""
    labels = np.split(parsed.labels, np.cumsum(parsed.label_counts)[:-1]) if len(parsed.label_counts) else []
    cuts = np.cumsum(parsed.feature_counts)[:-1]
    features = np.split(parsed.features, cuts)
    values = np.split(parsed.values, cuts)
    return [
        (row_labels.tolist(), list(zip(row_features.tolist(), row_values.tolist(), strict=True)))
        for row_labels, row_features, row_values in zip(labels, features, values, strict=False)
    ]


def test_rows_of_every_kind():
    parsed = parse(b"1,2 3:0.5 4:-1\r\n 5:2\n7\n \t \n\n0 \t 6:1   7:1 ")
    assert rows_of(parsed) == [
        ([1, 2], [(3, 0.5), (4, -1.0)]),
        ([], [(5, 2.0)]),
        ([7], []),
        ([], []),
        ([], []),
        ([0], [(6, 1.0), (7, 1.0)]),
    ]
    assert parsed.status == ParseStatus.OK
    assert (parsed.n_lines, parsed.row_lines.tolist()) == (6, [0, 1, 2, 3, 4, 5])


def test_types_and_no_text():
    parsed = parse(b"")
    assert [array.dtype for array in parsed[:6]] == ["i4", "i8", "i4", "f4", "i8", "i8"]
    assert all(len(array) == 0 for array in parsed[:6])


def test_comments_skip_lines_but_count_them():
    parsed = parse(b"# about\n\n1 2:3 # why\n   # nothing\n4 5:6#tight\n", comments=True)
    assert rows_of(parsed) == [([1], [(2, 3.0)]), ([4], [(5, 6.0)])]
    assert parsed.row_lines.tolist() == [2, 4]
    assert parsed.n_lines == 5


def test_max_rows_leaves_the_rest():
    text = b"1 2:3\n4 5:6\n7 8:9\n"
    parsed = parse(text, max_rows=2)
    assert text[parsed.n_bytes :] == b"7 8:9\n"
    assert len(parsed.label_counts) == parsed.n_lines == 2
    assert parse(text, max_rows=0).n_bytes == 0


@pytest.mark.parametrize(
    ("text", "labels_increase", "features_increase"),
    [
        (b"1,2 3:1 4:1\n0 0:1\n", True, True),
        (b"2,1 3:1 4:1\n", False, True),
        (b"1,1 3:1 4:1\n", False, True),
        (b"1 4:1 3:1\n", True, False),
        (b"1 3:1 3:1\n", True, False),
    ],
)
def test_order_is_noticed(text, labels_increase, features_increase):
    parsed = parse(text)
    assert (parsed.labels_increase, parsed.features_increase) == (labels_increase, features_increase)


@pytest.mark.parametrize(
    ("line", "status", "token"),
    [
        (b"1,,2 3:1", ParseStatus.BAD_LABEL, b"1,,2"),
        (b"1, 3:1", ParseStatus.BAD_LABEL, b"1,"),
        (b"x 3:1", ParseStatus.BAD_LABEL, b"x"),
        (b"-1 3:1", ParseStatus.BAD_LABEL, b"-1"),
        (b"3:1", ParseStatus.BAD_LABEL, b"3:1"),
        (b"1.0 3:1", ParseStatus.BAD_LABEL, b"1.0"),
        (b"5,100 3:1", ParseStatus.LABEL_OUT_OF_RANGE, b"5,100"),
        (b"9" * 50 + b" 3:1", ParseStatus.LABEL_OUT_OF_RANGE, b"9" * 50),
        (b"1 3", ParseStatus.BAD_FEATURE, b"3"),
        (b"1 3 4:1", ParseStatus.BAD_FEATURE, b"3"),
        (b"1 :1", ParseStatus.BAD_FEATURE, b":1"),
        (b"1 -3:1", ParseStatus.BAD_FEATURE, b"-3:1"),
        (b"1 100:1", ParseStatus.FEATURE_OUT_OF_RANGE, b"100:1"),
        (b"1 4294967296:1", ParseStatus.FEATURE_OUT_OF_RANGE, b"4294967296:1"),
        (b"1 18446744073709551617:1", ParseStatus.FEATURE_OUT_OF_RANGE, b"18446744073709551617:1"),
        (b"1 3:", ParseStatus.BAD_VALUE, b"3:"),
        (b"1 3: 4", ParseStatus.BAD_VALUE, b"3:"),
        (b"1 3:.", ParseStatus.BAD_VALUE, b"3:."),
        (b"1 3:-", ParseStatus.BAD_VALUE, b"3:-"),
        (b"1 3:1e", ParseStatus.BAD_VALUE, b"3:1e"),
        (b"1 3:1e+", ParseStatus.BAD_VALUE, b"3:1e+"),
        (b"1 3:1.2.3", ParseStatus.BAD_VALUE, b"3:1.2.3"),
        (b"1 3:0x10", ParseStatus.BAD_VALUE, b"3:0x10"),
        (b"1 3:nan", ParseStatus.BAD_VALUE, b"3:nan"),
        (b"1 3:1\x00", ParseStatus.BAD_VALUE, b"3:1\x00"),
        (b"1 3:3.5e38", ParseStatus.VALUE_OVERFLOW, b"3:3.5e38"),
        (b"1 3:-1e999", ParseStatus.VALUE_OVERFLOW, b"3:-1e999"),
    ],
)
def test_faults_are_located(line, status, token):
    text = b"1 2:3\n\n" + line + b"\n4 5:6\n"
    parsed = parse(text)
    assert parsed.status == status
    assert parsed.n_lines == 2
    assert text[parsed.token_start : parsed.token_stop] == token
    assert rows_of(parsed) == [([1], [(2, 3.0)]), ([], [])]


def test_first_feature_is_a_bound():
    assert parse(b"1 1:1", first_feature=1).status == ParseStatus.OK
    assert parse(b"1 0:1", first_feature=1).status == ParseStatus.FEATURE_OUT_OF_RANGE


@pytest.mark.parametrize("bound", ["stop_feature", "stop_label"])
def test_bounds_are_int32(bound):
    assert parse(b"2147483647 2147483647:1", stop_feature=2**31, stop_label=2**31).labels[0] == 2**31 - 1
    with pytest.raises(ValueError, match="int32"):
        parse(b"", **{bound: 2**31 + 1})


DIGITS = st.text("0123456789", max_size=25)
NUMBERS = st.builds(
    lambda sign, whole, fraction, exponent: f"{sign}{whole}.{fraction}{exponent}",
    st.sampled_from(["", "+", "-"]),
    DIGITS,
    DIGITS,
    st.one_of(st.just(""), st.builds("e{}".format, st.integers(-70, 45))),
).filter(lambda token: any(digit in token.partition("e")[0] for digit in "0123456789"))
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
FLOAT64 = st.floats(allow_nan=False, allow_infinity=False)


@given(st.one_of(NUMBERS, FLOAT64.map(repr), FLOAT32.map(lambda x: f"{x:.9g}")))
@example("16777217")  # halfway between two floats
@example("16777217.0000000000000000001")  # 20 digits and more, just above halfway
@example("0.1000000000000000055511151231257827021181583404541015625")
@example("9007199254740993")  # halfway between two doubles
@example("1.00000017881393432617187499")  # just below halfway, by less than a double can tell
@example("3.4028235677973366e38")  # the smallest number that rounds to infinity
@example("3.4028235677973362e38")
@example("7.006492321624085e-46")  # half the smallest denormal
@example("1" + 30 * "0" + "e-30")
@example("0." + 400 * "0" + "1e401")
@example("0e99999999999999999999999999")
@example("-0")
@example("1e-99999999999999999999999999")
def test_values_are_rounded_like_pythons(token):
    parsed = parse(f" 1:{token}".encode())
    expected = float32_of(token)
    if math.isinf(expected):
        assert parsed.status == ParseStatus.VALUE_OVERFLOW
    else:
        assert parsed.status == ParseStatus.OK
        assert struct.pack("f", parsed.values[0]) == struct.pack("f", expected)


def test_many_values_of_seventeen_digits():
    values = np.random.default_rng(0).standard_normal(20_000)
    text = "".join(f" 1:{value!r}" for value in values.tolist()).encode()
    np.testing.assert_array_equal(parse(text).values, values.astype(np.float32))


def test_values_between_two_floats():
    # Nineteen digits of what lies halfway between two floats: a double with another last bit rounds the other way.
    rng = np.random.default_rng(1)
    below = rng.uniform(1, 1000, 3000).astype(np.float32)
    halfway = (below.astype(np.float64) + np.nextafter(below, np.float32(np.inf))) / 2
    text = "".join(f" 1:{value:.18e}" for value in halfway.tolist()).encode()
    np.testing.assert_array_equal(parse(text).values, halfway.astype(np.float32))


@given(
    st.one_of(st.binary(max_size=200), st.text("0123456789:,.-+e \t\r\n#\x00", max_size=200).map(str.encode)),
    st.booleans(),
)
def test_any_bytes_end_in_rows_or_a_status(text, comments):
    parsed = parse(text, comments=comments)
    assert parsed.label_counts.sum() == len(parsed.labels)
    assert parsed.feature_counts.sum() == len(parsed.features) == len(parsed.values)
    assert np.isfinite(parsed.values).all()
    for ids in (parsed.labels, parsed.features):
        assert ((ids >= 0) & (ids < 100)).all()
    assert 0 <= parsed.token_start <= parsed.token_stop <= len(text)
    if parsed.status == ParseStatus.OK:
        assert parsed.n_bytes == len(text)


def test_numbers_as_long_as_the_text():
    assert parse(b"1 2:" + b"1" * 1_000_000).status == ParseStatus.VALUE_OVERFLOW
    assert parse(b"1 2:0." + b"0" * 1_000_000 + b"1e1000001").values.tolist() == [1.0]
