"""The two layers on their own: what they keep, and what they need to be told."""

import dataclasses

import numpy as np
import pytest

from slide.buffers import Buffers
from slide.config import CANDIDATES, HiddenConfig, LSHConfig, OutputConfig
from slide.data.batches import Batch
from slide.kernels import optim
from slide.kernels.sparse import SampleGradient
from slide.layers import InputLayer, SampledLayer


def input_layer(n_features=30, units=20, moments=2, activation="relu", seed=0):
    return InputLayer(n_features, HiddenConfig(units, activation), moments, seed, Buffers(), 1)


def sampled_layer(n_labels=50, dim=20, moments=0, seed=0, **fields):
    config = OutputConfig(**{"budget": 10, "tail": 8, "lsh": LSHConfig(k=2, l=4)} | fields)
    layer = SampledLayer(n_labels, dim, config, moments, seed, Buffers(), 1)
    layer.make_index()
    if layer.index is not None:
        layer.index.rebuild(0, 1)
    return layer


def batch(n_labels=50, *, points=4):
    """Points with two features and up to two labels each."""
    features = np.arange(2 * points, dtype=np.int32)
    labels = np.array([[1, n_labels - 1]] * (points - 1), np.int32).ravel()
    label_ptr = np.append(np.arange(0, 2 * points, 2), 2 * (points - 1))
    ptr = np.arange(0, 2 * points + 1, 2)
    return Batch(ptr, features, np.ones(2 * points, np.float32), label_ptr, labels)


def train(layer, *, iteration=0, dim=32):
    hidden = np.ones((4, dim), np.float32)
    hidden[:, layer.table.dim :] = 0
    gradient = SampleGradient(4, dim)
    return layer.train(batch(layer.table.n_rows), hidden, gradient, optim.sgd(0.1, 1), iteration, 1)


@pytest.mark.parametrize("units", [1, 16, 100])
def test_hidden_vector_starts_at_about_unit_length(units):
    weights = input_layer(2000, units).table.weights
    assert (weights.astype(np.float64) ** 2).sum(axis=1).mean() == pytest.approx(1, rel=0.1)


def test_output_starts_with_the_spread_of_the_dimension():
    weights = sampled_layer(2000, 64).table.weights
    assert np.abs(weights).max() == pytest.approx(1 / 8, rel=1e-3)


@pytest.mark.parametrize(("moments", "extra"), [(0, []), (2, ["m", "v", "bias_m", "bias_v"])])
def test_state_of_the_input_layer(moments, extra):
    state = input_layer(moments=moments).state()
    assert sorted(state) == sorted(["weights", "bias", "last_step", *extra])
    assert state["weights"].shape == (30, 20)
    assert all(state[name].shape == (20,) for name in state if name.startswith("bias"))


@pytest.mark.parametrize(("moments", "extra"), [(0, []), (2, ["m", "v", "bias_m", "bias_v"])])
def test_state_of_the_sampled_layer(moments, extra):
    state = sampled_layer(moments=moments).state()
    assert sorted(state) == sorted(["weights", "bias", "last_step", *extra])
    assert state["bias"].shape == (50,)


@pytest.mark.parametrize("make", [input_layer, sampled_layer])
def test_state_is_the_layer_itself(make):
    layer = make(moments=2)
    for view in layer.state().values():
        view[:] = 3
    assert all((view == 3).all() for view in layer.state().values())


@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_forward_of_the_input_layer(activation):
    layer = input_layer(activation=activation)
    layer.state()["bias"][:] = np.linspace(-1, 1, 20)
    out = np.full((4, layer.padded_dim), np.nan, np.float32)
    layer.forward(batch(), out, 2)
    expected = layer.table.weights[:8].reshape(4, 2, 20).sum(axis=1) + layer.state()["bias"]
    if activation == "relu":
        expected = np.maximum(expected, 0)
    np.testing.assert_allclose(out[:, :20], expected, rtol=1e-5, atol=1e-6)
    assert not out[:, 20:].any()


