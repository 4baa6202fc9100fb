"""The training loop: what it learns, what it reports and what it refuses."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from slide import metrics
from slide.config import (
    MONITORS,
    HiddenConfig,
    LSHConfig,
    NetworkConfig,
    OptimizerConfig,
    OutputConfig,
    TrainingConfig,
)
from slide.data import DataError, make_extreme
from slide.network import Network
from slide.predict import topk
from slide.train import loop
from slide.train.callbacks import Callback
from slide.train.loop import fit
from slide.train.records import SMOOTHING, History

N_FEATURES, N_LABELS = 300, 80


@pytest.fixture(scope="module")
def data():
    return make_extreme(1000, N_FEATURES, N_LABELS, test_samples=400, labels_per_sample=2, zipf=0.5)


def make_network(candidates="lsh+tail", seed=0, lr=5e-3, **fields):
    fields = {"budget": 20, "tail": 20, "loss": "softmax", "lsh": LSHConfig(l=10)} | fields
    hidden, output = HiddenConfig(32, dropout=0.0), OutputConfig(candidates, **fields)
    config = NetworkConfig(hidden, output, OptimizerConfig(lr=lr, lazy="sparse"), seed=seed)
    return Network(N_FEATURES, N_LABELS, config, threads=1)


@pytest.fixture
def batches(monkeypatch):
    """Record what every batch of every network was given and gave back."""
    seen = []
    train_batch = Network.train_batch

    def spied(self, batch, **options):
        stats = train_batch(self, batch, **options)
        seen.append((len(batch), batch.labels.copy(), stats, options))
        return stats

    monkeypatch.setattr(Network, "train_batch", spied)
    return seen


@pytest.mark.parametrize("candidates", ["lsh+tail", "lsh+inbatch", "inbatch", "uniform", "full"])
def test_it_learns(data, candidates):
    train, test = data
    net = make_network(candidates)
    net.fit(train.X, train.Y, config=TrainingConfig(epochs=8, batch_size=32))
    popularity = test.Y[:, train.Y.sum(axis=0).argmax()].mean()
    assert net.evaluate(test.X, test.Y)["P@1"] > 0.6 > 4 * popularity


@pytest.mark.parametrize("candidates", ["lsh+tail", "topk+tail", "uniform", "full"])
@pytest.mark.parametrize(
    "fields",
    [
        {"loss": "bce"},
        {"loss": "bce", "label_smoothing": 0.02, "label_weights": "propensity"},
        {"targets": "sum"},
        {"label_smoothing": 0.1, "label_weights": "propensity"},
        {"tail_power": 0.5, "share_labels": False},
    ],
    ids=["bce", "weighted bce", "sum", "smoothed", "tail by frequency"],
)
def test_every_loss_learns(data, candidates, fields):
    train, test = data
    net = make_network(candidates, **fields)
    history = net.fit(train.X, train.Y, config=TrainingConfig(epochs=8, batch_size=32))
    assert history.epochs[-1].loss < history.epochs[0].loss
    assert net.evaluate(test.X, test.Y)["P@1"] > 0.6


def test_first_loss_of_bce_is_that_of_the_frequencies(data, batches):
    """The biases start at the labels' log-odds, so that the first loss is the entropy of the labels, not N log 2."""
    train = data[0]
    fit(make_network("full", loss="bce"), train.X, train.Y, config=TrainingConfig(max_batches=1))
    p = train.Y.toarray().mean(axis=0)
    entropy = -(p * np.log(p) + (1 - p) * np.log1p(-p)).sum()
    assert batches[0][2].loss == pytest.approx(entropy, rel=0.1)
    assert batches[0][2].loss < 0.3 * N_LABELS * np.log(2)


def weights_used(net, monkeypatch):
    used = []
    set_label_weights = net.output.set_label_weights

    def spied(weights):
        used.append(weights)
        set_label_weights(weights)

    monkeypatch.setattr(net.output, "set_label_weights", spied)
    return used


def test_propensity_weights_have_mean_one_over_the_labels_uses(data, monkeypatch):
    train = data[0]
    net = make_network(label_weights="propensity")
    used = weights_used(net, monkeypatch)
    fit(net, train.X, train.Y, config=TrainingConfig(max_batches=1))
    assert used[0][train.Y.indices].mean() == pytest.approx(1)
    inverse = metrics.propensities(train.Y)
    np.testing.assert_allclose(used[0] / used[0][0], inverse / inverse[0])


