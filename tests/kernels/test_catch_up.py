"""Rows that catch up on skipped steps, and gradients that are measured, against float64 twins."""

import numpy as np
import pytest

from slide.kernels import dense, optim, sparse_input
from slide.kernels.catch_up import Owed, add_step, catch_up
from slide.kernels.dense import shared_logits
from slide.kernels.grouping import PairGroups
from slide.kernels.optim import measure, step_vector
from slide.kernels.rows import RowTable
from slide.kernels.sparse import SampleGradient, sddmm

BETAS, EPS, WINDOW, N_ROWS = (0.8, 0.95), 1e-2, 6, 150
NOTHING, NO_OFFSETS = np.zeros(0), np.zeros(0, np.float32)


@pytest.fixture
def history(rng):
    """The arrays of twenty steps, of any content: what they mean is not the kernels' business."""
    steps = rng.random((20, 3)).astype(np.float32)
    steps[:, 1] += 1
    steps[:, 2] *= 0.1
    log_keep = np.concatenate([[0], np.cumsum(np.log1p(-steps[:, 2].astype(np.float64)))])
    return log_keep, steps, rng.random((20, 8)).astype(np.float32)


@pytest.fixture
def make_aged(make_table, rng):
    """Make a table whose rows were last stepped at any time, some never: those have no moments."""

    def make_aged(dim, latest, moments=2):
        table = make_table(N_ROWS, dim, moments)
        table.last_step[:] = rng.integers(0, latest + 1, N_ROWS)
        for name, view in table.state().items():
            if name not in ("weights", "bias", "last_step"):
                view[table.last_step == 0] = 0
        return table

    return make_aged


def step_behind(state, row, step, first, decays, history, motion, replay_until):
    """Bring one row of a float64 state to the end of a step."""
    log_keep, steps, nodes = history
    last = int(state["last_step"][row])
    if last >= step or (last == 0 and not len(log_keep)):
        return
    start = max(last, first)
    parts = [("weights", "m", "v", True), ("bias", "bias_m", "bias_v", False)]
    for weights, first_moment, second_moment, decayed in parts:
        w = state[weights][row]
        log = log_keep if decayed and len(log_keep) else np.zeros(21)
        m, v = (state[name][row] if decays else 0.0 for name in (first_moment, second_moment))
        at = start
        while at < step:
            replayed = motion and at < replay_until
            end = min(replay_until, step) if replayed else step
            reach = min(end, at + WINDOW)
            if replayed:
                for u in range(at, reach):
                    rate, root, decay = steps[u - first].astype(np.float64)
                    i = u - at + 1
                    w = w * (1 - decay if decayed else 1)
                    w = w - rate * BETAS[0] ** i * m / (root * BETAS[1] ** (i / 2) * np.sqrt(v) + EPS)
                w = w * np.exp(log[end - first] - log[reach - first])
            else:
                w = w * np.exp(log[end - first] - log[at - first])
                if motion:
                    a1, b1, a2, b2 = nodes[at - first].astype(np.float64).reshape(2, 4)[0 if decayed else 1]
                    pull = m * (a1 / (b1 * np.sqrt(v) + EPS) + a2 / (b2 * np.sqrt(v) + EPS))
                    w = w - pull * np.exp(log[end - first] - log[reach - first])
            m, v, at = m * BETAS[0] ** (end - at), v * BETAS[1] ** (end - at), end
        state[weights][row] = w
        if decays:
            state[first_moment][row], state[second_moment][row] = m, v
    state["last_step"][row] = step


MODES = {
    "weights decay": (True, False, False, 0),
    "moments decay": (False, True, False, 0),
    "both decay": (True, True, False, 0),
    "all, replayed": (True, True, True, 99),
    "all, replayed at first": (True, True, True, 12),
    "all at once": (True, True, True, 0),
    "all but weight decay": (False, True, True, 10),
}