def test_step_of_the_input_layer():
    layer = input_layer(moments=0)
    before = layer.table.weights.copy()
    dhidden = np.arange(4 * 32, dtype=np.float32).reshape(4, 32)
    layer.step(batch(), dhidden, optim.sgd(0.5, 1), 1)
    moved = before - layer.table.weights
    np.testing.assert_allclose(moved[:8], 0.5 * np.repeat(dhidden[:, :20], 2, axis=0), rtol=1e-5, atol=1e-5)
    assert not moved[8:].any()
    np.testing.assert_allclose(layer.state()["bias"], -0.5 * dhidden[:, :20].sum(axis=0))


@pytest.mark.parametrize("candidates", CANDIDATES)
def test_tables_are_made_where_they_are_used(candidates):
    assert (sampled_layer(candidates=candidates).index is not None) == candidates.startswith("lsh")


@pytest.mark.parametrize("candidates", ["lsh+tail", "lsh+inbatch", "inbatch", "uniform"])
def test_correction_needs_the_labels_frequencies(candidates):
    layer = sampled_layer(candidates=candidates)
    with pytest.raises(RuntimeError, match="needs set_label_frequency"):
        train(layer)
    train(sampled_layer(candidates=candidates, correction="none"))
    layer.set_label_frequency(np.full(50, 0.1))
    train(layer)


@pytest.mark.parametrize(
    "frequency", [np.zeros(49), np.zeros((50, 1)), np.full(50, -0.1), np.full(50, 1.1), np.full(50, np.nan)]
)
def test_frequencies_are_checked(frequency):
    with pytest.raises(ValueError, match="frequency must be 50 shares from 0 to 1"):
        sampled_layer().set_label_frequency(frequency)


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("candidates", ["lsh+tail", "inbatch"])
def test_frequencies_at_the_ends_are_safe(candidates, share):
    layer = sampled_layer(candidates=candidates)
    layer.set_label_frequency(np.full(50, share))
    assert np.isfinite(train(layer).loss)
    assert np.isfinite(layer.table.weights).all()


@pytest.mark.parametrize(
    ("candidates", "low", "high"), [("lsh", 2, 10), ("inbatch", 2, 2), ("uniform", 3, 10), ("full", 50, 50)]
)
def test_number_of_active_neurons(candidates, low, high):
    layer = sampled_layer(candidates=candidates, correction="none")
    assert low <= train(layer).active <= high


def test_uniform_sample_changes_with_the_iteration():
    active = []
    for iteration in (0, 0, 1):
        layer = sampled_layer(candidates="uniform", correction="none", tail=20)
        train(layer, iteration=iteration)
        active.append(np.flatnonzero(layer.table.last_step).tolist())
    assert active[0] == active[1] != active[2]


@pytest.mark.parametrize("n_labels", [1, 2, 5])
@pytest.mark.parametrize("candidates", CANDIDATES)
def test_fewer_labels_than_the_budget(candidates, n_labels):
    layer = sampled_layer(n_labels, candidates=candidates, budget=1000)
    layer.set_label_frequency(np.full(n_labels, 0.5))
    one_label = dataclasses.replace(
        batch(), label_ptr=np.array([0, 1, 1, 2, 2]), labels=np.array([0, n_labels - 1], np.int32)
    )
    hidden = np.ones((4, 32), np.float32)
    stats = layer.train(one_label, hidden, SampleGradient(4, 32), optim.sgd(0.1, 1), 0, 1)
    assert np.isfinite(stats.loss)
    assert stats.active <= n_labels


def test_more_labels_than_the_budget():
    layer = sampled_layer(candidates="lsh", budget=1)
    train(layer)
    assert set(np.flatnonzero(layer.table.last_step)) >= {1, 49}


def test_precision_is_that_of_the_best_active_neuron():
    layer = sampled_layer(candidates="full")
    layer.table.bias[49] = 100
    stats = train(layer)
    assert stats.precision == 1
    layer.table.bias[7] = 200
    assert train(layer).precision == 0
