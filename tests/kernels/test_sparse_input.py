"""SDDMM and the row step over sparse samples, against float64 twins and the dense kernels."""

import math
from typing import NamedTuple

import numpy as np
import pytest

from slide.kernels import optim, sparse
from slide.kernels.grouping import PairGroups
from slide.kernels.rows import RowTable
from slide.kernels.sparse import SampleGradient
from slide.kernels.sparse_input import sddmm, step_groups

HYPER = {"lr": 0.05, "beta1": 0.9, "beta2": 0.99, "eps": 1e-3}


def rule(name, step):
    return optim.adam(**HYPER, step=step) if name == "adam" else optim.sgd(HYPER["lr"], step)


def step_twin(name, step, w, m, v, grad, mask):
    """One step in place, where the mask says so."""
    if name == "sgd":
        w[mask] -= HYPER["lr"] * grad[mask]
        return
    m[mask] = (HYPER["beta1"] * m + (1 - HYPER["beta1"]) * grad)[mask]
    v[mask] = (HYPER["beta2"] * v + (1 - HYPER["beta2"]) * grad**2)[mask]
    corrected_m, corrected_v = m / (1 - HYPER["beta1"] ** step), v / (1 - HYPER["beta2"] ** step)
    w[mask] -= (HYPER["lr"] * corrected_m / (np.sqrt(np.maximum(corrected_v, 0)) + HYPER["eps"]))[mask]


class Samples(NamedTuple):
    """Sparse samples: what the kernels take, in their order."""

    begin: np.ndarray
    end: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    def dense(self, width):
        """Return them as a float32 array [samples, width]; values of the same column are added up."""
        out = np.zeros((len(self.begin), width), np.float32)
        for s, (first, last) in enumerate(zip(self.begin, self.end, strict=True)):
            np.add.at(out[s], self.columns[first:last], self.values[first:last])
        return out

    def has(self, width):
        """Return which columns each sample has, a boolean array [samples, width]."""
        out = np.zeros((len(self.begin), width), bool)
        for s, (first, last) in enumerate(zip(self.begin, self.end, strict=True)):
            out[s, self.columns[first:last]] = True
        return out


@pytest.fixture
def make_samples(rng, make_runs):
    """Make sparse samples with gaps between them, some of them empty."""

    def make_samples(samples, dim, most=12):
        columns, begin, end = make_runs(samples, dim, most)
        return Samples(begin, end, columns, rng.normal(size=len(columns)).astype(np.float32))

    return make_samples


@pytest.fixture
def make_groups(make_runs):
    """Make grouped pairs, and return them with their ids and runs."""

    def make_groups(samples, n_rows, most):
        ids, begin, end = make_runs(samples, n_rows, most)
        groups = PairGroups(len(ids))
        groups.group(ids, begin, end, n_rows)
        return groups, ids, begin, end

    return make_groups


def pairs_of(begin, end):
    """Every pair's sample and slot."""
    slots = np.concatenate([np.arange(first, last) for first, last in zip(begin, end, strict=True)])
    return np.repeat(np.arange(len(begin)), end - begin), slots


# --- SDDMM


def test_sddmm_twin(make_table, make_samples, make_groups, dim, threads):
    table, samples = make_table(120, dim), make_samples(40, dim)
    groups, ids, begin, end = make_groups(40, 120, 60)
    out = np.full(len(ids), np.nan, np.float32)
    sddmm(table, groups, *samples, out, threads)
    sample, slot = pairs_of(begin, end)
    rows, x = ids[slot], samples.dense(dim).astype(np.float64)
    expected = (table.weights.astype(np.float64)[rows] * x[sample]).sum(axis=1) + table.bias[rows]
    np.testing.assert_allclose(out[slot], expected, rtol=1e-4, atol=1e-5)
    assert np.isnan(np.delete(out, slot)).all()


def test_sddmm_is_that_of_the_densified_samples(make_table, make_samples, make_groups, dim):
    table, samples = make_table(120, dim), make_samples(40, dim, 40)
    groups, ids, _, _ = make_groups(40, 120, 60)
    dense, out = np.zeros((2, len(ids)), np.float32)
    sddmm(table, groups, *samples, out, 1)
    sparse.sddmm(table, groups, samples.dense(table.padded_dim), dense, 1)
    np.testing.assert_allclose(out, dense, rtol=1e-4, atol=1e-5)


