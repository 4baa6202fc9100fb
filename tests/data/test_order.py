"""The order of an epoch: every sample once, in few blocks at a time, the same from any batch on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slide.data.order import WINDOW_BLOCKS, WINDOW_BYTES, EpochOrder, default_window, epoch_order

fast = settings(max_examples=60, deadline=None)
sizes = st.integers(1, 1500)
windows = st.one_of(st.none(), st.integers(1, 700))


@fast
@given(sizes, st.integers(0, 2**32), st.integers(0, 9), st.booleans(), windows, st.integers(1, 200))
def test_every_point_once(n, seed, epoch, shuffle, window, batch_size):
    batches = list(EpochOrder(n, seed, epoch, shuffle=shuffle, window=window).batches(batch_size))
    assert [len(rows) for rows in batches[:-1]] == [batch_size] * (len(batches) - 1)
    rows = np.concatenate(batches)
    assert rows.dtype == np.int64
    np.testing.assert_array_equal(np.sort(rows), np.arange(n))
    if not shuffle:
        np.testing.assert_array_equal(rows, np.arange(n))
    elif window is None or window >= n:
        np.testing.assert_array_equal(rows, epoch_order(n, seed, epoch))


@fast
@given(sizes, st.booleans(), windows, st.integers(1, 200), st.data())
def test_may_begin_with_any_batch(n, shuffle, window, batch_size, data):
    order = EpochOrder(n, 3, 4, shuffle=shuffle, window=window)
    whole = list(order.batches(batch_size))
    first = data.draw(st.integers(0, len(whole)))
    rest = list(order.batches(batch_size, first))
    assert len(rest) == len(whole) - first
    for one, other in zip(whole[first:], rest, strict=True):
        np.testing.assert_array_equal(one, other)


@fast
@given(sizes, st.booleans(), windows, st.integers(1, 200), st.integers(0, 5))
def test_only_what_was_announced_is_used(n, shuffle, window, batch_size, first):
    announced = []

    def ahead(starts, stops):
        announced[:] = [row for start, stop in zip(starts, stops, strict=True) for row in range(start, stop)]
        assert len(set(announced)) == len(announced)
        block = max(1, -(-(window or n) // WINDOW_BLOCKS))
        assert len(announced) <= (n if window is None or window >= n else block * WINDOW_BLOCKS) + batch_size

    for rows in EpochOrder(n, 1, 1, shuffle=shuffle, window=window).batches(batch_size, first, ahead):
        assert set(rows.tolist()) <= set(announced)


@fast
@given(sizes, st.booleans(), windows, st.integers(1, 200), st.integers(0, 5))
def test_what_is_expected_is_what_comes_next(n, shuffle, window, batch_size, first):
    def rows_of(starts, stops):
        return {row for start, stop in zip(starts, stops, strict=True) for row in range(start, stop)}

    calls = []
    order = EpochOrder(n, 1, 1, shuffle=shuffle, window=window)
    for _ in order.batches(
        batch_size,
        first,
        lambda *ranges: calls.append(("ahead", rows_of(*ranges))),
        lambda *ranges: calls.append(("expected", rows_of(*ranges))),
    ):
        pass
    kinds = [kind for kind, _ in calls]
    assert kinds == ["ahead", "expected"] * (len(calls) // 2) + ["ahead"] * (len(calls) % 2)
    for (_, expected), (_, ahead) in zip(calls[1::2], calls[2::2], strict=True):
        # Samples that no batch of the last window had room for are in memory already.
        assert expected <= ahead
        assert len(ahead - expected) < batch_size


def test_order_depends_on_seed_and_epoch_alone():
    def rows(seed, epoch, window=640, batch_size=100):
        return np.concatenate(list(EpochOrder(6400, seed, epoch, window=window).batches(batch_size)))

    np.testing.assert_array_equal(rows(1, 2), rows(1, 2, batch_size=7))
    for other in (rows(2, 2), rows(1, 3), rows(1, 2, window=1280), rows(1, 2, window=None)):
        assert (rows(1, 2) != other).mean() > 0.9


def test_windows_mix_points_from_all_over():
    rows = np.concatenate(list(EpochOrder(64_000, 1, 1, window=6400).batches(128)))
    for first in range(0, 64_000, 6400):
        window = rows[first : first + 6400]
        # 64 blocks of 100 samples, of which no two windows have one in common.
        assert len(np.unique(window // 100)) == 64
        assert window.min() < 10_000 and window.max() > 54_000
        batch = window[:128]
        assert len(np.unique(batch // 100)) > 40


@pytest.mark.parametrize(("n", "entries"), [(1, 0), (10**7, 5 * 10**8), (100, 10**9)])
def test_default_window_takes_its_bytes(n, entries):
    window = default_window(n, entries)
    assert window >= WINDOW_BLOCKS and window % WINDOW_BLOCKS == 0
    of_a_sample = 16 + 8 * entries / n
    assert abs(window * of_a_sample - WINDOW_BYTES) <= WINDOW_BLOCKS * of_a_sample


@pytest.mark.parametrize("window", [None, 128])
def test_parts_of_the_data_have_orders_of_their_own(window):
    orders = [list(EpochOrder(300, 1, 2, window=window, part=part).batches(300)) for part in (0, 1, 1)]
    first, second, again = (np.concatenate(order) for order in orders)
    np.testing.assert_array_equal(second, again)
    assert sorted(second) == list(range(300)) and (first != second).any()
    np.testing.assert_array_equal(first, np.concatenate(list(EpochOrder(300, 1, 2, window=window).batches(300))))
