"""Prediction through search indexes: what they find, and when they are refused."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from small_networks import batch_of

from slide import Network, NetworkConfig
from slide.config import HiddenConfig, LSHConfig

N_FEATURES, N_LABELS, CLUSTERS = 60, 4000, 50
LSH = LSHConfig(k=4, l=30)
MODES = ("sketch", "lsh")


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(3)
    return csr_matrix(rng.random((80, N_FEATURES)) * (rng.random((80, N_FEATURES)) < 0.2), dtype=np.float32)


@pytest.fixture(scope="module")
def net(samples):
    """A network whose labels' vectors are clustered around its samples' hidden vectors, with both indexes."""
    config = NetworkConfig(hidden=(HiddenConfig(units=24, activation="linear", dropout=0.0),))
    net = Network(N_FEATURES, N_LABELS, config, threads=2)
    rng = np.random.default_rng(4)
    hidden = net.layer_inputs(samples)[-1].dense[:, :24]
    centres = hidden[rng.integers(0, len(hidden), CLUSTERS)]
    noise = rng.normal(size=(N_LABELS, 24)) * 0.3 * hidden.std()
    net.output.table.weights[:] = centres[rng.integers(0, CLUSTERS, N_LABELS)] + noise
    net.output.table.bias[:] = 0.01 * rng.normal(size=N_LABELS)
    net.build_search_index("sketch", samples, dims=12)
    net.build_search_index("lsh", lsh=LSH)
    return net


def recall(found, exact):
    return np.mean([np.isin(a, b).mean() for a, b in zip(exact, found, strict=True)])


@pytest.mark.parametrize(("mode", "least"), [("sketch", 0.95), ("lsh", 0.6)])
def test_most_of_the_best_are_found(net, samples, mode, least):
    exact, scores = net.predict(samples, 5)
    found, found_scores = net.predict(samples, 5, mode=mode, candidates=400)
    assert recall(found, exact) > least
    same = found == exact
    np.testing.assert_allclose(found_scores[same], scores[same], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_an_index_of_rows_in_half_the_bytes_is_that_of_the_same_weights(net, samples, mode):
    narrow = Network(N_FEATURES, N_LABELS, replace(net.config, precision="bf16"), threads=2)
    narrow.set_weights(net.copy_weights())
    wide = Network(N_FEATURES, N_LABELS, net.config, threads=2)
    wide.set_weights(narrow.copy_weights())
    found = []
    for one in (narrow, wide):
        one.build_search_index(mode, samples, dims=12, lsh=LSH)
        found.append(one.predict(samples, 5, mode=mode))
    assert np.array_equal(found[0][0], found[1][0])
    assert np.array_equal(found[0][1], found[1][1])


@pytest.mark.parametrize("mode", MODES)
def test_more_candidates_find_more(net, samples, mode):
    exact, _ = net.predict(samples, 5)
    few, many = (recall(net.predict(samples, 5, mode=mode, candidates=c)[0], exact) for c in (5, 800))
    assert few < many


@pytest.fixture(scope="module")
def uneven(net):
    """The same network with labels of very different frequency, which stands in their biases."""
    other = Network(N_FEATURES, N_LABELS, net.config, threads=2)
    other.set_weights(net.copy_weights())
    other.output.table.bias[:] = np.random.default_rng(5).permutation(np.linspace(-3, 0, N_LABELS))
    return other


def test_a_part_of_the_labels_holds_most_of_the_best(uneven, samples):
    exact, _ = uneven.predict(samples, 5)
    rows, found = [], []
    for coverage in (0.5, 0.9, 1.0):
        rows.append(uneven.build_search_index("sketch", samples, dims=24, coverage=coverage).n_rows)
        found.append(recall(uneven.predict(samples, 5, mode="sketch", candidates=N_LABELS)[0], exact))
    assert 0 < rows[0] < rows[1] < rows[2] == N_LABELS
    # Of the best ten of the samples it was made with a share; the best five are more likely to be among them.
    assert 0.5 <= found[0] <= found[1] < found[2] == 1
    assert found[1] >= 0.9


def test_what_is_excluded_is_not_among_a_part_of_the_labels_either(uneven, samples):
    index = uneven.build_search_index("sketch", samples, dims=24, coverage=0.8)
    first, _ = uneven.predict(samples, 3, mode="sketch", candidates=index.n_rows)
    rows = np.repeat(np.arange(len(first)), 3)
    exclude = csr_matrix((np.ones(first.size), (rows, first.ravel())), shape=(len(first), N_LABELS + 7))
    rest, _ = uneven.predict(samples, 3, exclude=exclude, mode="sketch", candidates=index.n_rows)
    six, _ = uneven.predict(samples, 6, mode="sketch", candidates=index.n_rows)
    assert np.array_equal(rest, six[:, 3:])


def test_a_sketch_with_every_label_as_candidate_is_exact(net, samples):
    exact, exact_scores = net.predict(samples, 7)
    found, scores = net.predict(samples, 7, mode="sketch", candidates=10**6)
    assert np.array_equal(found, exact)
    np.testing.assert_allclose(scores, exact_scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_excluded_labels_are_not_predicted(net, samples, mode):
    before, _ = net.predict(samples, 5, mode=mode)
    rows = np.repeat(np.arange(samples.shape[0]), 5)
    shape = (samples.shape[0], N_LABELS + 9)
    ban = csr_matrix((np.ones(rows.size), (rows, np.maximum(before, 0).ravel())), shape=shape)
    after, _ = net.predict(samples, 5, mode=mode, exclude=ban)
    assert not any(np.isin(a[a >= 0], b).any() for a, b in zip(after, before, strict=True))
    assert (after[:, 0] >= 0).mean() > 0.9


@pytest.mark.parametrize("mode", MODES)
def test_what_is_found_depends_neither_on_threads_nor_on_other_readers(net, samples, mode, monkeypatch):
    expected = net.predict(samples, 5, mode=mode)
    monkeypatch.setattr(net, "threads", 1)
    found = [None] * 4

    def read(i):
        found[i] = net.predict(samples, 5, mode=mode)

    readers = [threading.Thread(target=read, args=(i,)) for i in range(len(found))]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    for ids, scores in found:
        assert np.array_equal(ids, expected[0])
        assert np.array_equal(scores, expected[1])


@pytest.mark.parametrize("mode", MODES)
def test_evaluation_takes_a_mode(net, samples, mode):
    ids, _ = net.predict(samples, 1, mode=mode)
    Y = csr_matrix((np.ones(len(ids)), (np.arange(len(ids)), ids[:, 0])), shape=(len(ids), N_LABELS))
    assert net.evaluate(samples, Y, ks=[1], mode=mode)["P@1"] == pytest.approx(1.0)


def test_no_points_and_more_labels_than_there_are(net, samples):
    for mode in MODES:
        assert net.predict(samples[:0], 3, mode=mode)[0].shape == (0, 3)
    ids, scores = net.predict(samples[:2], N_LABELS + 3, mode="sketch")
    assert (ids[:, -3:] == -1).all()
    assert np.isneginf(scores[:, -3:]).all()


def fresh():
    return Network(N_FEATURES, 50, NetworkConfig(hidden=(HiddenConfig(units=8),)), threads=1)


def build(net, samples, mode):
    return net.build_search_index(mode, samples if mode == "sketch" else None)


@pytest.mark.parametrize("mode", MODES)
def test_an_index_is_refused_after_training(samples, mode):
    net = fresh()
    with pytest.raises(RuntimeError, match=rf"mode '{mode}' needs an index of the weights: call build_search_index"):
        net.predict(samples, mode=mode)
    assert build(net, samples, mode).nbytes > 0
    net.predict(samples, mode=mode)
    labels = csr_matrix(np.eye(80, 50, dtype=np.float32))
    net.output.set_label_frequency(np.full(50, 0.02))
    net.train_batch(batch_of((samples, labels), net.config))
    with pytest.raises(RuntimeError, match="after step 0, and the network has trained to step 1"):
        net.predict(samples, mode=mode)
    build(net, samples, mode)
    net.predict(samples, mode=mode)


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.set_weights(net.copy_weights()),
        lambda net: net.initialize(labels=np.ones((50, 8), np.float32)),
    ],
    ids=["set", "initialized"],
)
def test_an_index_is_forgotten_when_weights_are_set(samples, change):
    net = fresh()
    build(net, samples, "sketch")
    change(net)
    with pytest.raises(RuntimeError, match="needs an index"):
        net.predict(samples, mode="sketch")


def test_arguments_are_checked(net, samples):
    with pytest.raises(ValueError, match="mode must be one of exact, sketch, lsh, lsh-votes, got 'fast'"):
        net.predict(samples, mode="fast")
    with pytest.raises(ValueError, match="candidates must be 1 or more, got 0"):
        net.predict(samples, mode="sketch", candidates=0)
    with pytest.raises(ValueError, match="only the modes sketch and lsh have an index, got 'exact'"):
        net.build_search_index("exact")
    with pytest.raises(ValueError, match="a sketch needs X"):
        net.build_search_index("sketch")
    with pytest.raises(ValueError, match="a sketch needs X"):
        net.build_search_index("sketch", samples[:0])
    with pytest.raises(ValueError, match="dims must be 1 or more, got 0"):
        net.build_search_index("sketch", samples, dims=0)
    with pytest.raises(ValueError, match="coverage must be above 0 and at most 1"):
        net.build_search_index("sketch", samples, coverage=1.5)