@pytest.mark.parametrize("ids", ["some", "all"])
@pytest.mark.parametrize("first", [0, 5])
@pytest.mark.parametrize("mode", MODES)
def test_catch_up_twin(rng, make_aged, history, padding_is_zero, dim, threads, mode, first, ids):
    weights_decay, decays, motion, replay_until = MODES[mode]
    step = first + 14
    log_keep, steps, nodes = history
    if not weights_decay:
        log_keep, steps[:, 2] = NOTHING, 0
    table = make_aged(dim, step + 1, moments=2 if decays else 0)
    twin = {name: view.astype(np.float64) for name, view in table.state().items()}
    chosen = np.flatnonzero(rng.random(N_ROWS) < 0.7).astype(np.int32) if ids == "some" else None
    for row in range(N_ROWS) if chosen is None else chosen:
        step_behind(twin, row, step, first, decays, (log_keep, steps, nodes), motion, replay_until)
    arrays = (steps, nodes, WINDOW, replay_until, EPS) if motion else None
    owed = Owed(step, first, log_keep, BETAS if decays else None, arrays)
    catch_up(table, chosen, owed, threads)
    for name, view in table.state().items():
        np.testing.assert_allclose(view, twin[name], rtol=1e-4, atol=1e-4, err_msg=name)
    assert padding_is_zero(table)
    caught_up = np.frombuffer(table.buffer, np.uint8).copy()
    catch_up(table, chosen, owed, threads)
    assert np.array_equal(np.frombuffer(table.buffer, np.uint8), caught_up)


def test_results_are_the_same_at_any_number_of_threads(make_aged, history):
    start, tables = make_aged(200, 14).state(), []
    log_keep, steps, nodes = history
    owed = Owed(14, 0, log_keep, BETAS, (steps, nodes, WINDOW, 5, EPS))
    for threads in (1, 2, 5):
        table = RowTable(N_ROWS, 200)
        for name, view in table.state().items():
            view[:] = start[name]
        catch_up(table, None, owed, threads)
        tables.append(np.frombuffer(table.buffer, np.uint8))
    assert all(np.array_equal(table, tables[0]) for table in tables[1:])


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, N_ROWS])
@pytest.mark.parametrize("kernel", ["sddmm", "shared_logits"])
@pytest.mark.usefixtures("one_blas")
def test_kernels_that_read_rows_let_them_pay_first(rng, make_aged, history, threads, kernel, n):
    """To the bit as if ``catch_up`` had come before."""
    log_keep, steps, nodes = history
    owed = Owed(14, 0, log_keep, BETAS, (steps, nodes, WINDOW, 5, EPS))
    start, ids = make_aged(40, 15).state(), np.sort(rng.permutation(N_ROWS)[:n]).astype(np.int32)
    hidden = rng.normal(size=(3, 48)).astype(np.float32)
    hidden[:, 40:] = 0
    results = []
    for at_once in (True, False):
        table = RowTable(N_ROWS, 40)
        for name, view in table.state().items():
            view[:] = start[name]
        if not at_once:
            catch_up(table, ids, owed, threads)
        out = np.zeros((3, n), np.float32)
        if kernel == "sddmm":
            groups = PairGroups(3 * n)
            begin = np.arange(3) * n
            groups.group(np.tile(ids, 3), begin, begin + n, N_ROWS)
            sddmm(table, groups, hidden, out.reshape(-1), threads, owed if at_once else None)
        else:
            shared_logits(table, ids, NO_OFFSETS, hidden, out, threads, owed if at_once else None)
        results.append((out, np.frombuffer(table.buffer, np.uint8)))
    for fused, apart in zip(*results, strict=True):
        assert np.array_equal(fused, apart)


def test_what_reads_rows_checks_what_they_owe(make_table):
    owed = Owed(3, 0, NOTHING, BETAS, None)
    hidden, out = np.zeros((1, 32), np.float32), np.zeros((1, 2), np.float32)
    with pytest.raises(ValueError, match="ids must ascend where rows catch up, got 1 after 1"):
        shared_logits(make_table(3, 20), np.ones(2, np.int32), NO_OFFSETS, hidden, out, 1, owed)
    few = make_table(3, 20, 1)
    with pytest.raises(ValueError, match="moments decay, but the table keeps 1 of two"):
        shared_logits(few, np.arange(2, dtype=np.int32), NO_OFFSETS, hidden, out, 1, owed)
    with pytest.raises(ValueError, match="moments decay, but the table keeps 1 of two"):
        sddmm(few, PairGroups(0), hidden, out[0], 1, owed)


