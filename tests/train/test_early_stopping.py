"""Training that watches its quality: samples held out for that, patience, and the best epoch's weights."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from slide.config import (
    ConfigError,
    HiddenConfig,
    LSHConfig,
    NetworkConfig,
    OptimizerConfig,
    OutputConfig,
    TrainingConfig,
)
from slide.data import DataError, make_extreme
from slide.data.order import epoch_order
from slide.network import Network
from slide.predict import topk
from slide.train.callbacks import Callback
from slide.train.loop import fit

N_FEATURES, N_LABELS = 300, 80
FULL = HiddenConfig(32, dropout=0.0)


@pytest.fixture(scope="module")
def data():
    return make_extreme(1000, N_FEATURES, N_LABELS, test_samples=400, labels_per_sample=2, zipf=0.5)


def make_network(seed=0, lr=5e-3):
    output = OutputConfig("lsh+tail", budget=20, tail=20, loss="softmax", lsh=LSHConfig(l=10))
    config = NetworkConfig(FULL, output, OptimizerConfig(lr=lr, lazy="sparse"), seed=seed)
    return Network(N_FEATURES, N_LABELS, config, threads=1)


# Samples that are held out


@pytest.mark.parametrize(
    ("fields", "held"), [({"holdout": 0.25}, 250), ({"holdout": 1e-6}, 1), ({"holdout": 0.9, "eval_points": 40}, 40)]
)
def test_held_out_points_are_measured_on_and_not_trained_on(data, monkeypatch, fields, held):
    # The first feature says which sample it is.
    n = 1000
    X = csr_matrix((1.0 + np.arange(n), (np.arange(n), np.zeros(n, int))), (n, N_FEATURES), dtype=np.float32)
    network = Network(
        N_FEATURES, N_LABELS, NetworkConfig(HiddenConfig(8), normalize=False, seed=4), threads=1
    )
    trained, measured = [], []
    train_batch, evaluate = Network.train_batch, topk.evaluate

    def spied_batch(self, batch, **options):
        trained.append(batch.values - 1)
        return train_batch(self, batch, **options)

    def spied_evaluate(layers, X, Y, **options):
        measured.append(X.data - 1)
        return evaluate(layers, X, Y, **options)

    monkeypatch.setattr(Network, "train_batch", spied_batch)
    monkeypatch.setattr(topk, "evaluate", spied_evaluate)
    frequencies, tell = [], network.output.set_label_frequency
    monkeypatch.setattr(
        network.output, "set_label_frequency", lambda f, **more: frequencies.append(f) or tell(f, **more)
    )
    history = fit(network, X, data[0].Y, config=TrainingConfig(epochs=2, batch_size=n, **fields))
    assert history.batches == 2
    rest, seen = np.sort(trained[0]).astype(int), measured[0].astype(int)
    assert len(seen) == held
    assert np.array_equal(seen, measured[1])
    assert np.array_equal(rest, np.sort(trained[1]))
    assert np.array_equal(np.sort(np.concatenate([rest, seen])), np.arange(n))
    np.testing.assert_allclose(frequencies[0], data[0].Y[rest].toarray().mean(axis=0))


def test_nothing_is_learnt_from_held_out_points(data):
    train = data[0]
    rest = np.sort(epoch_order(train.n_samples, 0, 0)[250:])
    output = OutputConfig("lsh+tail", loss="softmax", init="mean", label_weights="propensity", tail_power=0.5)
    config = NetworkConfig(HiddenConfig(16, dropout=0.0), output, feature_weights="idf")
    states = []
    for samples, holdout in ((train, 0.25), (train.subset(rest), 0.0)):
        net = Network(N_FEATURES, N_LABELS, config, threads=1)
        fit(net, samples.X, samples.Y, config=TrainingConfig(epochs=2, batch_size=100, holdout=holdout))
        states.append({**net.copy_weights(), "features": net.feature_weights})
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])


def held_out(data, seed):
    """The samples that a run with this seed measures on."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk, "evaluate", lambda layers, X, Y, **options: seen.append(X) or {"P@1": 0.5})
        fit(make_network(seed=seed), data.X, data.Y, config=TrainingConfig(epochs=1, batch_size=1000, holdout=0.2))
    return seen[0].toarray()


