"""Prediction: masks of labels, single samples, several threads at once, votes of hash tables."""

import threading

import numpy as np
import pytest
from scipy.sparse import coo_array, csr_array, csr_matrix

from slide import HiddenConfig, LSHConfig, Network, NetworkConfig
from slide.data import DataError
from slide.predict import topk

N_FEATURES, N_LABELS, N_POINTS, K = 40, 900, 30, 6
INDEXED = ("sketch", "lsh", "lsh-votes")
MODES = ("exact", *INDEXED)


def make_samples(rng, n=N_POINTS):
    return csr_matrix(rng.random((n, N_FEATURES)) * (rng.random((n, N_FEATURES)) < 0.3), dtype=np.float32)


@pytest.fixture(scope="module")
def samples():
    return make_samples(np.random.default_rng(5))


@pytest.fixture(scope="module")
def net(samples):
    config = NetworkConfig(hidden=(HiddenConfig(units=20), HiddenConfig(units=24)), feature_weights="idf")
    net = Network(N_FEATURES, N_LABELS, config, threads=2)
    rng = np.random.default_rng(6)
    net.feature_weights[:] = rng.random(N_FEATURES) + 0.5
    net.output.table.bias[:] = 0.1 * rng.normal(size=N_LABELS)
    net.build_search_index("sketch", samples, dims=8)
    net.build_search_index("lsh", lsh=LSHConfig(k=2, l=12))
    return net


@pytest.fixture(scope="module")
def scores(net, samples):
    """The scores of all labels: a naive forward pass."""
    hidden = samples.toarray() * net.feature_weights
    hidden /= np.linalg.norm(hidden, axis=1, keepdims=True)
    first, second = (layer.state() for layer in net.hidden)
    hidden = np.maximum(hidden @ first["weights"] + first["bias"], 0)
    hidden = np.maximum(hidden @ second["weights"].T + second["bias"], 0)
    return hidden @ net.output.table.weights.T + net.output.table.bias


def best(scores, may, k=K):
    """Each sample's best labels among those it may be given, -1 where there are none left."""
    masked = np.where(may, scores, -np.inf)
    ids = np.argsort(-masked, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(masked, ids, axis=1)
    return np.where(np.isinf(found), -1, ids), found


def check(found, expected):
    assert np.array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-5)


def random_rows(rng, share, n=N_POINTS, width=N_LABELS):
    return csr_matrix(rng.random((n, width)) < share)


# Which labels

SUBSETS = [1, 4, K + 2, 100, 700, N_LABELS]


@pytest.mark.parametrize("size", SUBSETS)
@pytest.mark.parametrize("n", [1, 3, 4, N_POINTS])
def test_a_subset_for_all_points(net, samples, scores, size, n):
    rng = np.random.default_rng(size)
    allowed = rng.permutation(N_LABELS)[:size]
    may = np.isin(np.arange(N_LABELS), allowed)
    check(net.predict(samples[:n], K, allowed=allowed), best(scores[:n], may))
    check(net.predict(samples[:n], K, allowed=np.repeat(allowed, 2).tolist()), best(scores[:n], may))
    check(net.predict(samples[:n], K, allowed=may), best(scores[:n], may))


@pytest.mark.parametrize("room", [1, 50, 1 << 22])
def test_a_subset_for_each_point(net, samples, scores, monkeypatch, room):
    monkeypatch.setattr("slide.predict.masks.ROOM", room)
    allowed = np.random.default_rng(1).random((N_POINTS, N_LABELS)) < 0.02
    allowed[3] = False
    allowed = csr_matrix(allowed)
    check(net.predict(samples, K, allowed=allowed), best(scores, allowed.toarray()))


@pytest.mark.parametrize("n", [2, N_POINTS])
@pytest.mark.parametrize("per_point", [False, True])
def test_exclusions_hold_among_allowed_labels(net, samples, scores, n, per_point):
    rng = np.random.default_rng(2)
    exclude = random_rows(rng, 0.5, n, N_LABELS + 7)
    allowed = random_rows(rng, 0.1, n) if per_point else rng.permutation(N_LABELS)[:90]
    may = allowed.toarray() if per_point else np.isin(np.arange(N_LABELS), allowed)
    may = may & ~exclude.toarray()[:, :N_LABELS]
    check(net.predict(samples[:n], K, allowed=allowed, exclude=exclude), best(scores[:n], may))