def test_long_skipped_moments_are_zero_rather_than_denormal(make_table):
    table = make_table(3, 20)
    table.last_step[:] = 1
    catch_up(table, None, Owed(10**6, 0, NOTHING, (0.9, 0.999), None), 1)
    assert not any(table.state()[name].any() for name in ("m", "v", "bias_m", "bias_v"))


def test_no_ids_change_nothing(make_aged, history):
    table = make_aged(20, 14)
    before = np.frombuffer(table.buffer, np.uint8).copy()
    catch_up(table, np.zeros(0, np.int32), Owed(14, 0, history[0], None, None), 2)
    assert np.array_equal(np.frombuffer(table.buffer, np.uint8), before)


@pytest.mark.parametrize("ids", [[-1], [0, 0], [2, 1], [0, N_ROWS]])
def test_ids_must_ascend(make_aged, ids):
    owed = Owed(3, 0, NOTHING, BETAS, None)
    with pytest.raises(ValueError, match=f"ids must ascend within 0..149, got {ids[-1]} as number {len(ids) - 1}"):
        catch_up(make_aged(20, 3), np.array(ids, np.int32), owed, 1)


def test_moments_that_decay_must_be_there(make_table):
    with pytest.raises(ValueError, match="moments decay, but the table keeps 1 of two"):
        catch_up(make_table(3, 20, 1), None, Owed(3, 0, NOTHING, BETAS, None), 1)


def test_histories_are_checked(history):
    log_keep, steps, nodes = history
    for step, first in ((3, 4), (3, -1)):
        with pytest.raises(ValueError, match=f"steps count from 0 on, got {first} to {step}"):
            Owed(step, first, NOTHING, None, None)
    with pytest.raises(ValueError, match="log_keep must have 22 entries, got 21"):
        Owed(21, 0, log_keep, None, None)
    with pytest.raises(ValueError, match="momentum that moves weights decays"):
        Owed(20, 0, NOTHING, None, (steps, nodes, WINDOW, 0, EPS))
    for wrong in ((steps[:19], nodes), (steps, nodes[:19]), (steps[:, :2].copy(), nodes), (steps, nodes[:, 1:].copy())):
        with pytest.raises(ValueError, match=r"steps must be \[20, 3\] and nodes \[20, 8\], or longer"):
            Owed(20, 0, NOTHING, BETAS, (*wrong, WINDOW, 0, EPS))


# --- Moments that decay with the next step, and weights that decay with every one


