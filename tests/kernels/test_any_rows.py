"""Products with rows and steps of them over generated inputs, against float64 twins: repeated rows within a sample,
samples without pairs, any format and number of threads, and numbers from denormals to what their sums can hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_inputs import (
    DIMS,
    NUMBERS,
    PRECISIONS,
    SEEDS,
    THREADS,
    assert_sums,
    fast,
    hidden_of,
    numbers,
    pairs_of,
    runs_of,
    table_of,
)

from slide.kernels import hogwild, optim, sparse, sparse_input
from slide.kernels.catch_up import Owed, catch_up
from slide.kernels.dense import shared_logits, shared_step
from slide.kernels.grouping import PairGroups
from slide.kernels.rows import RowTable
from slide.kernels.sparse import SampleGradient

pytestmark = pytest.mark.usefixtures("one_blas")

KINDS = st.sampled_from(list(NUMBERS))
RULES = st.sampled_from(["sgd", "adam", "adagrad"])
NOTHING = np.zeros(0, np.float32)


def grouped(ids, begin, end, n_rows):
    groups = PairGroups(len(ids), hugepages=False)
    groups.group(ids, begin, end, n_rows)
    return groups


def copy_of(table, biased=True):
    """Return a table with the same numbers."""
    other = RowTable(table.n_rows, table.dim, moments=table.moments, accumulates=table.accumulates,
                     precision=table.precision, biased=biased, hugepages=False)
    np.frombuffer(other.buffer, np.uint8)[:] = np.frombuffer(table.buffer, np.uint8)
    return other


def bytes_of(table):
    return np.frombuffer(table.buffer, np.uint8)


def float64(view):
    return np.asarray(view).astype(np.float64)


@fast
@given(SEEDS, st.integers(1, 40), st.integers(0, 12), DIMS, PRECISIONS, KINDS, st.booleans(), THREADS)
def test_spmm(seed, n_rows, samples, dim, precision, kind, with_bias, threads):
    rng = np.random.default_rng(seed)
    table = table_of(rng, n_rows, dim, kind=kind, precision=precision)
    ids, begin, end = runs_of(rng, samples, n_rows, 20)
    slots = pairs_of(begin, end)[1]
    indptr, ids = np.append(0, np.cumsum(end - begin)), ids[slots]
    values = numbers(rng, len(ids), "normal")
    bias = hidden_of(rng, 1, table)[0] if with_bias else NOTHING
    out = np.full((samples, table.padded_dim), np.nan, np.float32)
    sparse.spmm(table, indptr, ids, values, bias, False, out, threads)
    weights, start = float64(table.weights), bias[:dim].astype(np.float64) if with_bias else np.zeros(dim)
    for s in range(samples):
        mine = slice(indptr[s], indptr[s + 1])
        terms = values[mine, None] * weights[ids[mine]]
        assert_sums(out[s, :dim], terms.sum(axis=0) + start, np.abs(terms).sum(axis=0) + np.abs(start), len(terms))
    assert not out[:, dim:].any()


@fast
@given(SEEDS, st.integers(1, 40), st.integers(1, 12), DIMS, PRECISIONS, KINDS, THREADS)
def test_sddmm_of_every_kind(seed, n_rows, samples, dim, precision, kind, threads):
    """Grouped pairs, pairs sample by sample, sparse samples and shared rows have the same logits."""
    rng = np.random.default_rng(seed)
    table = table_of(rng, n_rows, dim, kind=kind, precision=precision)
    hidden = hidden_of(rng, samples, table)
    ids, begin, end = runs_of(rng, samples, n_rows, 20)
    sample, slot = pairs_of(begin, end)
    terms = float64(table.weights)[ids[slot]] * hidden[sample, :dim]
    bias = table.bias[ids[slot]].astype(np.float64)
    truth = terms.sum(axis=1) + bias, np.abs(terms).sum(axis=1) + np.abs(bias), dim
    groups, out = grouped(ids, begin, end, n_rows), np.full(len(ids), np.nan, np.float32)
    sparse.sddmm(table, groups, hidden, out, threads)
    assert_sums(out[slot], *truth)
    assert np.isnan(np.delete(out, slot)).all()
    if precision != "bf16":
        hogwild.sddmm(table, ids, begin, end, hidden, out, threads)
        assert_sums(out[slot], *truth)
    columns = np.tile(np.arange(dim, dtype=np.int32), samples)
    starts = np.arange(samples + 1, dtype=np.int64) * dim
    values = np.ascontiguousarray(hidden[:, :dim]).ravel()
    sparse_input.sddmm(table, groups, starts[:-1], starts[1:], columns, values, out, threads)
    assert_sums(out[slot], *truth)
    everyone, logits = np.arange(n_rows, dtype=np.int32), np.empty((samples, n_rows), np.float32)
    shared_logits(table, everyone, NOTHING, hidden, logits, threads)
    assert_sums(logits[sample, ids[slot]], *truth)


def rule_of(name, step, owed=None):
    if name == "adam":
        return optim.adam(0.05, 0.9, 0.99, 1e-2, step, weight_decay=0.01, owed=owed)
    if name == "adagrad":
        return optim.adagrad(0.05, 1e-2, step, weight_decay=0.01, owed=owed)
    return optim.sgd(0.05, step, weight_decay=0.01, owed=owed)


def step_twin(name, before, rows, gradient, gradient_bias, step):
    """One step of some rows, in float64."""
    state = {part: float64(view) for part, view in before.items()}
    for part, prefix, g, decay in (("weights", "", gradient, 0.05 * 0.01), ("bias", "bias_", gradient_bias, 0.0)):
        w = state[part][rows]
        move = 0.05 * g
        if name == "adam":
            m, v = state[f"{prefix}m"], state[f"{prefix}v"]
            m[rows] = 0.9 * m[rows] + 0.1 * g
            v[rows] = 0.99 * v[rows] + 0.01 * g**2
            move = 0.05 * m[rows] / (1 - 0.9**step) / (np.sqrt(v[rows] / (1 - 0.99**step)) + 1e-2)
        elif name == "adagrad":
            sums = state[f"{prefix}accumulator"]
            sums[rows] += g**2 if prefix else (g**2).mean(axis=1)
            root = np.sqrt(sums[rows]) + 1e-2
            move = 0.05 * g / (root if prefix else root[:, None])
        state[part][rows] = w - decay * w - move
    return state


@fast
@given(
    SEEDS,
    st.integers(1, 60),
    st.integers(1, 12),
    DIMS,
    st.sampled_from(["sgd", "adam", "adagrad", "measure"]),
    st.sampled_from(["normal", "tiny"]),
    st.integers(1, 9),
)
def test_step_groups(seed, n_rows, samples, dim, name, kind, step):
    rng = np.random.default_rng(seed)
    start = table_of(rng, n_rows, dim, kind=kind, moments=2 * (name == "adam"), accumulates=name == "adagrad")
    hidden = hidden_of(rng, samples, start, kind)
    ids, begin, end = runs_of(rng, samples, n_rows, 20)
    groups, coefficients = grouped(ids, begin, end, n_rows), numbers(rng, len(ids), "normal")
    sample, slot = pairs_of(begin, end)
    gradient, gradient_bias = np.zeros((n_rows, dim)), np.zeros(n_rows)
    np.add.at(gradient, ids[slot], coefficients[slot, None].astype(np.float64) * hidden[sample, :dim])
    np.add.at(gradient_bias, ids[slot], coefficients[slot].astype(np.float64))
    down = np.zeros((samples, dim))
    np.add.at(down, sample, coefficients[slot, None] * float64(start.weights)[ids[slot]])
    results = []
    for threads in (1, 2, 3, 4):
        table, total = copy_of(start), np.zeros(hidden.shape, np.float32)
        rule = optim.measure() if name == "measure" else rule_of(name, step)
        sums = SampleGradient(samples, table.padded_dim, hugepages=False)
        optim.step_groups(table, groups, coefficients, hidden, sums, rule, threads)
        sums.sum_into(total, None, threads)
        results.append((bytes_of(table), total, rule.squared_norm))
    for other in results[1:]:
        assert np.array_equal(other[0], results[0][0])
        assert np.array_equal(other[1], results[0][1])
        assert other[2] == results[0][2]
    np.testing.assert_allclose(results[0][1][:, :dim], down, rtol=1e-4, atol=1e-4)
    if name == "measure":
        assert np.array_equal(results[0][0], bytes_of(start))
        assert results[0][2] == pytest.approx((gradient**2).sum() + (gradient_bias**2).sum(), rel=1e-5, abs=1e-35)
        return
    rows = np.unique(ids[slot])
    twin = step_twin(name, start.state(), rows, gradient[rows], gradient_bias[rows], step)
    twin["last_step"][rows] = step
    for part, view in table.state().items():
        np.testing.assert_allclose(view, twin[part], rtol=2e-4, atol=2e-5, err_msg=part)


@fast
@given(SEEDS, st.integers(1, 60), st.integers(1, 9), DIMS, RULES, PRECISIONS, st.booleans(), THREADS)
def test_every_way_to_step_is_one(seed, n_rows, samples, dim, name, precision, biased, threads):
    """Shared rows and sparse samples step as grouped pairs do, and so, on one thread, does training without locks."""
    rng = np.random.default_rng(seed)
    options = {"moments": 2 * (name == "adam"), "accumulates": name == "adagrad", "precision": precision}
    start = table_of(rng, n_rows, dim, biased=biased, **options)
    for part, view in start.state().items():
        if part.startswith("bias") and not biased:
            view[:] = 0
    # Whole numbers, so that no sum depends on its order: what bfloat16 is rounded from is then the same.
    start.weights[...] = rng.integers(-3, 4, start.weights.shape)
    hidden = np.zeros((samples, start.padded_dim), np.float32)
    hidden[:, :dim] = rng.integers(-2, 3, (samples, dim))
    deltas = rng.integers(-2, 3, (samples, n_rows)).astype(np.float32)
    ids = np.tile(np.arange(n_rows, dtype=np.int32), samples)
    runs = np.arange(samples + 1, dtype=np.int64) * n_rows
    groups = grouped(ids, runs[:-1], runs[1:], n_rows)
    columns = np.tile(np.arange(dim, dtype=np.int32), samples)
    starts = np.arange(samples + 1, dtype=np.int64) * dim
    flat = np.ascontiguousarray(hidden[:, :dim]).ravel()

    def grouped_pairs(table, sums):
        optim.step_groups(table, groups, deltas.ravel(), hidden, sums, rule_of(name, 3), threads)

    def shared(table, sums):
        shared_step(table, np.arange(n_rows, dtype=np.int32), deltas, hidden, sums, rule_of(name, 3), threads)

    def sparse_samples(table, sums):
        arguments = starts[:-1], starts[1:], columns, flat
        sparse_input.step_groups(table, groups, deltas.ravel(), *arguments, sums, False, rule_of(name, 3), threads)

    def without_locks(table, sums):
        gradients = RowTable(n_rows, dim, moments=0, hugepages=False)
        rows = np.arange(n_rows, dtype=np.int32)
        hogwild.step_rows(table, gradients, rows, ids, runs[:-1], runs[1:], deltas.ravel(), hidden, sums,
                          rule_of(name, 3), 1)
        assert not bytes_of(gradients).any()

    ways = [grouped_pairs, shared, sparse_samples] + [without_locks] * (precision != "bf16")
    results = []
    for way in ways:
        table, total = copy_of(start, biased), np.zeros(hidden.shape, np.float32)
        sums = SampleGradient(samples, table.padded_dim, hugepages=False)
        way(table, sums)
        sums.sum_into(total, None, threads)
        results.append((table, total))
        assert biased or not table.bias.any()
    for table, total in results[1:]:
        assert np.array_equal(total, results[0][1])
        for part, view in table.state().items():
            np.testing.assert_allclose(view, results[0][0].state()[part], rtol=1e-5, atol=1e-6, err_msg=part)


def test_more_shared_rows_than_are_stepped_at_once():
    """What several chunks of rows give down is added up."""
    rng = np.random.default_rng(0)
    table = table_of(rng, 6000, 3)
    table.weights[:] = rng.integers(-3, 4, (6000, 3))
    hidden, deltas = hidden_of(rng, 2, table), rng.integers(-2, 3, (2, 6000)).astype(np.float32)
    down, total = deltas @ np.asarray(table.weights), np.zeros((2, 16), np.float32)
    sums = SampleGradient(2, 16, hugepages=False)
    shared_step(table, np.arange(6000, dtype=np.int32), deltas, hidden, sums, optim.sgd(0.1, 1), 2)
    sums.sum_into(total, None, 1)
    assert np.array_equal(total[:, :3], down)


def test_slots_count_with_what_lies_between_them():
    table, groups = RowTable(4, 16, moments=0), PairGroups(9)
    groups.group(np.zeros(9, np.int32), np.array([0, 7]), np.array([1, 9]), 4)
    hidden, room = np.zeros((2, 16), np.float32), np.zeros(9, np.float32)
    sparse.sddmm(table, groups, hidden, room, 1)
    with pytest.raises(ValueError, match="slot 8, but there are 4 rows and 8 slots"):
        sparse.sddmm(table, groups, hidden, room[:8], 1)


@fast
@given(SEEDS, st.sampled_from([0, 16, 48, 144]), RULES, st.integers(1, 9))
def test_a_vector_steps_as_the_biases_of_rows_do(seed, n, name, step):
    """And does not decay."""
    rng = np.random.default_rng(seed)
    table = table_of(rng, max(n, 1), 1, moments=2 * (name == "adam"), accumulates=name == "adagrad")
    state, grad = table.state(), rng.normal(size=n).astype(np.float32)
    w, m = state["bias"][:n].copy(), state.get("bias_m", NOTHING)[:n].copy()
    v = state.get("bias_v", state.get("bias_accumulator", NOTHING))[:n].copy()
    optim.step_vector(w, m, v, grad, rule_of(name, step))
    groups = grouped(np.arange(n, dtype=np.int32), np.array([0]), np.array([n]), max(n, 1))
    optim.step_groups(table, groups, grad, np.zeros((1, 16), np.float32), None, rule_of(name, step), 1)
    np.testing.assert_allclose(w, state["bias"][:n], rtol=1e-5, atol=1e-6)
    if name != "sgd":
        np.testing.assert_allclose(v, state.get("bias_v", state.get("bias_accumulator"))[:n], rtol=1e-5)


@fast
@given(SEEDS, st.integers(1, 30), st.integers(1, 9), DIMS, st.booleans(), THREADS)
def test_sparse_samples_with_repeated_columns(seed, n_rows, samples, dim, touched_only, threads):
    """Values of one column of a sample are added up, in the logits and in the step."""
    rng = np.random.default_rng(seed)
    start = table_of(rng, n_rows, dim)
    columns, first, last = runs_of(rng, samples, dim, 12)
    values = numbers(rng, len(columns), "normal")
    dense = np.zeros((samples, start.padded_dim), np.float32)
    sample, entry = pairs_of(first, last)
    np.add.at(dense, (sample, columns[entry]), values[entry])
    ids, begin, end = runs_of(rng, samples, n_rows, 12)
    groups, coefficients = grouped(ids, begin, end, n_rows), numbers(rng, len(ids), "normal")
    logits = np.zeros((2, len(ids)), np.float32)
    sparse_input.sddmm(start, groups, first, last, columns, values, logits[0], threads)
    sparse.sddmm(start, groups, dense, logits[1], threads)
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-4, atol=1e-4)
    tables = copy_of(start), copy_of(start)
    rule = optim.sgd(0.5, 1)
    entries = first, last, columns, values
    sparse_input.step_groups(tables[0], groups, coefficients, *entries, None, touched_only, rule, threads)
    optim.step_groups(tables[1], groups, coefficients, dense, None, rule, threads)
    for part, view in tables[0].state().items():
        np.testing.assert_allclose(view, tables[1].state()[part], rtol=1e-4, atol=1e-4, err_msg=part)


@fast
@given(SEEDS, st.integers(1, 50), DIMS, st.integers(0, 12), st.integers(0, 12), st.booleans(), PRECISIONS, THREADS)
def test_paying_twice_is_paying_once(seed, n_rows, dim, between, more, moves, precision, threads):
    """Rows that catch up to one step and then to another are where those are that catch up once, at the end."""
    rng = np.random.default_rng(seed)
    stop = 1 + between + more
    steps = rng.random((stop, 3)).astype(np.float32) * [0.1, 1, 0.1] + np.float32([0, 1, 0])
    steps = np.ascontiguousarray(steps, np.float32)
    log_keep = np.append(0, np.cumsum(np.log1p(-steps[:, 2].astype(np.float64))))
    nodes = np.zeros((stop, 8), np.float32)
    motion = (steps, nodes, 99, 99, 1e-2) if moves else None
    start = table_of(rng, n_rows, dim, moments=2, precision=precision)
    start.last_step[:] = rng.integers(0, 2, n_rows)
    late, early, other = copy_of(start), copy_of(start), copy_of(start)
    catch_up(late, None, Owed(stop, 0, log_keep, (0.9, 0.99), motion), threads)
    catch_up(other, None, Owed(stop, 0, log_keep, (0.9, 0.99), motion), 1)
    assert np.array_equal(bytes_of(late), bytes_of(other))
    some = np.flatnonzero(rng.random(n_rows) < 0.5).astype(np.int32)
    catch_up(early, some, Owed(1 + between, 0, log_keep, (0.9, 0.99), motion), threads)
    catch_up(early, None, Owed(stop, 0, log_keep, (0.9, 0.99), motion), threads)
    assert (early.last_step == stop).all()
    # What is stored with eight bits is rounded once more on the way.
    tolerance = {"fp32": 1e-4, "bf16-moments": 0.02, "bf16": 0.02}[precision]
    for part, view in early.state().items():
        expected = np.asarray(late.state()[part])
        np.testing.assert_allclose(view, expected, rtol=tolerance, atol=tolerance, err_msg=part)


@fast
@given(SEEDS, st.integers(0, 40), st.integers(1, 60), THREADS)
def test_touched_rows(seed, samples, n_rows, threads):
    rng = np.random.default_rng(seed)
    ids, begin, end = runs_of(rng, samples, n_rows, 30)
    stamps, out = rng.integers(0, 5, n_rows).astype(np.int32), np.zeros(len(ids), np.int32)
    expected = np.unique(ids[pairs_of(begin, end)[1]])
    n = hogwild.touched_rows(ids, begin, end, stamps, 7, out, threads)
    assert np.array_equal(out[:n], expected)
    assert np.array_equal(np.flatnonzero(stamps == 7), expected)
