"""The network in training and prediction, against a dense twin in float64."""

import dataclasses

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.special import expit, logsumexp
from small_networks import (
    N_FEATURES,
    N_LABELS,
    UNITS,
    batch_of,
    full,
    layers_of,
    make_samples,
    sampled,
    sparse,
    state_of,
)

from slide.config import (
    CANDIDATES,
    HiddenConfig,
    LSHConfig,
    NetworkConfig,
    OptimizerConfig,
    OutputConfig,
)
from slide.data.batches import Batch
from slide.kernels.dropout import drop_units
from slide.lsh.index import NeuronIndex
from slide.model import output
from slide.model.layers import InputLayer
from slide.network import Network
from slide.predict import topk
from slide.rows.activations import Ragged
from slide.rows.pairs import Pairs


@pytest.fixture
def rng():
    return np.random.default_rng(20)


@pytest.fixture
def samples(rng):
    return make_samples(rng)


DEEP = {
    "full, full": (full(20), full(24)),
    "full, full, full": (full(20), full(33), full(16)),
    "full, sampled": (full(20), sampled(50, 20)),
    "sampled": (sampled(50, 20),),
    "sampled, full": (sampled(50, 20), full(24)),
    "sampled, sampled": (sampled(50, 20), sampled(40, 15)),
    "few sampled, sampled": (sampled(300, 9), sampled(200, 5)),
    "full, sampled, sampled": (full(20), sampled(50, 20), sampled(300, 8)),
    "sampled, sampled, sampled": (sampled(50, 20), sampled(300, 9), sampled(40, 15)),
}


# --- The gradient, against a dense twin


class Twin:
    """The network in float64, its layers computed at given units and its softmax over given active sets."""

    def __init__(self, net, samples):
        self.hidden = [(layer.name, layer.relu, isinstance(layer, InputLayer)) for layer in net.hidden]
        self.state = {name: array.astype(np.float64) for name, array in state_of(net).items()}
        self.X, self.Y = (matrix.toarray().astype(np.float64) for matrix in samples)
        self.factors = {}
        if net.feature_weights is not None:
            self.X *= net.feature_weights
        if net.config.normalize:
            norms = np.linalg.norm(self.X, axis=1, keepdims=True)
            self.X /= np.where(norms > 0, norms, 1)

    def drop(self, net):
        """Leave out what the network's next batch leaves out."""
        for i, layer in enumerate(net.hidden):
            self.factors[layer.name] = factors(self.X.shape[0], layer.config, net.config.seed + i, net.step)
        seed = net.config.seed + len(net.hidden) + 1
        ones = np.ones(self.X.shape, np.float32)
        drop_units(ones, net.config.input_dropout, seed, net.step, 1)
        self.X *= ones

    def signals(self, units):
        """The features and every hidden layer's output; `units` has boolean arrays [samples, units] by layer."""
        signals = [self.X]
        for name, relu, rows_are_features in self.hidden:
            weights = self.state[f"{name}.weights"]
            sums = signals[-1] @ (weights if rows_are_features else weights.T) + self.state[f"{name}.bias"]
            outputs = np.where(units.get(name, True), np.maximum(sums, 0) if relu else sums, 0)
            signals.append(outputs * self.factors.get(name, 1.0))
        return signals

    def scores(self, units):
        """Every label's logit."""
        return self.signals(units)[-1] @ self.state["output.weights"].T + self.state["output.bias"]

    def softmax(self, scores, active, offsets, config, weights):
        """Losses and their gradients with respect to the scores; all arrays are [samples, labels]."""
        counts = self.Y.sum(axis=1, keepdims=True)
        targets = self.Y * weights / (np.maximum(counts, 1) if config.targets == "mean" else 1)
        total = targets.sum(axis=1, keepdims=True)
        stands_for = np.where(active, np.exp(offsets), 0)
        spread = stands_for / np.maximum(stands_for.sum(axis=1, keepdims=True), 1e-9)
        targets = (1 - config.label_smoothing) * targets + config.label_smoothing * total * spread
        log_total = logsumexp(np.where(active, scores + offsets, -np.inf), axis=1, keepdims=True)
        losses = np.where(targets > 0, targets * (log_total - scores), 0)
        shares = np.exp(np.where(active, scores + offsets - log_total, -np.inf))
        return losses, np.where(active, shares * total - targets, 0)

    def logistic(self, scores, active, offsets, config, weights):
        """As ``softmax``, one-vs-all."""
        answers = np.where(self.Y > 0, 1 - config.label_smoothing / 2, config.label_smoothing / 2)
        stands_for = np.where(active, np.where(self.Y > 0, weights, np.exp(offsets)), 0)
        losses = answers * np.logaddexp(0, -scores) + (1 - answers) * np.logaddexp(0, scores)
        return stands_for * losses, stands_for * (expit(scores) - answers)

    def gradients(self, units, active, offsets, config, weights):
        """Loss and gradients; `active` and `offsets` are [samples, labels], `weights` [labels]."""
        signals = self.signals(units)
        labelled = (self.Y > 0).any(axis=1, keepdims=True)
        loss = self.softmax if config.loss == "softmax" else self.logistic
        losses, delta = loss(self.scores(units), active, offsets, config, weights)
        n = max(1, int(labelled.sum()))
        losses, delta = (np.where(labelled, part, 0) / n for part in (losses, delta))
        gradients = {"output.weights": delta.T @ signals[-1], "output.bias": delta.sum(axis=0)}
        down = delta @ self.state["output.weights"]
        for i, (name, relu, rows_are_features) in reversed(list(enumerate(self.hidden))):
            delta = np.where(units.get(name, True) & (signals[i + 1] > 0 if relu else True), down, 0)
            delta *= self.factors.get(name, 1.0)
            gradient = signals[i].T @ delta
            gradients[f"{name}.weights"] = gradient if rows_are_features else gradient.T
            gradients[f"{name}.bias"] = delta.sum(axis=0)
            if i:
                down = delta @ self.state[f"{name}.weights"]
        return losses.sum(), gradients


