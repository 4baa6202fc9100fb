"""Networks trained without locks, against the same trained by grouped rows."""

from dataclasses import replace

import numpy as np
import pytest
from small_networks import N_FEATURES, N_LABELS, full, layers_of, sampled, state_of

from slide import Network
from slide.config import ConfigError, LSHConfig, NetworkConfig, OptimizerConfig, OutputConfig, TrainingConfig
from slide.data import make_extreme
from slide.data.batches import BatchReader

LAYERS = {"one": full(32), "two": (full(32), full(48)), "sampled": (full(32), sampled(500, 9), full(20))}


def config_of(candidates="lsh", hidden="one", *, output=None, update="hogwild", seed=0, **optimizer):
    above = {"budget": 24, "tail": 16, "loss": "softmax", "lsh": LSHConfig(k=2, l=4)} | (output or {})
    rest = {"optimizer": OptimizerConfig(**{"lr": 5e-3} | optimizer), "update": update, "seed": seed}
    return NetworkConfig(LAYERS[hidden], OutputConfig(candidates, **above), **rest)


@pytest.fixture(scope="module")
def data():
    return make_extreme(600, N_FEATURES, N_LABELS, test_samples=200, seed=1)


def trained(data, config, *, threads=1, batches=12, size=24):
    net = Network(N_FEATURES, N_LABELS, config, threads=threads)
    net.output.set_label_frequency(np.full(N_LABELS, 0.1))
    reader = BatchReader(data.X, data.Y, size, normalize=True)
    for i in range(batches):
        first = i * size % 480
        stats = net.train_batch(reader.read(np.arange(first, first + size)))
    net.settle()
    return net, stats


SETTINGS = {
    "lsh": {},
    "bce": {"output": {"loss": "bce"}},
    "tail": {"candidates": "lsh+tail"},
    "features-alone": {"candidates": "uniform"},
    "own-labels": {"candidates": "uniform", "output": {"share_labels": False}},
    "topk": {"candidates": "topk"},
    "full": {"candidates": "full"},
    "two-layers": {"hidden": "two"},
    "sampled-layer": {"hidden": "sampled"},
    "sgd": {"name": "sgd", "lr": 2.0},
    "adagrad": {"name": "adagrad", "lr": 0.1},
    "decay": {"lazy": "decay"},
    "sparse": {"lazy": "sparse"},
    "weight-decay": {"weight_decay": 0.1},
    "clipped": {"clip_norm": 0.05},
}


@pytest.mark.parametrize("fields", SETTINGS.values(), ids=SETTINGS)
def test_one_thread_is_grouped_training_to_rounding(data, fields):
    # An eps that is not tiny keeps Adam from blowing up the rounding of gradients that are all but zero.
    fields = {"eps": 1e-3} | fields
    (grouped, expected), (net, stats) = (
        trained(data[0], config_of(update=update, **fields))
        for update in ("grouped", "hogwild")
    )
    assert stats.loss == pytest.approx(expected.loss, rel=1e-5)
    if "clip_norm" in fields:
        assert stats.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-5)
    state = state_of(net)
    for name, value in state_of(grouped).items():
        assert np.abs(state[name] - value).max() <= 1e-5 * max(1, np.abs(value).max()), name


def test_one_thread_repeats_itself(data):
    one, again = (state_of(trained(data[0], config_of("lsh+tail"))[0]) for _ in range(2))
    for name in one:
        assert np.array_equal(one[name], again[name]), name


def test_two_threads_learn_what_one_does():
    """Weights end where grouped training takes them, to a tenth of how far they went; so does quality."""
    train, test = make_extreme(1500, 300, 400, test_samples=500, seed=2)
    output = OutputConfig("lsh", budget=64, loss="softmax", lsh=LSHConfig(l=8))
    grouped = NetworkConfig(full(64), output, OptimizerConfig("sgd", lr=4.0))
    nets = {}
    for threads, config in ((2, grouped), (2, replace(grouped, update="hogwild"))):
        net = nets[config.update] = Network(300, 400, config, threads=threads)
        before = {name: layer.table.weights.copy() for name, layer in layers_of(net).items()}
        net.fit(train.X, train.Y, config=TrainingConfig(epochs=3, batch_size=128, eval_points=0))
    for name, start in before.items():
        one, other = (layers_of(net)[name].table.weights for net in nets.values())
        assert np.linalg.norm(one - start) > 0.1
        assert np.linalg.norm(other - one) <= 0.1 * np.linalg.norm(one - start), name
    quality = {update: net.evaluate(test.X, test.Y, ks=[1])["P@1"] for update, net in nets.items()}
    assert quality["hogwild"] == pytest.approx(quality["grouped"], abs=0.06)


@pytest.mark.parametrize("candidates", ["lsh", "inbatch", "uniform"])
@pytest.mark.parametrize("hidden", LAYERS)
def test_gradients_are_accounted_for(hidden, candidates):
    config = config_of(candidates, hidden)
    needed = Network.bytes_needed(N_FEATURES, N_LABELS, config)
    report = {line["name"]: line["bytes"] for line in Network(N_FEATURES, N_LABELS, config).memory_report()}
    without = Network.bytes_needed(N_FEATURES, N_LABELS, replace(config, update="grouped"))
    extra = {name for name in needed if name not in without}
    sums = {"hidden.0": True, "hidden.1": hidden == "sampled", "output": candidates == "lsh"}
    expected = [name for name, has_them in sums.items() if has_them]
    assert extra == {f"{name} row gradients" for name in expected}
    for name in expected:
        assert needed[f"{name} row gradients"] == report[f"{name} row gradients"] + report[f"{name} row stamps"]
    trained = Network.bytes_needed(N_FEATURES, N_LABELS, config, trainable=False)
    assert not any("row gradients" in name for name in trained)


def test_prediction_alone_needs_no_gradients(data, tmp_path):
    net, _ = trained(data[0], config_of())
    net.save(tmp_path / "net")
    loaded = Network.load(tmp_path / "net")
    assert loaded.config.update == "hogwild"
    assert not any("gradient" in line["name"] for line in loaded.memory_report())
    assert np.array_equal(loaded.predict(data[1].X)[0], net.predict(data[1].X)[0])


def test_a_sampled_layer_on_the_features_is_refused():
    with pytest.raises(ConfigError, match=r"NetworkConfig\.update must be 'grouped' where the first hidden layer's"):
        NetworkConfig(sampled(50, 9), update="hogwild")


@pytest.mark.parametrize("precision", ["bf16", "bf16-moments"])
def test_rows_in_half_the_bytes_are_refused(precision):
    with pytest.raises(ConfigError, match=rf"precision must be 'fp32' where update is 'hogwild', got '{precision}'"):
        NetworkConfig(precision=precision, update="hogwild")
