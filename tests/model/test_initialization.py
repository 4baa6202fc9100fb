"""Where training starts: idf, the means of labels, and vectors that are given."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfTransformer

from slide.config import HiddenConfig, LSHConfig, NetworkConfig, OptimizerConfig, OutputConfig, TrainingConfig
from slide.data import make_extreme
from slide.model import initialization
from slide.network import Network

N_FEATURES, N_LABELS = 300, 80


@pytest.fixture(scope="module")
def data():
    return make_extreme(1000, N_FEATURES, N_LABELS, test_samples=400, labels_per_sample=2, zipf=0.5)


def make_network(candidates="lsh+tail", hidden=HiddenConfig(32, dropout=0.0), threads=1, init="random", **options):  # noqa: B008
    output = OutputConfig(
        candidates, budget=20, tail=20, loss="softmax", lsh=LSHConfig(l=10), init=init, init_scale=3.0
    )
    return Network(N_FEATURES, N_LABELS, NetworkConfig(hidden, output, **options), threads=threads)


def weights_of(net):
    return [layer.table.weights.copy() for layer in net.layers]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


# --- Weights of the features


def test_idf_is_that_of_scikit_learn(data):
    X = data[0].X.copy()
    X.data[X.indices == 7] = 0
    X.eliminate_zeros()
    expected = TfidfTransformer(smooth_idf=True).fit(X).idf_
    np.testing.assert_allclose(initialization.idf(X), expected, rtol=1e-6)
    assert initialization.idf(X).dtype == np.float32
    X.data[:5] = 0
    without = X.copy()
    without.eliminate_zeros()
    assert np.array_equal(initialization.idf(X), initialization.idf(without))


def test_idf_of_no_points():
    assert initialization.idf(csr_matrix((0, 3), dtype=np.float32)).tolist() == [1, 1, 1]


def test_features_are_weighted_as_scikit_learn_weights_them(data):
    train, test = data
    net = make_network(feature_weights="idf")
    net.fit(train.X, train.Y, config=TrainingConfig(max_batches=1))
    expected = TfidfTransformer(smooth_idf=True).fit(train.X).transform(test.X)
    signal = net.layer_inputs(test.X)[0]
    np.testing.assert_allclose(signal.values, expected.data, rtol=1e-5)


def test_weights_count_in_prediction(data):
    train, test = data
    net = make_network(feature_weights="idf")
    plain = make_network(normalize=False)
    net.fit(train.X, train.Y, config=TrainingConfig(max_batches=1))
    for layer, twin in zip(net.layers, plain.layers, strict=True):
        for name, view in layer.state().items():
            twin.state()[name][...] = view
    weighted = TfidfTransformer(smooth_idf=True).fit(train.X).transform(test.X)
    np.testing.assert_allclose(net.predict(test.X)[1], plain.predict(weighted)[1], rtol=1e-4, atol=1e-4)


def test_weights_are_set_once(data):
    train, test = data
    net = make_network(feature_weights="idf")
    assert (net.feature_weights == 1).all()
    net.fit(train.X, train.Y, config=TrainingConfig(max_batches=1))
    before = net.feature_weights.copy()
    assert not (before == 1).all()
    net.fit(test.X, test.Y, config=TrainingConfig(max_batches=1))
    assert np.array_equal(net.feature_weights, before)
    assert make_network().feature_weights is None


# --- Vectors of labels from their samples


def test_label_means_twin(data, monkeypatch):
    monkeypatch.setattr(initialization, "BLOCK", 37)
    X, Y = data[0].X, data[0].Y.toarray()
    Y[:, 5] = 0
    Y[:, 6] = 1
    net = make_network(hidden=(HiddenConfig(32), HiddenConfig(20)))
    before = net.output.table.weights.copy()
    initialization.label_means(net, X, csr_matrix(Y))
    hidden = net.layer_inputs(X)[-1].dense[:, :20].astype(np.float64)
    expected = Y.T @ hidden / np.maximum(Y.sum(axis=0), 1)[:, None] - hidden.mean(axis=0)
    # A label of every sample says nothing.
    expected[6] = 0
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    expected *= np.divide(3, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    expected[5] = initialization.UNSEEN * before[5]
    np.testing.assert_allclose(net.output.table.weights, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("candidates", ["lsh+tail", "lsh", "full"])
def test_starting_from_means_learns_sooner(data, candidates):
    train, test = data

    def after(init, batches):
        net = make_network(candidates, init=init)
        net.fit(train.X, train.Y, config=TrainingConfig(batch_size=32, max_batches=batches))
        return net.evaluate(test.X, test.Y)["P@1"]

    assert after("mean", 5) > after("random", 5) + 0.2
    assert after("mean", 100) > 0.5


def test_means_are_taken_once(data):
    train, _ = data
    slow = {"init": "mean", "optimizer": OptimizerConfig("sgd", lr=1e-30)}
    net = make_network(**slow)
    random = net.output.table.weights.copy()
    net.fit(train.X, train.Y, config=TrainingConfig(max_batches=1))
    means = net.output.table.weights.copy()
    assert not np.array_equal(means, random)
    net.output.table.weights[...] = random
    net.fit(train.X, train.Y, config=TrainingConfig(max_batches=1))
    np.testing.assert_array_equal(net.output.table.weights, random)


@pytest.mark.parametrize("options", [{"init": "mean"}, {"feature_weights": "idf"}])
def test_a_network_for_prediction_alone_is_left_as_it_is(data, options):
    output = OutputConfig(init=options.get("init", "random"))
    config = NetworkConfig(output=output, feature_weights=options.get("feature_weights", "none"))
    net = Network(N_FEATURES, N_LABELS, config, trainable=False)
    before = weights_of(net)
    with pytest.raises(RuntimeError, match="can only predict"):
        net.fit(data[0].X, data[0].Y)
    assert same(weights_of(net), before)
    assert net.feature_weights is None or (net.feature_weights == 1).all()


def test_starting_from_data_does_not_depend_on_threads(data):
    train, _ = data
    nets = [make_network(threads=threads, init="mean", feature_weights="idf") for threads in (1, 2)]
    for net in nets:
        net.fit(train.X, train.Y, config=TrainingConfig(max_batches=20))
    assert same(*map(weights_of, nets))


# --- Vectors that are given


@pytest.fixture
def rng():
    return np.random.default_rng(20)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("candidates", ["full", "lsh"])
def test_initialize(rng, data, candidates, dtype):
    """The first layer's vectors are the features' whichever way its rows lie."""
    net = make_network(hidden=(HiddenConfig(32, candidates=candidates), HiddenConfig(20)))
    features = rng.normal(0, 3, (N_FEATURES, 32)).astype(dtype)
    labels = rng.normal(0, 3, (N_LABELS, 20)).astype(dtype)
    net.initialize(features, labels)
    assert np.array_equal(net.output.table.weights, labels.astype(np.float32))
    sample = csr_matrix(([1.0], [4], [0, 1]), shape=(1, N_FEATURES))
    np.testing.assert_allclose(net.layer_inputs(sample)[1].dense[0, :32], np.maximum(features[4], 0), rtol=1e-6)
    net.fit(data[0].X, data[0].Y, config=TrainingConfig(max_batches=1))


def test_initialize_one_or_neither(rng):
    net = make_network()
    before = weights_of(net)
    net.initialize()
    assert same(weights_of(net), before)
    net.initialize(labels=np.ones((N_LABELS, 32)))
    assert np.array_equal(net.hidden[0].table.weights, before[0])
    assert (net.output.table.weights == 1).all()
    net.initialize(features=np.ones((N_FEATURES, 32)))
    assert (net.hidden[0].table.weights == 1).all()


def test_tables_hold_the_new_vectors(rng, data):
    """Tables that were built already are built again, whatever the schedule says."""
    net, fresh = make_network(), make_network()
    labels = rng.normal(size=(N_LABELS, 32))
    net.output.index.rebuild(0, 1)
    for each in (net, fresh):
        each.initialize(labels=labels)
        each.fit(data[0].X, data[0].Y, config=TrainingConfig(batch_size=8, max_batches=1))
    assert np.array_equal(net.output.index.codes, fresh.output.index.codes)
    assert np.array_equal(net.output.index.ids, fresh.output.index.ids)
    assert net.output.index.rebuilds == 1


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({"features": np.ones((N_FEATURES, 31))}, "features must be 300 x 32 numbers, got 300 x 31"),
        ({"labels": np.ones((32, N_LABELS))}, "labels must be 80 x 32 numbers, got 32 x 80"),
        ({"labels": np.ones(N_LABELS)}, "labels must be 80 x 32 numbers, got 80"),
        ({"labels": csr_matrix((N_LABELS, 32))}, "labels must be 80 x 32 numbers, got no array"),
        ({"labels": np.full((N_LABELS, 32), "a")}, "labels must be real numbers, got <U1"),
        ({"labels": np.full((N_LABELS, 32), 1j)}, "labels must be real numbers, got complex128"),
        ({"labels": np.full((N_LABELS, 32), np.nan)}, "labels has values that are not finite"),
        ({"labels": np.full((N_LABELS, 32), 1e300)}, "labels has values that are not finite, or too large"),
    ],
)
def test_initialize_refuses(vectors, message):
    net = make_network()
    before = weights_of(net)
    with pytest.raises(ValueError, match=message):
        net.initialize(**{"features": np.ones((N_FEATURES, 32))} | vectors)
    assert same(weights_of(net), before)


def test_initialize_comes_before_training(data):
    net = make_network()
    net.fit(data[0].X, data[0].Y, config=TrainingConfig(max_batches=2))
    with pytest.raises(RuntimeError, match="for networks before training; this one has taken 2 steps"):
        net.initialize()
    with pytest.raises(RuntimeError, match="this one can only predict"):
        Network(N_FEATURES, N_LABELS, trainable=False).initialize()
    with pytest.raises(ValueError, match="labels would be replaced by fit"):
        make_network(init="mean").initialize(labels=np.ones((N_LABELS, 32)))
