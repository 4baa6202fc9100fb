"""A network whose batches read few rows, against one that steps all its parameters; clipping; settling."""

import dataclasses
import threading

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from slide import Network
from slide.config import HiddenConfig, LSHConfig, NetworkConfig, OptimizerConfig, OutputConfig, TrainingConfig
from slide.data import make_extreme
from slide.data.batches import BatchReader
from slide.lsh.index import NeuronIndex

N_POINTS, N_FEATURES, N_LABELS, BATCH = 240, 60, 50, 8


@pytest.fixture(scope="module")
def data():
    return make_extreme(N_POINTS, N_FEATURES, N_LABELS)


def make(candidates="lsh", layers=1, *, threads=1, hidden=None, **optimizer):
    hidden = hidden or tuple(HiddenConfig(units, dropout=0.0) for units in (20, 24)[:layers])
    output = OutputConfig(candidates, "none", budget=12, loss="softmax", lsh=LSHConfig(k=2, l=4))
    config = NetworkConfig(hidden, output, OptimizerConfig(**{"lr": 5e-3} | optimizer))
    return Network(N_FEATURES, N_LABELS, config, threads=threads)


def batches(data, count, size=BATCH, *, skip=0):
    """The batches in the order of the data, again and again; each is valid until the next."""
    reader = BatchReader(data.X, data.Y, size, normalize=True)
    for i in range(skip, skip + count):
        first = i * size % N_POINTS
        yield reader.read(np.arange(first, first + size))


def parameters(net):
    layers = [*((layer.name, layer) for layer in net.hidden), ("output", net.output)]
    return {f"{name}.{part}": layer.state()[part] for name, layer in layers for part in ("weights", "bias")}


def everything(net):
    return [view.copy() for layer in net.layers for view in layer.state().values()]


@pytest.fixture
def found(monkeypatch):
    """The ids that samples of the last batch drew from the tables."""
    seen, draw = [], NeuronIndex.draw

    def spied(self, *arguments):
        rows = draw(self, *arguments)
        seen[:] = [rows.flat[first:last].copy() for first, last in zip(rows.begin, rows.end, strict=True)]
        return rows

    monkeypatch.setattr(NeuronIndex, "draw", spied)
    return seen


class Twin:
    """Full hidden layers and a softmax over given labels, in float64, under a dense optimizer."""

    def __init__(self, net):
        self.optimizer, self.depth = net.config.optimizer, len(net.hidden)
        self.w = {name: view.astype(np.float64) for name, view in parameters(net).items()}
        self.m = {name: np.zeros_like(view) for name, view in self.w.items()}
        self.v = {name: np.zeros_like(view) for name, view in self.w.items()}
        self.steps = 0

    def gradients(self, batch, active):
        n = len(batch)
        X = csr_matrix((batch.values, batch.indices, batch.indptr), (n, N_FEATURES)).toarray().astype(np.float64)
        Y = csr_matrix((np.ones(len(batch.labels)), batch.labels, batch.label_ptr), (n, N_LABELS)).toarray()
        inputs = [X]
        for i in range(self.depth):
            weights = self.w[f"hidden.{i}.weights"]
            inputs.append(np.maximum(inputs[-1] @ (weights.T if i else weights) + self.w[f"hidden.{i}.bias"], 0))
        logits = inputs[-1] @ self.w["output.weights"].T + self.w["output.bias"]
        logits = np.where(active | (Y > 0), logits, -np.inf)
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        counts = Y.sum(axis=1, keepdims=True)
        delta = np.where(counts > 0, p - Y / np.maximum(counts, 1), 0) / (counts > 0).sum()
        out = {"output.weights": delta.T @ inputs[-1], "output.bias": delta.sum(axis=0)}
        down = delta @ self.w["output.weights"]
        for i in reversed(range(self.depth)):
            delta = np.where(inputs[i + 1] > 0, down, 0)
            out[f"hidden.{i}.weights"] = delta.T @ inputs[i] if i else inputs[i].T @ delta
            out[f"hidden.{i}.bias"] = delta.sum(axis=0)
            down = delta @ self.w[f"hidden.{i}.weights"] if i else None
        return out

    def train(self, batch, active, factor):
        """Take one step; return the norm of the gradient."""
        c, lr = self.optimizer, self.optimizer.lr * factor
        gradients = self.gradients(batch, active)
        norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
        scale = min(1.0, c.clip_norm / norm) if c.clip_norm else 1.0
        self.steps += 1
        for name, gradient in gradients.items():
            w, m, v = self.w[name], self.m[name], self.v[name]
            if name.endswith("weights"):
                w *= 1 - lr * c.weight_decay
            if c.name == "sgd":
                w -= lr * scale * gradient
                continue
            m[...] = c.beta1 * m + (1 - c.beta1) * scale * gradient
            v[...] = c.beta2 * v + (1 - c.beta2) * (scale * gradient) ** 2
            root = np.sqrt(v / (1 - c.beta2**self.steps)) + c.eps
            w -= lr * m / (1 - c.beta1**self.steps) / root
        return norm


