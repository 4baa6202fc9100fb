"""Rows' gradients as arrays, and the step by them: to the bits of the visit that does both."""

import numpy as np
import pytest

from slide.kernels.gradients import row_gradients, step_rows
from slide.kernels.grouping import PairGroups
from slide.kernels.optim import adagrad, adam, measure, sgd, step_groups
from slide.kernels.rows import RowTable

RULES = {
    "adam": lambda: adam(0.05, 0.9, 0.99, 1e-3, 3, weight_decay=0.1, decay_moments=True),
    "sgd": lambda: sgd(0.05, 3),
    "adagrad": lambda: adagrad(0.05, 1e-3, 3),
}


@pytest.fixture
def make_batch(rng, make_hidden, make_runs):
    """Make a batch's grouped pairs, their coefficients, and the samples' vectors."""

    def make_batch(table, samples=30):
        ids, begin, end = make_runs(samples, table.n_rows // 2, 60)
        groups = PairGroups(len(ids))
        groups.group(ids, begin, end, table.n_rows)
        return groups, rng.normal(size=len(ids)).astype(np.float32), make_hidden(samples, table)

    return make_batch


def gradients_of(groups, coefficients, hidden, threads=1):
    out = np.full((groups.n_groups, hidden.shape[1]), np.nan, np.float32)
    bias = np.full(groups.n_groups, np.nan, np.float32)
    row_gradients(groups, coefficients, hidden, out, bias, threads)
    return out, bias


def test_row_gradients_twin(make_table, make_batch, dim, threads):
    table = make_table(250, dim)
    groups, coefficients, hidden = make_batch(table)
    out, bias = gradients_of(groups, coefficients, hidden, threads)
    twin, bias_twin = np.zeros(out.shape), np.zeros(bias.shape)
    for row in range(groups.n_groups):
        for pair in range(groups.ptr[row], groups.ptr[row + 1]):
            coefficient = float(coefficients[groups.slots[pair]])
            twin[row] += coefficient * hidden[groups.samples[pair]].astype(np.float64)
            bias_twin[row] += coefficient
    np.testing.assert_allclose(out, twin, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(bias, bias_twin, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name, precision", [("adam", "fp32"), ("adam", "bf16"), ("sgd", "fp32"), ("sgd", "bf16"), ("adagrad", "fp32")]
)
def test_gradient_and_step_apart_are_the_visit_that_does_both(rng, make_batch, dim, threads, name, precision):
    def table():
        made = RowTable(
            250, dim, moments=2 if name == "adam" else 0, accumulates=name == "adagrad", precision=precision
        )
        made.state()["weights"][...] = weights
        return made

    weights = rng.normal(size=(250, dim)).astype(np.float32)
    together, apart = table(), table()
    groups, coefficients, hidden = make_batch(together)
    step_groups(together, groups, coefficients, hidden, None, RULES[name](), 1)
    step_rows(apart, groups.rows, *gradients_of(groups, coefficients, hidden, threads), RULES[name](), threads)
    for part, view in together.state().items():
        # Adagrad adds up a row's squares in another order.
        tolerance = 1e-6 if name == "adagrad" else 0
        np.testing.assert_allclose(np.asarray(apart.state()[part]), np.asarray(view), tolerance, tolerance, part)


def test_a_rule_that_measures_steps_nothing(make_table, make_batch, threads):
    table = make_table(3000, 17)
    before = {part: view.copy() for part, view in table.state().items()}
    groups, coefficients, hidden = make_batch(table, samples=500)
    gradients, bias = gradients_of(groups, coefficients, hidden)
    rule, other = measure(), measure()
    step_rows(table, groups.rows, gradients, bias, rule, threads)
    step_rows(table, groups.rows, gradients, bias, other, 3 - threads)
    expected = np.square(gradients, dtype=np.float64).sum() + np.square(bias, dtype=np.float64).sum()
    np.testing.assert_allclose(rule.squared_norm, expected, rtol=1e-5)
    assert rule.squared_norm == other.squared_norm
    for part, view in table.state().items():
        np.testing.assert_array_equal(view, before[part], err_msg=part)


def test_nothing_to_do(make_table):
    table = make_table(5, 16)
    groups = PairGroups(4)
    none = np.zeros(0, np.int64)
    groups.group(np.zeros(0, np.int32), none, none, 5)
    row_gradients(groups, np.zeros(0, np.float32), np.zeros((0, 16), np.float32), np.zeros((0, 16), np.float32),
                  np.zeros(0, np.float32), 1)
    step_rows(table, np.zeros(0, np.int32), np.zeros((0, 16), np.float32), np.zeros(0, np.float32), sgd(1.0, 1), 1)


def test_wrong_input(make_table, make_batch):
    table = make_table(50, 16)
    groups, coefficients, hidden = make_batch(table)
    n = groups.n_groups
    out, bias = np.zeros((n, 16), np.float32), np.zeros(n, np.float32)
    for args in [
        (coefficients[:1], hidden, out, bias),
        (coefficients, hidden[:1], out, bias),
        (coefficients, np.zeros((30, 15), np.float32), out, bias),
        (coefficients, hidden, out[:-1], bias),
        (coefficients, hidden, np.zeros((n, 32), np.float32), bias),
        (coefficients, hidden, out, bias[:-1]),
    ]:
        with pytest.raises(ValueError):
            row_gradients(groups, *args, 1)
    rows = groups.rows
    for args in [
        (rows, out[:-1], bias),
        (rows, np.zeros((n, 32), np.float32), bias),
        (rows, out, bias[:-1]),
        (rows[::-1].copy(), out, bias),
        (np.full(1, 50, np.int32), out, bias),
        (np.full(1, -1, np.int32), out, bias),
        (np.zeros(2, np.int32), out, bias),
    ]:
        with pytest.raises(ValueError):
            step_rows(table, *args, sgd(1.0, 1), 1)
    with pytest.raises(ValueError, match="moments"):
        step_rows(RowTable(50, 16, moments=0), rows, out, bias, RULES["adam"](), 1)
