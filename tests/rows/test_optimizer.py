"""The optimizer on rows that batches skip, against dense twins in float64 that skip nothing."""

import numpy as np
import pytest

from slide.config import OptimizerConfig
from slide.kernels.catch_up import catch_up
from slide.kernels.grouping import PairGroups
from slide.kernels.optim import adam, step_groups
from slide.kernels.rows import RowTable
from slide.rows.optimizer import NEVER, TOLERANCE, Optimizer, _accurate_from, _two_nodes, _window

N_ROWS, DIM = 40, 17

SCHEDULES = {
    "constant": lambda step, steps: 1.0,
    "linear": lambda step, steps: 1 - step / steps,
    "jumping": lambda step, steps: (0.0, 1.0, 0.3)[step // 7 % 3],
}


@pytest.fixture
def rng():
    return np.random.default_rng(20)


class Twin:
    """Weights with a column for the bias, and one optimizer in float64.

    Rows without a gradient take the step with gradient zero (lazy "exact"), decay only their moments ("decay") or do
    nothing ("sparse"); in all three their weights decay.
    """

    def __init__(self, config, weights, bias):
        self.config = config
        self.w = np.column_stack([weights, bias]).astype(np.float64)
        self.m, self.v, self.step = np.zeros_like(self.w), np.zeros_like(self.w), 0

    def take(self, rows, grad, lr_factor):
        c, lr = self.config, self.config.lr * lr_factor
        self.step += 1
        self.w[:, :-1] *= 1 - lr * c.weight_decay
        full = np.zeros_like(self.w)
        full[rows] = grad
        moved = np.arange(len(self.w)) if c.name == "adam" and c.lazy == "exact" else rows
        if c.name == "sgd":
            self.w[rows] -= lr * grad
            return
        decayed = rows if c.lazy == "sparse" else np.arange(len(self.w))
        self.m[decayed] = c.beta1 * self.m[decayed] + (1 - c.beta1) * full[decayed]
        self.v[decayed] = c.beta2 * self.v[decayed] + (1 - c.beta2) * full[decayed] ** 2
        root = np.sqrt(self.v[moved] / (1 - c.beta2**self.step)) + c.eps
        self.w[moved] -= lr * self.m[moved] / (1 - c.beta1**self.step) / root


def run(rng, config, steps, schedule="constant", *, scale=1.0, settle_every=None, threads=1):
    """Train a table on random gradients, its rows the rarer the later; return it, settled, and its twin."""
    table = RowTable(N_ROWS, DIM, moments=2 if config.name == "adam" else 0)
    table.weights[:] = rng.normal(size=(N_ROWS, DIM))
    optimizer, twin = Optimizer(config), Twin(config, table.weights, table.bias)
    groups = PairGroups(N_ROWS)
    often = np.maximum(1 / (1 + np.arange(N_ROWS)), 0.01)
    for step in range(steps):
        rows = np.flatnonzero(rng.random(N_ROWS) < often).astype(np.int32)
        n = len(rows)
        factor = SCHEDULES[schedule](step, steps)
        rule = optimizer.rule(factor)
        if rule.owed is not None:
            catch_up(table, rows, rule.owed, threads)
        # A sample of its own for each row: any gradient can be had.
        hidden = np.zeros((n, table.padded_dim), np.float32)
        hidden[:, :DIM] = scale * rng.normal(size=(n, DIM)) * 10.0 ** rng.integers(-3, 1, (n, DIM))
        coefficients = rng.normal(size=n).astype(np.float32)
        groups.group(rows, np.arange(n), np.arange(1, n + 1), N_ROWS)
        step_groups(table, groups, coefficients, hidden, None, rule, threads)
        optimizer.advance(factor)
        exact = np.column_stack([hidden[:, :DIM], np.ones(n)]).astype(np.float64) * coefficients[:, None]
        twin.take(rows, exact, factor)
        if settle_every and step % settle_every == 0:
            settle(table, optimizer, threads)
    settle(table, optimizer, threads)
    return table, twin


def settle(table, optimizer, threads=1):
    owed = optimizer.owed()
    if owed is not None:
        catch_up(table, None, owed, threads)
        optimizer.settled()


def assert_same(table, twin, moments=True):
    state = table.state()
    np.testing.assert_allclose(np.column_stack([table.weights, table.bias]), twin.w, rtol=0, atol=1e-5)
    if moments:
        np.testing.assert_allclose(np.column_stack([state["m"], state["bias_m"]]), twin.m, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(np.column_stack([state["v"], state["bias_v"]]), twin.v, rtol=1e-4, atol=1e-12)


def settings(**changes):
    return OptimizerConfig(**{"lr": 5e-3, "lazy": "exact"} | changes)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1, 5.0])
