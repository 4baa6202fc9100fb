"""Flat bucket tables: every id once a table, in its bucket, ascending."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from slide.kernels.tables import build


def built(codes, n_buckets, threads=1):
    offsets = np.full((len(codes), n_buckets + 1), -1, np.int32)
    ids = np.full(codes.shape, -1, np.int32)
    build(codes, offsets, ids, threads)
    return offsets, ids


def assert_tables(codes, n_buckets, offsets, ids):
    for code, offset, id_ in zip(codes, offsets, ids, strict=True):
        np.testing.assert_array_equal(offset, np.append(0, np.cumsum(np.bincount(code, minlength=n_buckets))))
        np.testing.assert_array_equal(id_, np.argsort(code, kind="stable"))


@st.composite
def bucket_codes(draw):
    n_buckets = draw(st.sampled_from([1, 2, 7, 64]))
    shape = draw(st.integers(0, 4)), draw(st.integers(0, 40))
    return draw(arrays(np.uint32, shape, elements=st.integers(0, n_buckets - 1))), n_buckets


@settings(max_examples=50, deadline=None, derandomize=True)
@given(bucket_codes(), st.integers(1, 3))
def test_tables_are_a_stable_sort_by_bucket(case, threads):
    codes, n_buckets = case
    assert_tables(codes, n_buckets, *built(codes, n_buckets, threads))


@pytest.mark.parametrize("n_buckets", [1, 1024])
def test_many_ids(rng, threads, n_buckets):
    codes = rng.integers(0, n_buckets, (7, 20_000)).astype(np.uint32)
    assert_tables(codes, n_buckets, *built(codes, n_buckets, threads))


def test_tables_are_built_again_in_place(rng):
    offsets, ids = np.zeros((3, 17), np.int32), np.zeros((3, 50), np.int32)
    for _ in range(2):
        codes = rng.integers(0, 16, (3, 50)).astype(np.uint32)
        build(codes, offsets, ids, 1)
        assert_tables(codes, 16, offsets, ids)


@pytest.mark.parametrize("code", [4, 2**31, 2**32 - 1])
def test_bucket_out_of_range_is_refused(code):
    codes = np.zeros((2, 3), np.uint32)
    codes[1, 2] = code
    with pytest.raises(ValueError, match="codes must be below the number of buckets, 4"):
        built(codes, 4)


@pytest.mark.parametrize(
    ("offsets", "ids"),
    [((2, 1), (2, 3)), ((2, 0), (2, 3)), ((1, 5), (2, 3)), ((2, 5), (1, 3)), ((2, 5), (2, 2))],
)
def test_shapes_are_checked(offsets, ids):
    with pytest.raises(ValueError, match=r"(offsets must be \[2, buckets \+ 1\]|ids must be \[2, 3 or more\]), got"):
        build(np.zeros((2, 3), np.uint32), np.zeros(offsets, np.int32), np.zeros(ids, np.int32), 1)
