"""What must not matter to a network: the order of samples, features and labels, how a batch is cut, who else is in it.

Sums in another order differ in their last digits; the tolerances here are those of float32, and of nothing else.
"""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_inputs import fast
from scipy.sparse import csr_matrix, vstack
from small_networks import N_FEATURES, N_LABELS, UNITS, batch_of, full, sampled, sparse, state_of

from slide.config import LSHConfig, NetworkConfig, OptimizerConfig, OutputConfig, TrainingConfig
from slide.data.batches import BatchReader
from slide.network import Network

# Those whose candidates are not drawn for each sample by itself: draws follow the place in the batch.
SHARED = st.sampled_from(["full", "inbatch", "uniform"])
LOSSES = st.sampled_from(["softmax", "bce"])
SEEDS = st.integers(0, 10**6)
ONE_LAYER = (full(UNITS),)
HIDDEN = st.sampled_from([ONE_LAYER, (full(UNITS, "linear"), full(17))])


def points_of(seed, n=12):
    """Samples with features and labels, some without either."""
    rng = np.random.default_rng(seed)
    X, Y = sparse(rng, (n, N_FEATURES), 0.2), sparse(rng, (n, N_LABELS), 0.05)
    Y.data[:] = 1
    return X, Y


def network_of(candidates="full", loss="softmax", hidden=ONE_LAYER, *, optimizer="sgd", **fields):
    above = OutputConfig(candidates, budget=12, tail=20, loss=loss, lsh=LSHConfig(k=2, l=5), **fields)
    lr = {"sgd": 2.0, "adam": 0.01, "adagrad": 0.1}[optimizer]
    net = Network(N_FEATURES, N_LABELS, NetworkConfig(hidden, above, OptimizerConfig(optimizer, lr=lr)), threads=1)
    net.output.set_label_frequency(np.full(N_LABELS, 0.1))
    return net


def trained(samples, net, steps=2):
    for _ in range(steps):
        stats = net.train_batch(batch_of(samples, net.config))
    return state_of(net), stats.loss


def assert_close(one, other, tolerance=2e-5):
    for name, view in one.items():
        np.testing.assert_allclose(other[name], view, rtol=tolerance, atol=tolerance, err_msg=name)


def rows_of(samples, order):
    return samples[0][order], samples[1][order]


@fast
@given(SEEDS, SHARED, LOSSES, HIDDEN, st.sampled_from(["sgd", "adagrad"]))
def test_order_of_points(seed, candidates, loss, hidden, optimizer):
    samples = points_of(seed)
    order = np.random.default_rng(seed + 1).permutation(12)
    both = samples, rows_of(samples, order)
    results = [trained(p, network_of(candidates, loss, hidden, optimizer=optimizer)) for p in both]
    assert_close(results[0][0], results[1][0])
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-5)


@fast
@given(SEEDS, LOSSES, HIDDEN, st.sampled_from(["sgd", "adam", "adagrad"]), st.integers(2, 3))
def test_points_that_are_there_several_times(seed, loss, hidden, optimizer, times):
    """A batch's gradient is a mean: all samples twice are all samples once."""
    samples = points_of(seed)
    several = rows_of(samples, np.tile(np.arange(12), times))
    results = [trained(p, network_of("full", loss, hidden, optimizer=optimizer), 1) for p in (samples, several)]
    if optimizer == "adam":
        # Where a gradient is rounding alone, Adam's step has its sign.
        results = [({name: view for name, view in state.items() if name[-2:] == ".m"}, loss) for state, loss in results]
    assert_close(results[0][0], results[1][0])
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-5)


@fast
@given(SEEDS, st.sampled_from(["full", "uniform"]), LOSSES, HIDDEN, st.integers(1, 11))
def test_cutting_a_batch(seed, candidates, loss, hidden, cut):
    """The step of a batch is the mean of its parts' steps, each from where it began."""
    samples = points_of(seed)
    # Without the correction, which knows how many samples there are, and what a part's labels would add.
    fields = {"correction": "none", "share_labels": False} if candidates == "uniform" else {}
    start = state_of(network_of(candidates, loss, hidden, **fields))
    whole, first, second = (
        trained(rows_of(samples, part), network_of(candidates, loss, hidden, **fields), 1)[0]
        for part in (slice(None), slice(cut), slice(cut, None))
    )
    # Samples without labels have no loss, and no part in the mean.
    labelled = np.diff(samples[1].indptr) > 0
    shares = labelled[:cut].sum() / labelled.sum(), labelled[cut:].sum() / labelled.sum()
    for name in start:
        if not name.endswith("last_step"):
            parts = shares[0] * (first[name] - start[name]) + shares[1] * (second[name] - start[name])
            np.testing.assert_allclose(whole[name] - start[name], parts, rtol=1e-4, atol=2e-6, err_msg=name)


def set_state(net, state):
    for prefix, layer in [("output", net.output), *((layer.name, layer) for layer in net.hidden)]:
        for name, view in layer.state().items():
            view[...] = state[f"{prefix}.{name}"]


