"""Training without locks: distinct rows, logits sample by sample, gradients that all threads add to."""

import numpy as np
import pytest

from slide.kernels.hogwild import sddmm, step_rows, touched_rows
from slide.kernels.optim import adam, measure, sgd
from slide.kernels.rows import RowTable
from slide.kernels.sparse import SampleGradient


def close(actual, expected):
    return np.abs(actual - expected).max(initial=0) <= 1e-5 * max(1, np.abs(expected).max(initial=0))


def pairs_of(ids, begin, end):
    """Every pair's sample, row and slot."""
    for s, (first, last) in enumerate(zip(begin, end, strict=True)):
        for i in range(first, last):
            yield s, ids[i], i


def rows_of(ids, begin, end):
    return np.array(sorted({row for _, row, _ in pairs_of(ids, begin, end)}), np.int32)


def gradients_twin(table, ids, begin, end, coefficients, hidden):
    """The rows' gradients, their biases' and the samples'."""
    rows, biases = np.zeros((table.n_rows, table.padded_dim)), np.zeros(table.n_rows)
    samples = np.zeros(hidden.shape)
    for s, row, i in pairs_of(ids, begin, end):
        rows[row] += coefficients[i] * hidden[s]
        biases[row] += coefficients[i]
        samples[s, : table.dim] += coefficients[i] * table.weights[row]
    return rows[:, : table.dim], biases, samples


def sums_of(table):
    return RowTable(table.n_rows, table.dim, moments=0)


def summed(gradient, hidden):
    out = np.empty_like(hidden)
    gradient.sum_into(out, None, 1)
    return out


@pytest.mark.parametrize("samples", [0, 1, 7, 300])
def test_touched_rows(rng, make_runs, threads, samples):
    stamps = np.zeros(200, np.int32)
    for stamp in (1, 2, 3):
        ids, begin, end = make_runs(samples, 200, 150)
        out = np.empty(len(ids), np.int32)
        n = touched_rows(ids, begin, end, stamps, stamp, out, threads)
        expected = rows_of(ids, begin, end)
        np.testing.assert_array_equal(out[:n], expected)
        np.testing.assert_array_equal(np.flatnonzero(stamps == stamp), expected)


def test_sddmm(rng, make_table, make_hidden, make_runs, dim, threads):
    table = make_table(40, dim)
    ids, begin, end = make_runs(50, 40, 30)
    hidden = make_hidden(50, table)
    out = np.full(len(ids), 7, np.float32)
    sddmm(table, ids, begin, end, hidden, out, threads)
    expected = np.full(len(ids), 7.0)
    for s, row, i in pairs_of(ids, begin, end):
        expected[i] = hidden[s, :dim] @ table.weights[row].astype(np.float64) + table.bias[row]
    assert close(out, expected)


@pytest.mark.parametrize("with_gradient", [False, True])
def test_step_on_one_thread(rng, make_table, make_hidden, make_runs, padding_is_zero, dim, with_gradient):
    table, sums = make_table(40, dim, 0), RowTable(40, dim, moments=0)
    ids, begin, end = make_runs(9, 40, 30)
    hidden, coefficients = make_hidden(9, table), rng.normal(size=len(ids)).astype(np.float32)
    gradient = SampleGradient(9, table.padded_dim) if with_gradient else None
    rows, biases, samples = gradients_twin(table, ids, begin, end, coefficients, hidden)
    weights, bias = table.weights.copy(), table.bias.copy()
    touched = rows_of(ids, begin, end)
    step_rows(table, sums, touched, ids, begin, end, coefficients, hidden, gradient, sgd(0.5, 3), 1)
    assert close(table.weights, weights - 0.5 * rows)
    assert close(table.bias, bias - 0.5 * biases)
    assert np.array_equal(np.flatnonzero(table.last_step == 3), touched)
    assert not np.frombuffer(sums.buffer, np.float32).any()
    assert padding_is_zero(table)
    if with_gradient:
        assert close(summed(gradient, hidden), samples)


