"""SpMM and SDDMM, the samples' gradient, and rows taken from a CSR matrix."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse import random as random_sparse

from slide.kernels.grouping import PairGroups
from slide.kernels.optim import measure, sgd, step_groups
from slide.kernels.rows import RowTable
from slide.kernels.sparse import SampleGradient, sddmm, spmm, take_rows

NO_BIAS = np.zeros(0, np.float32)


def close(actual, expected):
    return np.abs(actual - expected).max(initial=0) <= 1e-5 * max(1, np.abs(expected).max(initial=0))


def int64(*values):
    return np.array(values, np.int64)


def int32(*values):
    return np.array(values, np.int32)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_spmm_twin(rng, make_table, dim, threads, relu, with_bias):
    table = make_table(70, dim)
    matrix = random_sparse(90, 70, 0.2, "csr", np.float32, rng, data_rvs=rng.standard_normal)
    bias = NO_BIAS
    expected = matrix.astype(np.float64) @ table.weights.astype(np.float64)
    if with_bias:
        bias = np.zeros(table.padded_dim, np.float32)
        bias[:dim] = rng.normal(size=dim)
        expected += bias[:dim]
    if relu:
        expected = np.maximum(expected, 0)
    out = np.full((90, table.padded_dim), np.nan, np.float32)
    spmm(table, matrix.indptr.astype(np.int64), matrix.indices, matrix.data, bias, relu, out, threads)
    assert close(out[:, :dim], expected)
    assert not out[:, dim:].any()


def test_spmm_of_samples_without_entries(make_table):
    table = make_table(3, 17)
    out = np.full((2, 32), np.nan, np.float32)
    nothing = np.zeros(0, np.int32)
    spmm(table, int64(0, 0, 0), nothing, NO_BIAS, NO_BIAS, True, out, 2)
    assert not out.any()
    spmm(table, int64(0), nothing, NO_BIAS, NO_BIAS, True, out[:0], 2)


@pytest.mark.parametrize("relu", [False, True])
def test_spmm_passes_nan_through(make_table, relu):
    table = make_table(3, 16)
    out = np.zeros((1, 16), np.float32)
    spmm(table, int64(0, 1), np.zeros(1, np.int32), np.array([np.nan], np.float32), NO_BIAS, relu, out, 1)
    assert np.isnan(out).all()


@pytest.mark.parametrize(
    ("indptr", "indices", "values", "bias", "columns", "message"),
    [
        ([0, 1], [0], [1.0], 0, 8, "out and bias must have 16 columns, got 8 and 0"),
        ([0, 1], [0], [1.0], 5, 16, "out and bias must have 16 columns, got 16 and 5"),
        ([0], [0], [1.0], 0, 16, "indptr must have 2 entries, got 1"),
        ([1, 1], [0], [1.0], 0, 16, "indptr must rise from 0"),
        ([0, 2], [0], [1.0, 1.0], 0, 16, "indptr must rise from 0"),
        ([0, 2], [0, 0], [1.0], 0, 16, "indptr must rise from 0"),
        ([0, -1], [0], [1.0], 0, 16, "indptr must rise from 0"),
        ([0, 1], [3], [1.0], 0, 16, r"indices must lie in 0\.\.2, got 3"),
        ([0, 1], [-1], [1.0], 0, 16, r"indices must lie in 0\.\.2, got -1"),
    ],
)
def test_spmm_checks_its_arguments(make_table, indptr, indices, values, bias, columns, message):
    with pytest.raises(ValueError, match=message):
        spmm(
            make_table(3, 16),
            int64(*indptr),
            np.array(indices, np.int32),
            np.array(values, np.float32),
            np.zeros(bias, np.float32),
            False,
            np.zeros((1, columns), np.float32),
            1,
        )


def test_spmm_refuses_falling_indptr(make_table):
    out = np.zeros((3, 16), np.float32)
    with pytest.raises(ValueError, match="indptr must rise"):
        spmm(make_table(3, 16), int64(0, 2, 1, 2), np.zeros(2, np.int32), out[0, :2], NO_BIAS, False, out, 1)


def test_sddmm_twin(make_table, make_hidden, make_runs, dim, threads):
    table = make_table(150, dim)
    hidden = make_hidden(60, table)
    ids, begin, end = make_runs(60, 150, 90)
    groups = PairGroups(len(ids))
    groups.group(ids, begin, end, 150)
    out = np.full(len(ids), 1e9, np.float32)
    sddmm(table, groups, hidden, out, threads)
    weights, inputs = table.weights.astype(np.float64), hidden[:, :dim].astype(np.float64)
    expected = np.full(len(ids), 1e9)
    for sample, (first, last) in enumerate(zip(begin, end, strict=True)):
        expected[first:last] = weights[ids[first:last]] @ inputs[sample] + table.bias[ids[first:last]]
    pairs = expected != 1e9
    assert close(out[pairs], expected[pairs])
    assert (out[~pairs] == 1e9).all()


def test_sddmm_checks_its_arguments(make_table):
    table, groups = make_table(4, 16), PairGroups(8)
    hidden, out = np.zeros((2, 16), np.float32), np.zeros(3, np.float32)
    groups.group(np.array([0, 5, 1], np.int32), int64(0, 1), int64(1, 3), 6)
    with pytest.raises(ValueError, match="pairs reach row 5 and slot 2, but there are 4 rows and 3 slots"):
        sddmm(table, groups, hidden, out, 1)
    groups.group(np.array([0, 3, 1], np.int32), int64(0, 2), int64(1, 3), 4)  # a slot between them is nobody's
    with pytest.raises(ValueError, match="slot 2, but there are 4 rows and 2 slots"):
        sddmm(table, groups, hidden, out[:2], 1)
    with pytest.raises(ValueError, match=r"hidden must be \[2 or more, 16\], got \[1, 16\]"):
        sddmm(table, groups, hidden[:1], out, 1)
    with pytest.raises(ValueError, match=r"hidden must be \[2 or more, 16\], got \[2, 32\]"):
        sddmm(table, groups, np.zeros((2, 32), np.float32), out, 1)


@pytest.mark.parametrize("relu", [False, True])
def test_sample_gradient_twin(rng, make_table, make_hidden, make_runs, dim, threads, relu):
    table = make_table(600, dim, moments=0)
    hidden = make_hidden(40, table)
    ids, begin, end = make_runs(40, 600, 200)
    groups = PairGroups(len(ids))
    gradient = SampleGradient(40, table.padded_dim)
    groups.group(ids, begin, end, 600)
    coefficients = rng.normal(size=len(ids)).astype(np.float32)
    expected = np.zeros((40, dim))
    for _ in range(2):
        for sample, (first, last) in enumerate(zip(begin, end, strict=True)):
            expected[sample] += coefficients[first:last] @ table.weights[ids[first:last]].astype(np.float64)
        step_groups(table, groups, coefficients, hidden, gradient, sgd(0.1, 1), threads)
    active = hidden if relu else None
    if relu:
        expected[hidden[:, :dim] <= 0] = 0
    assert gradient.n_parts == 2 * groups.n_parts > 2
    out = np.full(hidden.shape, np.nan, np.float32)
    gradient.sum_into(out, active, threads)
    assert close(out[:, :dim], expected)
    assert not out[:, dim:].any()
    gradient.sum_into(out, active, threads)
    assert not out.any()


def test_sample_gradient_forgets_a_batch(make_table, make_hidden):
    table, groups, gradient = make_table(4, 16), PairGroups(4), SampleGradient(2, 16)
    groups.group(np.array([0], np.int32), int64(0), int64(1), 4)
    step_groups(table, groups, np.ones(1, np.float32), make_hidden(2, table), gradient, sgd(1, 1), 1)
    gradient.clear()
    out = np.ones((2, 16), np.float32)
    gradient.sum_into(out, None, 1)
    assert not out.any()
    gradient.sum_into(out[:0], None, 1)


def test_sample_gradient_checks_its_arguments():
    for samples, dim in [(0, 16), (1, 0), (1, 17)]:
        with pytest.raises(ValueError, match="expected samples and a multiple of 16"):
            SampleGradient(samples, dim)
    gradient = SampleGradient(2, 16)
    with pytest.raises(ValueError, match=r"out must be \[at most 2, 16\], got \[3, 16\]"):
        gradient.sum_into(np.zeros((3, 16), np.float32), None, 1)
    with pytest.raises(ValueError, match="active must have the shape of out"):
        gradient.sum_into(np.zeros((2, 16), np.float32), np.zeros((1, 16), np.float32), 1)


def test_more_parts_than_a_batch_has_are_refused(rng, make_table, make_hidden):
    table, groups, gradient = make_table(2000, 16, moments=0), PairGroups(40_000), SampleGradient(1, 16)
    groups.group(rng.integers(0, 2000, 40_000).astype(np.int32), int64(0), int64(40_000), 2000)
    arguments = (table, groups, np.zeros(40_000, np.float32), make_hidden(1, table), gradient, sgd(1, 1), 1)
    for _ in range(2):
        step_groups(*arguments)
    with pytest.raises(ValueError, match="more parts than a batch may have"):
        step_groups(*arguments)


def taken(matrix, rows, *, weights=NO_BIAS, normalize=False, with_values=True):
    rows = np.asarray(rows, np.int64)
    total = int(np.diff(matrix.indptr)[rows].sum())
    indptr, indices = np.zeros(len(rows) + 1, np.int64), np.zeros(total, np.int32)
    values = np.zeros(total if with_values else 0, np.float32)
    data = matrix.data if with_values else np.zeros(0, np.float32)
    given = matrix.indptr.astype(np.int64), matrix.indices, data, weights
    count = take_rows(*given, rows, normalize, indptr, indices, values)
    assert count == total
    return indptr, indices, values


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("rows", [[], [3], [5, 0, 5, 29, 1]])
def test_take_rows_twin(rng, rows, normalize, weighted):
    matrix = random_sparse(30, 40, 0.2, "csr", np.float32, rng)
    expected = matrix[rows].astype(np.float64)
    weights = rng.random(40, np.float32) if weighted else NO_BIAS
    if weighted:
        expected.data *= weights[expected.indices]
    if normalize:
        norms = np.sqrt(expected.multiply(expected).sum(axis=1)).A1
        expected.data /= np.repeat(norms, np.diff(expected.indptr))
    indptr, indices, values = taken(matrix, rows, weights=weights, normalize=normalize)
    np.testing.assert_array_equal(indptr, expected.indptr)
    np.testing.assert_array_equal(indices, expected.indices)
    np.testing.assert_allclose(values, expected.data, rtol=1e-6)
    pattern = taken(matrix, rows, with_values=False)
    np.testing.assert_array_equal(pattern[1], expected.indices)


def test_normalising_leaves_zeros_and_survives_extremes():
    data = np.array([1e38, 1e38, 1e-38, 1e-44, 0], np.float32)
    matrix = csr_matrix((data, [0, 1, 0, 0, 0], [0, 2, 3, 4, 5]), shape=(4, 2))
    for weights in (NO_BIAS, np.full(2, 1e3, np.float32)):
        values = taken(matrix, [0, 1, 2, 3], weights=weights, normalize=True)[2]
        np.testing.assert_allclose(values, [0.5**0.5, 0.5**0.5, 1, 1, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": int64(2)}, r"row 2 is not in 0\.\.1"),
        ({"rows": int64(-1)}, "row -1 is not in"),
        ({"indptr": int64(0, 3, 2)}, "indptr is not consistent at row 1"),
        ({"indptr": int64(0, 1, 9)}, "indptr is not consistent at row 1"),
        ({"indptr": int64(0, -1, 2)}, "indptr is not consistent at row 1"),
        ({"values": np.ones(1, np.float32)}, "1 values for 2 indices"),
        ({"weights": np.ones(1, np.float32), "indices": int32(0, 1)}, "column 1 is not one of the 1 that have"),
        ({"weights": np.ones(1, np.float32), "indices": int32(-1, 0)}, "column -1 is not one of the 1 that have"),
        ({"out_indptr": np.zeros(2, np.int64)}, "no room for 2 rows with 2 entries"),
        ({"out_indices": np.zeros(1, np.int32)}, "no room for 2 rows with 2 entries"),
        ({"out_values": np.zeros(1, np.float32)}, "no room for 2 rows with 2 entries"),
    ],
)
def test_take_rows_checks_its_arguments(changes, message):
    arguments = {
        "indptr": int64(0, 1, 2),
        "indices": np.zeros(2, np.int32),
        "values": np.ones(2, np.float32),
        "weights": np.zeros(0, np.float32),
        "rows": int64(0, 1),
        "normalize": False,
        "out_indptr": np.zeros(3, np.int64),
        "out_indices": np.zeros(2, np.int32),
        "out_values": np.zeros(2, np.float32),
    }
    if "indptr" in changes:
        arguments["rows"] = int64(1)
    with pytest.raises(ValueError, match=message):
        take_rows(**arguments | changes)


def test_units_that_give_nothing_have_no_gradient():
    table = RowTable(1, 16, moments=0)
    table.weights[:] = 1.0
    gradient = SampleGradient(2, 16)
    active = np.full((2, 16), 0.5, np.float32)
    active[0, :4] = [0.0, -0.0, -1.0, 1e-38]
    groups = PairGroups(2)
    groups.group(np.zeros(2, np.int32), np.array([0, 1]), np.array([1, 2]), 1)
    step_groups(table, groups, np.ones(2, np.float32), active, gradient, measure(), 1)
    out = np.empty((2, 16), np.float32)
    gradient.sum_into(out, active, 1)
    expected = np.ones((2, 16), np.float32)
    expected[0, :3] = 0.0
    np.testing.assert_array_equal(out, expected)
