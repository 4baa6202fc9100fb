"""Dropout: its draws against a NumPy twin, their statistics, and what three kernels agree on."""

import numpy as np
import pytest

from slide.kernels.dropout import drop_entries, drop_pairs, drop_units

SIZES = (0, 1, 15, 16, 17, 31, 32, 33, 300)
STREAM = 0x64726F706F757421


def mix(x):
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def kept_twin(n, columns, p, seed, iteration):
    """Which entries stay, [n, columns]."""
    one = np.array([seed ^ STREAM], np.uint64)
    keys = mix(mix(mix(one) ^ np.uint64(iteration)) ^ np.arange(n, dtype=np.uint64))
    draws = mix(keys[:, None] ^ np.arange(columns, dtype=np.uint64))
    return draws >= np.uint64(int(p * 2.0**64))


def dropped_twin(values, p, seed, iteration):
    return np.where(kept_twin(*values.shape, p, seed, iteration), values * np.float32(1 / (1 - p)), np.float32(0))


def csr_of(dense):
    """Row offsets, columns and values of every entry, zeros too."""
    n, columns = dense.shape
    indices = np.tile(np.arange(columns, dtype=np.int32), n)
    return np.arange(n + 1, dtype=np.int64) * columns, indices, dense.ravel().copy()


def without(indptr, indices, values, p, seed=3, iteration=5):
    """What drop_entries leaves."""
    out = np.zeros(len(indptr), np.int64), np.zeros(len(indices), np.int32), np.zeros(len(values), np.float32)
    kept = drop_entries(indptr, indices, values, p, seed, iteration, *out)
    return out[0], out[1][:kept], out[2][:kept]


@pytest.mark.parametrize("p", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("columns", SIZES)
@pytest.mark.parametrize("n", [0, 1, 7])
def test_twins(rng, n, columns, p, threads):
    values = rng.normal(size=(n, columns)).astype(np.float32)
    expected = dropped_twin(values, p, 3, 5)
    units = values.copy()
    drop_units(units, p, 3, 5, threads)
    np.testing.assert_array_equal(units, expected)

    indptr, indices, flat = csr_of(values)
    drop_pairs(flat, indices, indptr[:-1], indptr[1:], p, 3, 5, threads)
    np.testing.assert_array_equal(flat, expected.ravel())

    kept = kept_twin(n, columns, p, 3, 5)
    left_ptr, left_indices, left = without(*csr_of(values), p)
    np.testing.assert_array_equal(left_ptr, np.append(0, np.cumsum(kept.sum(axis=1))))
    np.testing.assert_array_equal(left_indices, np.nonzero(kept)[1])
    np.testing.assert_array_equal(left, expected[kept])


def test_the_draws_of_a_column_do_not_depend_on_the_others():
    """Pairs in another order, with gaps between the runs, are dropped as in the dense array."""
    kept = kept_twin(2, 50, 0.5, 1, 2)
    ids = np.array([40, 3, 0, 3, 7], np.int32)
    values = np.ones(5, np.float32)
    drop_pairs(values, ids, np.array([0, 3]), np.array([2, 5]), 0.5, 1, 2, 1)
    assert values.tolist() == [2 * kept[0, 40], 2 * kept[0, 3], 1, 2 * kept[1, 3], 2 * kept[1, 7]]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_rate_and_mean(p):
    values = np.ones((500, 400), np.float32)
    drop_units(values, p, 0, 0, 2)
    error = np.sqrt(p * (1 - p) / values.size)
    assert abs((values == 0).mean() - p) < 4 * error
    assert abs(values.mean(dtype=np.float64) - 1) < 4 * error / (1 - p)
    assert np.unique(values).tolist() == [0, np.float32(1 / (1 - p))]
    # Neither a sample nor a unit is favoured.
    for axis in (0, 1):
        share = (values == 0).mean(axis=axis)
        assert share.std() == pytest.approx(np.sqrt(p * (1 - p) / values.shape[axis]), rel=0.2)


def test_every_key_matters():
    def kept(seed, iteration):
        values = np.ones((20, 30), np.float32)
        drop_units(values, 0.5, seed, iteration, 1)
        return values > 0

    assert np.array_equal(kept(1, 2), kept(1, 2))
    for other in (kept(2, 2), kept(1, 3)):
        assert 0.3 < (kept(1, 2) == other).mean() < 0.7


def test_threads_do_not_matter(rng):
    values = rng.normal(size=(300, 1000)).astype(np.float32)
    one, many = values.copy(), values.copy()
    drop_units(one, 0.5, 0, 0, 1)
    drop_units(many, 0.5, 0, 0, 4)
    assert np.array_equal(one, many)


def test_a_fault_in_a_unit_that_stays_is_passed_on():
    values = np.full((1, 200), np.nan, np.float32)
    drop_units(values, 0.5, 0, 0, 1)
    assert np.array_equal(np.isnan(values), kept_twin(1, 200, 0.5, 0, 0))


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_probabilities_are_checked(p):
    with pytest.raises(ValueError, match="p must be from 0 to below 1"):
        drop_units(np.ones((1, 1), np.float32), p, 0, 0, 1)
    with pytest.raises(ValueError, match="p must be from 0 to below 1"):
        drop_pairs(np.ones(0, np.float32), np.zeros(0, np.int32), *np.zeros((2, 0), np.int64), p, 0, 0, 1)
    with pytest.raises(ValueError, match="p must be from 0 to below 1"):
        without(*csr_of(np.ones((1, 1), np.float32)), p)


@pytest.mark.parametrize(
    ("begin", "end", "n_values", "message"),
    [
        ([0], [4], 3, r"sample 0's run 0\.\.4 is outside 0\.\.3"),
        ([-1], [2], 3, "sample 0's run"),
        ([2], [1], 3, "sample 0's run"),
        ([0, 1], [1], 3, "2 runs begin and 1 end"),
        ([0], [1], 2, "2 values for 3 ids"),
    ],
)
def test_drop_pairs_checks_its_arguments(begin, end, n_values, message):
    values, ids = np.ones(n_values, np.float32), np.zeros(3, np.int32)
    with pytest.raises(ValueError, match=message):
        drop_pairs(values, ids, np.array(begin), np.array(end), 0.5, 0, 0, 1)


@pytest.mark.parametrize(
    ("indptr", "message"),
    [([], "indptr must rise"), ([1, 2], "indptr must rise"), ([0, 4], "indptr must rise"), ([0, 3, 2], "at row 1")],
)
def test_drop_entries_checks_its_arguments(indptr, message):
    with pytest.raises(ValueError, match=message):
        without(np.array(indptr, np.int64), np.zeros(3, np.int32), np.ones(3, np.float32), 0.5)


@pytest.mark.parametrize("short", [0, 1, 2])
def test_drop_entries_needs_room(short):
    out = [np.zeros(2, np.int64), np.zeros(3, np.int32), np.zeros(3, np.float32)]
    out[short] = out[short][:-1]
    given = np.array([0, 3]), np.zeros(3, np.int32), np.ones(3, np.float32)
    with pytest.raises(ValueError, match="no room for 1 rows with 3 entries"):
        drop_entries(*given, 0.5, 0, 0, *out)
