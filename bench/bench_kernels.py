"""Each kernel against its NumPy twin (`twins.py`), on one thread: ratios that can be compared between machines.

    pytest bench/bench_kernels.py bench/bench_batch.py --benchmark-columns=median,rounds

`compare_baseline.py` compares the ratios with those of `baseline.json`. Tables have the rows of Amazon-670K's output
layer with Adam's moments, 1.07 GB: what a sample touches is not in the caches.
"""

import numpy as np
import pytest
import twins
from scipy.sparse import csr_matrix
from shapes import (
    ACTIVE,
    BATCH,
    FEATURES,
    LABELS,
    LABELS_PER_POINT,
    SHARED,
    UNITS,
    make_features,
    make_hidden,
    make_pairs,
    make_table,
)

from slide.config import LSHConfig
from slide.kernels import dense, grouping, losses, optim, sampling, search, sparse, tables
from slide.lsh.families import make_hasher

TABLES, BUCKETS = 50, 1 << 13
NOBODY = np.zeros(BATCH + 1, np.int64), np.zeros(0, np.int32)
NOTHING = np.zeros(0, np.float32)


@pytest.fixture(scope="module")
def neurons():
    return make_table(LABELS)


@pytest.fixture(scope="module")
def features():
    return make_table(FEATURES, seed=2)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def filled():
    """Tables of all neurons, in random buckets: codes of a batch, offsets, ids."""
    rng = np.random.default_rng(1)
    codes = rng.integers(0, BUCKETS, (TABLES, LABELS), np.uint32)
    offsets, ids = np.empty((TABLES, BUCKETS + 1), np.int32), np.empty((TABLES, LABELS), np.int32)
    tables.build(codes, offsets, ids, 1)
    return rng.integers(0, BUCKETS, (TABLES, BATCH), np.uint32), offsets, ids


@pytest.mark.parametrize("family", ["simhash", "dwta"])
def test_hash(against, rng, family):
    k, n = {"simhash": (14, 8192), "dwta": (5, 2048)}[family]
    x = rng.standard_normal((n, UNITS), np.float32)
    hasher = make_hasher(LSHConfig(family, k=k, l=TABLES), UNITS, LABELS, rng)
    out = np.empty((TABLES, n), np.uint32)
    if family == "simhash":
        projection = rng.standard_normal((UNITS, k * TABLES), np.float32)
        twin = lambda: twins.simhash(x, projection, k)  # noqa: E731
    else:
        index = rng.integers(0, UNITS, (k * TABLES, 8))
        twin = lambda: twins.dwta(x, index, k)  # noqa: E731
    against(lambda: hasher.hash(x, out, 1), twin)


def test_build_tables(against, rng):
    codes = rng.integers(0, BUCKETS, (4, LABELS), np.uint32)
    offsets, ids = np.empty((4, BUCKETS + 1), np.int32), np.empty((4, LABELS), np.int32)
    # NumPy sorts 16 bits by radix.
    narrow = codes.astype(np.uint16)
    against(lambda: tables.build(codes, offsets, ids, 1), lambda: list(twins.build(narrow, BUCKETS)))


def test_probe(against, filled):
    codes, offsets, ids = filled
    out, counts = np.empty((BATCH, ACTIVE), np.int32), np.empty(BATCH, np.int64)
    arguments = (codes, offsets, ids, LABELS, *NOBODY, ACTIVE, 0, 0, out, counts, 1)
    against(lambda: sampling.vanilla(*arguments), lambda: twins.lookup(codes, offsets, ids, ACTIVE))


def test_group(against, rng):
    ids, begin, end = make_pairs(rng, ACTIVE, LABELS)
    groups, indptr = grouping.PairGroups(len(ids)), np.append(begin, end[-1])
    against(lambda: groups.group(ids, begin, end, LABELS), lambda: twins.group(ids, indptr, LABELS))


def test_sddmm(against, rng, neurons):
    ids, begin, end = make_pairs(rng, ACTIVE, LABELS)
    hidden, out, indptr = make_hidden(rng), np.empty(len(ids), np.float32), np.append(begin, end[-1])
    groups = grouping.PairGroups(len(ids))
    groups.group(ids, begin, end, LABELS)
    against(
        lambda: sparse.sddmm(neurons, groups, hidden, out, 1),
        lambda: twins.sddmm(neurons.weights, neurons.bias, ids, indptr, hidden),
    )


def test_spmm(against, rng, features):
    indptr, ids, values = make_features(rng, 8 * BATCH)
    X = csr_matrix((values, ids, indptr), shape=(len(indptr) - 1, FEATURES))
    bias, out = np.zeros(UNITS, np.float32), np.empty((len(indptr) - 1, UNITS), np.float32)
    weights = np.ascontiguousarray(features.weights)
    against(
        lambda: sparse.spmm(features, indptr, ids, values, bias, True, out, 1),
        lambda: twins.spmm(X, weights, bias),
    )