def factors(n, config, seed, iteration):
    """What dropout multiplies a layer's units by, [n, units]."""
    ones = np.ones((n, config.units), np.float32)
    drop_units(ones, config.dropout, seed, iteration, 1)
    return ones.astype(np.float64)


def mask(lists, width):
    """A boolean array [samples, width] that is true at each sample's ids."""
    out = np.zeros((len(lists), width), bool)
    for row, ids in zip(out, lists, strict=True):
        row[ids] = True
    return out


@pytest.fixture
def spy(monkeypatch):
    """Record what a network computes: by layer each sample's own ids, and the shared ids and their offsets."""
    seen = {"own": {}, "shared": np.zeros(0, np.int32), "offsets": np.zeros(0, np.float32)}
    shared_logits = output.shared_logits

    def spied(source):
        def spied_source(self, *arguments):
            rows = source(self, *arguments)
            pairs = self if isinstance(self, Pairs) else arguments[0]
            ends = zip(rows.begin, rows.end, strict=True)
            seen["own"][pairs._name] = [rows.flat[first:last].copy() for first, last in ends]
            return rows

        return spied_source

    def spied_logits(table, ids, offsets, *rest):
        seen["shared"], seen["offsets"] = ids.copy(), offsets.copy()
        shared_logits(table, ids, offsets, *rest)

    monkeypatch.setattr(NeuronIndex, "draw", spied(NeuronIndex.draw))
    monkeypatch.setattr(Pairs, "lay_out", spied(Pairs.lay_out))
    monkeypatch.setattr(output, "shared_logits", spied_logits)
    return seen


def gradient_config(candidates, correction="logq", activation="relu", *, output=None, **changes):
    """SGD: a step is the gradient times the learning rate, a power of two so that dividing by it is exact."""
    fields = {"budget": 12, "tail": 20, "loss": "softmax", "lsh": LSHConfig(k=2, l=5)} | (output or {})
    defaults = {
        "hidden": full(UNITS, activation),
        "optimizer": OptimizerConfig("sgd", lr=64.0),
        "output": OutputConfig(candidates, correction, **fields),
    }
    return NetworkConfig(**defaults | changes)


def randomise_biases(net, rng):
    for layer in layers_of(net).values():
        bias = layer.state()["bias"]
        bias[:] = rng.normal(size=len(bias))


def probability_shared(config, frequency, n):
    """Probability that each label is among the neurons a batch of n samples shares."""
    absent = (1 - np.asarray(frequency)) ** n if config.uses_labels_of_batch else np.ones(N_LABELS)
    if config.uses_tail:
        floor = frequency[frequency > 0].min() / 2
        drawn = np.maximum(frequency, floor) ** config.tail_power
        absent = absent * (1 - drawn / drawn.sum()) ** config.tail
    return 1 - absent


