"""Training on data that is mapped into memory: the same weights, and never all of the data."""

import numpy as np
import pytest

from slide import HiddenConfig, Mixture, Neighbours, Network, NetworkConfig, OutputConfig, TrainingConfig
from slide.data import DataError, Dataset, load, make_extreme, mapped, order, save_folder
from slide.data import statistics as figures
from slide.predict import topk
from slide.train.checkpoints import Checkpoints

N, FEATURES, LABELS = 2000, 150, 60


@pytest.fixture(scope="module")
def plain():
    return make_extreme(N, FEATURES, LABELS, seed=5)


@pytest.fixture(scope="module")
def folder(plain, tmp_path_factory):
    path = tmp_path_factory.mktemp("mapped") / "train"
    save_folder(path, plain)
    return path


def make_network():
    output = OutputConfig("lsh+tail", init="mean", label_weights="propensity", tail_power=0.5)
    return Network(FEATURES, LABELS, NetworkConfig(HiddenConfig(8), output, feature_weights="idf"), threads=1)


def weights_of(network):
    return {**network.copy_weights(), "features": network.feature_weights.copy()}


def assert_same(one, other):
    assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "fields", [{}, {"shuffle_window": 640}, {"shuffle_window": 640, "shuffle": False}, {"shuffle_window": 1}]
)
def test_same_weights_as_from_memory(plain, folder, fields):
    config = TrainingConfig(epochs=2, batch_size=96, **fields)
    states = []
    for data in (plain, load(folder)):
        network = make_network()
        network.fit(data.X, data.Y, config=config)
        states.append(weights_of(network))
    assert_same(*states)


def test_window_follows_from_the_size(folder, monkeypatch):
    """The default order of mapped data is that of a window of so many bytes."""
    monkeypatch.setattr(order, "WINDOW_BYTES", 100_000)
    data, states = load(folder), []
    window = order.default_window(N, data.X.nnz + data.Y.nnz)
    assert window < N / 2
    for fields in ({}, {"shuffle_window": window}, {"shuffle_window": N}):
        network = make_network()
        network.fit(data.X, data.Y, config=TrainingConfig(epochs=1, batch_size=96, **fields))
        states.append(weights_of(network))
    assert_same(*states[:2])
    assert not np.array_equal(states[0]["output.weights"], states[2]["output.weights"])


def test_never_reads_more_than_a_window(folder, monkeypatch):
    monkeypatch.setattr(figures, "PIECE", 500)
    monkeypatch.setattr("slide.model.initialization.BLOCK", 50)
    data, held = load(folder), {}
    longest = np.diff(data.X.indptr).max()
    read = mapped.MappedMatrix.read

    def spied(self, starts, stops, **options):
        arrays = read(self, starts, stops, **options)
        held.setdefault(self.mapping.letter, []).append(len(arrays[0]) - 1)
        return arrays

    monkeypatch.setattr(mapped.MappedMatrix, "read", spied)
    # Nothing may look at the whole arrays.
    for name in ("indptr", "indices", "data"):
        for matrix in (data.X, data.Y):
            setattr(matrix, name, getattr(matrix, name)[:0])
    pieces, read_piece = [], mapped.ArrayFile.read

    def spied_piece(self, first, last, out=None):
        pieces.append(last - first)
        return read_piece(self, first, last, out)

    monkeypatch.setattr(mapped.ArrayFile, "read", spied_piece)
    config = TrainingConfig(epochs=2, batch_size=32, shuffle_window=128, holdout=0.05)
    make_network().fit(data.X, data.Y, config=config)
    assert len(held["X"]) > 2 * N / 128
    # A window, and what was left of the one before; the samples that are held out.
    assert max(held["X"] + held["Y"]) <= 128 + 32
    assert max(pieces) <= max(501, 160 * longest)


