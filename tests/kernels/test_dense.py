"""Candidates that the whole batch shares, and exact top-k, against float64 twins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from slide.blas import one_blas_thread
from slide.kernels.dense import exact_topk, shared_logits, shared_step
from slide.kernels.optim import adam, sgd
from slide.kernels.rows import RowTable
from slide.kernels.sparse import SampleGradient

NO_OFFSETS = np.zeros(0, np.float32)
NO_EXCLUDES = np.zeros(0, np.int64), np.zeros(0, np.int32)

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


def topk(table, hidden, k, excludes=NO_EXCLUDES, threads=1):
    ids = np.full((len(hidden), k), -9, np.int32)
    scores = np.full((len(hidden), k), np.nan, np.float32)
    exact_topk(table, hidden, *excludes, ids, scores, threads)
    return ids, scores


def topk_twin(table, hidden, k, excludes=NO_EXCLUDES):
    """Sort all scores, best first and equal ones by id; what is excluded or missing comes last as -1."""
    scores = hidden[:, : table.dim].astype(np.float64) @ table.weights.T.astype(np.float64) + table.bias
    ptr, banned = excludes
    for s in range(len(ptr) - 1):
        mine = banned[ptr[s] : ptr[s + 1]]
        scores[s, mine[mine < table.n_rows]] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, order, axis=1)
    ids = np.where(np.isneginf(best), -1, order)
    missing = ((0, 0), (0, k - ids.shape[1]))
    return np.pad(ids, missing, constant_values=-1), np.pad(best, missing, constant_values=-np.inf)


def whole_numbers(rng, table, samples):
    """Small integers everywhere, so that scores are exact and many are equal."""
    table.weights[:] = rng.integers(-2, 3, table.weights.shape)
    table.bias[:] = rng.integers(-2, 3, table.n_rows)
    hidden = np.zeros((samples, table.padded_dim), np.float32)
    hidden[:, : table.dim] = rng.integers(-2, 3, (samples, table.dim))
    return hidden


def random_excludes(rng, samples, n_rows, most):
    banned = [np.sort(rng.permutation(n_rows + 5)[: rng.integers(0, most + 1)]) for _ in range(samples)]
    ptr = np.cumsum([0, *map(len, banned)])
    return ptr, np.concatenate([*banned, []]).astype(np.int32)


@pytest.mark.parametrize("samples", [1, 5, 129])
@pytest.mark.parametrize("n_rows", [1, 30, 511, 512, 513, 1500])
def test_exact_topk_twin(rng, threads, n_rows, samples):
    table = RowTable(n_rows, 17)
    hidden = whole_numbers(rng, table, samples)
    excludes = random_excludes(rng, samples, n_rows, 30)
    for k in (1, 7, 40):
        for case in (NO_EXCLUDES, excludes):
            ids, scores = topk(table, hidden, k, case, threads)
            expected_ids, expected_scores = topk_twin(table, hidden, k, case)
            np.testing.assert_array_equal(ids, expected_ids)
            np.testing.assert_array_equal(scores, expected_scores)


def test_exact_topk_twin_of_real_scores(make_table, make_hidden, dim, threads):
    table = make_table(900, dim)
    hidden = make_hidden(12, table)
    ids, scores = topk(table, hidden, 10, threads=threads)
    expected = hidden[:, :dim].astype(np.float64) @ table.weights.T.astype(np.float64) + table.bias
    assert close(scores, -np.sort(-expected, axis=1)[:, :10])
    assert close(scores, np.take_along_axis(expected, ids, axis=1))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.integers(1, 1100), st.integers(1, 4), st.integers(0, 40), st.integers(1, 3))
def test_exact_topk_twin_of_any_shape(seed, n_rows, samples, k, threads):
    rng = np.random.default_rng(seed)
    table = RowTable(n_rows, 3)
    hidden = whole_numbers(rng, table, samples)
    excludes = random_excludes(rng, samples, n_rows, n_rows)
    with one_blas_thread():
        ids, scores = topk(table, hidden, k, excludes, threads)
    expected_ids, expected_scores = topk_twin(table, hidden, k, excludes)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(scores, expected_scores)


@pytest.mark.parametrize("samples", [1, 130])
@pytest.mark.parametrize("n_rows", [1, 15, 512, 513, 9000])
@pytest.mark.parametrize("k", [0, 4])
def test_log_partition_twin(rng, make_table, make_hidden, threads, n_rows, samples, k):
    table = make_table(n_rows, 20)
    table.bias[n_rows // 2] = 90
    hidden = make_hidden(samples, table)
    logits = hidden[:, :20].astype(np.float64) @ table.weights.T.astype(np.float64) + table.bias
    for excludes in (NO_EXCLUDES, random_excludes(rng, samples, n_rows, 30)):
        expected, found = topk(table, hidden, k, excludes), topk(table, hidden, k, excludes)
        log_partition = np.full(samples, np.nan, np.float32)
        exact_topk(table, hidden, *excludes, *found, threads, log_partition=log_partition)
        np.testing.assert_allclose(log_partition, logsumexp(logits, axis=1), rtol=1e-5)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_log_partition_does_not_depend_on_threads(make_table, make_hidden):
    table = make_table(20_000, 32)
    hidden = make_hidden(40, table)
    sums = np.zeros((3, 40), np.float32)
    for threads, out in enumerate(sums, 1):
        ids, scores = topk(table, hidden, 1)
        exact_topk(table, hidden, *NO_EXCLUDES, ids, scores, threads, log_partition=out)
    assert (sums == sums[0]).all()


@pytest.mark.parametrize("samples", [1, 40, 300])
def test_exact_topk_does_not_depend_on_threads(make_hidden, samples):
    table = RowTable(20_000, 32)
    table.fill_uniform(1.0, 1, 2)
    hidden = make_hidden(samples, table)
    first = topk(table, hidden, 20)
    for threads in (2, 3):
        other = topk(table, hidden, 20, threads=threads)
        assert all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_everything_excluded(make_table, make_hidden):
    table = make_table(4, 16)
    excludes = np.array([0, 4]), np.arange(4, dtype=np.int32)
    ids, scores = topk(table, make_hidden(1, table), 3, excludes)
    assert (ids == -1).all()
    assert np.isneginf(scores).all()


def test_exact_topk_of_nothing(make_table, make_hidden):
    table = make_table(4, 16)
    assert topk(table, make_hidden(0, table), 3)[0].shape == (0, 3)
    assert topk(table, make_hidden(2, table), 0)[0].shape == (2, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": np.zeros((2, 32), np.float32)}, r"hidden must be \[samples, 16\]"),
        ({"out_ids": np.zeros((1, 3), np.int32)}, r"out_ids and out_scores \[samples, k\]"),
        ({"out_scores": np.zeros((1, 3), np.float32)}, r"out_ids and out_scores \[samples, k\]"),
        ({"out_scores": np.zeros((2, 2), np.float32)}, r"out_ids and out_scores \[samples, k\]"),
        ({"log_partition": np.zeros(3, np.float32)}, "log_partition must have 2 entries, got 3"),
        ({"exclude_ptr": np.array([0, 1])}, "exclude_ptr must be empty or have 3 entries, got 2"),
        ({"exclude_ptr": np.array([1, 1, 2])}, "exclude_ptr must rise from 0"),
        ({"exclude_ptr": np.array([0, 1, 4])}, "exclude_ptr must rise from 0"),
        ({"exclude_ptr": np.array([0, 2, 1])}, "exclude_ptr must rise from 0"),
        ({"exclude_ids": np.array([9, 3, 2], np.int32)}, "sample 1's excluded ids are not ascending"),
    ],
)
def test_exact_topk_checks_its_arguments(make_table, changes, message):
    arguments = {
        "hidden": np.zeros((2, 16), np.float32),
        "exclude_ptr": np.array([0, 1, 3]),
        "exclude_ids": np.zeros(3, np.int32),
        "out_ids": np.zeros((2, 3), np.int32),
        "out_scores": np.zeros((2, 3), np.float32),
        "num_threads": 1,
    }
    with pytest.raises(ValueError, match=message):
        exact_topk(make_table(5, 16), **arguments | changes)