@fast
@given(SEEDS, st.sampled_from(["full", "inbatch"]), LOSSES, HIDDEN)
def test_names_of_labels(seed, candidates, loss, hidden):
    """Labels by other numbers, whose rows are numbered alike, take the same steps."""
    samples, names = points_of(seed), np.random.default_rng(seed + 1).permutation(N_LABELS)
    net, other = (network_of(candidates, loss, hidden) for _ in range(2))
    start = state_of(net)
    set_state(other, {name: view[names] if name.startswith("output.") else view for name, view in start.items()})
    expected, _ = trained(samples, net)
    found, _ = trained((samples[0], csr_matrix(samples[1][:, names])), other)
    assert_close({name: view[names] if name.startswith("output.") else view for name, view in expected.items()}, found)


@fast
@given(SEEDS, SHARED, LOSSES)
def test_names_of_features(seed, candidates, loss):
    samples, names = points_of(seed), np.random.default_rng(seed + 1).permutation(N_FEATURES)
    net, other = (network_of(candidates, loss) for _ in range(2))
    first = f"{net.hidden[0].name}."

    def renamed(state):
        return {
            name: view[names] if name.startswith(first) and len(view) == N_FEATURES else view
            for name, view in state.items()
        }

    set_state(other, renamed(state_of(net)))
    expected, _ = trained(samples, net)
    found, _ = trained((csr_matrix(samples[0][:, names]), samples[1]), other)
    assert_close(renamed(expected), found)


def shuffled(matrix, rng):
    """The same matrix, its entries in another order within the rows."""
    rows = [first + rng.permutation(last - first) for first, last in pairwise(matrix.indptr)]
    order = np.concatenate(rows).astype(np.int64)
    return csr_matrix((matrix.data[order], matrix.indices[order], matrix.indptr.copy()), shape=matrix.shape)


def split(matrix):
    """The same matrix, every entry as two halves of it."""
    halves, columns = np.repeat(matrix.data / 2, 2), np.repeat(matrix.indices, 2)
    return csr_matrix((halves, columns, 2 * matrix.indptr), shape=matrix.shape)


@fast
@given(SEEDS, st.sampled_from(["full", "inbatch", "uniform", "lsh", "lsh+tail"]), LOSSES, st.booleans())
def test_order_of_entries(seed, candidates, loss, halves):
    """A matrix is what it is, to the last bit, in whatever order and how many pieces its rows have their entries."""
    X, Y = points_of(seed)
    rng, states = np.random.default_rng(seed + 1), []
    given_again = split(X) if halves else shuffled(X, rng), shuffled(Y, rng)
    for samples in ((X, Y), given_again):
        net = network_of(candidates, loss, (sampled(30, 12),) if candidates == "lsh" else ONE_LAYER)
        net.fit(*samples, config=TrainingConfig(epochs=2, batch_size=5))
        states.append(state_of(net))
    for name, view in states[0].items():
        assert np.array_equal(view, states[1][name]), name


@fast
@given(SEEDS, st.integers(1, 40), st.sampled_from(["exact", "sketch", "lsh"]), st.integers(1, 9))
def test_who_else_is_predicted(seed, n, mode, k):
    """A sample's predictions are its own, among others in any order and alone."""
    X, Y = points_of(seed, n)
    net = network_of("full")
    for _ in range(3):
        net.train_batch(batch_of((X, Y), net.config))
    options = {"mode": mode, "candidates": N_LABELS} if mode != "exact" else {}
    if mode != "exact":
        net.build_search_index(mode, X)
    ids, scores = net.predict(X, k, **options)
    order = np.random.default_rng(seed + 1).permutation(n)
    other_ids, other_scores = net.predict(X[order], k, **options)
    assert_predicted(ids[order], scores[order], other_ids, other_scores)
    cut = n // 2
    parts = [net.predict(part, k, **options) for part in (X[:cut], X[cut:])]
    assert_predicted(ids, scores, *(np.concatenate(both) for both in zip(*parts, strict=True)))
    twice = net.predict(vstack([X, X]).tocsr(), k, **options)
    assert_predicted(np.tile(ids, (2, 1)), np.tile(scores, (2, 1)), *twice)


def assert_predicted(ids, scores, other_ids, other_scores):
    """The same scores to rounding, and the same labels wherever no other's score is as near as that."""
    np.testing.assert_allclose(other_scores, scores, rtol=2e-5, atol=2e-5)
    gap = np.full(scores.shape, np.inf)
    with np.errstate(invalid="ignore"):
        gap[:, 1:] = scores[:, :-1] - scores[:, 1:]
        gap[:, :-1] = np.minimum(gap[:, :-1], gap[:, 1:])
    clear = gap > 1e-4
    clear[:, -1] = False  # what comes next is not known
    assert np.array_equal(ids[clear], other_ids[clear])


@fast
@given(SEEDS, st.integers(1, 12))
def test_a_reader_has_no_memory(seed, n):
    """A batch is the rows that were asked for, whatever was read before."""
    X, Y = points_of(seed)
    rng = np.random.default_rng(seed)
    reader = BatchReader(X, Y, 12, normalize=True)
    for _ in range(3):
        rows = rng.permutation(12)[:n]
        batch, fresh = reader.read(rows), BatchReader(X, Y, 12, normalize=True).read(rows)
        for field in ("indptr", "indices", "values", "label_ptr", "labels"):
            assert np.array_equal(getattr(batch, field), getattr(fresh, field)), field
