"""Numerical faults: seen at once, named by layer and step, never saved, and left out where that is asked."""

import pickle

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from slide import HiddenConfig, Network, NetworkConfig, OptimizerConfig, OutputConfig, SlideClassifier, TrainingConfig
from slide.config import LSHConfig, RehashConfig
from slide.data import Dataset, make_extreme, save_npz
from slide.kernels import dtypes
from slide.kernels.bfloat16 import narrow, widen
from slide.model.faults import NumericalFault, first_not_finite
from slide.runs.history import HistoryFile, read_history
from slide.train.checkpoints import Checkpoints, SavedRun, names_in
from slide.train.tolerance import PATIENCE

N_POINTS, N_FEATURES, N_LABELS, RARE = 240, 40, 30, 39
"""RARE is a feature that a test gives to the samples that are to be at fault."""

BATCH = 20
BATCHES = N_POINTS // BATCH
TRAINING = TrainingConfig(epochs=1, batch_size=BATCH, shuffle=False, schedule="constant")
SKIPPING = TrainingConfig(epochs=1, batch_size=BATCH, shuffle=False, schedule="constant", on_fault="skip")
LSH = {"lsh": LSHConfig(k=3, l=4), "rehash": RehashConfig(period=2), "budget": 8}
SGD = OptimizerConfig("sgd", lr=0.1)


@pytest.fixture(scope="module")
def data():
    """Samples without the rare feature, and their labels."""
    samples = make_extreme(N_POINTS, N_FEATURES, N_LABELS, labels_per_sample=2)
    X = samples.X.toarray()
    X[:, RARE] = 0
    return csr_matrix(X), samples.Y


def with_rare(X, *batches, value=1.0):
    """The samples with the rare feature in the first sample of some batches."""
    X = X.toarray()
    X[[BATCH * batch for batch in batches], RARE] = value
    return csr_matrix(X)


def without(batches, *matrices):
    rows = [row for row in range(N_POINTS) if row // BATCH not in batches]
    return [matrix[rows] for matrix in matrices]


def make(candidates="uniform", *, hidden=HiddenConfig(16, dropout=0.0), optimizer=SGD, **fields):  # noqa: B008
    output = OutputConfig(candidates, tail=8, **(LSH if "lsh" in candidates else {}))
    return Network(N_FEATURES, N_LABELS, NetworkConfig(hidden, output, optimizer, **fields), threads=1)


def poison(network, layer, value, *, row=RARE, array="weights"):
    """Set the first weight of a row."""
    array = network.layers.by_name[layer].state()[array]
    if array.ndim == 1:
        array[row] = value
    else:
        array[row, 0] = value


def everything(network):
    return {
        f"{name}.{key}": np.array(array) for name, layer in network.layers.by_name.items()
        for key, array in layer.state().items()
    }


def same(one, other):
    one, other = everything(one), everything(other)
    return [name for name in one if not np.array_equal(one[name], other[name])]


TWO = (HiddenConfig(16, dropout=0.0), HiddenConfig(12, dropout=0.0, activation="linear"))
SAMPLED = (HiddenConfig(16, dropout=0.0), HiddenConfig(16, dropout=0.0, candidates="lsh", **LSH))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("layer", "hidden", "array"),
    [
        ("hidden.0", TWO, "weights"),
        ("hidden.0", TWO, "bias"),
        ("hidden.1", TWO, "weights"),
        ("hidden.1", SAMPLED, "bias"),
        ("output", TWO, "weights"),
        ("output", TWO, "bias"),
    ],
)
def test_weights_that_are_not_finite_are_found_in_the_first_batch(data, layer, hidden, array, bad):
    X, Y = data
    if hidden is SAMPLED and bad == -np.inf:
        bad = np.nan  # A ReLU takes minus infinity for nothing.
    network = make("full", hidden=hidden)
    network.fit(X, Y, config=TRAINING)
    row = 3 if array == "bias" or layer != "hidden.0" else int(X.indices[0])
    if array == "bias" and bad == -np.inf:
        poison(network, layer, bad, row=slice(None), array=array)
    else:
        poison(network, layer, bad, row=row, array=array)
    before = network.step
    with pytest.raises(NumericalFault) as caught:
        network.fit(X, Y, config=TRAINING)
    fault = caught.value
    assert (fault.layer, fault.harmless) == (layer, False)
    assert fault.step in range(before + 1, before + BATCHES + 1)
    for words in (f"layer {layer}", "not finite", "Lower the learning rate (now 0.1)", "clip_norm"):
        assert words in str(fault)