@pytest.mark.parametrize("layer", ["output", "features"])
def test_step_rows(against, rng, neurons, features, layer):
    if layer == "output":
        table, (ids, begin, end) = neurons, make_pairs(rng, min(400, ACTIVE), LABELS)
    else:
        indptr, ids, _ = make_features(rng)
        table, begin, end = features, indptr[:-1].copy(), indptr[1:].copy()
    groups, indptr = grouping.PairGroups(len(ids)), np.append(begin, end[-1])
    groups.group(ids, begin, end, table.n_rows)
    deltas, hidden = (0.01 * rng.standard_normal(len(ids))).astype(np.float32), make_hidden(rng)
    gradient = sparse.SampleGradient(BATCH, UNITS) if layer == "output" else None
    rule = optim.adam(1e-3, 0.9, 0.999, 1e-8, 1)
    state = table.state()

    def ours():
        if gradient is not None:
            gradient.clear()
        optim.step_groups(table, groups, deltas, hidden, gradient, rule, 1)

    against(ours, lambda: twins.step_pairs(state, ids, indptr, deltas, hidden))


def test_shared_logits(against, rng, neurons):
    ids = np.unique(rng.integers(0, LABELS, SHARED).astype(np.int32))
    hidden, out = make_hidden(rng), np.empty((BATCH, len(ids)), np.float32)
    against(
        lambda: dense.shared_logits(neurons, ids, NOTHING, hidden, out, 1),
        lambda: twins.shared_logits(neurons.weights, neurons.bias, ids, hidden),
    )


def test_step_shared(against, rng, neurons):
    ids = np.unique(rng.integers(0, LABELS, SHARED).astype(np.int32))
    hidden, deltas = make_hidden(rng), (0.01 * rng.standard_normal((BATCH, len(ids)))).astype(np.float32)
    gradient, rule, state = sparse.SampleGradient(BATCH, UNITS), optim.adam(1e-3, 0.9, 0.999, 1e-8, 1), neurons.state()

    def ours():
        gradient.clear()
        dense.shared_step(neurons, ids, deltas, hidden, gradient, rule, 1)

    against(ours, lambda: twins.step_shared(state, ids, deltas, hidden))


@pytest.mark.parametrize("loss", ["softmax", "logistic"])
def test_loss(against, rng, loss):
    logits = rng.standard_normal((BATCH, SHARED), np.float32)
    mine, twin = logits.copy(), logits.copy()
    label_ptr = np.arange(BATCH + 1, dtype=np.int64) * LABELS_PER_POINT
    places = rng.permuted(np.tile(np.arange(SHARED, dtype=np.int32), (BATCH, 1)), axis=1)[:, :LABELS_PER_POINT]
    places = np.sort(places, axis=1).reshape(-1)
    samples = np.repeat(np.arange(BATCH), LABELS_PER_POINT)
    target = np.full(len(places), 1 / LABELS_PER_POINT if loss == "softmax" else 1, np.float32)
    weight = np.full(SHARED, 3, np.float32)
    empty, room = np.zeros(BATCH, np.int64), (np.empty(BATCH, np.float32), np.empty(BATCH, np.float32))
    arrays = (mine, SHARED, NOTHING, empty, empty, label_ptr, places, target)
    certain = (places, label_ptr[:-1].copy(), label_ptr[1:].copy())

    # Both start from the same logits every time: they write the gradient over them.
    def ours():
        np.copyto(mine, logits)
        if loss == "softmax":
            losses.softmax_cross_entropy(losses.ActiveSets(*arrays), 1 / BATCH, *room, 1)
        else:
            sets = losses.ActiveSets(*arrays, weight=weight, certain=certain)
            losses.logistic_cross_entropy(sets, 1 / BATCH, *room, 1)

    def theirs():
        np.copyto(twin, logits)
        if loss == "softmax":
            twins.softmax(twin, samples, places, target, 1 / BATCH)
        else:
            twins.logistic(twin, samples, places, weight, 1 / BATCH)

    against(ours, theirs)


def test_exact_topk(against, rng, features):
    hidden, k = make_hidden(rng), 5
    ids, scores = np.empty((BATCH, k), np.int32), np.empty((BATCH, k), np.float32)
    none = np.zeros(0, np.int64), np.zeros(0, np.int32)
    against(
        lambda: search.exact_topk(features, hidden, *none, ids, scores, 1),
        lambda: twins.topk(features.weights, features.bias, hidden, k),
    )
