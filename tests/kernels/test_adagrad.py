"""Row-wise Adagrad, against a float64 twin that looks at every row at every step."""

import numpy as np
import pytest

from slide.kernels import dense, optim, sparse_input
from slide.kernels.catch_up import Owed, catch_up
from slide.kernels.grouping import PairGroups
from slide.kernels.optim import adagrad, check_moments, step_vector
from slide.kernels.rows import RowTable
from slide.kernels.sparse import SampleGradient

LR, EPS, N_ROWS = 0.1, 1e-3, 150


def adagrad_twin(state, grad, grad_bias, decay=0.0):
    """PyTorch's Adagrad with the squares of a row's gradient averaged."""
    state["accumulator"] += (grad**2).mean(axis=1)
    state["bias_accumulator"] += grad_bias**2
    state["weights"] *= 1 - decay
    state["weights"] -= LR * grad / (np.sqrt(state["accumulator"])[:, None] + EPS)
    state["bias"] -= LR * grad_bias / (np.sqrt(state["bias_accumulator"]) + EPS)


def make_table(rng, dim):
    table = RowTable(N_ROWS, dim, moments=0, accumulates=True)
    table.weights[:] = rng.normal(size=(N_ROWS, dim))
    return table


def float64_of(table):
    return {name: view.astype(np.float64) for name, view in table.state().items()}


@pytest.mark.parametrize("kind", ["grouped", "shared", "whole", "touched"])
def test_adagrad_twin(rng, one_blas, padding_is_zero, dim, threads, kind):
    table, samples = make_table(rng, dim), 12
    assert list(table.state()) == ["weights", "bias", "last_step", "accumulator", "bias_accumulator"]
    twin = float64_of(table)
    ids = np.concatenate([rng.permutation(N_ROWS)[:40] for _ in range(samples)]).astype(np.int32)
    end = np.arange(40, len(ids) + 1, 40)
    groups = PairGroups(len(ids))
    groups.group(ids, end - 40, end, N_ROWS)
    for step in (1, 2, 3):
        hidden = np.zeros((samples, table.padded_dim), np.float32)
        hidden[:, :dim] = rng.normal(size=(samples, dim))
        if kind in ("whole", "touched"):
            hidden[:, : dim // 2] = 0
        coefficients = rng.normal(size=len(ids)).astype(np.float32)
        gradient = SampleGradient(samples, table.padded_dim)
        rule = adagrad(LR, EPS, step)
        pairs = np.zeros((samples, N_ROWS))
        if kind == "shared":
            shared = np.sort(rng.permutation(N_ROWS)[:60]).astype(np.int32)
            deltas = rng.normal(size=(samples, 60)).astype(np.float32)
            pairs[:, shared] = deltas
            dense.shared_step(table, shared, deltas, hidden, gradient, rule, threads)
        else:
            pairs[np.repeat(np.arange(samples), 40), ids] = coefficients
            if kind == "grouped":
                optim.step_groups(table, groups, coefficients, hidden, gradient, rule, threads)
            else:
                width = dim - dim // 2
                entries = np.arange(0, samples * width + 1, width)
                columns = np.tile(np.arange(dim // 2, dim, dtype=np.int32), samples)
                values = np.ascontiguousarray(hidden[:, dim // 2 : dim]).ravel()
                rest = columns, values, gradient, kind == "touched", rule, threads
                sparse_input.step_groups(table, groups, coefficients, entries[:-1], entries[1:], *rest)
        adagrad_twin(twin, pairs.T @ hidden[:, :dim], pairs.sum(axis=0))
    for name, view in table.state().items():
        if name != "last_step":
            np.testing.assert_allclose(view, twin[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert padding_is_zero(table)


def test_weights_decay_though_no_step_reaches_them(rng):
    table = make_table(rng, 20)
    twin = float64_of(table)
    groups, hidden = PairGroups(N_ROWS), np.zeros((1, 32), np.float32)
    log_keep = np.arange(4) * np.log1p(-LR * 0.5)
    for step in (1, 2, 3):
        rows = rng.permutation(N_ROWS)[:50].astype(np.int32)
        groups.group(rows, np.zeros(1, np.int64), np.full(1, 50), N_ROWS)
        hidden[0, :20] = rng.normal(size=20)
        owed = Owed(step - 1, 0, log_keep, None, None)
        catch_up(table, groups.rows, owed, 1)
        rule = adagrad(LR, EPS, step, weight_decay=0.5, owed=owed)
        assert rule.whole_rows
        optim.step_groups(table, groups, np.ones(50, np.float32), hidden, None, rule, 1)
        touched = np.isin(np.arange(N_ROWS), rows)
        adagrad_twin(twin, touched[:, None] * hidden[:, :20].astype(np.float64), 1.0 * touched, decay=LR * 0.5)
    catch_up(table, None, Owed(3, 0, log_keep, None, None), 1)
    for name in ("weights", "bias", "accumulator"):
        np.testing.assert_allclose(table.state()[name], twin[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("n", [0, 16, 48])
def test_vectors_have_an_accumulator_for_each_entry(rng, n):
    w, sums = rng.normal(size=n).astype(np.float32), np.zeros(n, np.float32)
    twin, accumulated = w.astype(np.float64), np.zeros(n)
    for step in (1, 2, 3):
        grad = rng.normal(size=n).astype(np.float32)
        step_vector(w, sums[:0], sums, grad, adagrad(LR, EPS, step, weight_decay=0.5))
        accumulated += grad.astype(np.float64) ** 2
        twin -= LR * grad / (np.sqrt(accumulated) + EPS)
    np.testing.assert_allclose(w, twin, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(sums, accumulated, rtol=1e-5)


def test_a_zero_gradient_changes_nothing(rng):
    table, groups = make_table(rng, 20), PairGroups(2)
    before = table.weights.copy()
    groups.group(np.arange(2, dtype=np.int32), np.zeros(1, np.int64), np.full(1, 2), N_ROWS)
    optim.step_groups(
        table, groups, np.zeros(2, np.float32), np.ones((1, 32), np.float32), None, adagrad(LR, EPS, 1), 1
    )
    assert np.array_equal(table.weights, before)
    assert not table.state()["accumulator"].any()


def test_what_the_rule_needs_is_checked():
    rule = adagrad(LR, EPS, 1)
    assert (rule.moments, rule.accumulates, rule.whole_rows) == (0, True, False)
    check_moments(RowTable(1, 1, moments=0, accumulates=True), rule)
    with pytest.raises(ValueError, match="does not accumulate"):
        check_moments(RowTable(1, 1), rule)
    with pytest.raises(ValueError, match="step counts from 1, got 0"):
        adagrad(LR, EPS, 0)
    vector = np.zeros(16, np.float32)
    with pytest.raises(ValueError, match="must have the same length"):
        step_vector(vector, vector[:0], vector[:0], vector, rule)
