"""Networks that store bfloat16, and networks that train by Adagrad."""

from dataclasses import replace

import numpy as np
import pytest
from small_networks import N_FEATURES, N_LABELS, batch_of, full, layers_of, make_samples, sampled, state_of

from slide import HiddenConfig, LSHConfig, Network, NetworkConfig, OptimizerConfig, OutputConfig, TrainingConfig
from slide.data import make_extreme
from slide.kernels.bfloat16 import BFloat16View, narrow, widen
from slide.lsh.diagnostics import diagnose

PRECISIONS = ("bf16-moments", "bf16")
ONE_LAYER = full(40)


@pytest.fixture(scope="module")
def data():
    train, test = make_extreme(1500, 300, 200, test_samples=300, seed=2)
    return train, test


def config_of(precision="fp32", candidates="uniform", hidden=(ONE_LAYER,), **optimizer):
    lsh = LSHConfig(k=3, l=8)
    output = OutputConfig(candidates, tail=64, budget=32, lsh=lsh)
    return NetworkConfig(hidden, output, OptimizerConfig(**optimizer), precision=precision)


def train(data, config, *, threads=1, epochs=4):
    net = Network(data.n_features, data.n_labels, config, threads=threads)
    training = TrainingConfig(epochs=epochs, batch_size=64, eval_points=0)
    return net, net.fit(data.X, data.Y, config=training)


@pytest.mark.parametrize("optimizer", [{}, {"name": "adagrad", "lr": 0.1}, {"weight_decay": 0.1, "clip_norm": 1.0}])
def test_training_follows_float32(data, optimizer):
    losses, qualities = {}, {}
    for precision in ("fp32", *PRECISIONS):
        net, history = train(data[0], config_of(precision, **optimizer))
        losses[precision] = history.epochs[-1].loss
        qualities[precision] = net.evaluate(data[1].X, data[1].Y, ks=[1])["P@1"]
    first = train(data[0], config_of(**optimizer), epochs=1)[1].epochs[0].loss
    assert losses["fp32"] < 0.8 * first
    assert qualities["fp32"] > 0.2
    for precision in PRECISIONS:
        assert losses[precision] == pytest.approx(losses["fp32"], rel=0.03)
        assert qualities[precision] == pytest.approx(qualities["fp32"], abs=0.06)