def assert_gradients(net, samples, seen, frequency, weights=1.0):
    twin = Twin(net, samples)
    twin.drop(net)
    n = samples[0].shape[0]
    stats = net.train_batch(batch_of(samples, net.config))
    offsets = np.zeros((n, N_LABELS))
    own = mask(seen["own"].get("output", [[]] * n), N_LABELS)
    active = own | mask([seen["shared"]] * n, N_LABELS)
    units = {
        layer.name: mask(seen["own"][layer.name], layer.config.units)
        for layer in net.hidden
        if layer.config.uses_tables
    }
    config = net.config.output
    if (config.uses_labels_of_batch or config.uses_tail) and config.correction == "logq":
        expected_offsets = -np.log(probability_shared(config, frequency, n)[seen["shared"]])
        if config.loss == "softmax":
            np.testing.assert_allclose(seen["offsets"], expected_offsets, rtol=1e-4, atol=1e-6)
        offsets[:, seen["shared"]] = expected_offsets
        offsets[own | (twin.Y > 0)] = 0
    else:
        assert not len(seen["offsets"])
    assert active[twin.Y > 0].all()
    assert active.all() == (config.candidates == "full")
    assert not any(computed.all() for computed in units.values())
    loss, expected = twin.gradients(units, active, offsets, config, weights)
    assert stats.loss == pytest.approx(loss, rel=1e-5)
    assert stats.active == pytest.approx(active.sum(axis=1).mean())
    after = state_of(net)
    for name, gradient in expected.items():
        actual = (twin.state[name] - after[name]) / net.config.optimizer.lr
        assert np.abs(gradient).max() > 0, name
        assert np.abs(actual - gradient).max() < 1e-4 * np.abs(gradient).max(), name


@pytest.mark.parametrize("normalize", [True, False], ids=["normalize", "raw"])
@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize("correction", ["logq", "none"])
@pytest.mark.parametrize("candidates", CANDIDATES)
def test_gradient_is_that_of_a_dense_network(rng, samples, spy, candidates, correction, activation, normalize):
    config = gradient_config(candidates, correction, activation, normalize=normalize)
    net = Network(N_FEATURES, N_LABELS, config)
    randomise_biases(net, rng)
    # Labels of the batch have been seen; some labels never are.
    frequency = np.where(rng.random(N_LABELS) < 0.5, rng.random(N_LABELS), 0.0)
    frequency = np.maximum(frequency, (samples[1].sum(axis=0) / 12).A1)
    net.output.set_label_frequency(frequency)
    assert_gradients(net, samples, spy, frequency)


LOSSES = {
    "sum": {"targets": "sum"},
    "smoothed": {"label_smoothing": 0.3},
    "smoothed sum": {"targets": "sum", "label_smoothing": 0.1},
    "bce": {"loss": "bce"},
    "smoothed bce": {"loss": "bce", "label_smoothing": 0.3},
}


@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
@pytest.mark.parametrize("correction", ["logq", "none"])
@pytest.mark.parametrize("candidates", CANDIDATES)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_gradient_of_every_loss(rng, samples, spy, candidates, correction, weighted, loss):
    net = Network(N_FEATURES, N_LABELS, gradient_config(candidates, correction, output=loss))
    randomise_biases(net, rng)
    frequency = np.maximum(0.3 * rng.random(N_LABELS), (samples[1].sum(axis=0) / 12).A1)
    net.output.set_label_frequency(frequency)
    weights = np.where(rng.random(N_LABELS) < 0.2, 0, 3 * rng.random(N_LABELS)) if weighted else np.ones(N_LABELS)
    net.output.set_label_weights(weights if weighted else None)
    assert_gradients(net, samples, spy, frequency, weights)