def test_nothing_is_learnt_from_held_out_points(plain, folder, monkeypatch):
    data, seen = load(folder), []
    evaluate = topk.evaluate
    monkeypatch.setattr(
        topk, "evaluate", lambda layers, X, Y, **options: seen.append((X, Y)) or evaluate(layers, X, Y, **options)
    )
    config = TrainingConfig(epochs=2, batch_size=96, shuffle_window=320, holdout=0.1)
    network, other = make_network(), make_network()
    history = network.fit(data.X, data.Y, config=config)
    assert history.best_quality["P@1"] > 0.2 and "PSP@1" in history.best_quality
    (X, Y), _ = seen
    assert X.shape[0] == Y.shape[0] == 200
    # No two samples are the same, so that what was not held out is known.
    held = {row.tobytes() for row in X.toarray()}
    rest = [i for i, row in enumerate(plain.X.toarray()) if row.tobytes() not in held]
    assert len(held) == 200 and len(rest) == N - 200
    other.fit(plain.X[rest], plain.Y[rest], config=TrainingConfig(epochs=2, batch_size=96, shuffle_window=320))
    assert_same(weights_of(network), weights_of(other))


def test_everything_else_takes_mapped_data(plain, folder):
    data = load(folder)
    network = make_network()
    network.fit(plain.X, plain.Y, config=TrainingConfig(epochs=1), validation=(data.X, data.Y))
    for one, other in zip(network.predict(data.X, 3), network.predict(plain.X, 3), strict=True):
        np.testing.assert_array_equal(one, other)
    expected = network.evaluate(plain.X, plain.Y, mask_inputs=True)
    assert network.evaluate(data.X, data.Y, mask_inputs=True) == expected
    votes = [Mixture(network, Neighbours(some.X, some.Y, k=5), 0.5).evaluate(some.X, some.Y) for some in (data, plain)]
    assert votes[0] == votes[1]
    network.build_search_index("sketch", data.X, dims=4)


def test_damage_ends_training_with_the_file_and_keeps_what_was_learnt(plain, tmp_path):
    save_folder(tmp_path / "folder", plain)
    data = load(tmp_path / "folder")
    network = Network(FEATURES, LABELS, NetworkConfig(HiddenConfig(8)), threads=1)

    def on_batch(progress):
        if progress.batch == 5:
            array = np.load(tmp_path / "folder" / "X_data.npy", mmap_mode="r+")
            array[:] = np.nan
            array.flush()

    with pytest.raises(DataError, match=r"X_data.npy: a value is not finite"):
        config = TrainingConfig(epochs=1, batch_size=64, shuffle_window=640)
        network.fit(data.X, data.Y, config=config, callbacks=[on_batch])
    assert network.step == 10
    assert np.isfinite(network.predict(plain.X, 1)[1]).all()


@pytest.mark.parametrize("batch", [3, 17, 19, 32])
def test_a_run_on_a_folder_goes_on_where_it_was(folder, tmp_path, batch):
    config = TrainingConfig(epochs=2, batch_size=96, shuffle_window=640, holdout=0.1, keep_best=True)
    expected, stopped, resumed = make_network(), make_network(), make_network()
    data = load(folder)
    history = expected.fit(data.X, data.Y, config=config)
    checkpoints = Checkpoints(tmp_path / "run")
    options = {"config": config, "checkpoints": checkpoints}
    stopped.fit(data.X, data.Y, callbacks=[lambda progress: progress.batch == batch], **options)
    again = load(folder)
    found = resumed.fit(again.X, again.Y, resume=tmp_path / "run")
    assert_same(weights_of(resumed), weights_of(expected))
    assert [epoch.quality for epoch in found.epochs] == [epoch.quality for epoch in history.epochs]
    assert [epoch.batches for epoch in found.epochs] == [19, 19]


def test_a_run_on_a_folder_goes_on_with_no_other_data(plain, folder, tmp_path):
    options = {"config": TrainingConfig(epochs=1, batch_size=96), "checkpoints": Checkpoints(tmp_path / "run")}
    data = load(folder)
    make_network().fit(data.X, data.Y, callbacks=[lambda progress: True], **options)
    values = plain.X.copy()
    values.data[1] += 1
    save_folder(tmp_path / "other", Dataset.from_arrays(values, plain.Y))
    other = load(tmp_path / "other")
    for given, why in ((other, "but other contents"), (plain, "in memory here, a converted folder there")):
        with pytest.raises(DataError, match=why):
            make_network().fit(given.X, given.Y, resume=tmp_path / "run")
