"""Every kind of hidden layer on its own: what it keeps, what it computes, and how it steps."""

import numpy as np
import pytest

from slide.config import HiddenConfig, LSHConfig
from slide.kernels import optim
from slide.kernels.dropout import drop_units
from slide.kernels.sparse import SampleGradient
from slide.model.layers import FullLayer, InputLayer, SampledLayer, make_hidden
from slide.rows.activations import Activations, Ragged
from slide.rows.passes import Pass
from slide.rows.storage import Storage
from slide.system.buffers import Buffers

N_FEATURES, DIM, UNITS, SAMPLES = 30, 24, 20, 4
RULE = optim.sgd(0.5, 1)


def make(kind, *, activation="relu", moments=0, units=UNITS, dim=DIM, seed=0, dropout=0.0):
    """A layer of 20 units that reads 30 features or 24 columns; a sample of a sampled one computes 6."""
    reads_features = kind in ("input", "sampled features")
    candidates = "lsh" if "sampled" in kind else "full"
    config = HiddenConfig(units, activation, candidates, budget=6, lsh=LSHConfig(k=2, l=4), dropout=dropout)
    dim = N_FEATURES if reads_features and dim == DIM else dim
    rest = Storage(moments), seed, Buffers(), 1
    layer = make_hidden("hidden.0", dim, config, *rest, reads_features=reads_features)
    layer.make_index()
    if layer.index is not None:
        layer.index.rebuild(0, 1)
    return layer


KINDS = {"input": InputLayer, "full": FullLayer, "sampled": SampledLayer, "sampled features": SampledLayer}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def signal_for(kind, rng):
    """What a layer of that kind reads, and the same as a dense array of its dimension."""
    if kind in ("input", "sampled features"):
        columns = np.stack([rng.permutation(N_FEATURES)[:3] for _ in range(SAMPLES)]).astype(np.int32)
        values = rng.normal(size=columns.shape).astype(np.float32)
        dense = np.zeros((SAMPLES, N_FEATURES), np.float32)
        np.put_along_axis(dense, columns, values, axis=1)
        begin = np.arange(0, 3 * SAMPLES, 3)
        return Activations(None, Ragged(columns.ravel(), begin, begin + 3), values.ravel()), dense
    dense = np.zeros((SAMPLES, 32), np.float32)
    dense[:, :DIM] = rng.normal(size=(SAMPLES, DIM))
    return Activations(dense, None, None), dense[:, :DIM]


@pytest.fixture
def rng():
    return np.random.default_rng(20)


def matrix(layer):
    """The layer's weights as [columns read, units]."""
    return layer.table.weights if isinstance(layer, InputLayer) else layer.table.weights.T


def sums(layer, dense):
    return dense.astype(np.float64) @ matrix(layer).astype(np.float64) + layer.state()["bias"]


def computed(layer, signal):
    """Which units each sample computed, [samples, units]."""
    if signal.columns is None:
        return np.ones((SAMPLES, UNITS), bool)
    out = np.zeros((SAMPLES, UNITS), bool)
    samples, places = signal.columns.places()
    out[samples, signal.columns.flat[places]] = True
    return out


# --- What a layer is


def test_the_configuration_decides_the_kind(kind):
    layer = make(kind)
    assert type(layer) is KINDS[kind]
    assert (layer.index is not None) == ("sampled" in kind)
    assert (layer.name, layer.padded_dim) == ("hidden.0", 32)


@pytest.mark.parametrize("units", [1, 16, 100])
def test_hidden_vector_of_features_starts_at_about_unit_length(units):
    weights = make("input", units=units, dim=2000).table.weights
    assert (weights.astype(np.float64) ** 2).sum(axis=1).mean() == pytest.approx(1, rel=0.1)


def test_hidden_vector_starts_at_about_the_length_of_what_is_read(kind, rng):
    layer = make(kind, units=4000, dim=200)
    x = rng.normal(size=(10, 200))
    lengths = np.linalg.norm(x @ matrix(layer), axis=1) / np.linalg.norm(x, axis=1)
    assert lengths.mean() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize(("moments", "extra"), [(0, []), (2, ["m", "v", "bias_m", "bias_v"])])