def train_both(net, data, found, count):
    """Train a network and its twin on the same labels of the same batches; return both and the gradients' norms."""
    twin, norms = Twin(net), []
    for i, batch in enumerate(batches(data, count)):
        factor = 1 - i / count
        stats = net.train_batch(batch, lr_factor=factor)
        active = np.zeros((len(batch), N_LABELS), bool)
        if net.config.output.candidates == "inbatch":
            active[:, batch.labels] = True
        for sample, ids in enumerate(found):
            active[sample, ids] = True
        assert not active.all()
        norms.append((stats.gradient_norm, twin.train(batch, active, factor)))
    return twin, norms


def assert_same(net, twin):
    net.settle()
    for name, view in parameters(net).items():
        np.testing.assert_allclose(view, twin.w[name], rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("candidates", ["lsh", "inbatch"])
@pytest.mark.parametrize("weight_decay", [0.0, 1.0])
def test_exact_is_a_dense_network(data, found, candidates, layers, weight_decay):
    # An eps of the size of small gradients: a weight whose gradient is rounding alone would else move by a full step.
    net = make(candidates, layers, lazy="exact", weight_decay=weight_decay, eps=1e-4, lr=2e-3)
    twin, _ = train_both(net, data, found, 150)
    assert_same(net, twin)


@pytest.mark.parametrize("candidates", ["lsh", "inbatch"])
def test_sgd_with_weight_decay_is_a_dense_network(data, found, candidates):
    net = make(candidates, 2, name="sgd", lr=0.1, weight_decay=0.1)
    twin, _ = train_both(net, data, found, 60)
    assert_same(net, twin)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("candidates", ["lsh", "inbatch"])
@pytest.mark.parametrize("optimizer", [{"name": "sgd", "lr": 0.5}, {"lazy": "exact", "eps": 1e-4}], ids=["sgd", "adam"])
def test_gradients_are_clipped(data, found, candidates, layers, optimizer):
    net = make(candidates, layers, clip_norm=0.24, **optimizer)
    twin, norms = train_both(net, data, found, 40)
    measured, expected = np.array(norms).T
    np.testing.assert_allclose(measured, expected, rtol=1e-3)
    assert (measured > 0.24).any()
    assert (measured < 0.24).any()
    assert_same(net, twin)


SAMPLED_40 = HiddenConfig(40, "relu", "lsh", 9, LSHConfig(k=2, l=4), dropout=0.0)
SAMPLED = {
    "features": (SAMPLED_40,),
    "full, sampled": (HiddenConfig(20, dropout=0.0), SAMPLED_40),
    "sampled, sampled": (SAMPLED_40, dataclasses.replace(SAMPLED_40, units=30)),
}


@pytest.mark.parametrize("hidden", SAMPLED.values(), ids=SAMPLED)
def test_a_clipped_step_is_the_plain_one_scaled(data, hidden):
    """With SGD, and whatever the layers: the step's length is the learning rate times the norm clipped to."""
    batch = next(batches(data, 1))
    moved = []
    for clip in (None, 1e9, 0.01):
        net = make("lsh+tail", hidden=hidden, name="sgd", lr=1.0, clip_norm=clip)
        before = {name: view.astype(np.float64) for name, view in parameters(net).items()}
        stats = net.train_batch(batch)
        moved.append(np.concatenate([(view - before[name]).ravel() for name, view in parameters(net).items()]))
        assert (stats.gradient_norm is None) == (clip is None)
    assert np.array_equal(moved[0], moved[1])
    np.testing.assert_allclose(np.linalg.norm(moved[0]), stats.gradient_norm, rtol=1e-4)
    np.testing.assert_allclose(moved[2], moved[0] * 0.01 / stats.gradient_norm, atol=1e-7)


@pytest.mark.parametrize("hidden", SAMPLED.values(), ids=SAMPLED)
@pytest.mark.parametrize("lazy", ["exact", "decay"])
def test_sampled_layers_settle_and_learn(data, hidden, lazy):
    net = make("lsh+tail", hidden=hidden, lazy=lazy, weight_decay=0.01)
    losses = [net.train_batch(batch).loss for batch in batches(data, 90)]
    assert np.mean(losses[-30:]) < np.mean(losses[:30])
    net.settle()
    for layer in net.layers:
        assert (layer.table.last_step == 90).all()


# --- Settling


@pytest.mark.parametrize("optimizer", [{"lazy": "exact"}, {"lazy": "sparse", "weight_decay": 0.1}])
@pytest.mark.parametrize("act", ["predict", "layer_inputs", "evaluate", "save"])
def test_reading_settles_once(data, tmp_path, optimizer, act):
    net = make(**optimizer)
    for batch in batches(data, 10):
        net.train_batch(batch)
    stale = everything(net)
    actions = {
        "predict": lambda: net.predict(data.X),
        "layer_inputs": lambda: net.layer_inputs(data.X),
        "evaluate": lambda: net.evaluate(data.X, data.Y),
        "save": lambda: net.save(tmp_path / "net"),
    }
    actions[act]()
    settled = everything(net)
    assert not all(np.array_equal(one, other) for one, other in zip(stale, settled, strict=True))
    actions[act]()
    net.settle()
    assert all(np.array_equal(one, other) for one, other in zip(settled, everything(net), strict=True))


@pytest.mark.parametrize("lazy", ["decay", "sparse"])
def test_there_may_be_nothing_to_settle(data, lazy):
    net = make(lazy=lazy)
    for batch in batches(data, 10):
        net.train_batch(batch)
    before = everything(net)
    net.settle()
    assert all(np.array_equal(one, other) for one, other in zip(before, everything(net), strict=True))


def test_evaluation_on_the_way_does_not_change_the_result(data):
    results = []
    for validation in (None, (data.X, data.Y)):
        net = make("lsh+tail", lazy="exact", weight_decay=0.1)
        net.fit(data.X, data.Y, config=TrainingConfig(epochs=3, batch_size=BATCH), validation=validation)
        results.append(everything(net))
        assert net.optimizer.owed() is None
    assert all(np.array_equal(one, other) for one, other in zip(*results, strict=True))


def test_threads_do_not_change_the_bits(data):
    results = []
    for threads in (1, 2, 4):
        net = make("lsh+tail", 2, threads=threads, lazy="exact", weight_decay=0.1, clip_norm=0.5)
        norms = [net.train_batch(batch).gradient_norm for batch in batches(data, 30, 40)]
        net.settle()
        results.append([*everything(net), np.array(norms)])
    assert all(np.array_equal(*pair) for other in results[1:] for pair in zip(results[0], other, strict=True))


def test_prediction_from_several_threads_settles_once(data):
    net, alone = (make("inbatch", lazy="exact", weight_decay=0.1, threads=2) for _ in range(2))
    for batch in batches(data, 20):
        net.train_batch(batch)
        alone.train_batch(batch)
    start, answers = threading.Barrier(6), []

    def predict():
        start.wait(30)
        answers.append(net.predict(data.X))

    workers = [threading.Thread(target=predict) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    ids, scores = alone.predict(data.X)
    assert len(answers) == 6
    assert all(np.array_equal(answer[0], ids) and np.array_equal(answer[1], scores) for answer in answers)


@pytest.mark.parametrize(
    "optimizer",
    [
        {"lazy": "exact", "weight_decay": 0.1},
        {"lazy": "decay"},
        {"lazy": "decay", "weight_decay": 0.1},
        {"lazy": "sparse", "weight_decay": 0.1, "clip_norm": 0.5},
        {"name": "sgd", "weight_decay": 0.1},
        {"name": "adagrad", "weight_decay": 0.1},
    ],
)
def test_training_resumes_to_the_same_bits(data, tmp_path, optimizer):
    net = make("inbatch", **optimizer)
    for batch in batches(data, 30):
        net.train_batch(batch)
    net.save(tmp_path / "net", moments=True)
    back = Network.load(tmp_path / "net", threads=1)
    assert back.step == 30
    for one in (net, back):
        for batch in batches(data, 30, skip=30):
            one.train_batch(batch)
        one.settle()
    assert all(np.array_equal(*pair) for pair in zip(everything(net), everything(back), strict=True))