def test_the_seed_draws_what_is_held_out(data):
    train = data[0]
    first = held_out(train, 1)
    assert np.array_equal(first, held_out(train, 1))
    assert not np.array_equal(first, held_out(train, 2))
    # Neither end of the file is preferred.
    rows = [int(np.flatnonzero((train.X.toarray() == sample).all(axis=1))[0]) for sample in first]
    assert rows == sorted(rows)
    assert 400 < np.mean(rows) < 600


def test_validation_data_goes_before_holding_out(data):
    train, test = data
    config = TrainingConfig(epochs=1, batch_size=1000, holdout=0.5)
    seen = []
    fit(
        make_network(),
        train.X,
        train.Y,
        config=config,
        validation=(test.X, test.Y),
        callbacks=[lambda progress: seen.append(progress.samples)],
    )
    assert seen == [1000]


def test_one_point_cannot_be_held_out_of_one():
    with pytest.raises(DataError, match="a holdout needs at least two training samples, found 1"):
        fit(make_network(), np.ones((1, N_FEATURES)), np.ones((1, N_LABELS)), config=TrainingConfig(holdout=0.5))


# The best epoch


def scripted(monkeypatch, qualities, metric="P@1"):
    """Have evaluation report these values one after the other; return the weights there were at each."""
    script, weights = iter(qualities), []

    def evaluate(layers, X, Y, **options):
        weights.append({name: array.copy() for name, array in layers.weights().items()})
        return {metric: next(script)}

    monkeypatch.setattr(topk, "evaluate", evaluate)
    return weights


@pytest.mark.parametrize(
    ("qualities", "fields", "epochs", "best", "out"),
    [
        ([0.1, 0.3, 0.2, 0.3, 0.9], {"patience": 2}, 4, 2, True),
        ([0.1, 0.3, 0.2, 0.4, 0.9], {"patience": 2}, 5, 5, False),
        ([0.5, 0.4, 0.6], {"patience": 1}, 2, 1, True),
        ([0.1, 0.2, 0.3, 0.4, 0.5], {"patience": 1}, 5, 5, False),
        # Small steps add up, against the last improvement that counted.
        ([0.10, 0.14, 0.18, 0.21, 0.22], {"patience": 2, "min_delta": 0.05}, 5, 3, True),
        ([0.0, 0.0, 0.0], {"patience": 2}, 3, 1, True),
        ([0.5, 0.4, 0.3, 0.2, 0.1], {}, 5, 1, False),
        # Epochs are counted, not measurements: 2, 4 and the last are measured.
        ([0.5, 0.4, 0.3], {"patience": 2, "eval_every": 2}, 4, 2, True),
    ],
)
def test_patience(data, monkeypatch, qualities, fields, epochs, best, out):
    scripted(monkeypatch, qualities)
    config = TrainingConfig(epochs=5, batch_size=1000, holdout=0.1, **fields)
    history = fit(make_network(), data[0].X, data[0].Y, config=config)
    assert len(history.epochs) == epochs
    assert (history.best_epoch, history.out_of_patience, history.stopped) == (best, out, False)
    assert history.best_quality == history.epochs[best - 1].quality


def test_another_metric_is_monitored(data, monkeypatch):
    scripted(monkeypatch, [0.2, 0.1], metric="nDCG@5")
    config = TrainingConfig(epochs=5, batch_size=1000, holdout=0.1, patience=1, monitor="nDCG@5")
    assert fit(make_network(), data[0].X, data[0].Y, config=config).best_quality == {"nDCG@5": 0.2}


def test_a_metric_that_this_data_has_not(data):
    config = TrainingConfig(holdout=0.5, patience=1, monitor="PSP@3")
    with pytest.raises(ConfigError, match="monitor is 'PSP@3'; on this data there is P@1, nDCG@1, R@1, P@3"):
        fit(make_network(), data[0].X[:2], data[0].Y[:2], config=config)


