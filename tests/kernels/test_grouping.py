"""The (sample, row) pairs of a batch, grouped by row."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slide.kernels.grouping import MOST_PARTS, PairGroups


def int64(*values):
    return np.array(values, np.int64)


def group_twin(ids, begin, end):
    """Rows, pointers, samples and slots of the pairs, by NumPy's stable sort."""
    slots = np.concatenate(
        [np.arange(first, last) for first, last in zip(begin, end, strict=True)] or [begin]
    )
    samples = np.repeat(np.arange(len(begin)), end - begin)
    order = np.argsort(ids[slots], kind="stable")
    rows, first = np.unique(ids[slots][order], return_index=True)
    return rows, np.append(first, len(slots)), samples[order], slots[order]


def assert_grouped(groups, ids, begin, end):
    rows, ptr, samples, slots = group_twin(ids, begin, end)
    assert (groups.n_samples, groups.n_pairs, groups.n_groups) == (len(begin), len(slots), len(rows))
    np.testing.assert_array_equal(groups.rows, rows)
    np.testing.assert_array_equal(groups.ptr, ptr)
    np.testing.assert_array_equal(groups.samples, samples)
    np.testing.assert_array_equal(groups.slots, slots)
    parts = groups.parts
    assert len(parts) == groups.n_parts + 1 <= MOST_PARTS + 1
    assert parts[0] == 0
    assert parts[-1] == groups.n_groups
    assert (np.diff(parts) >= 0).all()


@st.composite
def runs_of_pairs(draw):
    n_rows = draw(st.sampled_from([1, 2, 50, 2047, 2048, 2049, 2**22 + 1, 2**31 - 1]))
    id_ = st.one_of(st.integers(0, n_rows - 1), st.integers(0, min(n_rows, 4) - 1), st.just(n_rows - 1))
    ids, begin, end = [], [], []
    for gap, run in draw(st.lists(st.tuples(st.integers(0, 2), st.lists(id_, max_size=12)), max_size=8)):
        ids += [0] * gap
        begin.append(len(ids))
        ids += run
        end.append(len(ids))
    return np.array(ids, np.int32), int64(*begin), int64(*end), n_rows


@settings(max_examples=60, deadline=None, derandomize=True)
@given(runs_of_pairs())
def test_groups_are_a_stable_sort_by_row(pairs):
    ids, begin, end, n_rows = pairs
    groups = PairGroups(len(ids))
    groups.group(ids, begin, end, n_rows)
    assert_grouped(groups, ids, begin, end)


@st.composite
def many_runs_of_pairs(draw):
    """Too many for one thread: of few rows or many, evenly or not, some samples without pairs."""
    n_rows = draw(st.sampled_from([1, 2, 33, 2048, 100_000, 2**22 + 1, 2**31 - 1]))
    n, samples = draw(st.sampled_from([2**15, 50_000, 120_001])), draw(st.sampled_from([7, 128]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    ids = (n_rows * rng.random(n) ** draw(st.sampled_from([1, 8]))).astype(np.int32)
    cuts = np.sort(np.append(rng.integers(0, n, samples - 1), [0, n]))
    end = cuts[1:] - (rng.random(samples) < 0.3) * (np.diff(cuts) > 5)
    return ids, cuts[:-1], end, n_rows


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@settings(max_examples=5, deadline=None, derandomize=True)
@given(pairs=many_runs_of_pairs())
def test_many_pairs_are_grouped_alike_by_any_number_of_threads(num_threads, pairs):
    ids, begin, end, n_rows = pairs
    groups = PairGroups(len(ids))
    groups.group(ids, begin, end, n_rows, num_threads)
    assert_grouped(groups, ids, begin, end)


def test_many_pairs_of_one_sample(rng):
    ids = rng.integers(0, 500, 70_000).astype(np.int32)
    groups = PairGroups(len(ids))
    groups.group(ids, int64(0), int64(len(ids)), 500, 3)
    assert_grouped(groups, ids, int64(0), int64(len(ids)))


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("wrong", [-1, 500])
def test_a_bad_row_among_many_is_refused(rng, wrong, num_threads):
    ids = rng.integers(0, 500, 70_000).astype(np.int32)
    end = np.arange(1000, 70_001, 1000)
    groups = PairGroups(len(ids))
    groups.group(ids, end - 1000, end, 500, num_threads)
    ids[45_678] = wrong
    with pytest.raises(ValueError, match=rf"row ids must lie in 0\.\.499, got {wrong}"):
        groups.group(ids, end - 1000, end, 500, num_threads)
    assert (groups.n_pairs, groups.n_groups, groups.n_parts) == (0, 0, 0)


@pytest.mark.parametrize("n_rows", [1, 300, 100_000])
def test_many_groups_are_cut_into_even_parts(rng, n_rows):
    ids = rng.integers(0, n_rows, 40_000).astype(np.int32)
    end = np.arange(100, 40_001, 100)
    groups = PairGroups(len(ids))
    groups.group(ids, end - 100, end, n_rows)
    assert_grouped(groups, ids, end - 100, end)
    assert groups.n_parts == MOST_PARTS
    parts, ptr = groups.parts, groups.ptr
    work = np.diff(ptr[parts]) + 4 * np.diff(parts)
    largest_group = np.diff(ptr).max() + 4
    assert work.max() <= work.sum() / MOST_PARTS + largest_group


def test_groups_are_used_again_for_smaller_batches(rng):
    groups = PairGroups(1000)
    assert (groups.n_pairs, groups.n_groups, groups.n_parts) == (0, 0, 0)
    for n in (1000, 10, 0, 500):
        ids = rng.integers(0, 5000, n).astype(np.int32)
        groups.group(ids, int64(0), int64(n), 5000)
        assert_grouped(groups, ids, int64(0), int64(n))


@pytest.mark.parametrize(
    ("ids", "begin", "end", "message"),
    [
        ([0], [0, 0], [1], "same length"),
        ([0] * 9, [0], [9], "9 slots, but room for 8"),
        ([0, 1], [0], [3], "sample 0's run 0..3 is out of order or range"),
        ([0, 1], [-1], [1], "sample 0's run -1..1"),
        ([0, 1], [1], [0], "sample 0's run 1..0"),
        ([0, 1], [1, 0], [2, 1], "sample 1's run 0..1"),
        ([0, 1], [0, 1], [2, 2], "sample 1's run 1..2"),
        ([0, 5], [0], [2], r"row ids must lie in 0\.\.4, got 5"),
        ([-1, 4], [0], [2], r"row ids must lie in 0\.\.4, got -1"),
    ],
)
def test_bad_pairs_are_refused(ids, begin, end, message):
    groups = PairGroups(8)
    with pytest.raises(ValueError, match=message):
        groups.group(np.array(ids, np.int32), int64(*begin), int64(*end), 5)
    assert groups.n_pairs == 0


@pytest.mark.parametrize("capacity", [-1, 2**31])
def test_capacity_is_checked(capacity):
    with pytest.raises(ValueError, match="capacity must be between"):
        PairGroups(capacity)