@pytest.mark.parametrize("label_weights", ["none", "propensity"])
def test_given_weights_are_used_as_they_are(data, monkeypatch, label_weights):
    train = data[0]
    net = make_network(label_weights=label_weights)
    used = weights_used(net, monkeypatch)
    given = np.arange(N_LABELS, dtype=float)
    fit(net, train.X, train.Y, config=TrainingConfig(max_batches=1), label_weights=given)
    assert np.array_equal(used[0], given)


def test_labels_of_no_weight_are_not_learned(data):
    train = data[0]
    favoured = np.zeros(N_LABELS)
    favoured[:5] = 1
    net = make_network("full")
    net.fit(train.X, train.Y, config=TrainingConfig(epochs=2, batch_size=32), label_weights=favoured)
    ids, _ = net.predict(train.X, 5)
    assert np.isin(ids, np.arange(5)).all()


def test_wrong_weights_are_refused_before_training(data):
    train = data[0]
    net = make_network()
    with pytest.raises(ValueError, match=rf"label_weights must be one for each of {N_LABELS} labels, got shape \(3,\)"):
        net.fit(train.X, train.Y, label_weights=np.ones(3))
    with pytest.raises(ValueError, match=r"label_weights must be finite and 0 or more, got -1\.0 for label 7"):
        net.fit(train.X, train.Y, label_weights=np.where(np.arange(N_LABELS) == 7, -1.0, 1.0))
    assert net.step == 0


def test_the_papers_mode_learns(data):
    train, test = data
    net = make_network("lsh")
    before = net.evaluate(test.X, test.Y)["P@1"]
    history = net.fit(train.X, train.Y, config=TrainingConfig(epochs=8, batch_size=32))
    assert net.evaluate(test.X, test.Y)["P@1"] > before + 0.2
    assert history.epochs[-1].loss < history.epochs[0].loss


def test_history_adds_up(data, batches):
    train, test = data
    net = make_network()
    config = TrainingConfig(epochs=3, batch_size=300, eval_points=50)
    history = fit(net, train.X, train.Y, config=config, validation=(test.X, test.Y))
    assert [size for size, *_ in batches] == [300, 300, 300, 100] * 3
    assert history.batches == net.step == 12
    assert [epoch.epoch for epoch in history.epochs] == [1, 2, 3]
    for number, epoch in enumerate(history.epochs):
        stats = [stats for _, _, stats, _ in batches[4 * number : 4 * number + 4]]
        assert epoch.batches == 4
        for name in ("loss", "precision", "active"):
            assert getattr(epoch, name) == pytest.approx(np.mean([getattr(batch, name) for batch in stats]))
        assert 0 <= epoch.quality["P@1"] <= 1
    assert history.active_per_sample == pytest.approx(np.mean([stats.active for _, _, stats, _ in batches]))
    assert history.train_seconds == pytest.approx(sum(epoch.seconds for epoch in history.epochs))
    assert 0 < history.rehash_seconds < history.train_seconds
    assert history.rehash_share == pytest.approx(history.rehash_seconds / history.train_seconds)
    assert history.ms_per_batch == pytest.approx(1e3 * history.train_seconds / 12)
    assert not history.stopped


def test_history_of_nothing():
    assert History().ms_per_batch == History().rehash_share == 0


def test_progress(data):
    seen = []
    losses = []

    def on_batch(progress):
        seen.append((progress.epoch, progress.batch, progress.batches, progress.samples))
        losses.append(progress.loss)
        assert progress.seconds > 0
        assert not progress.quality

    history = fit(
        make_network(),
        data[0].X,
        data[0].Y,
        config=TrainingConfig(epochs=2, batch_size=600),
        callbacks=[on_batch],
    )
    assert seen == [(1, 1, 4, 600), (1, 2, 4, 1000), (2, 3, 4, 1600), (2, 4, 4, 2000)]
    second = 2 * history.epochs[0].loss - losses[0]
    assert losses[1] == pytest.approx(SMOOTHING * losses[0] + (1 - SMOOTHING) * second)


@pytest.mark.parametrize(("stop_at", "epochs"), [(1, [1]), (2, [2]), (3, [2, 1])])
def test_callback_stops_after_a_batch(data, stop_at, epochs):
    net = make_network()
    config = TrainingConfig(epochs=5, batch_size=500)
    history = fit(
        net, data[0].X, data[0].Y, config=config, callbacks=[lambda progress: progress.batch == stop_at]
    )
    assert history.stopped
    assert net.step == history.batches == stop_at
    assert [epoch.batches for epoch in history.epochs] == epochs