def test_a_fault_survives_a_pickle():
    fault = pickle.loads(pickle.dumps(NumericalFault("what", "output", 3, harmless=True)))
    assert (str(fault), fault.layer, fault.step, fault.harmless) == ("what", "output", 3, True)


def test_a_row_that_no_batch_reads_is_found_at_the_end_of_the_epoch(data):
    network = make()
    network.fit(*data, config=TRAINING)
    poison(network, "hidden.0", np.nan)
    with pytest.raises(NumericalFault, match=rf"after batch {BATCHES}: layer hidden\.0 .* weights \(row {RARE}\)"):
        network.fit(*data, config=TRAINING)


@pytest.mark.parametrize("array", ["m", "v", "bias_m"])
def test_moments_count(data, array):
    network = make(optimizer=OptimizerConfig("adam", lazy="sparse"))
    network.fit(*data, config=TRAINING)
    poison(network, "output", np.inf, row=2, array=array)
    with pytest.raises(NumericalFault, match="layer output"):
        network.fit(*data, config=TRAINING)


@pytest.mark.parametrize("scale", [1e16, 1e30, 3e38])
def test_huge_features_are_told_before_a_step(data, scale):
    X, Y = data
    network = make(normalize=False)
    before = everything(network)
    with pytest.raises(NumericalFault, match=r"batch 1: the batch's features reach .*normalize") as caught:
        network.fit(X * np.float32(scale), Y, config=TRAINING)
    assert (caught.value.layer, caught.value.step, network.step) == ("features", 1, 0)
    after = everything(network)
    assert np.array_equal(after["hidden.0.weights"], before["hidden.0.weights"])


