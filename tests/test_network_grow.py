"""Networks that labels are added to."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix, hstack
from small_networks import N_FEATURES, N_LABELS, batch_of, full, make_samples, sampled, state_of

from slide import Network, NetworkConfig, OutputConfig
from slide.config import LSHConfig, OptimizerConfig

MORE = N_LABELS + 7
MODES = ("uniform", "lsh+tail", "lsh", "inbatch", "topk+tail", "full")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def config_of(candidates="uniform", loss="bce", hidden=None, **optimizer):
    lsh = LSHConfig(k=2, l=4)
    output = OutputConfig(candidates=candidates, loss=loss, budget=20, tail=16, lsh=lsh)
    return NetworkConfig(hidden=hidden or full(20), output=output, optimizer=OptimizerConfig(lr=0.05, **optimizer))


def with_more_labels(samples):
    """The same samples, the first of which have the new labels as well."""
    X, Y = samples
    new = np.zeros((Y.shape[0], MORE - Y.shape[1]), np.float32)
    new[np.arange(new.shape[1]), np.arange(new.shape[1])] = 1
    return X, csr_matrix(hstack([Y, csr_matrix(new)]), dtype=np.float32)


def trained(samples, config, steps=3):
    network = Network(N_FEATURES, N_LABELS, config, threads=1)
    Y = samples[1]
    network.output.set_label_frequency(np.bincount(Y.indices, minlength=N_LABELS) / Y.shape[0], samples=Y.shape[0])
    for _ in range(steps):
        network.train_batch(batch_of(samples, config))
    return network


@pytest.mark.parametrize("candidates", MODES)
@pytest.mark.parametrize("loss", ["bce", "softmax"])
def test_what_was_learnt_stays_and_training_goes_on(rng, candidates, loss):
    samples = make_samples(rng)
    config = config_of(candidates, loss)
    network = trained(samples, config)
    scores = dict(zip(*(part[0].tolist() for part in network.predict(samples[0], N_LABELS)), strict=True))
    before = state_of(network)
    network.grow(MORE)
    after = state_of(network)
    assert network.n_labels == MORE
    for name, array in before.items():
        np.testing.assert_array_equal(after[name][: len(array)], array, err_msg=name)
    grown = dict(zip(*(part[0].tolist() for part in network.predict(samples[0], MORE)), strict=True))
    np.testing.assert_allclose([grown[label] for label in scores], list(scores.values()), rtol=1e-5, atol=1e-6)
    frequency = network.output._shared.frequency
    np.testing.assert_array_equal(frequency[N_LABELS:], 0)
    stats = network.train_batch(batch_of(with_more_labels(samples), config))
    assert np.isfinite(stats.loss)
    assert (network.output.table.last_step[N_LABELS:] == network.step).all()


@pytest.mark.parametrize("hidden", [full(20), (sampled(64, 16), full(20))])
def test_untrained_network_is_as_if_made_larger(hidden):
    config = config_of(hidden=hidden)
    grown, made = Network(N_FEATURES, N_LABELS, config, threads=1), Network(N_FEATURES, MORE, config, threads=1)
    grown.grow(MORE)
    for name, array in state_of(made).items():
        np.testing.assert_array_equal(state_of(grown)[name], array, err_msg=name)


@pytest.mark.parametrize("loss", ["bce", "softmax"])
def test_new_labels_take_nobodys_place(rng, loss):
    samples = make_samples(rng)
    network = trained(samples, config_of(loss=loss), steps=60)
    labelled = np.diff(samples[1].indptr) > 0
    before, _ = network.predict(samples[0][labelled], 1)
    network.grow(MORE)
    after, _ = network.predict(samples[0][labelled], 1)
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize(
    "optimizer", [{}, {"lazy": "decay"}, {"weight_decay": 0.1}, {"name": "sgd"}, {"name": "adagrad"}]
)
def test_rows_pay_before_growing_what_they_would_pay_later(rng, optimizer):
    samples = make_samples(rng)
    config = config_of(**optimizer)
    network, settled = trained(samples, config), trained(samples, config)
    network.grow(MORE)
    settled.settle()
    for name, array in state_of(settled).items():
        np.testing.assert_array_equal(state_of(network)[name][: len(array)], array, err_msg=name)
    network.settle()
    np.testing.assert_array_equal(state_of(network)["output.weights"][:N_LABELS], state_of(settled)["output.weights"])


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
@pytest.mark.parametrize("precision", ["bf16", "bf16-moments"])
def test_rows_in_half_the_bytes_grow_too(rng, precision, optimizer):
    samples, config = make_samples(rng), replace(config_of(name=optimizer), precision=precision)
    network = trained(samples, config)
    network.settle()
    before = state_of(network)
    network.grow(MORE)
    for name, array in before.items():
        np.testing.assert_array_equal(state_of(network)[name][: len(array)], array, err_msg=name)
    assert network.output.table.precision == precision
    assert np.isfinite(network.train_batch(batch_of(with_more_labels(samples), config)).loss)


def test_threads_change_nothing(rng):
    samples = make_samples(rng)
    states = []
    for threads in (1, 3):
        network = trained(samples, config_of("lsh+tail"))
        network.threads = threads
        network.grow(MORE)
        network.train_batch(batch_of(with_more_labels(samples), network.config))
        states.append(state_of(network))
    for name, array in states[0].items():
        np.testing.assert_array_equal(states[1][name], array, err_msg=name)


def test_label_weights_of_new_labels_are_one(rng):
    network = trained(make_samples(rng), config_of())
    network.output.set_label_weights(np.full(N_LABELS, 2.0))
    network.grow(MORE)
    np.testing.assert_array_equal(network.output._label_weights, [2] * N_LABELS + [1] * (MORE - N_LABELS))


def test_seconds_spent_on_tables_are_kept(rng):
    network = trained(make_samples(rng), config_of("lsh+tail"))
    spent = network.rehash_seconds
    network.grow(MORE)
    assert network.rehash_seconds == spent > 0


def test_saved_after_growing(rng, tmp_path):
    network = trained(make_samples(rng), config_of())
    network.grow(MORE)
    network.save(tmp_path / "grown", moments=True)
    loaded = Network.load(tmp_path / "grown", threads=1)
    for name, array in state_of(network).items():
        np.testing.assert_array_equal(state_of(loaded)[name], array, err_msg=name)


def test_same_number_changes_nothing(rng):
    network = trained(make_samples(rng), config_of())
    output = network.output
    network.grow(N_LABELS)
    assert network.output is output


def test_refusals(rng):
    network = trained(make_samples(rng), config_of())
    with pytest.raises(ValueError, match=r"has 60 labels already; grow\(\) cannot make it 59"):
        network.grow(N_LABELS - 1)
    with pytest.raises(RuntimeError, match="can only predict"):
        Network(N_FEATURES, N_LABELS, trainable=False).grow(MORE)