@pytest.mark.parametrize("tail_power", [0, 0.5, 1.0])
@pytest.mark.parametrize("share_labels", [True, False], ids=["labels", "tail alone"])
@pytest.mark.parametrize("loss", ["softmax", "bce"])
@pytest.mark.parametrize("candidates", ["lsh+tail", "uniform", "topk+tail"])
def test_gradient_with_every_tail(rng, samples, spy, candidates, loss, share_labels, tail_power):
    fields = {"loss": loss, "share_labels": share_labels, "tail_power": tail_power}
    net = Network(N_FEATURES, N_LABELS, gradient_config(candidates, output=fields))
    randomise_biases(net, rng)
    frequency = np.where(rng.random(N_LABELS) < 0.5, 0.3 * rng.random(N_LABELS), 0.0)
    frequency = np.maximum(frequency, (samples[1].sum(axis=0) / 12).A1)
    net.output.set_label_frequency(frequency)
    assert_gradients(net, samples, spy, frequency)
    assert (len(np.setdiff1d(samples[1].indices, spy["shared"])) > 0) == (not share_labels)


@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize("candidates", ["lsh", "lsh+tail", "full"])
@pytest.mark.parametrize("hidden", DEEP.values(), ids=DEEP)
def test_gradient_through_hidden_layers(rng, samples, spy, hidden, candidates, activation):
    hidden = tuple(dataclasses.replace(layer, activation=activation) for layer in hidden)
    net = Network(N_FEATURES, N_LABELS, gradient_config(candidates, hidden=hidden))
    randomise_biases(net, rng)
    frequency = np.full(N_LABELS, 0.1)
    net.output.set_label_frequency(frequency)
    assert_gradients(net, samples, spy, frequency)


@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize("hidden", DEEP.values(), ids=DEEP)
def test_gradient_with_dropout(rng, samples, spy, hidden, activation):
    hidden = tuple(dataclasses.replace(layer, activation=activation, dropout=0.3) for layer in hidden)
    net = Network(N_FEATURES, N_LABELS, gradient_config("lsh+tail", hidden=hidden, input_dropout=0.3, seed=2))
    randomise_biases(net, rng)
    frequency = np.full(N_LABELS, 0.1)
    net.output.set_label_frequency(frequency)
    for _ in range(2):
        assert_gradients(net, samples, spy, frequency)


@pytest.mark.parametrize("hidden", [(full(20),), (sampled(50, 12), sampled(40, 12))], ids=["full", "sampled"])
@pytest.mark.parametrize("candidates", ["lsh", "lsh+tail"])
def test_gradient_of_given_active_sets(rng, samples, monkeypatch, candidates, hidden, request):
    """The candidates are made up here, labels first, so that nothing depends on what the tables return."""
    net = Network(N_FEATURES, N_LABELS, gradient_config(candidates, hidden=hidden))
    randomise_biases(net, rng)

    def draw(index, pairs, inputs, forced, budget, iteration, threads):
        n = len(forced.begin)
        ids, counts = np.full((n, budget), -1, np.int32), np.zeros(n, np.int64)
        for s in range(n):
            mine = forced.flat[forced.begin[s] : forced.end[s]]
            found = np.setdiff1d(rng.permutation(index.table.n_rows)[: s % budget], mine)[: budget - len(mine)]
            counts[s] = len(mine) + len(found)
            ids[s, : counts[s]] = np.concatenate([mine, found])
        begin = np.arange(n) * budget
        return Ragged(ids.reshape(-1), begin, begin + counts)

    monkeypatch.setattr(NeuronIndex, "draw", draw)
    frequency = np.full(N_LABELS, 0.1)
    net.output.set_label_frequency(frequency)
    assert_gradients(net, samples, request.getfixturevalue("spy"), frequency)


@pytest.mark.parametrize("candidates", CANDIDATES)
@pytest.mark.parametrize("without", ["labels", "features"])
def test_batches_without_labels_or_features(samples, candidates, without):
    net = Network(N_FEATURES, N_LABELS, gradient_config(candidates))
    net.output.set_label_frequency(np.full(N_LABELS, 0.1))
    X, Y = samples
    if without == "features":
        X = csr_matrix(X.shape, dtype=np.float32)
    else:
        Y = csr_matrix(Y.shape, dtype=np.float32)
    before = state_of(net)
    stats = net.train_batch(batch_of((X, Y), net.config))
    after = state_of(net)
    if without == "labels":
        assert stats.loss == stats.precision == 0
        assert all(
            np.array_equal(before[name], after[name]) for name in before if not name.endswith("last_step")
        )
    else:
        assert np.array_equal(before["hidden.0.weights"], after["hidden.0.weights"])
        assert not np.array_equal(before["output.bias"], after["output.bias"])