def test_blocks_of_points_keep_to_their_masks(net, samples, scores, monkeypatch):
    monkeypatch.setattr(topk, "PREDICT_BLOCK", 7)
    monkeypatch.setattr(topk, "BLOCK", 3)
    rng = np.random.default_rng(3)
    exclude, allowed = random_rows(rng, 0.3), random_rows(rng, 0.5)
    may = allowed.toarray() & ~exclude.toarray()
    check(net.predict(samples, K, allowed=allowed, exclude=exclude), best(scores, may))
    for mode in INDEXED:
        ids, _ = net.predict(samples, K, allowed=allowed, exclude=exclude, mode=mode)
        assert all(may[i, label] for i, row in enumerate(ids) for label in row if label >= 0)


def test_nothing_allowed(net, samples):
    for mode in MODES:
        ids, found = net.predict(samples, 2, allowed=[], mode=mode)
        assert (ids == -1).all()
        assert np.isneginf(found).all()


@pytest.mark.parametrize("mode", INDEXED)
@pytest.mark.parametrize("share", [0.05, 0.6])
def test_indexes_keep_to_allowed_labels(net, samples, scores, mode, share):
    rng = np.random.default_rng(4)
    for allowed in (np.flatnonzero(rng.random(N_LABELS) < share), random_rows(rng, share)):
        may = allowed.toarray() if isinstance(allowed, csr_matrix) else np.isin(np.arange(N_LABELS), allowed)[None, :]
        ids, _ = net.predict(samples, K, allowed=allowed, mode=mode, candidates=300)
        assert (ids[:, 0] >= 0).mean() > 0.9
        assert all(may[i % len(may), label] for i, row in enumerate(ids) for label in row if label >= 0)
        if mode == "sketch":
            exact, _ = best(scores, may)
            assert np.mean([np.isin(a, b).mean() for a, b in zip(exact, ids, strict=True)]) > 0.9


def test_few_allowed_labels_are_all_scored(net, samples, scores):
    allowed = np.arange(0, N_LABELS, 9)
    for mode in ("sketch", "lsh"):
        check(net.predict(samples, K, allowed=allowed, mode=mode), best(scores, np.isin(np.arange(N_LABELS), allowed)))


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        ([3, 900], r"allowed\[1\] is 900; the network has the labels 0 to 899"),
        ([-1], r"allowed\[0\] is -1"),
        ([0.5], "whole numbers from 0 to 899, not float64"),
        (["cat"], "whole numbers from 0 to 899, not <U3"),
        ([[1]], "it has 2 dimensions"),
        (np.ones(5, bool), "5 truth values for 900 labels"),
        (csr_matrix((2, 5)), "allowed has 2 rows for 30 samples"),
        (csr_matrix(([1], ([4], [901])), shape=(30, 902)), "allowed, row 4: label 901 is allowed, and the network has"),
    ],
)
def test_masks_that_do_not_fit(net, samples, allowed, message):
    with pytest.raises(ValueError, match=message):
        net.predict(samples, allowed=allowed)


# Votes


@pytest.mark.parametrize("masked", [False, True])
def test_votes_are_the_tables_that_find_a_label(net, samples, masked):
    index = net.search_index("lsh")
    codes = index._index.hash(net.layer_inputs(samples)[-1], 1)
    votes = (index._index.codes[:, np.newaxis, :] == codes[:, :, np.newaxis]).sum(axis=0).astype(np.float64)
    masks = {}
    if masked:
        rng = np.random.default_rng(7)
        masks = {"exclude": random_rows(rng, 0.3), "allowed": random_rows(rng, 0.4)}
        votes[masks["exclude"].toarray() | ~masks["allowed"].toarray()] = 0
    ids, found = net.predict(samples, 300, mode="lsh-votes", candidates=N_LABELS, **masks)
    assert np.array_equal(np.where(ids >= 0, np.take_along_axis(votes, ids, axis=1), -np.inf), found)
    for sample, row in enumerate(ids):
        row = row[row >= 0]
        order = np.lexsort((row, -votes[sample, row]))
        assert np.array_equal(order, np.arange(len(row)))
        assert len(row) == min(300, np.count_nonzero(votes[sample]))
        assert votes[sample, row[-1]] >= np.delete(votes[sample], row).max()