def test_callback_stops_after_an_epoch(data):
    qualities = []

    class Second(Callback):
        def on_epoch(self, progress):
            qualities.append(progress.quality["P@1"])
            return progress.epoch == 2

    train, test = data
    config = TrainingConfig(epochs=9, batch_size=500)
    history = fit(
        make_network(), train.X, train.Y, config=config, validation=(test.X, test.Y), callbacks=[Second()]
    )
    assert history.stopped
    assert [epoch.quality["P@1"] for epoch in history.epochs] == qualities
    assert len(qualities) == 2


@pytest.mark.parametrize(("most", "epochs"), [(1, [1]), (4, [4]), (5, [4, 1]), (100, [4, 4])])
def test_most_batches(data, most, epochs):
    config = TrainingConfig(epochs=2, batch_size=300, max_batches=most)
    history = fit(make_network(), data[0].X, data[0].Y, config=config)
    assert [epoch.batches for epoch in history.epochs] == epochs
    assert not history.stopped


def test_validation_points_are_drawn_once(data, monkeypatch):
    probes = []
    monkeypatch.setattr(
        topk, "evaluate", lambda layers, X, Y, **options: probes.append((X, Y, options)) or {"P@1": 0.5}
    )
    train, test = data
    fit(
        make_network(),
        train.X,
        train.Y,
        config=TrainingConfig(epochs=2, batch_size=1000, eval_points=30),
        validation=(test.X, test.Y),
        mask_inputs=True,
    )
    (X, Y, options), (again, _, _) = probes
    assert X.shape == (30, N_FEATURES)
    assert Y.shape == (30, N_LABELS)
    assert np.array_equal(X.toarray(), again.toarray())
    assert options["mask_inputs"] is True
    assert np.array_equal(options["inv_propensity"], metrics.propensities(train.Y))


@pytest.mark.parametrize("eval_points", [0, 10_000])
def test_number_of_validation_points(data, monkeypatch, eval_points):
    sizes = []
    monkeypatch.setattr(topk, "evaluate", lambda layers, X, Y, **options: sizes.append(X.shape[0]) or {"P@1": 0.5})
    train, test = data
    config = TrainingConfig(epochs=1, batch_size=1000, eval_points=eval_points)
    fit(make_network(), train.X, train.Y, config=config, validation=(test.X, test.Y))
    assert sizes == ([400] if eval_points else [])


@pytest.mark.parametrize("shuffle", [False, True])
def test_order_of_the_points(data, batches, shuffle):
    train = data[0]
    fit(make_network(), train.X, train.Y, config=TrainingConfig(epochs=2, batch_size=1000, shuffle=shuffle))
    first, second = (labels for _, labels, _, _ in batches)
    assert np.array_equal(first, train.Y.indices) == (not shuffle)
    assert np.array_equal(first, second) == (not shuffle)
    assert np.array_equal(np.sort(first), np.sort(train.Y.indices))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [1, 0.75, 0.5, 0.25]),
        ({"schedule": "constant"}, [1, 1, 1, 1]),
        ({"final_lr": 0.2}, [1, 0.8, 0.6, 0.4]),
        ({"schedule": "cosine", "warmup": 0.5}, [1 / 3, 2 / 3, 1, 0.5]),
        ({"schedule": "step", "step_factor": 0.1}, [1, 1, 0.1, 0.1]),
        ({"schedule": "inverse_sqrt", "decay_batches": 1}, [1, 1 / 2**0.5, 1 / 3**0.5, 1 / 2]),
        # What the schedule runs over is the batches there will be.
        ({"max_batches": 2}, [1, 0.5]),
    ],
)
def test_learning_rate_follows_the_schedule(data, batches, fields, expected):
    fit(make_network(), data[0].X, data[0].Y, config=TrainingConfig(epochs=2, batch_size=500, **fields))
    assert [options["lr_factor"] for *_, options in batches] == pytest.approx(expected)


def test_label_frequencies_are_those_of_the_data(data, monkeypatch):
    train = data[0]
    net, told = make_network(), []
    monkeypatch.setattr(net.output, "set_label_frequency", lambda frequency, samples: told.append((frequency, samples)))
    with pytest.raises(RuntimeError, match="set_label_frequency"):
        fit(net, train.X, train.Y)
    np.testing.assert_allclose(told[0][0], train.Y.toarray().mean(axis=0))
    assert told[0][1] == train.n_samples


def ones(n_rows, n_columns):
    return csr_matrix(np.ones((n_rows, n_columns), np.float32))


