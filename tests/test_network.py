"""The network as a whole: its repeatability, its predictions, its life and what it refuses."""

import dataclasses
import itertools
import threading
import tracemalloc

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from small_networks import (
    N_FEATURES,
    N_LABELS,
    UNITS,
    batch_of,
    full,
    layers_of,
    make_samples,
    sampled,
    state_of,
)

from slide.config import (
    HiddenConfig,
    LSHConfig,
    NetworkConfig,
    OptimizerConfig,
    OutputConfig,
    RehashConfig,
    TrainingConfig,
)
from slide.data import DataError, make_extreme
from slide.data.batches import BatchReader
from slide.network import Network


@pytest.fixture
def rng():
    return np.random.default_rng(20)


@pytest.fixture
def samples(rng):
    return make_samples(rng)


def sgd_config(candidates, **changes):
    above = OutputConfig(candidates, budget=12, tail=20, loss="softmax", lsh=LSHConfig(k=2, l=5))
    defaults = {"hidden": full(UNITS), "output": above, "optimizer": OptimizerConfig("sgd", lr=64.0)}
    return NetworkConfig(**defaults | changes)


# --- One seed, one result


@pytest.fixture(scope="module")
def extreme():
    return make_extreme(3000, 2000, 20_000, seed=1)


def trained(data, candidates, *, threads, seed=0, batches=200, hidden=(), **fields):
    fields = {"budget": 300, "tail": 256, "loss": "softmax", "lsh": LSHConfig(l=8)} | fields
    above, sparse_steps = OutputConfig(candidates, **fields), OptimizerConfig(lazy="sparse")
    net = Network(2000, 20_000, NetworkConfig(hidden or full(32), above, sparse_steps, seed=seed), threads=threads)
    net.fit(data.X, data.Y, config=TrainingConfig(epochs=100, batch_size=64, max_batches=batches))
    return state_of(net)


@pytest.mark.parametrize("candidates", ["lsh", "lsh+tail", "full"])
def test_weights_do_not_depend_on_threads(extreme, candidates):
    one, two = (trained(extreme, candidates, threads=threads) for threads in (1, 2))
    for name in one:
        assert np.array_equal(one[name], two[name]), name


@pytest.mark.parametrize(
    ("candidates", "fields"),
    [
        ("lsh+tail", {"loss": "bce", "label_smoothing": 0.01, "tail_power": 0.5}),
        ("topk+tail", {"label_smoothing": 0.1, "share_labels": False}),
        ("full", {"loss": "bce", "label_weights": "propensity"}),
    ],
    ids=["bce", "topk", "full bce"],
)
def test_weights_with_other_losses_do_not_depend_on_threads(extreme, candidates, fields):
    one, two = (trained(extreme, candidates, threads=threads, batches=30, **fields) for threads in (1, 2))
    for name in one:
        assert np.array_equal(one[name], two[name]), name


@pytest.mark.parametrize(
    "hidden",
    [(sampled(300, 40), sampled(500, 10), sampled(200, 30)), (full(100), full(200), sampled(300, 40))],
    ids=["sampled", "full below"],
)
def test_weights_of_three_layers_do_not_depend_on_threads(extreme, hidden):
    options = {"batches": 100, "hidden": hidden}
    one, two = (trained(extreme, "lsh", threads=threads, **options) for threads in (1, 2))
    for name in one:
        assert np.array_equal(one[name], two[name]), name
        assert one[name].any(), name


def test_same_seed_same_weights(extreme):
    first, again, other = (
        trained(extreme, "lsh+tail", threads=1, seed=seed, batches=20) for seed in (3, 3, 4)
    )
    for name in first:
        assert np.array_equal(first[name], again[name]), name
        # Every row that a step touches has the same last step, whatever the seed.
        assert name.endswith("last_step") or not np.array_equal(first[name], other[name]), name


# --- Prediction


@pytest.fixture
def untrained(rng):
    net = Network(N_FEATURES, N_LABELS, NetworkConfig(HiddenConfig(UNITS)))
    for layer in layers_of(net).values():
        bias = layer.state()["bias"]
        bias[:] = rng.normal(size=len(bias))
    return net


def test_predict_takes_any_matrix(untrained, samples):
    X = samples[0]
    expected = untrained.predict(X, 3)[0]
    for other in (X.toarray(), X.tocsc(), X.tocoo(), X.astype(np.float64)):
        assert np.array_equal(untrained.predict(other, 3)[0], expected)