def test_a_row_takes_one_step_of_adam(rng, make_table, make_hidden):
    table, dim = make_table(30, 20), 20
    state = {name: view.astype(np.float64) for name, view in table.state().items()}
    ids = rng.integers(0, 30, 200).astype(np.int32)
    begin, end = np.arange(0, 200, 20), np.arange(20, 201, 20)
    hidden, coefficients = make_hidden(10, table), rng.normal(size=200).astype(np.float32)
    g, g_bias, _ = gradients_twin(table, ids, begin, end, coefficients, hidden)
    rule = adam(0.1, 0.9, 0.99, 1e-4, 5)
    step_rows(table, sums_of(table), rows_of(ids, begin, end), ids, begin, end, coefficients, hidden, None, rule, 1)
    touched = np.isin(np.arange(30), ids)
    for prefix, gradient in (("", g[:, :dim]), ("bias_", g_bias)):
        m = 0.9 * state[f"{prefix}m"] + 0.1 * gradient
        v = 0.99 * state[f"{prefix}v"] + 0.01 * gradient**2
        w = state["bias" if prefix else "weights"]
        w = w - 0.1 / (1 - 0.9**5) * m / (np.sqrt(v / (1 - 0.99**5)) + 1e-4)
        for name, expected in ((f"{prefix}m", m), (f"{prefix}v", v), ("bias" if prefix else "weights", w)):
            assert close(table.state()[name][touched], expected[touched]), name
            assert np.array_equal(table.state()[name][~touched], state[name][~touched].astype(np.float32)), name


def test_rows_without_biases(rng, make_hidden):
    table = RowTable(20, 17, moments=0, biased=False)
    ids, hidden = np.arange(20, dtype=np.int32), make_hidden(1, table)
    ones, run = np.ones(20, np.float32), (np.array([0]), np.array([20]))
    step_rows(table, sums_of(table), ids, ids, *run, ones, hidden, None, sgd(1.0, 1), 1)
    assert close(table.weights, -np.tile(hidden[0, :17], (20, 1)))
    assert not table.bias.any()


def test_measuring_takes_no_step(rng, make_table, make_hidden, make_runs, threads):
    """Every row is one sample's alone, so that nothing is lost on two threads either."""
    table = make_table(5000, 64, 0)
    ids = rng.permutation(5000).astype(np.int32)
    begin, end = np.arange(0, 5000, 50), np.arange(50, 5001, 50)
    hidden, coefficients = make_hidden(100, table), rng.normal(size=5000).astype(np.float32)
    before, sums = table.weights.copy(), sums_of(table)
    rule, rows = measure(), np.arange(5000, dtype=np.int32)
    step_rows(table, sums, rows, ids, begin, end, coefficients, hidden, None, rule, threads)
    g, g_bias, _ = gradients_twin(table, ids, begin, end, coefficients, hidden)
    assert rule.squared_norm == pytest.approx((g**2).sum() + (g_bias**2).sum(), rel=1e-4)
    assert np.array_equal(table.weights, before)
    assert not np.frombuffer(sums.buffer, np.float32).any()


def test_what_two_threads_may_lose(rng, make_table, make_hidden):
    """Samples' gradients are exact, and of the rows' each lane is the sum of some of its terms, most of them."""
    table, sums = make_table(60, 64, 0), RowTable(60, 64, moments=0)
    table.weights[:] = table.bias[:] = 0
    ids = np.concatenate([rng.permutation(60)[:40] for _ in range(400)]).astype(np.int32)
    begin, end = np.arange(0, 16_000, 40), np.arange(40, 16_001, 40)
    hidden, coefficients = np.ones((400, 64), np.float32), np.ones(16_000, np.float32)
    rows = np.arange(60, dtype=np.int32)
    gradient = SampleGradient(400, 64)
    step_rows(table, sums, rows, ids, begin, end, coefficients, hidden, gradient, sgd(1.0, 1), 2)
    counts = np.bincount(ids, minlength=60)
    assert (-table.weights <= counts[:, None]).all()
    assert -table.weights.sum() >= 0.5 * 64 * counts.sum()
    assert (-table.bias <= counts).all()
    assert not summed(gradient, hidden).any()


def test_nothing(make_table):
    table, none = make_table(5, 16, 0), np.zeros(0, np.int64)
    before = table.weights.copy()
    ids, floats, hidden = np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros((0, 16), np.float32)
    assert touched_rows(ids, none, none, np.zeros(5, np.int32), 1, ids, 2) == 0
    sddmm(table, ids, none, none, hidden, floats, 2)
    step_rows(table, sums_of(table), ids, ids, none, none, floats, hidden, None, sgd(1.0, 1), 2)
    assert np.array_equal(table.weights, before)