def test_huge_features_are_no_matter_where_they_are_scaled(data):
    X, Y = data
    one, other = make(), make()
    one.fit(X, Y, config=TRAINING)
    other.fit(X * np.float32(2.0**100), Y, config=TRAINING)
    np.testing.assert_allclose(other.output.table.weights, one.output.table.weights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16-moments", "bf16"])
@pytest.mark.parametrize("name", ["sgd", "adam", "adagrad"])
@pytest.mark.parametrize("loss", ["bce", "softmax"])
def test_absurd_learning_rates_end_finite_or_in_a_fault(data, precision, name, loss):
    X, Y = data
    output = OutputConfig("full", loss=loss)
    config = NetworkConfig(TWO, output, OptimizerConfig(name, lr=1000.0), normalize=False, precision=precision)
    network = Network(N_FEATURES, N_LABELS, config, threads=1)
    try:
        history = network.fit(X * np.float32(1e6), Y, config=TrainingConfig(epochs=3, batch_size=BATCH))
    except NumericalFault as fault:
        assert "Lower the learning rate (now 1000)" in str(fault)
        assert fault.layer in ("hidden.0", "hidden.1", "output")
    else:
        assert all(np.isfinite(epoch.loss) for epoch in history.epochs)
        assert all(np.isfinite(array).all() for array in everything(network).values())


@pytest.mark.parametrize("most", [widen(np.array([0x7F7F], np.uint16))[0], np.finfo(np.float32).max])
def test_bfloat16_at_its_largest(data, most):
    """The largest number stays what it is; what lies beyond rounds to infinity, which is told."""
    assert np.isfinite(widen(narrow(np.float32(widen(np.array([0x7F7F], np.uint16))[0]))))
    X, Y = data
    network = make("full", precision="bf16", optimizer=SGD)
    poison(network, "output", most, row=1)
    with pytest.raises(NumericalFault, match=r"layer output"):
        network.fit(X, Y, config=TRAINING)


def test_bfloat16_weights_saturate_without_harm(data):
    """Steps far below a weight's last digit are made at random, and never make it more than that digit."""
    X, Y = data
    network = make("full", precision="bf16", optimizer=OptimizerConfig("adam", lr=1e-4))
    network.output.table.weights[...] = np.full(network.output.table.weights.shape, 256.0, np.float32)
    network.fit(X, Y, config=TRAINING)
    weights = np.asarray(network.output.table.weights)
    assert np.isfinite(weights).all()
    assert abs(weights - 256).max() <= 2


def faulty(kind, data, *, at, **fields):
    """A network, and samples whose batches `at` are at fault in one of the ways that leave it as it was."""
    X, Y = data
    if kind == "features":
        return make(normalize=False, **fields), with_rare(X, *at, value=1e20), Y
    network = make(**fields)
    if kind == "hidden":
        poison(network, "hidden.0", 1e20)
        return network, with_rare(X, *at), Y
    # The labels that nobody else has: their logits, which no hidden vector makes, are beyond float32.
    Y = Y.toarray()
    Y[:, -1] = 0
    Y[[BATCH * batch for batch in at], -1] = 1
    network.output.table.weights[-1] = 3e38
    network.output.table.bias[-1] = -3e38
    return network, X, csr_matrix(Y)


CONFIGS = {
    "sgd": {},
    "sparse adam": {"optimizer": OptimizerConfig("adam", lazy="sparse", lr=0.01)},
    "adagrad": {"optimizer": OptimizerConfig("adagrad", lr=0.1)},
    "clipped": {"optimizer": OptimizerConfig("sgd", lr=0.1, clip_norm=0.5)},
    "tables": {"candidates": "lsh+inbatch"},
    "inbatch": {"candidates": "inbatch"},
    "hogwild": {"candidates": "inbatch", "update": "hogwild"},
    "bf16": {"precision": "bf16"},
    "deep": {"hidden": TWO},
}


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("kind", ["features", "hidden"])
def test_what_is_skipped_leaves_no_trace(data, kind, config):
    """The run without the batches gives the same weights, moments and steps, to the bit."""
    at = (2, 3, 7)
    network, X, Y = faulty(kind, data, at=at, **CONFIGS[config])
    history = network.fit(X, Y, config=SKIPPING)
    assert (history.skipped, history.batches, network.step) == (3, BATCHES, BATCHES - 3)
    assert np.isfinite(history.epochs[0].loss)
    other, X, Y = faulty(kind, data, at=at, **CONFIGS[config])
    # The frequencies of all labels count in both.
    plain, learn = other.train_batch, []
    other.train_batch = lambda batch, **rest: learn.append(None) or plain(batch, **rest)
    few = without(at, X, Y)
    frequency = np.asarray((Y > 0).mean(axis=0)).ravel()
    other.fit_stream([few], config=TRAINING, label_frequency=frequency)
    assert same(network, other) == []
    assert len(learn) == BATCHES - 3


@pytest.mark.parametrize("kind", ["features", "hidden", "output"])
def test_skipping_with_debts_goes_on_as_without_the_batch(data, kind):
    """Rows that a batch at fault has read paid what they owed before: that moves nothing but by rounding."""
    at = (2, 7)
    network, X, Y = faulty(kind, data, at=at, optimizer=OptimizerConfig("adam", lr=0.01), candidates="inbatch")
    assert network.fit(X, Y, config=SKIPPING).skipped == 2
    other, X, Y = faulty(kind, data, at=at, optimizer=OptimizerConfig("adam", lr=0.01), candidates="inbatch")
    frequency = np.asarray((Y > 0).mean(axis=0)).ravel()
    other.fit_stream([without(at, X, Y)], config=TRAINING, label_frequency=frequency)
    assert network.step == other.step == BATCHES - 2
    one, two = everything(network), everything(other)
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_too_many_in_a_row_end_the_run(data, caplog):
    network, X, Y = faulty("features", data, at=range(1, BATCHES))
    with pytest.raises(NumericalFault, match=rf"batch {PATIENCE + 1} is the {PATIENCE}th in a row"):
        network.fit(X, Y, config=SKIPPING)
    assert caplog.text.count("is skipped") == PATIENCE - 1
    assert network.step == 1


def test_ten_batches_with_good_ones_between_do_not(data):
    at = [batch for batch in range(BATCHES) if batch != 5]
    network, X, Y = faulty("features", data, at=at)
    history = network.fit(X, Y, config=SKIPPING)
    assert (history.skipped, network.step) == (BATCHES - 1, 1)
    assert history.active_per_sample == pytest.approx(history.epochs[0].active)


def test_weights_that_are_not_finite_are_never_skipped(data):
    network = make()
    poison(network, "hidden.0", np.nan)
    with pytest.raises(NumericalFault, match=r"batch 3: .*layer hidden\.0"):
        network.fit(with_rare(data[0], 2), data[1], config=SKIPPING)


def test_a_gradient_that_overflows(data):
    """Without clipping it is seen when the output layer has taken its step; with clipping before that."""
    for clip_norm, harmless in ((None, False), (1.0, True)):
        network = make("full", optimizer=OptimizerConfig("sgd", lr=0.1, clip_norm=clip_norm))
        network.output.table.weights[...] = 1e20
        batch = network.reader(*data, BATCH).read(np.arange(BATCH, dtype=dtypes.OFFSET))
        with pytest.raises(NumericalFault, match=r"in layer hidden\.0") as caught:
            network.train_batch(batch)
        assert (caught.value.harmless, network.step) == (harmless, 0 if harmless else 1)
        assert ("must not be used" in str(caught.value)) is not harmless
        network.settle()


def test_streams_and_batches_skip_and_stop(data):
    network, X, Y = faulty("hidden", data, at=(4,))
    blocks = [(X[first : first + 30], Y[first : first + 30]) for first in range(0, N_POINTS, 30)]
    history = network.fit_stream(blocks, config=SKIPPING)
    assert (history.skipped, history.batches) == (1, BATCHES)
    network, X, Y = faulty("hidden", data, at=(4,))
    with pytest.raises(NumericalFault, match=r"batch 5: .*hidden\.0"):
        network.fit_stream(blocks, config=TRAINING)
    assert network.step == 4
    batch = network.reader(X, Y, BATCH).read(np.arange(4 * BATCH, 5 * BATCH, dtype=dtypes.OFFSET))
    with pytest.raises(NumericalFault, match=r"at step 5 in layer hidden\.0; .*no step was taken") as caught:
        network.train_batch(batch)
    assert caught.value.harmless


def test_partial_fit_stops_and_goes_on(data):
    X, Y = data
    classifier = SlideClassifier(16, normalize=False, batch_size=BATCH, random_state=0).partial_fit(X, Y)
    weights = classifier.network_.copy_weights()
    with pytest.raises(NumericalFault, match="features reach"):
        classifier.partial_fit(X * np.float32(1e30), Y)
    after = classifier.network_.copy_weights()
    assert all(np.array_equal(weights[name], after[name]) for name in weights)
    classifier.partial_fit(X, Y)
    assert np.isfinite(classifier.predict_proba(X[:3])).all()


class Poisoner:
    """A callback that puts a NaN into a network after a batch."""

    def __init__(self, network, batch):
        self._network, self._batch = network, batch

    def __call__(self, progress):
        if progress.batch == self._batch:
            poison(self._network, "hidden.0", np.nan)


def test_checkpoints_are_never_of_a_network_that_is_not_finite(data, tmp_path):
    network = make()
    words = r"checkpoint .*0000000006 was not written.*hidden\.0.*last good .*0000000004"
    with pytest.raises(NumericalFault, match=words):
        network.fit(
            *data, config=TRAINING, checkpoints=Checkpoints(tmp_path, every=2), callbacks=[Poisoner(network, 5)]
        )
    assert names_in(tmp_path) == ["0000000002", "0000000004"]
    assert [entry.name for entry in tmp_path.iterdir() if entry.name[0] == "."] == []
    good = Network.load(tmp_path / "0000000004")
    assert good.step == 4
    resumed = make()
    history = resumed.fit(*data, resume=tmp_path)
    assert history.batches == BATCHES


def test_the_error_names_the_last_good_checkpoint(data, tmp_path):
    network, X, Y = faulty("hidden", data, at=(5,))
    with pytest.raises(NumericalFault, match=r"batch 6: .*last good checkpoint is .*0000000005"):
        network.fit(X, Y, config=TRAINING, checkpoints=Checkpoints(tmp_path, every=2))
    assert names_in(tmp_path) == ["0000000004", "0000000005"]
    assert same(network, Network.load(tmp_path / "0000000005")) == []


@pytest.mark.parametrize(("at", "written"), [(0, []), (3, ["0000000003"])])
def test_what_was_learnt_before_a_fault_is_kept_though_no_checkpoint_was_due(data, tmp_path, at, written):
    network, X, Y = faulty("features", data, at=(at,))
    with pytest.raises(NumericalFault, match="features reach"):
        network.fit(X, Y, config=TRAINING, checkpoints=Checkpoints(tmp_path / "run"))
    assert (names_in(tmp_path / "run") if written else []) == written
    assert (tmp_path / "run").exists() is bool(written)


def test_a_resumed_run_skips_as_the_whole_one_did(data, tmp_path):
    at = (1, 2, 3, 4, 8)
    whole, X, Y = faulty("features", data, at=at)
    expected = whole.fit(X, Y, config=SKIPPING)
    network, X, Y = faulty("features", data, at=at)
    network.fit(
        X, Y, config=SKIPPING, checkpoints=Checkpoints(tmp_path), callbacks=[lambda progress: progress.batch == 4]
    )
    assert SavedRun(tmp_path).batch == 4
    resumed = make(normalize=False)
    history = resumed.fit(X, Y, resume=tmp_path)
    assert same(whole, resumed) == []
    assert (history.skipped, history.epochs[0].loss) == (expected.skipped, expected.epochs[0].loss)


def test_a_run_that_stopped_at_a_fault_goes_on_without_the_batch(data, tmp_path):
    at = (3, 8)
    whole, X, Y = faulty("hidden", data, at=at)
    assert whole.fit(X, Y, config=SKIPPING).skipped == 2
    network, X, Y = faulty("hidden", data, at=at)
    with pytest.raises(NumericalFault, match='to skip such batches, resume with on_fault "skip"'):
        network.fit(X, Y, config=TRAINING, checkpoints=Checkpoints(tmp_path))
    resumed = make()
    with pytest.raises(NumericalFault, match="batch 4: "):
        resumed.fit(X, Y, resume=tmp_path)
    assert resumed.fit(X, Y, config=SKIPPING, resume=tmp_path).skipped == 2
    assert same(whole, resumed) == []


def test_a_network_that_is_not_finite_is_not_saved_over_one_that_is(data, tmp_path):
    network = make()
    network.fit(*data, config=TRAINING)
    folder, file = tmp_path / "model", tmp_path / "model.safetensors"
    pytest.importorskip("safetensors")
    for path in (folder, file):
        network.save(path)
    poison(network, "output", np.inf, row=3)
    for path in (folder, file):
        with pytest.raises(NumericalFault, match=r"was not written: layer output .* weights \(row 3\)"):
            network.save(path)
        assert Network.load(path).predict(data[0], 1)[0].shape == (N_POINTS, 1)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model", "model.safetensors"]


def test_the_history_tells(data, tmp_path):
    network, X, Y = faulty("features", data, at=(3,))
    network.fit(X, Y, config=SKIPPING, callbacks=[HistoryFile(tmp_path / "history.jsonl")])
    run = read_history(tmp_path / "history.jsonl")
    assert (run.end["skipped"], run.batches[-1]["skipped"]) == (1, 1)


def test_the_command(data, tmp_path, run):
    _, X, Y = faulty("features", data, at=(3,))
    save_npz(tmp_path / "train.npz", Dataset(X, Y))
    (tmp_path / "run.toml").write_text("[network]\nnormalize = false\n[training]\nshuffle = false\n")
    options = ["train.npz", "--config", "run.toml", "--epochs", 1, "--batch-size", BATCH]
    stopped = run("train", *options)
    assert stopped.status == 1
    assert "slide: error: batch 4: the batch's features reach" in stopped.err
    assert "The last good checkpoint is slide-model.checkpoints/0000000003" in stopped.err
    assert Network.load("slide-model.checkpoints/0000000003").step == 3
    assert not (tmp_path / "slide-model" / "network.json").exists()
    skipped = run("train", *options, "--on-fault", "skip", "--json", "--resume", "slide-model.checkpoints")
    assert (skipped.status, '"skipped": 1' in skipped.out) == (0, True)
    assert "batch 4 is skipped, 1 so far" in skipped.err


def test_rows_are_found_across_blocks():
    array = np.zeros((3000, 700), np.float32)
    assert first_not_finite(array) is None
    array[2999, 5] = np.inf
    assert first_not_finite(array) == 2999
    array[17] = np.nan
    assert first_not_finite(array) == 17
    assert first_not_finite(np.zeros((0, 3), np.float32)) is None