def test_more_predictions_than_labels(untrained, samples):
    ids, scores = untrained.predict(samples[0], N_LABELS + 2)
    assert np.array_equal(np.sort(ids[:, :N_LABELS], axis=1), np.tile(np.arange(N_LABELS), (12, 1)))
    assert (ids[:, N_LABELS:] == -1).all()
    assert np.isneginf(scores[:, N_LABELS:]).all()


def test_predicting_nothing(untrained):
    ids, scores = untrained.predict(csr_matrix((0, N_FEATURES), dtype=np.float32), 3)
    assert ids.shape == scores.shape == (0, 3)


def test_predict_refuses(untrained, samples):
    X = samples[0]
    with pytest.raises(ValueError, match="X has 39 features, the network 40"):
        untrained.predict(X[:, :39])
    with pytest.raises(ValueError, match="k must be 1 or more, got 0"):
        untrained.predict(X, 0)
    with pytest.raises(ValueError, match="exclude has 11 rows for 12 samples"):
        untrained.predict(X, 3, exclude=samples[1][:11])
    with pytest.raises(DataError, match="not finite"):
        untrained.predict(np.full((1, N_FEATURES), np.nan))


def test_predictions_do_not_depend_on_threads(samples):
    predicted = [Network(N_FEATURES, N_LABELS, threads=threads).predict(samples[0], 9) for threads in (1, 2)]
    assert all(np.array_equal(a, b) for a, b in zip(*predicted, strict=True))


def test_evaluate(untrained, samples):
    X, Y = samples
    quality = untrained.evaluate(X, Y, ks=[1, 3])
    ids = untrained.predict(X, 3)[0]
    hits = np.take_along_axis(Y.toarray(), ids, axis=1)
    assert quality["P@1"] == pytest.approx(hits[:, 0].mean())
    assert quality["P@3"] == pytest.approx(hits.mean())
    assert any(name.startswith("PSP") for name in untrained.evaluate(X, Y, inv_propensity=np.ones(N_LABELS)))
    with pytest.raises(ValueError, match="Y has 59 labels, the network 60"):
        untrained.evaluate(X, Y[:, :59])


def test_masked_inputs_are_not_predicted(samples):
    """A recommender's items are features and labels alike."""
    items = samples[1]
    net = Network(N_LABELS, N_LABELS)
    held = items.toarray() > 0
    ids = net.predict(items, N_LABELS, exclude=items)[0]
    assert not any(held[sample, ids[sample][ids[sample] >= 0]].any() for sample in range(12))
    assert net.evaluate(items, items, ks=[5], mask_inputs=True)["P@5"] == 0


# --- Life of a network


def test_a_network_for_prediction_alone(samples):
    full, light = Network(N_FEATURES, N_LABELS), Network(N_FEATURES, N_LABELS, trainable=False)
    assert np.array_equal(light.predict(samples[0])[0], full.predict(samples[0])[0])
    assert sum(line["bytes"] for line in light.memory_report()) < sum(
        line["bytes"] for line in full.memory_report()
    )
    with pytest.raises(RuntimeError, match="it can only predict"):
        light.train_batch(batch_of(samples, light.config))


def test_memory_report_names_what_is_large(samples):
    net = Network(N_FEATURES, N_LABELS, NetworkConfig(full(UNITS), OutputConfig("lsh+tail")))
    net.output.set_label_frequency(np.full(N_LABELS, 0.1))
    names = {line["name"] for line in net.memory_report()}
    tables = {"output table codes", "output table offsets", "output table ids"}
    of_labels = {"output places", "output label frequency"}
    assert names == {"hidden.0 weights", "output weights"} | tables | of_labels
    net.train_batch(batch_of(samples, net.config))
    assert {line["name"] for line in net.memory_report()} - names == {
        "hidden.0 output",
        "hidden.0 gradient",
        "hidden.0 gradient sum",
        "hidden.0 pairs",
        "output candidates",
        "output corrections",
        "output label places",
        "output losses",
        "output shared candidates",
        "output pairs",
        "output logits",
        "output shared logits",
    }


@pytest.mark.parametrize("candidates", ["uniform", "lsh", "lsh+tail"])
def test_later_batches_allocate_next_to_nothing(extreme, candidates):
    """What a batch needs is kept for the next: one array of a number a pair, which is 2**18 bytes, would be more."""
    above = OutputConfig(candidates, budget=600, tail=200, loss="softmax", lsh=LSHConfig(k=4, l=10))
    net = Network(extreme.n_features, extreme.n_labels, NetworkConfig(full(64), above), threads=1)
    net.output.set_label_frequency(np.full(extreme.n_labels, 1e-3))
    reader = net.reader(extreme.X, extreme.Y, 128)
    rows = np.arange(128)
    for _ in range(4):
        net.train_batch(reader.read(rows))
    tracemalloc.start()
    try:
        net.train_batch(reader.read(rows))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**17


