"""SGD and Adam on touched rows, against a float64 twin."""

import math

import numpy as np
import pytest

from slide.kernels.grouping import PairGroups
from slide.kernels.optim import adam, check_moments, sgd, step_groups, step_vector
from slide.kernels.rows import RowTable
from slide.kernels.sparse import SampleGradient

HYPER = {"lr": 0.05, "beta1": 0.9, "beta2": 0.99, "eps": 1e-3}


def adam_twin(w, m, v, grad, step):
    """PyTorch's Adam: eps is added to the root of the corrected second moment."""
    m[...] = HYPER["beta1"] * m + (1 - HYPER["beta1"]) * grad
    v[...] = HYPER["beta2"] * v + (1 - HYPER["beta2"]) * grad**2
    corrected_m = m / (1 - HYPER["beta1"] ** step)
    corrected_v = v / (1 - HYPER["beta2"] ** step)
    w[...] -= HYPER["lr"] * corrected_m / (np.sqrt(corrected_v) + HYPER["eps"])


def sgd_twin(w, m, v, grad, step):
    w[...] -= HYPER["lr"] * grad


def rule(name, step):
    return adam(**HYPER, step=step) if name == "adam" else sgd(HYPER["lr"], step)


TWINS = {"adam": adam_twin, "sgd": sgd_twin}


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_step_groups_twin(rng, make_table, make_hidden, make_runs, padding_is_zero, dim, threads, name):
    n_rows, samples = 250, 30
    moments = 2 if name == "adam" else 0
    table = make_table(n_rows, dim, moments)
    start = {part: view.copy() for part, view in table.state().items()}
    twin = {part: view.astype(np.float64) for part, view in table.state().items()}
    unused = np.zeros((n_rows, dim)), np.zeros(n_rows)
    last_step = np.zeros(n_rows, np.int32)
    for step in (1, 2, 3):
        hidden = make_hidden(samples, table)
        ids, begin, end = make_runs(samples, n_rows // 2, 60)
        groups = PairGroups(len(ids))
        groups.group(ids, begin, end, n_rows)
        coefficients = rng.normal(size=len(ids)).astype(np.float32)
        grad, grad_bias = np.zeros((n_rows, dim)), np.zeros(n_rows)
        for sample, (first, last) in enumerate(zip(begin, end, strict=True)):
            grad[ids[first:last]] += coefficients[first:last, None] * hidden[sample, :dim].astype(np.float64)
            grad_bias[ids[first:last]] += coefficients[first:last]
        rows = groups.rows
        last_step[rows] = step
        for weights, kind, gradient, spare in [
            ("weights", "", grad, unused[0]),
            ("bias", "bias_", grad_bias, unused[1]),
        ]:
            w, m, v = (
                part[rows]
                for part in (twin[weights], twin.get(f"{kind}m", spare), twin.get(f"{kind}v", spare))
            )
            TWINS[name](w, m, v, gradient[rows], step)
            twin[weights][rows] = w
            if moments:
                twin[f"{kind}m"][rows], twin[f"{kind}v"][rows] = m, v
        step_groups(table, groups, coefficients, hidden, None, rule(name, step), threads)
    for part, view in table.state().items():
        if part != "last_step":
            np.testing.assert_allclose(view, twin[part], rtol=1e-4, atol=1e-5, err_msg=part)
        untouched = last_step == 0
        np.testing.assert_array_equal(view[untouched], start[part][untouched], err_msg=part)
    np.testing.assert_array_equal(table.last_step, last_step)
    assert padding_is_zero(table)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_step_is_the_same_at_any_number_of_threads(rng, make_hidden, name):
    tables, sums = [], []
    ids = np.concatenate([rng.permutation(3000)[:400] for _ in range(50)]).astype(np.int32)
    end = np.arange(400, 20_001, 400)
    groups = PairGroups(len(ids))
    groups.group(ids, end - 400, end, 3000)
    coefficients = rng.normal(size=len(ids)).astype(np.float32)
    hidden = make_hidden(50, RowTable(1, 40))
    for threads in (1, 2, 5):
        table = RowTable(3000, 40)
        table.fill_uniform(1.0, 0, 1)
        gradient, total = SampleGradient(50, 48), np.zeros((50, 48), np.float32)
        step_groups(table, groups, coefficients, hidden, gradient, rule(name, 1), threads)
        gradient.sum_into(total, None, threads)
        tables.append(np.frombuffer(table.buffer, np.uint8))
        sums.append(total)
    for table, total in zip(tables[1:], sums[1:], strict=True):
        assert np.array_equal(table, tables[0])
        assert np.array_equal(total, sums[0])


@pytest.mark.parametrize("name", ["adam", "sgd"])
@pytest.mark.parametrize("n", [0, 16, 48, 128, 304])
def test_step_vector_twin(rng, n, name):
    w, m, v = (rng.random(n).astype(np.float32) for _ in range(3))
    twin = [part.astype(np.float64) for part in (w, m, v)]
    moments = (m, v) if name == "adam" else (m[:0], v[:0])
    for step in (1, 2, 3):
        grad = rng.normal(size=n).astype(np.float32)
        TWINS[name](*twin, grad, step)
        step_vector(w, *moments, grad, rule(name, step))
    for actual, expected in zip((w, m, v), twin, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def test_first_step_of_adam_has_the_size_of_the_learning_rate():
    table = RowTable(1, 16)
    groups = PairGroups(1)
    groups.group(np.zeros(1, np.int32), np.zeros(1, np.int64), np.ones(1, np.int64), 1)
    hidden = np.linspace(-4, 4, 16, dtype=np.float32)[None]
    step_groups(table, groups, np.ones(1, np.float32), hidden, None, adam(0.01, 0.9, 0.999, 1e-8, 1), 1)
    np.testing.assert_allclose(table.weights, -0.01 * np.sign(hidden), rtol=1e-5)


def test_late_steps_are_not_corrected():
    w, m, v = (np.zeros(16, np.float32) for _ in range(3))
    step_vector(w, m, v, np.ones(16, np.float32), adam(1.0, 0.9, 0.999, 1e-8, 2**31 - 1))
    np.testing.assert_allclose(w, -0.1 / math.sqrt(0.001), rtol=1e-4)


def test_zero_gradient_leaves_a_fresh_parameter_where_it_is():
    w, m, v = np.ones(16, np.float32), np.zeros(16, np.float32), np.zeros(16, np.float32)
    step_vector(w, m, v, np.zeros(16, np.float32), adam(1.0, 0.9, 0.999, 1e-8, 1))
    assert (w == 1).all()


def test_rules_know_their_moments():
    assert sgd(0.1, 1).moments == 0
    assert adam(**HYPER, step=1).moments == 2
    check_moments(RowTable(1, 1, moments=0), sgd(0.1, 1))
    with pytest.raises(ValueError, match="the rule needs 2 moments a weight, the table keeps 1"):
        check_moments(RowTable(1, 1, moments=1), adam(**HYPER, step=1))


@pytest.mark.parametrize("step", [0, -1])
@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_steps_count_from_one(name, step):
    with pytest.raises(ValueError, match=f"step counts from 1, got {step}"):
        rule(name, step)


def test_step_vector_checks_its_arguments():
    vectors = {size: np.zeros(size, np.float32) for size in (0, 15, 16, 32)}
    for w, m, v, grad in [(15, 15, 15, 15), (16, 16, 16, 32), (16, 0, 16, 16), (16, 16, 0, 16)]:
        with pytest.raises(ValueError, match="must have the same length, a multiple of 16; w has"):
            step_vector(vectors[w], vectors[m], vectors[v], vectors[grad], adam(**HYPER, step=1))


def test_step_groups_checks_its_arguments(make_table):
    groups = PairGroups(4)
    groups.group(np.array([2, 1], np.int32), np.array([0, 1]), np.array([1, 2]), 3)
    hidden, coefficients = np.zeros((2, 16), np.float32), np.zeros(2, np.float32)
    table, rule = make_table(3, 16, 0), sgd(1, 1)
    with pytest.raises(ValueError, match="there are 2 rows"):
        step_groups(make_table(2, 16, 0), groups, coefficients, hidden, None, rule, 1)
    with pytest.raises(ValueError, match="1 slots"):
        step_groups(table, groups, coefficients[:1], hidden, None, rule, 1)
    with pytest.raises(ValueError, match="hidden must be"):
        step_groups(table, groups, coefficients, hidden[:1], None, rule, 1)
    with pytest.raises(ValueError, match="needs 2 moments"):
        step_groups(table, groups, coefficients, hidden, None, adam(**HYPER, step=1), 1)
    for samples, dim in [(1, 16), (2, 32)]:
        with pytest.raises(
            ValueError, match=f"gradient is for {samples} samples of {dim}, not for this batch"
        ):
            step_groups(table, groups, coefficients, hidden, SampleGradient(samples, dim), rule, 1)


def test_no_pairs_change_nothing(make_table):
    table, groups, gradient = make_table(3, 16, 0), PairGroups(4), SampleGradient(2, 16)
    before = table.weights.copy()
    groups.group(np.zeros(0, np.int32), np.zeros(2, np.int64), np.zeros(2, np.int64), 3)
    step_groups(table, groups, np.zeros(0, np.float32), np.zeros((2, 16), np.float32), gradient, sgd(1, 1), 2)
    assert np.array_equal(table.weights, before)
    assert gradient.n_parts == 0


def test_fading_moments_end_at_zero_and_not_among_the_denormals(make_table, make_hidden, make_runs):
    table = make_table(40, 20, 2)
    state = table.state()
    state["m"][:] = state["v"][:] = 1e-38
    groups = PairGroups(400)
    groups.group(*make_runs(10, 20, 30), 40)
    coefficients = np.zeros(400, np.float32)
    step_groups(table, groups, coefficients, make_hidden(10, table), None, rule("adam", 3), 2)
    stepped, others = groups.rows, np.setdiff1d(np.arange(40), groups.rows)
    assert not state["m"][stepped].any()
    assert not state["v"][stepped].any()
    assert (state["m"][others] == np.float32(1e-38)).all()
    # The caller's arithmetic stays what it was.
    assert np.float32(1e-38) * np.float32(0.5) > 0