@pytest.mark.parametrize(
    ("ids", "begin", "end", "message"),
    [
        ([0], [0, 0], [1], "same length"),
        ([0, 1], [0], [3], "sample 0's run 0..3 is out of order or range"),
        ([0, 1], [1], [0], "sample 0's run 1..0"),
        ([0, 1], [0, 1], [2, 2], "sample 1's run 1..2"),
        ([0, 5], [0], [2], r"row ids must lie in 0\.\.4, got 5"),
        ([-1, 4], [0], [2], r"row ids must lie in 0\.\.4, got -1"),
    ],
)
def test_bad_pairs_are_refused(make_table, make_hidden, ids, begin, end, message):
    table = make_table(5, 16, 0)
    pairs = np.array(ids, np.int32), np.array(begin), np.array(end)
    hidden, floats = make_hidden(2, table), np.zeros(len(ids), np.float32)
    with pytest.raises(ValueError, match=message):
        touched_rows(*pairs, np.zeros(5, np.int32), 1, np.zeros(len(ids), np.int32), 1)
    with pytest.raises(ValueError, match=message):
        sddmm(table, *pairs, hidden, floats, 1)
    with pytest.raises(ValueError, match=message):
        step_rows(table, sums_of(table), np.zeros(0, np.int32), *pairs, floats, hidden, None, sgd(1.0, 1), 1)


def test_shapes_are_checked(make_table, make_hidden):
    table = make_table(5, 16, 0)
    pairs = np.array([0, 3], np.int32), np.array([0]), np.array([2])
    hidden, floats, rows = make_hidden(1, table), np.zeros(2, np.float32), np.array([0, 3], np.int32)

    def step(table=table, sums=None, rows=rows, coefficients=floats, hidden=hidden, gradient=None, rule=None):
        sums, rule = sums or RowTable(5, 16, moments=0), rule or sgd(1.0, 1)
        step_rows(table, sums, rows, *pairs, coefficients, hidden, gradient, rule, 1)

    for message, wrong in [
        ("2 ids need as many slots, got 1", {"coefficients": floats[:1]}),
        (r"hidden must be \[1 or more, 16\], got \[1, 32\]", {"hidden": np.zeros((1, 32), np.float32)}),
        (r"hidden must be \[1 or more, 16\], got \[0, 16\]", {"hidden": hidden[:0]}),
        ("sums must be a float32 table of 5 rows of 16 without moments, got 4", {"sums": RowTable(4, 16, moments=0)}),
        ("got 5 of 16 with 0, bf16", {"sums": RowTable(5, 16, moments=0, precision="bf16")}),
        ("rows must have float32 weights, these are bfloat16", {"table": RowTable(5, 16, moments=0, precision="bf16")}),
        ("got 5 of 16 with 2", {"sums": RowTable(5, 16)}),
        ("got 5 of 32 with 0", {"sums": RowTable(5, 17, moments=0)}),
        ("rows must ascend within 0..4, got 0 as number 1", {"rows": np.array([0, 0], np.int32)}),
        ("rows must ascend within 0..4, got 5 as number 0", {"rows": np.array([5], np.int32)}),
        ("gradient is for 1 samples of 32", {"gradient": SampleGradient(1, 32)}),
        ("the rule needs 2 moments", {"rule": adam(0.1, 0.9, 0.99, 1e-8, 1)}),
    ]:
        with pytest.raises(ValueError, match=message):
            step(**wrong)
    with pytest.raises(ValueError, match="out must have room for 2 rows, got 1"):
        touched_rows(*pairs, np.zeros(5, np.int32), 1, np.zeros(1, np.int32), 1)
    with pytest.raises(ValueError, match="2 ids need as many slots, got 1"):
        sddmm(table, *pairs, hidden, floats[:1], 1)
    with pytest.raises(ValueError, match="rows must have float32 weights, these are bfloat16"):
        sddmm(RowTable(5, 16, moments=0, precision="bf16"), *pairs, hidden, floats, 1)