def test_memory_report_names_every_layer(samples):
    config = sgd_config("full", hidden=(full(20), sampled(50, 20), full(24)))
    net = Network(N_FEATURES, N_LABELS, config)
    net.train_batch(batch_of(samples, config))
    names = [line["name"].split(" ", 1) for line in net.memory_report()]
    assert len(set(map(tuple, names))) == len(names)
    every = {"weights", "output", "gradient", "gradient sum"}
    pairs = {"pairs", "candidates", "logits", "deltas", "table codes", "table offsets", "table ids"}
    for layer, expected in [("hidden.0", every | {"pairs"}), ("hidden.1", every | pairs), ("hidden.2", every)]:
        assert {what for name, what in names if name == layer} == expected


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("candidates", ["lsh", "inbatch"])
@pytest.mark.parametrize("layers", [kinds for n in (1, 2, 3) for kinds in itertools.product("fs", repeat=n)])
def test_bytes_needed_are_those_of_the_report(layers, candidates, optimizer):
    hidden = tuple(full(20 + 9 * i) if kind == "f" else sampled(50 + 90 * i, 9) for i, kind in enumerate(layers))
    config = sgd_config(candidates, hidden=hidden, optimizer=OptimizerConfig(optimizer))
    net = Network(N_FEATURES, N_LABELS, config)
    net.output.set_label_frequency(np.full(N_LABELS, 0.1))
    report = {line["name"]: line["bytes"] for line in net.memory_report()}
    needed = Network.bytes_needed(N_FEATURES, N_LABELS, config)
    for name, size in needed.items():
        layer, what = name.split(" ", 1)
        parts = [f"{layer} table {part}" for part in ("codes", "offsets", "ids")] if what == "tables" else [name]
        assert size == sum(report.pop(part) for part in parts), name
    assert not report


def test_batches_may_grow_and_shrink(samples):
    config = sgd_config("lsh+tail", optimizer=OptimizerConfig(lr=1e-3))
    reader = BatchReader(*samples, 12, normalize=True)
    net = Network(N_FEATURES, N_LABELS, config)
    net.output.set_label_frequency(np.full(N_LABELS, 0.1))
    for n in (3, 12, 1, 7):
        assert np.isfinite(net.train_batch(reader.read(np.arange(n))).loss)
    assert net.step == 4


def rehashing(rehash):
    """A network of two layers whose tables are rebuilt by that configuration."""
    hidden = dataclasses.replace(sampled(50, 20), rehash=rehash)
    above = OutputConfig("lsh", budget=20, loss="softmax", lsh=LSHConfig(l=5), rehash=rehash)
    return Network(N_FEATURES, N_LABELS, NetworkConfig(hidden, above, OptimizerConfig(lr=0.02, lazy="sparse")))


def train(net, samples, batches):
    """Train on the same batch again and again; return the losses."""
    return [net.train_batch(batch_of(samples, net.config)).loss for _ in range(batches)]


def test_tables_follow_the_schedule(samples):
    net = rehashing(RehashConfig(period=3, decay=0))
    train(net, samples, 10)
    assert net.hidden[0].index.rebuilds == net.output.index.rebuilds == 4
    seconds = net.hidden[0].index.rebuild_seconds + net.output.index.rebuild_seconds
    assert net.rehash_seconds == pytest.approx(seconds)
    assert seconds > 0


@pytest.mark.parametrize(("drift", "rebuilds"), [(0.0, 4), (1.0, 1)])
def test_tables_follow_the_drift_of_the_weights(samples, drift, rebuilds):
    net = rehashing(RehashConfig("drift", period=3, drift=drift))
    train(net, samples, 10)
    assert net.hidden[0].index.rebuilds == net.output.index.rebuilds == rebuilds