@pytest.mark.parametrize(
    ("X", "Y", "message"),
    [
        (ones(0, N_FEATURES), ones(0, N_LABELS), "the training data has no samples"),
        (
            ones(2, 299),
            ones(2, N_LABELS),
            "the training data has 299 features and 80 labels, the network 300 and 80",
        ),
        (
            ones(2, N_FEATURES),
            ones(2, 81),
            "the training data has 300 features and 81 labels, the network 300 and 80",
        ),
        (ones(2, N_FEATURES), ones(3, N_LABELS), "X has 2 rows and Y has 3"),
        (ones(2, N_FEATURES) * np.inf, ones(2, N_LABELS), "not finite"),
        (ones(2, N_FEATURES), -ones(2, N_LABELS), "negative"),
        (ones(2, N_FEATURES), csr_matrix((2, N_LABELS), dtype=np.float32), "no training sample has a label"),
    ],
)
def test_data_that_does_not_fit_is_refused(X, Y, message):
    net = make_network()
    with pytest.raises(DataError, match=message):
        fit(net, X, Y)
    assert net.step == 0


def test_validation_data_that_does_not_fit_is_refused(data):
    train = data[0]
    with pytest.raises(DataError, match="the validation data has 300 features and 5 labels"):
        fit(make_network(), train.X, train.Y, validation=(ones(2, N_FEATURES), ones(2, 5)))
    with pytest.raises(DataError, match="the validation data has no samples"):
        fit(make_network(), train.X, train.Y, validation=(ones(0, N_FEATURES), ones(0, N_LABELS)))


def test_some_points_may_lack_labels_or_features(data):
    X, Y = data[0].X[:100].toarray(), data[0].Y[:100].toarray()
    X[::3], Y[::4] = 0, 0
    history = fit(
        make_network(), csr_matrix(X), csr_matrix(Y), config=TrainingConfig(epochs=1, batch_size=10)
    )
    assert np.isfinite(history.epochs[0].loss)


def test_an_epoch_cut_short_has_no_quality(data):
    train, test = data
    config = TrainingConfig(epochs=5, batch_size=500)
    stop = {"callbacks": [lambda progress: progress.batch == 3]}
    history = fit(make_network(), train.X, train.Y, config=config, validation=(test.X, test.Y), **stop)
    assert [bool(epoch.quality) for epoch in history.epochs] == [True, False]


@pytest.mark.parametrize(
    ("fields", "measured"),
    [({"eval_every": 2}, [2, 4, 5]), ({"eval_every": 9}, [5]), ({"max_batches": 7}, [1, 2, 3, 4])],
)
def test_quality_is_measured_every_so_many_epochs_and_last(data, fields, measured):
    train, test = data
    config = TrainingConfig(epochs=5, batch_size=500, **fields)
    history = fit(make_network(), train.X, train.Y, config=config, validation=(test.X, test.Y))
    assert [epoch.epoch for epoch in history.epochs if epoch.quality] == measured


def test_every_metric_that_can_be_monitored_is_measured(data):
    train, test = data
    config = TrainingConfig(epochs=1, batch_size=500)
    history = fit(make_network(), train.X, train.Y, config=config, validation=(test.X, test.Y))
    assert sorted(history.best_quality) == sorted(MONITORS)


def test_absurd_learning_rate_is_told(data):
    optimizer = OptimizerConfig("sgd", lr=1000.0)
    config = NetworkConfig(HiddenConfig(8), OutputConfig("full", loss="softmax"), optimizer, normalize=False)
    net = Network(N_FEATURES, N_LABELS, config, threads=1)
    with pytest.raises(FloatingPointError, match="Lower the learning rate"):
        fit(
            net,
            data[0].X * 1e12,
            data[0].Y,
            config=TrainingConfig(epochs=50, batch_size=100, schedule="constant"),
        )
    assert net.predict(data[0].X[:1])[0].shape == (1, 5)


def test_fit_uses_the_defaults(data, monkeypatch):
    monkeypatch.setattr(loop, "TrainingConfig", lambda: TrainingConfig(epochs=1, batch_size=500))
    assert fit(make_network(), data[0].X, data[0].Y).batches == 2


def test_the_same_call_gives_the_same_network(data):
    weights = []
    for seed in (0, 0, 1):
        net = make_network(seed=seed)
        fit(net, data[0].X, data[0].Y, config=TrainingConfig(epochs=1, batch_size=100))
        weights.append(net.output.table.weights)
    assert np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])