@pytest.mark.parametrize("name", ["adam", "adagrad"])
@pytest.mark.parametrize("candidates", ["uniform", "lsh+tail"])
def test_weights_are_the_same_at_any_number_of_threads(data, candidates, name):
    config = config_of("bf16", candidates, name=name)
    nets = [train(data[0], config, threads=threads, epochs=1)[0] for threads in (1, 2)]
    first, second = (state_of(net) for net in nets)
    for part, view in first.items():
        assert np.array_equal(view, second[part]), part


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("hidden", [(full(20),), (sampled(30, 9), full(20)), (full(24), sampled(30, 9))])
def test_every_layer_trains_and_predicts(precision, hidden):
    samples = make_samples(np.random.default_rng(1))
    config = config_of(precision, "lsh+tail", hidden)
    net = Network(N_FEATURES, N_LABELS, config)
    net.output.set_label_frequency(np.full(N_LABELS, 0.1))
    before = state_of(net)
    losses = [net.train_batch(batch_of(samples, config)).loss for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    for name, layer in layers_of(net).items():
        for part, view in layer.state().items():
            is_narrow = part in ("m", "v") or (part == "weights" and precision == "bf16")
            assert isinstance(view, BFloat16View) == is_narrow
            if part != "last_step":
                assert not np.array_equal(np.asarray(view), before[f"{name}.{part}"]), (name, part)
    _, scores = net.predict(samples[0], 3)
    assert np.isfinite(scores).all()
    logits = net.layer_inputs(samples[0])[-1].dense[:, : net.output.table.dim] @ np.asarray(net.output.table.weights).T
    np.testing.assert_allclose(scores, np.sort(logits + net.output.table.bias)[:, :-4:-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adagrad"])
def test_memory(optimizer):
    hidden, sizes = (HiddenConfig(256),), {}
    for precision in ("fp32", *PRECISIONS):
        config = config_of(precision, hidden=hidden, name=optimizer)
        sizes[precision] = Network.bytes_needed(500, 900, config)
        net = Network(500, 900, config)
        net.output.set_label_frequency(np.full(900, 0.1))
        report = {line["name"]: line["bytes"] for line in net.memory_report()}
        assert all(report[name] == size for name, size in sizes[precision].items())
    for name, rows in (("hidden.0 weights", 500), ("output weights", 900)):
        wide, moments, narrow = (sizes[precision][name] - 64 * rows for precision in ("fp32", *PRECISIONS))
        assert wide == rows * 256 * 4 * (3 if optimizer == "adam" else 1)
        assert narrow == wide / 2
        assert moments == wide * (2 / 3 if optimizer == "adam" else 1)


@pytest.mark.parametrize("precision", ["fp32", *PRECISIONS])
@pytest.mark.parametrize("name", ["adam", "adagrad"])
def test_training_goes_on_from_a_checkpoint(tmp_path, precision, name):
    samples = make_samples(np.random.default_rng(1))
    config = config_of(precision, hidden=(full(20),), name=name)
    net = Network(N_FEATURES, N_LABELS, config)
    net.output.set_label_frequency(np.full(N_LABELS, 0.1))
    for _ in range(5):
        net.train_batch(batch_of(samples, config))
    net.save(tmp_path / "net", moments=True)
    assert np.load(tmp_path / "net" / "output.weights.npy").dtype == np.float32
    loaded = Network.load(tmp_path / "net")
    loaded.output.set_label_frequency(np.full(N_LABELS, 0.1))
    assert loaded.config == config
    for again in (net, loaded):
        again.train_batch(batch_of(samples, config))
        again.settle()
    expected = state_of(net)
    for part, view in state_of(loaded).items():
        np.testing.assert_array_equal(view, expected[part], err_msg=part)


def test_weights_copied_and_set(data):
    net, _ = train(data[0], config_of("bf16", "lsh"), epochs=1)
    weights = net.copy_weights()
    assert all(array.dtype == np.float32 for array in weights.values())
    other = Network(data[0].n_features, data[0].n_labels, net.config)
    other.set_weights(weights)
    for part, array in other.copy_weights().items():
        np.testing.assert_array_equal(array, weights[part])
    codes = np.empty_like(other.output.index.codes)
    other.output.index.hasher.hash(weights["output.weights"], codes, 1)
    assert np.array_equal(other.output.index.codes, codes)


def test_tables_follow_the_weights(data):
    net, _ = train(data[0], config_of("bf16", "lsh"), epochs=1)
    index = net.output.index
    index.rebuild(net.step, 1)
    assert index.drift(1) == 0
    rows = np.array([3, 40, 77], np.int32)
    net.output.table.weights[rows] *= -1
    net.output.table.last_step[:] = 0
    net.output.table.last_step[rows] = net.step + 1
    index.rebuild(net.step + 1, 1)
    codes = np.empty_like(index.codes)
    index.hasher.hash(np.asarray(net.output.table.weights), codes, 1)
    assert np.array_equal(index.codes, codes)
    query = np.asarray(net.output.table.weights[5])
    assert index.collision_probability(query)[5] == pytest.approx(1, abs=1e-3)
    assert diagnose(index, net.layer_inputs(data[0].X[:20])[-1], budget=32).neurons == data[0].n_labels


def test_starts_are_those_of_float32_rounded(data):
    given = np.random.default_rng(0).normal(size=(data[0].n_labels, 40)).astype(np.float32)
    config = config_of("bf16")
    net = Network(data[0].n_features, data[0].n_labels, config)
    net.initialize(labels=given)
    np.testing.assert_array_equal(net.output.table.weights, widen(narrow(given)))
    means = {}
    for precision in ("fp32", "bf16"):
        config = replace(config_of(precision), output=OutputConfig(init="mean"))
        net = Network(data[0].n_features, data[0].n_labels, config)
        training = TrainingConfig(max_batches=1, batch_size=8, eval_points=0)
        net.fit(data[0].X, data[0].Y, config=training)
        means[precision] = np.asarray(net.output.table.weights)
    assert np.abs(means["bf16"] - means["fp32"]).max() < 0.05 * np.abs(means["fp32"]).max()


def test_predicting_networks_keep_no_optimiser_state():
    config = config_of("bf16", hidden=(full(20),), name="adagrad")
    net = Network(N_FEATURES, N_LABELS, config, trainable=False)
    assert set(net.output.state()) == {"weights", "bias", "last_step"}