def test_new_functions_are_drawn_and_training_goes_on(samples):
    net = rehashing(RehashConfig("fixed", period=3, renew=2))
    losses = train(net, samples, 6)
    before = [layer.index.hasher for layer in layers_of(net).values()]
    losses += train(net, samples, 3)
    after = [layer.index.hasher for layer in layers_of(net).values()]
    assert not any(one is other for one, other in zip(before, after, strict=True))
    losses += train(net, samples, 31)
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_weights_are_copied_and_put_back(samples):
    net = rehashing(RehashConfig("fixed", period=1))
    train(net, samples, 5)
    weights, expected = net.copy_weights(), net.predict(samples[0])
    train(net, samples, 5)
    for layer in layers_of(net).values():
        layer.table.last_step[:] = 0  # As if the tables had been rebuilt after the last step.
    before = state_of(net)
    assert not np.array_equal(net.predict(samples[0])[1], expected[1])
    net.set_weights(weights)
    for found, wanted in zip(net.predict(samples[0]), expected, strict=True):
        assert np.array_equal(found, wanted)
    for name, array in state_of(net).items():
        assert np.array_equal(array, weights.get(name, before[name]))
    assert net.step == 10
    for layer in layers_of(net).values():
        codes = np.empty_like(layer.index.codes)
        layer.index.hasher.hash(layer.table.weights, codes, 1)
        assert np.array_equal(layer.index.codes, codes)


def test_weights_that_are_put_back_owe_nothing(samples):
    config = NetworkConfig(full(UNITS), OutputConfig("inbatch"), OptimizerConfig(lr=0.1, lazy="exact"))
    net = Network(N_FEATURES, N_LABELS, config, threads=1)
    net.output.set_label_frequency(np.full(N_LABELS, 0.1))
    reader = BatchReader(*samples, 4, normalize=True)
    net.train_batch(reader.read(np.arange(4)))
    weights = net.copy_weights()
    expected = net.predict(samples[0])[1]
    # Rows that only the first samples read are now a step behind.
    net.train_batch(reader.read(np.arange(8, 12)))
    net.set_weights(weights)
    assert np.array_equal(net.predict(samples[0])[1], expected)
    for name, array in net.copy_weights().items():
        assert np.array_equal(array, weights[name])


def test_a_learning_rate_for_one_batch(samples):
    nets = [
        Network(N_FEATURES, N_LABELS, sgd_config("full", optimizer=OptimizerConfig("sgd", lr=lr)))
        for lr in (2.0, 0.5)
    ]
    nets[0].train_batch(batch_of(samples, nets[0].config), lr_factor=0.25)
    nets[1].train_batch(batch_of(samples, nets[1].config))
    one, other = (state_of(net) for net in nets)
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_overflow_is_told_and_leaves_the_network_unlocked(samples):
    config = sgd_config("full", optimizer=OptimizerConfig("sgd", lr=1000.0), normalize=False)
    net = Network(N_FEATURES, N_LABELS, config)
    X = samples[0] * np.float32(1e20)
    for _ in range(2):
        with pytest.raises(FloatingPointError, match=r"features reach \S+ at step 1; .*NetworkConfig\.normalize"):
            for _ in range(50):
                net.train_batch(batch_of((X, samples[1]), config))


def test_one_thread_trains_at_a_time(samples, monkeypatch):
    net = Network(N_FEATURES, N_LABELS, sgd_config("full"))
    forward, inside, go_on = net.hidden[0].forward, threading.Event(), threading.Event()

    def slow_forward(*arguments):
        inside.set()
        assert go_on.wait(30)
        return forward(*arguments)

    monkeypatch.setattr(net.hidden[0], "forward", slow_forward)
    thread = threading.Thread(target=net.train_batch, args=(batch_of(samples, net.config),))
    thread.start()
    try:
        assert inside.wait(30)
        with pytest.raises(RuntimeError, match="another thread is in train_batch"):
            net.train_batch(batch_of(samples, net.config))
    finally:
        go_on.set()
        thread.join()
    assert net.step == 1


@pytest.mark.parametrize(("n_features", "n_labels"), [(0, 5), (5, 0), (-1, 5), (2**31, 5)])
def test_sizes_out_of_range(n_features, n_labels):
    with pytest.raises(ValueError, match=r"n_(features|labels) must be between 1 and"):
        Network(n_features, n_labels)


def test_repr():
    assert repr(Network(10, 2000)) == "Network(10 features, 256 hidden units, 2,000 labels, 0 steps)"
    deep = Network(10, 20, NetworkConfig((full(8), full(9))))
    assert repr(deep) == "Network(10 features, 8 + 9 hidden units, 20 labels, 0 steps)"


def test_the_largest_seed():
    config = NetworkConfig(sampled(50, 20), seed=2**63 - 1)
    assert Network(10, 20, config).output.seed == 2**63