def test_state(kind, moments, extra):
    state = make(kind, moments=moments).state()
    assert sorted(state) == sorted(["weights", "bias", "last_step", *extra])
    shapes = {"input": (30, 20), "full": (20, 24), "sampled": (20, 24), "sampled features": (20, 30)}
    assert state["weights"].shape == shapes[kind]
    assert all(state[name].shape == (20,) for name in state if name.startswith("bias"))


def test_state_is_the_layer_itself(kind):
    layer = make(kind, moments=2)
    for view in layer.state().values():
        view[:] = 3
    assert all((view == 3).all() for view in layer.state().values())


# --- Forward and predict


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_forward_and_predict(kind, activation, threads, rng):
    layer = make(kind, activation=activation)
    layer.state()["bias"][:] = np.linspace(-1, 1, UNITS)
    signal, dense = signal_for(kind, rng)
    expected = sums(layer, dense)
    if activation == "relu":
        expected = np.maximum(expected, 0)
    out = layer.forward(signal, Pass(RULE, 0, threads))
    active = computed(layer, out)
    np.testing.assert_allclose(out.dense[:, :UNITS], np.where(active, expected, 0), rtol=1e-4, atol=1e-6)
    predicted = layer.predict(signal, threads).dense
    np.testing.assert_allclose(predicted[:, :UNITS], expected, rtol=1e-4, atol=1e-6)
    for array in (out.dense, predicted):
        assert array.shape == (SAMPLES, 32)
        assert not array[:, UNITS:].any()


@pytest.mark.parametrize("kind", ["sampled", "sampled features"])
def test_a_sampled_layer_names_the_units_it_computes(kind, rng):
    layer = make(kind)
    signal, _ = signal_for(kind, rng)
    drawn = []
    for iteration in (0, 0, 1):
        out = layer.forward(signal, Pass(RULE, iteration, 1))
        samples, places = out.columns.places()
        assert out.columns.lengths.tolist() == [6] * SAMPLES
        np.testing.assert_array_equal(out.values[places], out.dense[samples, out.columns.flat[places]])
        drawn.append(out.columns.flat[places].copy())
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_output_is_the_same_memory_for_every_batch_and_predictions_are_not(kind, rng):
    layer = make(kind)
    signal, _ = signal_for(kind, rng)
    first, second = (layer.forward(signal, Pass(RULE, iteration, 1)).dense for iteration in (0, 1))
    assert np.shares_memory(first, second)
    assert not np.shares_memory(layer.predict(signal, 1).dense, layer.predict(signal, 1).dense)


# --- Step