# One sample


def test_a_single_point_in_every_form(net, samples):
    dense = samples[3].toarray()[0]
    for mode in MODES:
        ids, found = net.predict(samples[3], K, mode=mode)
        for x in (dense, dense.astype(np.float64), dense.tolist(), csr_array(samples[3]), coo_array(dense)):
            one = net.predict(x, K, mode=mode)
            flat = np.ndim(x) == 1 if not hasattr(x, "ndim") else x.ndim == 1
            assert one[0].shape == ((K,) if flat else (1, K))
            assert np.array_equal(np.ravel(one[0]), ids[0])
            assert np.array_equal(np.ravel(one[1]), found[0])


def test_a_single_point_is_that_of_its_batch(net, samples, scores):
    everyone = np.ones(N_LABELS, bool)
    for i in range(5):
        check(net.predict(samples[i], K), best(scores[i : i + 1], everyone))


def test_an_empty_point(net):
    empty = net.predict(csr_matrix((1, N_FEATURES), dtype=np.float32), 3)
    assert np.array_equal(net.predict(np.zeros(N_FEATURES, np.float32), 3)[0], empty[0][0])


def test_a_single_point_has_masks(net, samples, scores):
    x = samples[2].toarray()[0]
    may = np.ones(N_LABELS, bool)
    may[:N_FEATURES] = x == 0
    expected = best(scores[2:3], may)
    for exclude in (x, samples[2], may == 0):
        check([a[np.newaxis] for a in net.predict(x, K, exclude=exclude)], expected)
    check([a[np.newaxis] for a in net.predict(x, K, exclude=x, allowed=may)], expected)
    with pytest.raises(ValueError, match="exclude in one dimension must have an entry for each of the 900 labels"):
        net.predict(x, exclude=[3, 4])


def test_a_point_that_is_not_as_it_should_be_is_checked_like_others(net, samples):
    repeated = csr_matrix((np.ones(3, np.float32), [5, 2, 2], [0, 3]), shape=(1, N_FEATURES))
    plain = repeated.copy()
    plain.sum_duplicates()
    assert np.array_equal(net.predict(repeated, K)[0], net.predict(plain, K)[0])
    with pytest.raises(DataError, match="row 0, column 5: nan is not finite"):
        net.predict(csr_matrix((np.array([1, np.nan], np.float32), [2, 5], [0, 2]), shape=(1, N_FEATURES)))
    with pytest.raises(DataError, match="row 0, column 1: inf is not finite"):
        net.predict([0, np.inf, *[0] * (N_FEATURES - 2)])
    with pytest.raises(DataError, match="too large for float32"):
        net.predict(np.eye(1, N_FEATURES, 1)[0] * 1e300)
    with pytest.raises(ValueError, match="X has 39 features, the network 40"):
        net.predict(np.ones(39, np.float32))
    with pytest.raises(DataError, match="real numbers"):
        net.predict(np.array(["a"] * N_FEATURES))
    out_of_range = samples[0].copy()
    out_of_range.indices[-1] = N_FEATURES
    with pytest.raises(DataError, match="not a valid sparse matrix"):
        net.predict(out_of_range)


# Several threads


@pytest.mark.parametrize("mode", MODES)
def test_threads_that_predict_at_once_get_what_one_gets(net, samples, mode):
    rng = np.random.default_rng(8)
    subset = rng.permutation(N_LABELS)[:150]
    allowed, exclude = random_rows(rng, 0.4), random_rows(rng, 0.1)
    calls = [lambda i=i: net.predict(samples[i], K, mode=mode) for i in range(8)]
    calls += [lambda i=i: net.predict(samples[i].toarray()[0], K, mode=mode, allowed=subset) for i in range(4)]
    calls += [
        lambda: net.predict(samples, K, mode=mode),
        lambda: net.predict(samples, K, mode=mode, allowed=subset),
        lambda: net.predict(samples, K, mode=mode, allowed=allowed, exclude=exclude),
    ]
    expected = [call() for call in calls]
    wrong, start = [], threading.Barrier(4)

    def work(turn):
        start.wait()
        for i in np.random.default_rng(turn).permutation(3 * len(calls)) % len(calls):
            found = calls[i]()
            if not all(np.array_equal(a, b) for a, b in zip(found, expected[i], strict=True)):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