# --- The step


@pytest.mark.parametrize("touched_only", [False, True], ids=["whole", "touched"])
@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_step_groups_twin(
    rng, make_table, make_samples, make_groups, padding_is_zero, dim, threads, name, touched_only
):
    n_rows, n = 90, 30
    table = make_table(n_rows, dim, 2 if name == "adam" else 0)
    twin = {part: view.astype(np.float64) for part, view in table.state().items()}
    nothing = np.zeros((n_rows, dim)), np.zeros(n_rows)
    for step in (1, 2, 3):
        samples = make_samples(n, dim)
        groups, ids, begin, end = make_groups(n, n_rows, 8)
        coefficients = rng.normal(size=len(ids)).astype(np.float32)
        sample, slot = pairs_of(begin, end)
        rows, c = ids[slot], coefficients[slot].astype(np.float64)
        grad, grad_bias, down = np.zeros((n_rows, dim)), np.zeros(n_rows), np.zeros((n, dim))
        has = np.zeros((n_rows, dim), bool)
        np.add.at(grad, rows, c[:, None] * samples.dense(dim)[sample])
        np.add.at(grad_bias, rows, c)
        np.add.at(down, sample, c[:, None] * twin["weights"][rows])
        down[~samples.has(dim)] = 0
        np.logical_or.at(has, rows, samples.has(dim)[sample])
        stepped = np.isin(np.arange(n_rows), rows)
        mask = has if touched_only else np.repeat(stepped[:, None], dim, axis=1)
        for part, kind, g, where, spare in (
            ("weights", "", grad, mask, nothing[0]),
            ("bias", "bias_", grad_bias, stepped, nothing[1]),
        ):
            m, v = (twin.get(f"{kind}{moment}", spare) for moment in "mv")
            step_twin(name, step, twin[part], m, v, g, where)
        twin["last_step"][stepped] = step

        gradient = SampleGradient(n, table.padded_dim)
        total = np.zeros((n, table.padded_dim), np.float32)
        step_groups(table, groups, coefficients, *samples, gradient, touched_only, rule(name, step), threads)
        gradient.sum_into(total, None, threads)
        np.testing.assert_allclose(total[:, :dim], down, rtol=1e-4, atol=1e-4)
        assert not total[:, dim:].any()
    for part, view in table.state().items():
        np.testing.assert_allclose(view, twin[part], rtol=1e-4, atol=1e-5, err_msg=part)
    assert padding_is_zero(table)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_step_is_that_of_the_densified_samples(rng, make_samples, make_groups, dim, name):
    samples = make_samples(30, dim)
    groups, ids, _, _ = make_groups(30, 70, 30)
    coefficients = rng.normal(size=len(ids)).astype(np.float32)
    tables, sums = [], []
    for dense in (False, True):
        table = RowTable(70, dim)
        table.fill_uniform(1.0, 0, 1)
        gradient, total = SampleGradient(30, table.padded_dim), np.zeros((30, table.padded_dim), np.float32)
        if dense:
            hidden = samples.dense(table.padded_dim)
            optim.step_groups(table, groups, coefficients, hidden, gradient, rule(name, 1), 1)
        else:
            step_groups(table, groups, coefficients, *samples, gradient, False, rule(name, 1), 1)
        gradient.sum_into(total, None, 1)
        tables.append(table.state())
        sums.append(total[samples.has(table.padded_dim)])
    for part, view in tables[0].items():
        np.testing.assert_allclose(view, tables[1][part], rtol=1e-4, atol=1e-6, err_msg=part)
    np.testing.assert_allclose(sums[0], sums[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("touched_only", [False, True])
@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_results_are_the_same_at_any_number_of_threads(rng, make_samples, make_groups, name, touched_only):
    samples = make_samples(60, 200)
    groups, ids, _, _ = make_groups(60, 3000, 400)
    assert groups.n_parts > 4
    coefficients = rng.normal(size=len(ids)).astype(np.float32)
    results = []
    for threads in (1, 2, 5):
        table = RowTable(3000, 200)
        table.fill_uniform(1.0, 0, 1)
        logits = np.zeros(len(ids), np.float32)
        sddmm(table, groups, *samples, logits, threads)
        gradient, total = SampleGradient(60, 208), np.zeros((60, 208), np.float32)
        step_groups(table, groups, coefficients, *samples, gradient, touched_only, rule(name, 1), threads)
        gradient.sum_into(total, None, threads)
        results.append((logits, total, np.frombuffer(table.buffer, np.uint8)))
    for result in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_a_row_twice_in_a_sample_steps_once_for_both(make_table):
    table = make_table(5, 20, 0)
    before, bias = table.weights.copy(), table.bias.copy()
    groups = PairGroups(3)
    groups.group(np.array([4, 4, 1], np.int32), np.array([0]), np.array([3]), 5)
    samples = Samples(np.array([0]), np.array([2]), np.array([19, 0], np.int32), np.array([2, -1], np.float32))
    out = np.zeros(3, np.float32)
    sddmm(table, groups, *samples, out, 1)
    assert out[0] == out[1]
    step_groups(table, groups, np.array([1, 2, 4], np.float32), *samples, None, True, optim.sgd(0.5, 7), 1)
    expected = before.copy()
    expected[[4, 4, 1, 1], [19, 0, 19, 0]] -= 0.5 * np.array([6, -3, 8, -4], np.float32)
    np.testing.assert_allclose(table.weights, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(bias - table.bias, [0, 2, 0, 0, 1.5], rtol=1e-5, atol=1e-6)
    assert table.last_step.tolist() == [0, 7, 0, 0, 7]


@pytest.mark.parametrize("touched_only", [False, True])
def test_values_of_the_same_column_add_up(make_table, touched_only):
    table = make_table(3, 20, 0)
    before, bias = table.weights.copy(), table.bias.copy()
    groups = PairGroups(1)
    groups.group(np.array([2], np.int32), np.array([0]), np.array([1]), 3)
    samples = Samples(np.array([0]), np.array([3]), np.array([5, 6, 5], np.int32), np.array([1, 1, 2], np.float32))
    out = np.zeros(1, np.float32)
    sddmm(table, groups, *samples, out, 1)
    assert out[0] == pytest.approx(3 * before[2, 5] + before[2, 6] + bias[2], rel=1e-5)
    step_groups(table, groups, np.ones(1, np.float32), *samples, None, touched_only, optim.sgd(1.0, 1), 1)
    moved = np.zeros((3, 20))
    moved[2, 5:7] = 3, 1
    np.testing.assert_allclose(before - table.weights, moved, atol=1e-6)


def test_rows_do_not_leak_into_one_another(make_table, make_groups):
    """A row whose samples are all empty has no gradient but that of its bias."""
    table = make_table(2, 20, 0)
    before = table.weights.copy()
    groups = PairGroups(2)
    groups.group(np.array([0, 1], np.int32), np.array([0, 1]), np.array([1, 2]), 2)
    samples = Samples(np.array([0, 2]), np.array([2, 2]), np.array([3, 4], np.int32), np.ones(2, np.float32))
    step_groups(table, groups, np.ones(2, np.float32), *samples, None, False, optim.sgd(1.0, 1), 1)
    np.testing.assert_allclose(before[0] - table.weights[0], np.isin(np.arange(20), [3, 4]), atol=1e-6)
    assert np.array_equal(table.weights[1], before[1])


def test_first_step_of_adam_has_the_size_of_the_learning_rate():
    table = RowTable(1, 16)
    groups = PairGroups(1)
    groups.group(np.zeros(1, np.int32), np.zeros(1, np.int64), np.ones(1, np.int64), 1)
    samples = Samples(np.array([0]), np.array([2]), np.array([3, 9], np.int32), np.array([-4, 2], np.float32))
    step_groups(table, groups, np.ones(1, np.float32), *samples, None, True, optim.adam(0.01, 0.9, 0.999, 1e-8, 1), 1)
    np.testing.assert_allclose(table.weights[0, [3, 9]], [0.01, -0.01], rtol=1e-5)
    assert np.count_nonzero(table.weights) == 2
    assert table.bias[0] == pytest.approx(-0.01, rel=1e-5)


@pytest.mark.parametrize("samples", [0, 3])
def test_nothing_to_do(make_table, samples):
    table = make_table(4, 20)
    before = np.frombuffer(table.buffer, np.uint8).copy()
    groups = PairGroups(0)
    none = np.zeros(samples, np.int64)
    groups.group(np.zeros(0, np.int32), none, none, 4)
    nothing = Samples(none, none, np.zeros(0, np.int32), np.zeros(0, np.float32))
    gradient, total = SampleGradient(3, 32), np.full((samples, 32), math.nan, np.float32)
    sddmm(table, groups, *nothing, np.zeros(0, np.float32), 2)
    step_groups(table, groups, np.zeros(0, np.float32), *nothing, gradient, True, rule("adam", 1), 2)
    gradient.sum_into(total, None, 1)
    assert not total.any()
    assert np.array_equal(np.frombuffer(table.buffer, np.uint8), before)


# --- At the door

BAD_SAMPLES = [
    ({"begin": np.array([0])}, "begin and end must have 2 entries, got 1 and 2"),
    ({"end": np.array([1])}, "begin and end must have 2 entries, got 2 and 1"),
    ({"begin": np.array([0]), "end": np.array([1])}, "begin and end must have 2 entries, got 1 and 1"),
    ({"values": np.ones(3, np.float32)}, "4 columns, but 3 values"),
    ({"begin": np.array([-1, 2])}, r"sample 0's run -1\.\.2 is out of order or range"),
    ({"begin": np.array([0, 1])}, r"sample 1's run 1\.\.4 is out of order or range"),
    ({"end": np.array([2, 5])}, r"sample 1's run 2\.\.5 is out of order or range"),
    ({"begin": np.array([0, 3]), "end": np.array([2, 2])}, r"sample 1's run 3\.\.2 is out of order or range"),
    ({"columns": np.array([0, 1, 2, 20], np.int32)}, "sample 1 has column 20, the rows have 20"),
    ({"columns": np.array([-1, 1, 2, 3], np.int32)}, "sample 0 has column -1, the rows have 20"),
]


@pytest.fixture
def good():
    """What both kernels accept: two samples of two columns, and two pairs."""
    groups = PairGroups(2)
    groups.group(np.array([0, 3], np.int32), np.array([0, 1]), np.array([1, 2]), 4)
    columns = np.array([0, 19, 3, 4], np.int32)
    samples = Samples(np.array([0, 2]), np.array([2, 4]), columns, np.ones(4, np.float32))
    return RowTable(4, 20, moments=0), groups, samples


@pytest.mark.parametrize(("changes", "message"), BAD_SAMPLES)
def test_samples_are_checked(good, changes, message):
    table, groups, samples = good
    coefficients, first = np.ones(2, np.float32), optim.sgd(0.1, 1)
    sddmm(table, groups, *samples, coefficients, 1)
    step_groups(table, groups, coefficients, *samples, None, True, first, 1)
    samples = samples._replace(**changes)
    with pytest.raises(ValueError, match=message):
        sddmm(table, groups, *samples, coefficients, 1)
    with pytest.raises(ValueError, match=message):
        step_groups(table, groups, coefficients, *samples, None, True, first, 1)


def test_tables_slots_and_gradients_are_checked(good):
    table, groups, samples = good
    coefficients, first = np.ones(2, np.float32), optim.sgd(0.1, 1)
    small = RowTable(3, 20, moments=0)
    with pytest.raises(ValueError, match="pairs reach row 3 and slot 1, but there are 3 rows and 2 slots"):
        sddmm(small, groups, *samples, coefficients, 1)
    with pytest.raises(ValueError, match="pairs reach row 3 and slot 1, but there are 4 rows and 1 slots"):
        step_groups(table, groups, coefficients[:1], *samples, None, True, first, 1)
    with pytest.raises(ValueError, match="the rule needs 2 moments a weight, the table keeps 0"):
        step_groups(table, groups, coefficients, *samples, None, True, rule("adam", 1), 1)
    for gradient in (SampleGradient(1, 32), SampleGradient(2, 16)):
        with pytest.raises(ValueError, match="not for this batch"):
            step_groups(table, groups, coefficients, *samples, gradient, True, first, 1)