@pytest.mark.parametrize("fields", [{"patience": 2}, {"keep_best": True}])
def test_nothing_to_measure_on_is_refused(data, fields):
    net = make_network()
    with pytest.raises(ConfigError, match=r"give fit validation=\(X, Y\), or set TrainingConfig.holdout"):
        fit(net, data[0].X, data[0].Y, config=TrainingConfig(**fields))
    assert net.step == 0


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"patience": 2}, 2),
        ({"keep_best": True}, 2),
        ({"patience": 2, "keep_best": False}, 4),
        ({}, 5),
    ],
)
def test_the_weights_of_the_best_epoch_are_put_back(data, monkeypatch, fields, kept):
    weights = scripted(monkeypatch, [0.1, 0.3, 0.2, 0.25, 0.1])
    net = make_network()
    config = TrainingConfig(epochs=5, batch_size=500, holdout=0.1, **fields)
    history = fit(net, data[0].X, data[0].Y, config=config)
    for name, array in net.layers.weights().items():
        assert np.array_equal(array, weights[kept - 1][name])
    assert net.step == history.batches == 2 * len(history.epochs)


@pytest.mark.parametrize("event", ["on_batch", "on_epoch"])
def test_a_callback_that_stops_the_run_gets_the_best_epoch_too(data, monkeypatch, event):
    weights = scripted(monkeypatch, [0.3, 0.1, 0.1, 0.1])
    net = make_network()
    config = TrainingConfig(epochs=5, batch_size=500, holdout=0.1, keep_best=True)
    callback = Callback()
    setattr(callback, event, lambda progress: progress.batch == 4)
    history = fit(net, data[0].X, data[0].Y, config=config, callbacks=[callback])
    assert history.stopped
    assert not history.out_of_patience
    for name, array in net.layers.weights().items():
        assert np.array_equal(array, weights[0][name])


def test_a_run_stopped_before_anything_is_measured_keeps_what_it_has(data):
    net = make_network()
    config = TrainingConfig(batch_size=100, holdout=0.1, patience=1)
    history = fit(net, data[0].X, data[0].Y, config=config, callbacks=[lambda progress: True])
    assert (net.step, history.best_epoch, history.best_quality) == (1, None, {})


@pytest.mark.parametrize("hidden", [(FULL,), (FULL, HiddenConfig(64, candidates="lsh", dropout=0.0))])
def test_early_stopping_for_real(data, hidden):
    """A learning rate far too large soon gets no better; what the network predicts is what the best epoch did."""
    train, test = data
    config = TrainingConfig(epochs=30, batch_size=50, schedule="constant", patience=2, holdout=0.2)
    output = OutputConfig("lsh+tail", budget=20, tail=20, loss="softmax", lsh=LSHConfig(l=10))
    network_config = NetworkConfig(hidden, output, OptimizerConfig(lr=0.1, lazy="sparse"))
    predictions, weights = [], []

    class Predicting(Callback):
        def on_epoch(self, progress):
            predictions.append(net.predict(test.X))

    for threads in (1, 2):
        net = Network(N_FEATURES, N_LABELS, network_config, threads=threads)
        history = fit(net, train.X, train.Y, config=config, callbacks=[Predicting()])
        assert history.out_of_patience
        assert len(history.epochs) == history.best_epoch + 2 < 30
        scores = [epoch.quality["P@1"] for epoch in history.epochs]
        assert history.best_epoch == 1 + np.argmax(scores)
        ids, values = predictions[history.best_epoch - 1]
        again, values_again = net.predict(test.X)
        assert np.array_equal(ids, again)
        assert np.array_equal(values, values_again)
        assert not np.array_equal(predictions[len(history.epochs) - 1][1], values)
        weights.append(net.copy_weights())
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_training_goes_on_from_the_best_epoch(data):
    train, test = data
    net = make_network(lr=0.1)
    validation = (test.X, test.Y)
    config = TrainingConfig(epochs=30, batch_size=50, schedule="constant", patience=2)
    first = fit(net, train.X, train.Y, config=config, validation=validation)
    config = TrainingConfig(epochs=2, batch_size=50, final_lr=0.01)
    second = fit(net, train.X, train.Y, config=config, validation=validation)
    assert net.step == first.batches + second.batches
    assert second.best_quality["P@1"] > first.best_quality["P@1"] - 0.1