@pytest.mark.parametrize("sparse_samples", [False, True])
def test_moments_decay_with_the_next_step_twin(rng, make_aged, dim, threads, sparse_samples):
    table = make_aged(dim, 6)
    twin = {name: view.astype(np.float64) for name, view in table.state().items()}
    groups = PairGroups(N_ROWS)
    groups.group(np.arange(N_ROWS, dtype=np.int32), np.array([0]), np.array([N_ROWS]), N_ROWS)
    coefficients = rng.normal(size=N_ROWS).astype(np.float32)
    hidden = np.zeros((1, table.padded_dim), np.float32)
    hidden[0, :dim] = rng.normal(size=dim)
    rule = optim.adam(0.05, *BETAS, EPS, 7, weight_decay=2.0, decay_moments=True)
    assert rule.whole_rows
    if sparse_samples:
        samples = np.array([0]), np.array([dim]), np.arange(dim, dtype=np.int32), hidden[0, :dim].copy()
        sparse_input.step_groups(table, groups, coefficients, *samples, None, False, rule, threads)
    else:
        optim.step_groups(table, groups, coefficients, hidden, None, rule, threads)
    skipped = 7 - twin["last_step"]
    for weights, m, v, keep, gradient in (
        ("weights", "m", "v", 0.9, coefficients[:, None] * hidden[:, :dim].astype(np.float64)),
        ("bias", "bias_m", "bias_v", 1.0, coefficients.astype(np.float64)),
    ):
        n = skipped.reshape(-1, *[1] * (twin[m].ndim - 1))
        twin[m] = BETAS[0] ** n * twin[m] + (1 - BETAS[0]) * gradient
        twin[v] = BETAS[1] ** n * twin[v] + (1 - BETAS[1]) * gradient**2
        root = np.sqrt(twin[v] / (1 - BETAS[1] ** 7)) + EPS
        twin[weights] = keep * twin[weights] - 0.05 * twin[m] / (1 - BETAS[0] ** 7) / root
    twin["last_step"][:] = 7
    for name, view in table.state().items():
        np.testing.assert_allclose(view, twin[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_only_a_plain_rule_leaves_the_other_columns_alone():
    owed = Owed(3, 0, NOTHING, BETAS, None)
    plain = optim.sgd(0.1, 1), optim.adam(0.1, *BETAS, EPS, 1), measure()
    other = (
        optim.sgd(0.1, 1, weight_decay=0.1),
        optim.sgd(0.1, 1, owed=owed),
        optim.adam(0.1, *BETAS, EPS, 1, weight_decay=0.1),
        optim.adam(0.1, *BETAS, EPS, 1, decay_moments=True),
    )
    assert not any(rule.whole_rows for rule in plain)
    assert all(rule.whole_rows for rule in other)
    assert [rule.owed for rule in other] == [None, owed, None, None]


def test_biases_do_not_decay():
    w = np.ones(16, np.float32)
    step_vector(w, w[:0], w[:0], np.zeros(16, np.float32), optim.sgd(0.1, 1, weight_decay=5.0))
    assert (w == 1).all()


@pytest.mark.parametrize("kind", ["dense", "whole", "touched", "shared"])
def test_a_table_without_biases_keeps_them_at_zero(one_blas, kind):
    table, groups, found = RowTable(2, 16, biased=False), PairGroups(2), measure()
    groups.group(np.arange(2, dtype=np.int32), np.zeros(1, np.int64), np.full(1, 2), 2)
    ones, hidden = np.ones(2, np.float32), np.full((1, 16), 0.5, np.float32)
    samples = np.array([0]), np.array([16]), np.arange(16, dtype=np.int32), hidden[0]
    for rule in (found, optim.adam(0.05, *BETAS, EPS, 1)):
        if kind == "dense":
            optim.step_groups(table, groups, ones, hidden, None, rule, 1)
        elif kind == "shared":
            dense.shared_step(table, groups.rows, ones[None], hidden, SampleGradient(1, 16), rule, 1)
        else:
            sparse_input.step_groups(table, groups, ones, *samples, None, kind == "touched", rule, 1)
    assert found.squared_norm == 2 * 16 / 4
    assert table.weights.all()
    assert not table.bias.any()


# --- Measuring


def measured(step):
    """Return what a step under a measuring rule finds, at one thread and at three."""
    found = []
    for threads in (1, 3):
        rule = measure()
        assert rule.moments == 0
        step(rule, threads)
        found.append(rule.squared_norm)
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize("kind", ["dense", "whole", "touched"])
def test_grouped_gradients_are_measured_twin(rng, make_table, make_hidden, make_runs, dim, kind):
    table, samples = make_table(200, dim), 90
    hidden = make_hidden(samples, table)
    ids, begin, end = make_runs(samples, 200, 60)
    groups = PairGroups(len(ids))
    groups.group(ids, begin, end, 200)
    coefficients = rng.normal(size=len(ids)).astype(np.float32)
    grad = np.zeros((200, dim + 1))
    for sample, (first, last) in enumerate(zip(begin, end, strict=True)):
        row = np.append(hidden[sample, :dim], 1).astype(np.float64)
        np.add.at(grad, ids[first:last], coefficients[first:last, None] * row)
    before = np.frombuffer(table.buffer, np.uint8).copy()
    gradients = []

    def step(rule, threads):
        gradient, total = SampleGradient(samples, table.padded_dim), np.zeros_like(hidden)
        if kind == "dense":
            optim.step_groups(table, groups, coefficients, hidden, gradient, rule, threads)
        else:
            entries = np.arange(samples) * dim
            flat = np.tile(np.arange(dim, dtype=np.int32), samples), np.ascontiguousarray(hidden[:, :dim]).ravel()
            rest = gradient, kind == "touched", rule, threads
            sparse_input.step_groups(table, groups, coefficients, entries, entries + dim, *flat, *rest)
        gradient.sum_into(total, None, 1)
        gradients.append(total)

    assert measured(step) == pytest.approx((grad**2).sum(), rel=1e-5)
    assert np.array_equal(np.frombuffer(table.buffer, np.uint8), before)
    assert gradients[0].any()
    assert np.array_equal(gradients[0], gradients[1])


def test_shared_gradients_are_measured_twin(rng, make_table, make_hidden, one_blas, dim):
    table = make_table(300, dim)
    hidden, deltas = make_hidden(9, table), rng.normal(size=(9, 280)).astype(np.float32)
    ids = np.arange(280, dtype=np.int32)
    before = np.frombuffer(table.buffer, np.uint8).copy()

    def step(rule, threads):
        dense.shared_step(table, ids, deltas, hidden, SampleGradient(9, table.padded_dim), rule, threads)

    grad = deltas.T.astype(np.float64) @ np.column_stack([hidden[:, :dim], np.ones(9)])
    assert measured(step) == pytest.approx((grad**2).sum(), rel=1e-5)
    assert np.array_equal(np.frombuffer(table.buffer, np.uint8), before)


@pytest.mark.parametrize("n", [0, 16, 48])
def test_vectors_are_measured(rng, n):
    w, grad = np.ones(n, np.float32), rng.normal(size=n).astype(np.float32)
    found = measured(lambda rule, _: step_vector(w, w[:0], w[:0], grad, rule))
    assert found == pytest.approx((grad.astype(np.float64) ** 2).sum(), rel=1e-5)
    assert (w == 1).all()


# --- The measures of what is owed


@pytest.mark.parametrize("kinds", [1, 2])
@pytest.mark.parametrize("known", [1, 16, 17])
def test_add_step_twin(rng, kinds, known):
    """Two nodes match the first four moments of the terms added to a measure that has moved on by a step."""
    window, decay, root, rate, beta = 17, 0.01 * (kinds == 2), 1.5, 0.1, 0.97
    ago = np.arange(window, 0, -1.0)
    fading, narrowing = 0.8**ago, 0.97 ** (ago - 1)
    first_root = 1.5 + rng.random(window)
    a, b = rng.random((2, 2, 4, kinds, window)) - [[[[[0]]]], [[[[0.5]]]]]
    measures = np.stack([(a * b**k).sum(axis=(0, 1)) for k in range(4)])
    expected_root = np.append(first_root[1:], root)
    expected = np.concatenate([measures[..., 1:], np.zeros((4, kinds, 1))], axis=2)
    expected[:, 0, -known:] *= 1 - decay
    place = root * narrowing / expected_root - 1
    for k in range(4):
        expected[k, :, -known:] += (rate * fading * place**k)[-known:]
    nodes = np.zeros((known, 8), np.float32)
    add_step(first_root, measures, fading, narrowing, rate, root, decay, beta, nodes)
    np.testing.assert_array_equal(first_root, expected_root)
    np.testing.assert_allclose(measures, expected, rtol=1e-12, atol=1e-15)
    for kind in range(2):
        a1, b1, a2, b2 = nodes[:, 4 * kind : 4 * kind + 4].T.astype(np.float64)
        places = np.stack([b1, b2]) / (expected_root[-known:] * beta) - 1
        for k in range(4):
            found = (np.stack([a1, a2]) * places**k).sum(axis=0)
            np.testing.assert_allclose(found, expected[k, min(kind, kinds - 1), -known:], rtol=1e-4, atol=1e-5)


def test_measures_that_do_not_fit_are_refused():
    window, wrong = np.zeros(3), np.zeros(2)
    with pytest.raises(ValueError, match=r"measures must be \[4, 1 or 2, 3\]"):
        add_step(window, np.zeros((4, 3, 3)), window, window, 1, 1, 0, 1, np.zeros((1, 8), np.float32))
    with pytest.raises(ValueError, match=r"fading and narrowing \[3\]"):
        add_step(window, np.zeros((4, 1, 3)), window, wrong, 1, 1, 0, 1, np.zeros((1, 8), np.float32))
    with pytest.raises(ValueError, match=r"nodes must be \[at most 3, 8\], got \[4, 8\]"):
        add_step(window, np.zeros((4, 1, 3)), window, window, 1, 1, 0, 1, np.zeros((4, 8), np.float32))
