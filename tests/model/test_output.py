"""The output layer on its own: what it keeps, what it computes, and what it needs to be told."""

import dataclasses

import numpy as np
import pytest

from slide.config import CANDIDATES, LSHConfig, OutputConfig
from slide.data.batches import Batch
from slide.kernels import optim
from slide.kernels.sparse import SampleGradient
from slide.model.output import OutputLayer
from slide.rows.activations import Activations, Ragged
from slide.rows.passes import Pass
from slide.rows.storage import Storage
from slide.system.buffers import Buffers

BASE = {"candidates": "lsh+tail", "budget": 10, "tail": 8, "loss": "softmax", "lsh": LSHConfig(k=2, l=4)}


def output_layer(n_labels=50, dim=20, moments=0, seed=0, **fields):
    config = OutputConfig(**BASE | fields)
    layer = OutputLayer(n_labels, dim, config, Storage(moments), seed, Buffers(), 1)
    layer.make_index()
    if layer.index is not None:
        layer.index.rebuild(0, 1)
    return layer


def batch(n_labels=50, *, samples=4):
    """Samples with two features and up to two labels each."""
    features = np.arange(2 * samples, dtype=np.int32)
    labels = np.array([[1, n_labels - 1]] * (samples - 1), np.int32).ravel()
    label_ptr = np.append(np.arange(0, 2 * samples, 2), 2 * (samples - 1))
    ptr = np.arange(0, 2 * samples + 1, 2)
    return Batch(ptr, features, np.ones(2 * samples, np.float32), label_ptr, labels)


def train(layer, labels=None, *, iteration=0):
    hidden = np.ones((4, 32), np.float32)
    hidden[:, layer.table.dim :] = 0
    labels = labels or batch(layer.table.n_rows)
    gradient = SampleGradient(4, 32)
    signal, now = Activations(hidden, None, None), Pass(optim.sgd(0.1, 1), iteration, 1)
    stats = layer.forward(labels, signal, now)
    layer.step(signal, gradient, now)
    return stats


def test_output_starts_with_the_spread_of_the_dimension():
    weights = output_layer(2000, 64).table.weights
    assert np.abs(weights).max() == pytest.approx(1 / 8, rel=1e-3)


@pytest.mark.parametrize(("moments", "extra"), [(0, []), (2, ["m", "v", "bias_m", "bias_v"])])
def test_state(moments, extra):
    state = output_layer(moments=moments).state()
    assert sorted(state) == sorted(["weights", "bias", "last_step", *extra])
    assert state["bias"].shape == (50,)


def test_state_is_the_layer_itself():
    layer = output_layer(moments=2)
    for view in layer.state().values():
        view[:] = 3
    assert all((view == 3).all() for view in layer.state().values())


@pytest.mark.parametrize("candidates", CANDIDATES)
def test_tables_are_made_where_they_are_used(candidates):
    assert (output_layer(candidates=candidates).index is not None) == candidates.startswith("lsh")


@pytest.mark.parametrize("candidates", ["lsh+tail", "lsh+inbatch", "inbatch", "uniform", "topk+tail"])
def test_correction_needs_the_labels_frequencies(candidates):
    layer = output_layer(candidates=candidates)
    with pytest.raises(RuntimeError, match="needs set_label_frequency"):
        train(layer)
    train(output_layer(candidates=candidates, correction="none"))
    layer.set_label_frequency(np.full(50, 0.1))
    train(layer)


@pytest.mark.parametrize(
    "frequency", [np.zeros(49), np.zeros((50, 1)), np.full(50, -0.1), np.full(50, 1.1), np.full(50, np.nan)]
)
def test_frequencies_are_checked(frequency):
    with pytest.raises(ValueError, match="frequency must be 50 shares from 0 to 1"):
        output_layer().set_label_frequency(frequency)


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("candidates", ["lsh+tail", "inbatch"])
def test_frequencies_at_the_ends_are_safe(candidates, share):
    layer = output_layer(candidates=candidates)
    layer.set_label_frequency(np.full(50, share))
    assert np.isfinite(train(layer).loss)
    assert np.isfinite(layer.table.weights).all()


@pytest.mark.parametrize(
    ("candidates", "low", "high"),
    [("lsh", 2, 10), ("inbatch", 2, 2), ("uniform", 3, 10), ("topk", 10, 10), ("topk+tail", 11, 20), ("full", 50, 50)],
)
def test_number_of_active_neurons(candidates, low, high):
    layer = output_layer(candidates=candidates, correction="none")
    assert low <= train(layer).active <= high


def test_uniform_sample_changes_with_the_iteration():
    active = []
    for iteration in (0, 0, 1):
        layer = output_layer(candidates="uniform", correction="none", tail=20)
        train(layer, iteration=iteration)
        active.append(np.flatnonzero(layer.table.last_step).tolist())
    assert active[0] == active[1] != active[2]


@pytest.mark.parametrize("n_labels", [1, 2, 5])
@pytest.mark.parametrize("candidates", CANDIDATES)
def test_fewer_labels_than_the_budget(candidates, n_labels):
    layer = output_layer(n_labels, candidates=candidates, budget=1000)
    layer.set_label_frequency(np.full(n_labels, 0.5))
    one_label = dataclasses.replace(
        batch(), label_ptr=np.array([0, 1, 1, 2, 2]), labels=np.array([0, n_labels - 1], np.int32)
    )
    stats = train(layer, one_label)
    assert np.isfinite(stats.loss)
    assert stats.active <= n_labels