def test_adam_moves_the_touched_rows_alone(samples):
    above = OutputConfig("lsh", budget=8, loss="softmax", lsh=LSHConfig(k=3, l=2))
    config = NetworkConfig(full(UNITS), above, OptimizerConfig(lazy="sparse"))
    net = Network(N_FEATURES, N_LABELS, config)
    before = state_of(net)
    net.train_batch(batch_of(samples, config))
    after = state_of(net)
    unused = np.setdiff1d(np.arange(N_FEATURES), samples[0].indices)
    assert np.array_equal(after["hidden.0.weights"][unused], before["hidden.0.weights"][unused])
    assert (after["hidden.0.last_step"] > 0).sum() == N_FEATURES - len(unused)
    asleep = after["output.last_step"] == 0
    assert asleep.any()
    for name in ("weights", "bias", "m", "v"):
        assert np.array_equal(after[f"output.{name}"][asleep], before[f"output.{name}"][asleep])
        assert not np.array_equal(after[f"output.{name}"], before[f"output.{name}"])


# --- The estimate of the softmax's denominator


@pytest.mark.parametrize("candidates", ["uniform", "inbatch"])
def test_corrected_sum_is_unbiased(rng, monkeypatch, candidates):
    """Over many batches the shared neurons' corrected sum of exponentials has the true sum as its mean."""
    above = OutputConfig(candidates, tail=15, loss="softmax")
    config = NetworkConfig(full(8), above, OptimizerConfig("sgd", lr=1e-30), normalize=False)
    net = Network(10, 80, config, threads=1)
    frequency = rng.random(80) * 0.1 + 0.01
    net.output.set_label_frequency(frequency)
    probe = rng.normal(size=8)
    exponentials = np.exp(net.output.table.weights.astype(np.float64) @ probe)
    sums = []
    shared_logits = output.shared_logits

    def spied_logits(table, ids, offsets, *rest):
        sums.append((exponentials[ids] * np.exp(offsets.astype(np.float64))).sum())
        shared_logits(table, ids, offsets, *rest)

    monkeypatch.setattr(output, "shared_logits", spied_logits)
    empty = np.zeros(0, np.int32), np.zeros(0, np.float32)
    for _ in range(1500):
        Y = csr_matrix(rng.random((6, 80)) < frequency)
        net.train_batch(Batch(np.zeros(7, np.int64), *empty, Y.indptr.astype(np.int64), Y.indices))
    error = np.std(sums, ddof=1) / np.sqrt(len(sums))
    assert error < 0.05 * exponentials.sum()
    assert abs(np.mean(sums) - exponentials.sum()) < 4 * error


# --- Prediction


@pytest.fixture
def untrained(rng):
    net = Network(N_FEATURES, N_LABELS, NetworkConfig(HiddenConfig(UNITS)))
    randomise_biases(net, rng)
    return net


@pytest.mark.parametrize("block", [5, 12, 4096])
@pytest.mark.parametrize("excluding", [False, True])
def test_predictions_are_the_best_of_all_labels(rng, untrained, samples, monkeypatch, block, excluding):
    monkeypatch.setattr(topk, "PREDICT_BLOCK", block)
    X = samples[0]
    scores = Twin(untrained, samples).scores({})
    exclude = None
    if excluding:
        exclude = sparse(rng, (12, N_LABELS + 10), 0.3)
        scores[exclude.toarray()[:, :N_LABELS] > 0] = -np.inf
    ids, predicted = untrained.predict(X, 6, exclude=exclude)
    order = np.argsort(-scores, axis=1)[:, :6]
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_allclose(predicted, np.take_along_axis(scores, order, axis=1), rtol=1e-5)
    assert (ids.dtype, predicted.dtype) == (np.int32, np.float32)


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize("hidden", DEEP.values(), ids=DEEP)
def test_every_unit_is_computed_in_prediction(rng, samples, hidden, activation, trainable):
    hidden = tuple(dataclasses.replace(layer, activation=activation) for layer in hidden)
    net = Network(N_FEATURES, N_LABELS, NetworkConfig(hidden), trainable=trainable)
    randomise_biases(net, rng)
    scores = Twin(net, samples).scores({})
    ids, predicted = net.predict(samples[0], N_LABELS)
    expected = np.take_along_axis(scores, ids, axis=1)
    np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-4 * np.abs(scores).max())
    assert np.array_equal(np.sort(ids, axis=1), np.tile(np.arange(N_LABELS), (12, 1)))
