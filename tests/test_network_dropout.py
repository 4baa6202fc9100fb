"""Dropout in a network: nothing of it in prediction, and the same on every run."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from slide.config import HiddenConfig, LSHConfig, NetworkConfig, OptimizerConfig, OutputConfig, TrainingConfig
from slide.data import make_extreme
from slide.model.layers import InputLayer, SampledLayer
from slide.network import Network

N_FEATURES, N_LABELS = 300, 500

HIDDEN = {
    "full": (HiddenConfig(32, dropout=0.3), HiddenConfig(20, dropout=0.5)),
    "sampled": (
        HiddenConfig(200, candidates="lsh", budget=40, lsh=LSHConfig(l=5), dropout=0.3),
        HiddenConfig(300, candidates="lsh", budget=10, lsh=LSHConfig(l=5), dropout=0.5),
    ),
}


@pytest.fixture(scope="module")
def data():
    return make_extreme(1000, N_FEATURES, N_LABELS)


def make_network(threads=1, hidden=HIDDEN["full"], **options):
    output = OutputConfig("lsh+tail", budget=60, tail=40, loss="softmax", lsh=LSHConfig(l=8))
    return Network(N_FEATURES, N_LABELS, NetworkConfig(hidden, output, **options), threads=threads)


def state_of(net):
    layers = {layer.name: layer for layer in net.hidden} | {"output": net.output}
    return {f"{name}.{key}": view.copy() for name, layer in layers.items() for key, view in layer.state().items()}


def trained(data, batches=60, **options):
    net = make_network(**options)
    net.fit(data.X, data.Y, config=TrainingConfig(epochs=100, batch_size=64, max_batches=batches))
    return state_of(net)


@pytest.fixture
def features_read(monkeypatch):
    """Record the features that the first layer is given in training."""
    seen = []
    for kind in (InputLayer, SampledLayer):

        def spied(self, signal, *rest, forward=kind.forward):
            if signal.dense is None:
                dense = np.zeros((len(signal.columns.begin), N_FEATURES))
                samples, places = signal.columns.places()
                dense[samples, signal.columns.flat[places]] = signal.values[places]
                seen.append((len(signal.values), dense))
            return forward(self, signal, *rest)

        monkeypatch.setattr(kind, "forward", spied)
    return seen


@pytest.mark.parametrize("hidden", HIDDEN.values(), ids=HIDDEN)
def test_weights_do_not_depend_on_threads(data, hidden):
    one, two = (trained(data, threads=threads, hidden=hidden, input_dropout=0.2) for threads in (1, 2))
    for name in one:
        assert np.array_equal(one[name], two[name]), name
    other = trained(data, hidden=hidden, input_dropout=0.2, seed=1)
    assert not np.array_equal(one["output.weights"], other["output.weights"])


@pytest.mark.parametrize("hidden", HIDDEN.values(), ids=HIDDEN)
def test_nothing_is_left_out_in_prediction(data, hidden):
    plain = make_network(hidden=tuple(HiddenConfig(layer.units, dropout=0.0) for layer in hidden))
    net = make_network(hidden=tuple(HiddenConfig(layer.units, dropout=layer.dropout) for layer in hidden))
    sampled = make_network(hidden=hidden, input_dropout=0.5)
    assert all(np.array_equal(a, b) for a, b in zip(net.predict(data.X), plain.predict(data.X), strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(sampled.predict(data.X), sampled.predict(data.X), strict=True))
    full = np.diff(data.X.indptr)
    assert np.array_equal(sampled.layer_inputs(data.X)[0].columns.lengths, full)


@pytest.mark.parametrize("hidden", HIDDEN.values(), ids=HIDDEN)
def test_features_left_out_are_no_work(data, features_read, hidden):
    p = 0.4
    net = make_network(hidden=hidden, input_dropout=p, seed=3)
    reader = net.reader(data.X, data.Y, 500)
    net.output.set_label_frequency(np.full(N_LABELS, 0.1))
    batch = reader.read(np.arange(500))
    before = batch.indices.copy(), batch.values.copy()
    for _ in range(2):
        net.train_batch(batch)
    assert np.array_equal(batch.indices, before[0])
    assert np.array_equal(batch.values, before[1])
    full = csr_matrix((batch.values, batch.indices, batch.indptr), shape=(500, N_FEATURES)).toarray()
    np.testing.assert_allclose(np.linalg.norm(full, axis=1), 1, rtol=1e-5)
    masks = []
    for entries, dense in features_read:
        assert entries / np.count_nonzero(full) == pytest.approx(1 - p, abs=0.03)
        masks.append(dense != 0)
        np.testing.assert_allclose(dense, np.where(masks[-1], full / (1 - p), 0), rtol=1e-5)
    assert not np.array_equal(*masks)


def test_the_same_features_are_left_out_again(data, features_read):
    for _ in range(2):
        trained(data, batches=3, input_dropout=0.5)
    assert len(features_read) == 6
    for (_, one), (_, other) in zip(features_read[:3], features_read[3:], strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("hidden", HIDDEN.values(), ids=HIDDEN)
@pytest.mark.parametrize("features", [0, 1])
def test_points_may_lose_every_feature(data, hidden, features):
    """Samples with one feature at most mostly keep none, and still teach the layers above."""
    X = csr_matrix((1000, N_FEATURES), dtype=np.float32)
    if features:
        X = csr_matrix((np.ones(1000, np.float32), np.arange(1000) % N_FEATURES, np.arange(1001)), shape=X.shape)
    sgd = OptimizerConfig("sgd", lr=0.1)
    net = make_network(hidden=hidden, input_dropout=0.99, optimizer=sgd)
    before = net.output.table.bias.copy()
    history = net.fit(X, data.Y, config=TrainingConfig(epochs=1, batch_size=16))
    assert np.isfinite(history.epochs[0].loss)
    assert not np.array_equal(net.output.table.bias, before)


def test_training_goes_on_where_it_stopped(data, tmp_path):
    """The draws follow the number of steps, which a saved network keeps."""

    def batches(net, first, last):
        reader = net.reader(data.X, data.Y, 50)
        net.output.set_label_frequency(np.full(N_LABELS, 0.1))
        for i in range(first, last):
            net.train_batch(reader.read(np.arange(50 * i, 50 * i + 50)))

    # Saving settles rows that exact steps left behind, which rounds otherwise than settling them later.
    sparse = OptimizerConfig(lazy="sparse")
    config = NetworkConfig(HIDDEN["full"], OutputConfig("full", loss="softmax"), sparse, input_dropout=0.3)
    whole, half = (Network(N_FEATURES, N_LABELS, config, threads=1) for _ in range(2))
    batches(whole, 0, 8)
    batches(half, 0, 4)
    half.save(tmp_path / "half", moments=True)
    back = Network.load(tmp_path / "half", threads=1)
    batches(back, 4, 8)
    one, other = state_of(whole), state_of(back)
    assert all(np.array_equal(one[name], other[name]) for name in one)