def test_more_labels_than_the_budget():
    layer = output_layer(candidates="lsh", budget=1)
    train(layer)
    assert set(np.flatnonzero(layer.table.last_step)) >= {1, 49}


def test_precision_is_that_of_the_best_active_neuron():
    layer = output_layer(candidates="full")
    layer.table.bias[49] = 100
    stats = train(layer)
    assert stats.precision == 1
    layer.table.bias[7] = 200
    assert train(layer).precision == 0


def test_a_sparse_signal_is_read_as_the_dense_one_is():
    """The same vectors with their non-zero columns named give the same step."""
    moved = []
    dense = np.zeros((4, 96), np.float32)
    dense[:, 3] = np.arange(1, 5)
    columns = Ragged(np.full(4, 3, np.int32), np.arange(4), np.arange(1, 5))
    for signal in (Activations(dense, columns, dense[:, 3].copy()), Activations(dense, None, None)):
        layer = output_layer(dim=96, candidates="lsh")
        before = layer.table.weights.copy()
        now = Pass(optim.sgd(0.1, 1), 0, 1)
        layer.forward(batch(), signal, now)
        layer.step(signal, SampleGradient(4, 96), now)
        moved.append(before - layer.table.weights)
    assert moved[0].any()
    np.testing.assert_allclose(moved[0], moved[1], rtol=1e-5, atol=1e-7)


def test_search_finds_the_labels_and_the_best_of_the_others():
    layer = output_layer(candidates="topk", budget=6)
    layer.table.bias[[5, 9, 20, 33, 1]] = [9, 8, 7, 6, 30]
    train(layer)
    # The three samples with labels 1 and 49 have room for four others, the last one, of no label, for six.
    touched = set(np.flatnonzero(layer.table.last_step))
    assert {1, 49, 5, 9, 20, 33} <= touched
    assert len(touched) <= 8


@pytest.mark.parametrize("candidates", ["topk", "topk+tail"])
def test_search_with_faults_lets_them_reach_the_loss(candidates):
    layer = output_layer(candidates=candidates, correction="none")
    layer.table.weights[:] = np.nan
    assert np.isnan(train(layer).loss)


@pytest.mark.parametrize("candidates", ["uniform", "lsh+tail", "topk+tail"])
def test_labels_of_others_are_active_only_if_shared(candidates):
    one_each = np.arange(1, 5, dtype=np.int32)
    samples = Batch(np.arange(5), one_each, np.ones(4, np.float32), np.arange(5), one_each)
    active = []
    for share_labels in (True, False):
        layer = output_layer(1000, candidates=candidates, share_labels=share_labels, tail=1, budget=1)
        layer.set_label_frequency(np.full(1000, 0.01))
        active.append(train(layer, samples).active)
        assert set(np.flatnonzero(layer.table.last_step)) >= {1, 2, 3, 4}
    assert active == [5, 2]


def test_biases_of_bce_start_at_the_labels_log_odds():
    frequency = np.linspace(0, 1, 50)
    layer = output_layer(loss="bce")
    layer.set_label_frequency(frequency, samples=100)
    expected = np.clip(frequency, 0.005, 0.995)
    np.testing.assert_allclose(layer.table.bias, np.log(expected / (1 - expected)), rtol=1e-5, atol=1e-6)


def test_biases_start_nowhere_else():
    softmax = output_layer()
    softmax.set_label_frequency(np.full(50, 0.1))
    assert not softmax.table.bias.any()
    given = output_layer(loss="bce")
    given.table.bias[3] = 1
    given.set_label_frequency(np.full(50, 0.1))
    assert np.count_nonzero(given.table.bias) == 1
    trained = output_layer(loss="bce", candidates="lsh")
    train(trained)
    trained.table.bias[:] = 0
    trained.set_label_frequency(np.full(50, 0.1))
    assert not trained.table.bias.any()


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_weights_of_labels_multiply_their_terms(loss):
    """With all weights 2 the loss doubles, but for what one-vs-all negatives add to it."""
    losses = []
    for weights in (np.zeros(50), np.ones(50), np.full(50, 2.0)):
        layer = output_layer(candidates="full", loss=loss)
        layer.set_label_weights(weights)
        losses.append(train(layer).loss)
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-5)
    assert (losses[0] == 0) == (loss == "softmax")


def test_weights_by_propensity_must_be_set():
    layer = output_layer(candidates="lsh", label_weights="propensity")
    with pytest.raises(RuntimeError, match="label weights by propensity need set_label_weights"):
        train(layer)
    layer.set_label_weights(np.ones(50))
    train(layer)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e-9, 1e39])
def test_weights_are_checked(value):
    layer = output_layer()
    weights = np.ones(50)
    weights[4] = value
    with pytest.raises(ValueError, match=r"label_weights must be finite and 0 or more, got .* for label 4"):
        layer.set_label_weights(weights)
    with pytest.raises(ValueError, match=r"one for each of 50 labels, got shape \(50, 1\)"):
        layer.set_label_weights(weights[:, None])
