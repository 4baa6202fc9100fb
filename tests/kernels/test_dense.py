"""Candidates that the whole batch shares, against float64 twins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slide.kernels.dense import shared_gradients, shared_logits, shared_step
from slide.kernels.optim import adam, sgd
from slide.kernels.rows import RowTable
from slide.kernels.sparse import SampleGradient

NO_OFFSETS = np.zeros(0, np.float32)

pytestmark = pytest.mark.usefixtures("one_blas")


def close(actual, expected):
    return np.abs(actual - expected).max(initial=0) <= 1e-5 * max(1, np.abs(expected).max(initial=0))


@pytest.mark.parametrize("with_offsets", [False, True])
def test_shared_logits_twin(rng, make_table, make_hidden, dim, threads, with_offsets):
    table = make_table(400, dim)
    hidden = make_hidden(37, table)
    ids = rng.permutation(400)[:300].astype(np.int32)
    offsets = rng.normal(size=300).astype(np.float32) if with_offsets else NO_OFFSETS
    out = np.full((40, 305), 7, np.float32)
    shared_logits(table, ids, offsets, hidden, out, threads)
    expected = hidden[:, :dim].astype(np.float64) @ table.weights[ids].T.astype(np.float64) + table.bias[ids]
    if with_offsets:
        expected += offsets
    assert close(out[:37, :300], expected)
    assert (out[37:] == 7).all()
    assert (out[:, 300:] == 7).all()


@pytest.mark.parametrize("n", [1, 127, 128, 129, 300])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_shared_step_twin(rng, make_table, make_hidden, padding_is_zero, threads, n, name):
    moments = 2 if name == "adam" else 0
    rule = adam(0.05, 0.9, 0.99, 1e-3, 1) if moments else sgd(0.05, 1)
    table = make_table(400, 40, moments)
    hidden, gradient = make_hidden(33, table), SampleGradient(35, table.padded_dim)
    ids = rng.permutation(400)[:n].astype(np.int32)
    deltas = rng.normal(size=(34, n + 2)).astype(np.float32)
    used = deltas[:33, :n].astype(np.float64)
    before = {part: view.astype(np.float64) for part, view in table.state().items()}
    shared_step(table, ids, deltas, hidden, gradient, rule, threads)
    total = np.zeros(hidden.shape, np.float32)
    gradient.sum_into(total, None, threads)
    assert close(total[:, :40], used @ before["weights"][ids])
    state = table.state()
    gradients = {"weights": used.T @ hidden[:, :40], "bias": used.sum(axis=0)}
    for part, prefix in (("weights", ""), ("bias", "bias_")):
        expected = before[part]
        step = gradients[part]
        if moments:
            m = 0.9 * before[f"{prefix}m"][ids] + 0.1 * step
            v = 0.99 * before[f"{prefix}v"][ids] + 0.01 * step**2
            np.testing.assert_allclose(state[f"{prefix}m"][ids], m, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(state[f"{prefix}v"][ids], v, rtol=1e-4, atol=1e-4)
            step = m / 0.1 / (np.sqrt(v / 0.01) + 1e-3)
        expected[ids] -= 0.05 * step
        np.testing.assert_allclose(state[part], expected, rtol=1e-4, atol=1e-5)
    assert np.array_equal(np.flatnonzero(table.last_step), np.sort(ids))
    assert padding_is_zero(table)


@pytest.mark.parametrize(("n", "samples"), [(1, 1), (127, 63), (129, 64), (300, 33), (4100, 65), (5000, 130)])
def test_shared_gradients_twin(rng, make_table, make_hidden, threads, n, samples):
    table = make_table(6000, 40)
    hidden = make_hidden(samples, table)
    ids = rng.permutation(6000)[:n].astype(np.int32)
    deltas = rng.normal(size=(samples + 1, n + 2)).astype(np.float32)
    used = deltas[:samples, :n].astype(np.float64)
    to_hidden, bias_out = np.full(hidden.shape, 7, np.float32), np.full(n + 1, 7, np.float32)
    out = np.full((n + 1, table.padded_dim), 7, np.float32)
    shared_gradients(table, ids, deltas, hidden, to_hidden, out, bias_out, threads)
    assert close(to_hidden[:, :40], used @ table.weights[ids].astype(np.float64))
    assert close(out[:n, :40], used.T @ hidden[:, :40]) and (out[n] == 7).all()
    assert close(bias_out[:n], used.sum(axis=0)) and bias_out[n] == 7
    alone, rows = np.empty_like(to_hidden), np.empty_like(out)
    shared_gradients(table, ids, deltas, hidden, alone, None, None, 1)
    shared_gradients(table, ids, deltas, hidden, None, rows, bias_out, 1)
    assert np.array_equal(alone, to_hidden) and np.array_equal(rows[:n], out[:n])


def test_shared_gradients_of_nothing(make_table, make_hidden):
    table = make_table(10, 8)
    to_hidden = np.ones((3, 16), np.float32)
    nothing = np.zeros((3, 0), np.float32)
    shared_gradients(table, np.zeros(0, np.int32), nothing, make_hidden(3, table), to_hidden, None, None, 1)
    assert not to_hidden.any()
    hidden, ids, deltas = make_hidden(3, table), np.arange(4, dtype=np.int32), np.zeros((3, 4), np.float32)
    rows, bias = np.ones((4, 16), np.float32), np.ones(4, np.float32)
    shared_gradients(table, ids, deltas[:0], hidden[:0], None, rows, bias, 1)
    assert not rows.any() and not bias.any()
    for to, out, of_bias in ((to_hidden[:2], rows, bias), (None, rows[:3], bias), (None, rows, bias[:3])):
        with pytest.raises(ValueError, match="must be"):
            shared_gradients(table, ids, deltas, hidden, to, out, of_bias, 1)
    with pytest.raises(ValueError, match="come together"):
        shared_gradients(table, ids, deltas, hidden, None, rows, None, 1)


def test_shared_kernels_do_not_depend_on_threads(rng, make_hidden):
    results = []
    ids = rng.permutation(6000)[:5000].astype(np.int32)
    deltas = rng.normal(size=(20, 5000)).astype(np.float32)
    hidden = make_hidden(20, RowTable(1, 48))
    for threads in (1, 2, 3):
        table, gradient = RowTable(6000, 48), SampleGradient(20, 48)
        table.fill_uniform(1.0, 4, 1)
        logits, total = np.zeros((20, 5000), np.float32), np.zeros((20, 48), np.float32)
        shared_logits(table, ids, NO_OFFSETS, hidden, logits, threads)
        shared_step(table, ids, deltas, hidden, gradient, adam(0.1, 0.9, 0.999, 1e-8, 1), threads)
        gradient.sum_into(total, None, threads)
        results.append((logits, total, np.frombuffer(table.buffer, np.uint8)))
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_nothing_shared_changes_nothing(make_table, make_hidden):
    table = make_table(5, 16, 0)
    hidden, gradient = make_hidden(2, table), SampleGradient(2, 16)
    before, none, nowhere = table.weights.copy(), np.zeros(0, np.int32), np.zeros((0, 0), np.float32)
    shared_logits(table, none, NO_OFFSETS, hidden, nowhere, 1)
    shared_step(table, none, nowhere, hidden, gradient, sgd(1, 1), 1)
    shared_step(
        table, np.zeros(1, np.int32), np.zeros((0, 1), np.float32), hidden[:0], gradient, sgd(1, 1), 1
    )
    assert np.array_equal(table.weights, before)
    assert gradient.n_parts == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": np.zeros((2, 32), np.float32)}, "hidden must have 16 columns, got 32"),
        ({"logits": np.zeros((1, 3), np.float32)}, r"logits must be \[2, 3\] or larger, got \[1, 3\]"),
        ({"logits": np.zeros((2, 2), np.float32)}, r"logits must be \[2, 3\] or larger, got \[2, 2\]"),
        ({"ids": np.array([0, 1, 5], np.int32)}, r"ids must lie in 0\.\.4, got 0\.\.5"),
        ({"ids": np.array([0, -1, 4], np.int32)}, r"ids must lie in 0\.\.4, got -1\.\.4"),
    ],
)
def test_shared_kernels_check_their_arguments(make_table, changes, message):
    arguments = {
        "ids": np.zeros(3, np.int32),
        "hidden": np.zeros((2, 16), np.float32),
        "logits": np.zeros((2, 3), np.float32),
    }
    ids, hidden, logits = (arguments | changes).values()
    with pytest.raises(ValueError, match=message):
        shared_logits(make_table(5, 16), ids, NO_OFFSETS, hidden, logits, 1)
    with pytest.raises(ValueError, match=message):
        shared_step(make_table(5, 16), ids, logits, hidden, SampleGradient(2, 16), sgd(1, 1), 1)


def test_offsets_rule_and_gradient_are_checked(make_table):
    ids, hidden, logits = np.zeros(3, np.int32), np.zeros((2, 16), np.float32), np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="offsets must be empty or have 3 entries, got 2"):
        shared_logits(make_table(5, 16), ids, np.zeros(2, np.float32), hidden, logits, 1)
    with pytest.raises(ValueError, match="the rule needs 2 moments"):
        shared_step(
            make_table(5, 16, 1), ids, logits, hidden, SampleGradient(2, 16), adam(0.1, 0.9, 0.9, 0.1, 1), 1
        )
    for samples, dim in [(1, 16), (2, 32)]:
        with pytest.raises(ValueError, match=f"gradient is for {samples} samples of {dim}"):
            shared_step(make_table(5, 16), ids, logits, hidden, SampleGradient(samples, dim), sgd(1, 1), 1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 200), st.integers(1, 140), st.integers(1, 200), st.integers(0, 2**32))
def test_products_of_any_shape(n, samples, dim, seed):
    """Whole tiles and what is left of them, of rows, samples and columns."""
    rng = np.random.default_rng(seed)
    table = RowTable(n + 3, dim)
    table.weights[:] = rng.integers(-3, 4, (n + 3, dim))
    table.bias[:] = rng.integers(-3, 4, n + 3)
    hidden = np.zeros((samples, table.padded_dim), np.float32)
    hidden[:, :dim] = rng.integers(-3, 4, (samples, dim))
    ids = np.sort(rng.permutation(n + 3)[:n]).astype(np.int32)
    out = np.full((samples, n), np.nan, np.float32)
    shared_logits(table, ids, NO_OFFSETS, hidden, out, 2)
    # Whole numbers: sums in any order are exact.
    np.testing.assert_array_equal(out, hidden[:, :dim] @ table.weights[ids].T + table.bias[ids])
    deltas = rng.integers(-3, 4, (samples, n)).astype(np.float32)
    before, gradient = table.weights[ids].copy(), SampleGradient(samples, table.padded_dim)
    shared_step(table, ids, deltas, hidden, gradient, sgd(0.5, 1), 2)
    total = np.zeros(hidden.shape, np.float32)
    gradient.sum_into(total, None, 2)
    np.testing.assert_array_equal(total[:, :dim], deltas @ before)
    np.testing.assert_array_equal(table.weights[ids], before - 0.5 * (deltas.T @ hidden[:, :dim]))