def test_exact_is_dense_adam(rng, weight_decay, schedule):
    assert_same(*run(rng, settings(weight_decay=weight_decay), 300, schedule))


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.99), (0.9, 0.95), (0.5, 0.9), (0.0, 0.9), (0.99, 0.999)])
@pytest.mark.parametrize("eps", [1e-8, 1e-5, 1e-3])
def test_exact_is_dense_adam_whatever_its_settings(rng, betas, eps):
    config = settings(beta1=betas[0], beta2=betas[1], eps=eps, weight_decay=0.02)
    assert_same(*run(rng, config, 300, "linear"))


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3])
def test_exact_is_dense_adam_whatever_the_gradients(rng, scale):
    config = settings(eps=1e-6)
    assert_same(*run(rng, config, 200, scale=scale), moments=False)


@pytest.mark.parametrize("steps", [1, 2, 3, 63, 64, 65, 66])
def test_exact_around_the_end_of_the_replay(rng, steps):
    assert Optimizer(settings()).replay_until == 64
    assert_same(*run(rng, settings(), steps))


@pytest.mark.parametrize("every", [1, 10, 90])
def test_settling_changes_nothing(rng, every):
    assert_same(*run(rng, settings(weight_decay=0.1), 300, "linear", settle_every=every))


@pytest.mark.parametrize("weight_decay", [0.0, 1.0])
@pytest.mark.parametrize("lazy", ["decay", "sparse"])
def test_lazier_modes_are_their_twins(rng, lazy, weight_decay):
    table, twin = run(rng, settings(lazy=lazy, weight_decay=weight_decay), 300, "linear")
    if lazy == "decay":
        # What is not paid yet is owed until the next step.
        config = twin.config
        n = (300 - table.last_step)[:, None]
        np.testing.assert_allclose(table.state()["m"] * config.beta1**n, twin.m[:, :-1], rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(table.state()["v"] * config.beta2**n, twin.v[:, :-1], rtol=1e-4, atol=1e-12)
    assert_same(table, twin, moments=lazy == "sparse")


@pytest.mark.parametrize("weight_decay", [0.0, 1.0])
def test_sgd_owes_weight_decay_alone(rng, weight_decay):
    config = settings(name="sgd", lr=0.01, weight_decay=weight_decay)
    table, twin = run(rng, config, 200, "linear")
    assert_same(table, twin, moments=False)


def test_threads_do_not_change_the_bits():
    buffers = []
    for threads in (1, 2, 5):
        table, _ = run(np.random.default_rng(3), settings(weight_decay=0.1), 100, "linear", threads=threads)
        buffers.append(np.frombuffer(table.buffer, np.uint8))
    assert all(np.array_equal(buffer, buffers[0]) for buffer in buffers)


# --- What is owed


@pytest.mark.parametrize(
    ("changes", "owes"),
    [
        ({}, True),
        ({"lazy": "decay"}, False),
        ({"lazy": "sparse"}, False),
        ({"lazy": "sparse", "weight_decay": 0.1}, True),
        ({"name": "sgd"}, False),
        ({"name": "sgd", "weight_decay": 0.1}, True),
        ({"name": "adagrad"}, False),
        ({"name": "adagrad", "weight_decay": 0.1}, True),
    ],
)
def test_who_owes(changes, owes):
    optimizer = Optimizer(settings(**changes))
    assert optimizer.moments == (0 if "name" in changes else 2)
    assert optimizer.accumulates == (changes.get("name") == "adagrad")
    assert optimizer.owed() is optimizer.rule().owed is None
    optimizer.advance()
    assert optimizer.step == 1
    assert (optimizer.owed() is not None) == (optimizer.rule().owed is not None) == owes
    optimizer.settled()
    assert optimizer.owed() is None
    assert optimizer.step == 1


def test_nothing_is_owed_for_steps_before_a_resumption():
    optimizer = Optimizer(settings(weight_decay=0.1))
    optimizer.resume(1000)
    assert optimizer.step == 1000
    assert optimizer.owed() is None
    table = RowTable(1, 16)
    table.weights[:] = 1
    table.last_step[:] = 3
    optimizer.advance()
    catch_up(table, None, optimizer.owed(), 1)
    np.testing.assert_allclose(table.weights, 1 - 5e-3 * 0.1, rtol=1e-6)
    assert table.last_step[0] == 1001


@pytest.mark.parametrize(
    "change",
    [lambda array: None, lambda array: array[:-1], lambda array: array.astype(np.float16)],
    ids=["missing", "short", "another type"],
)
@pytest.mark.parametrize("name", ["log_keep", "steps", "nodes", "measures"])
def test_what_is_owed_is_restored_as_it_was_or_not_at_all(name, change):
    optimizer, other = (Optimizer(settings(weight_decay=0.1)) for _ in range(2))
    for _ in range(5):
        optimizer.advance()
    state = optimizer.state()
    other.restore(5, 0, state)
    assert all(np.array_equal(array, state[name]) for name, array in other.state().items())
    changed = change(state[name])
    with pytest.raises(ValueError, match=rf"^{name} of steps 1 to 5 must be "):
        other.restore(5, 0, {key: array for key, array in (state | {name: changed}).items() if array is not None})


def test_rules_are_those_of_the_settings():
    """A rule without debts steps as the kernel's own does."""
    optimizer, tables = Optimizer(settings(lazy="sparse")), []
    groups = PairGroups(1)
    groups.group(np.zeros(1, np.int32), np.zeros(1, np.int64), np.ones(1, np.int64), 1)
    for rule in (optimizer.rule(0.5), adam(2.5e-3, 0.9, 0.999, 1e-8, 1)):
        table = RowTable(1, 16)
        step_groups(table, groups, np.ones(1, np.float32), np.ones((1, 16), np.float32), None, rule, 1)
        tables.append(np.frombuffer(table.buffer, np.uint8))
    assert np.array_equal(*tables)


def test_a_factor_must_leave_something_of_the_weights():
    optimizer = Optimizer(settings(weight_decay=100.0))
    optimizer.rule(1.9)
    with pytest.raises(ValueError, match=r"learning rate 0\.01 times weight_decay 100 must be below 1"):
        optimizer.rule(2.0)


def test_a_row_that_is_never_stepped_is_never_visited(rng):
    optimizer, table = Optimizer(settings()), RowTable(2, 16)
    for _ in range(5):
        optimizer.advance()
    table.last_step[0] = 1
    settle(table, optimizer)
    assert table.last_step.tolist() == [5, 0]


# --- The quadrature


def test_two_terms_are_their_own_quadrature(rng):
    a, b = rng.random((2, 50)) + 0.1, -rng.random((2, 50))
    weights, nodes = _two_nodes(np.stack([(a * b**k).sum(axis=0) for k in range(4)]))
    order = np.argsort(b, axis=0)
    np.testing.assert_allclose(nodes, np.take_along_axis(b, order, 0), rtol=1e-6)
    np.testing.assert_allclose(weights, np.take_along_axis(a, order, 0), rtol=1e-5)


@pytest.mark.parametrize("measure", [[0, 0, 0, 0], [2, 0, 0, 0], [2, -1, 0.5, -0.25]])
def test_a_single_term_or_none(measure):
    weights, nodes = _two_nodes(np.array(measure, float)[:, None])
    assert weights.sum() == measure[0]
    assert (weights * nodes).sum() == measure[1]


@pytest.mark.parametrize(
    ("betas", "step"),
    [
        ((0.9, 0.999), 64),
        ((0.9, 0.99), 128),
        ((0.0, 0.9), 1),
        ((0.9, 0.95), NEVER),
        ((0.9, 0.8), NEVER),
        ((0.0, 0.0), NEVER),
        ((1 - 1e-16, 0.9), NEVER),
        ((1 - 1e-12, 1 - 1e-15), NEVER),
    ],
)
def test_where_two_nodes_do(betas, step):
    assert _accurate_from(*betas) == step
    Optimizer(settings(beta1=betas[0], beta2=betas[1])).advance()


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.99), (0.5, 0.99), (0.95, 0.9999)])
def test_error_of_two_nodes_from_there_on(betas):
    """The nodes that the optimizer keeps, for the momentum and eps that suit them worst."""
    config = OptimizerConfig(beta1=betas[0], beta2=betas[1], eps=1.0, lazy="exact", lr=1.0)
    optimizer = Optimizer(config)
    start = optimizer.replay_until
    optimizer.resume(start)
    most = (1 - betas[0]) / np.sqrt((1 - betas[1]) * (1 - betas[0] ** 2 / betas[1]))
    root_v, exact, worst = np.logspace(-4, 6, 200), 0.0, 0.0
    for i in range(1, 2 * _window(betas[0])):
        optimizer.advance()
        rate, root, _ = optimizer._steps[i - 1].astype(np.float64)
        exact = exact + rate * betas[0] ** i / (root * betas[1] ** (i / 2) * root_v + 1)
        a1, b1, a2, b2 = optimizer._nodes[0, :4].astype(np.float64)
        near = a1 / (b1 * root_v + 1) + a2 / (b2 * root_v + 1)
        worst = max(worst, (most * root_v * np.abs(exact - near)).max())
    assert 1e-5 < worst < 1.2 * TOLERANCE