@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_step(kind, activation, rng):
    layer = make(kind, activation=activation)
    signal, dense = signal_for(kind, rng)
    before, bias = matrix(layer).copy(), layer.state()["bias"].copy()
    out = layer.forward(signal, Pass(RULE, 0, 1))
    dout = np.zeros((SAMPLES, 32), np.float32)
    dout[:, :UNITS] = rng.normal(size=(SAMPLES, UNITS))
    gradient = None if signal.dense is None else SampleGradient(SAMPLES, 32)
    layer.step(signal, dout, gradient, Pass(optim.sgd(0.5, 3), 0, 1))
    delta = np.where(computed(layer, out), dout[:, :UNITS], 0).astype(np.float64)
    np.testing.assert_allclose(before - matrix(layer), 0.5 * dense.T @ delta, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(bias - layer.state()["bias"], 0.5 * delta.sum(axis=0), rtol=1e-4, atol=1e-6)
    if gradient is not None:
        total = np.zeros((SAMPLES, 32), np.float32)
        gradient.sum_into(total, None, 1)
        np.testing.assert_allclose(total[:, :DIM], delta @ before.T, rtol=1e-4, atol=1e-6)
        assert not total[:, DIM:].any()


@pytest.mark.parametrize("kind", ["input", "sampled features"])
def test_features_that_are_absent_keep_their_weights(kind, rng):
    """Adam would move whatever has a moment."""
    layer = make(kind, moments=2)
    layer.table.state()["m"][:] = 1
    signal, dense = signal_for(kind, rng)
    before = matrix(layer).copy()
    layer.forward(signal, Pass(RULE, 0, 1))
    layer.step(signal, np.ones((SAMPLES, 32), np.float32), None, Pass(optim.adam(0.1, 0.9, 0.999, 1e-8, 1), 0, 1))
    moved = (matrix(layer) != before).any(axis=1)
    assert moved.tolist() == dense.any(axis=0).tolist()


# --- Dropout


def dropped(iteration, p=0.4, seed=7):
    """What dropout multiplies a layer's units by, [samples, units]."""
    factors = np.ones((SAMPLES, 32), np.float32)
    drop_units(factors, p, seed, iteration, 1)
    return factors[:, :UNITS].astype(np.float64)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_dropout_in_forward_alone(kind, activation, threads, rng):
    layer, plain = (make(kind, activation=activation, seed=7, dropout=p) for p in (0.4, 0.0))
    signal, _ = signal_for(kind, rng)
    for iteration in (0, 3):
        out, expected = (each.forward(signal, Pass(RULE, iteration, threads)) for each in (layer, plain))
        assert np.array_equal(computed(layer, out), computed(plain, expected))
        factors = dropped(iteration)
        assert 0.2 < (factors == 0).mean() < 0.6
        np.testing.assert_allclose(out.dense[:, :UNITS], factors * expected.dense[:, :UNITS], rtol=1e-6)
        assert not out.dense[:, UNITS:].any()
        if out.columns is not None:
            samples, places = out.columns.places()
            np.testing.assert_array_equal(out.values[places], out.dense[samples, out.columns.flat[places]])
    assert np.array_equal(layer.predict(signal, threads).dense, plain.predict(signal, threads).dense)


def test_mean_over_dropout_is_the_output_without(kind, rng):
    layer = make(kind, seed=7, dropout=0.4, activation="linear")
    signal, dense = signal_for(kind, rng)
    expected = sums(layer, dense)
    total, count = np.zeros((SAMPLES, UNITS)), np.zeros((SAMPLES, UNITS))
    for iteration in range(3000):
        out = layer.forward(signal, Pass(RULE, iteration, 1))
        total += out.dense[:, :UNITS]
        count += computed(layer, out)
    # Five standard errors of a mean of (value / (1 - p)) or zero; units a sample hardly ever computes say little.
    often = count > 100
    assert often.any(axis=1).all()
    error = np.abs(expected) * np.sqrt(0.4 / 0.6 / np.maximum(count, 1))
    assert (np.abs(total / np.maximum(count, 1) - expected) < 5 * error + 1e-5)[often].all()


@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_step_with_dropout(kind, activation, rng):
    """The gradient passes where the unit was neither dropped nor off, raised as the output was."""
    layer = make(kind, activation=activation, seed=7, dropout=0.4)
    signal, dense = signal_for(kind, rng)
    before = matrix(layer).copy()
    out = layer.forward(signal, Pass(RULE, 3, 1))
    off = out.dense[:, :UNITS] <= 0 if activation == "relu" else np.zeros((SAMPLES, UNITS), bool)
    dout = np.zeros((SAMPLES, 32), np.float32)
    dout[:, :UNITS] = np.where(off, 0, rng.normal(size=(SAMPLES, UNITS)))
    delta = np.where(computed(layer, out), dropped(3) * dout[:, :UNITS], 0)
    gradient = None if signal.dense is None else SampleGradient(SAMPLES, 32)
    layer.step(signal, dout, gradient, Pass(optim.sgd(0.5, 4), 3, 1))
    assert np.abs(delta).max() > 0
    np.testing.assert_allclose(before - matrix(layer), 0.5 * dense.T @ delta, rtol=1e-4, atol=1e-6)
    if gradient is not None:
        total = np.zeros((SAMPLES, 32), np.float32)
        gradient.sum_into(total, None, 1)
        np.testing.assert_allclose(total[:, :DIM], delta @ before.T, rtol=1e-4, atol=1e-6)
