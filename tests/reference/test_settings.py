"""The C++ program's configuration files and saved weights."""

import json
from itertools import pairwise

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from small_networks import batch_of

from slide import ConfigError, LSHConfig, Network, RehashConfig, SamplingConfig, reference
from slide.data import DataError, make_extreme, save_xc
from slide.reference.weights import load_weights

AMAZON = {
    "RangePow": "6,18",
    "K": "2,6",
    "L": "20,50",
    "Sparsity": "1,0.005,1,1",
    "Batchsize": "128",
    "Rehash": "6400",
    "Rebuild": "128000",
    "InputDim": "135909",
    "totRecords": "490449",
    "totRecordsTest": "153025",
    "Lr": "0.0001",
    "Epoch": "10",
    "Stepsize": "1000",
    "sizesOfLayers": "128,670091",
    "numLayer": "2",
    "trainData": "../dataset/Amazon/amazon_train.txt",
    "testData": "../dataset/Amazon/amazon_test.txt",
    "weight": "../savedWeight.npz",
    "savedweight": "../savedWeight.npz",
    "logFile": "../dataset/log.txt",
}


@pytest.fixture
def write(tmp_path):
    """Write a configuration file: that for Amazon-670K with changes, None for what is left out."""

    def write(**changes):
        values = {name: value for name, value in (AMAZON | changes).items() if value is not None}
        path = tmp_path / "config.csv"
        path.write_text("".join(f"{name} = {value}\n" for name, value in values.items()))
        return path

    return write


# Settings


def test_the_published_settings(write):
    found = reference.read(write())
    network, training = found.config.network, found.config.training
    (hidden,) = network.hidden
    assert (hidden.units, hidden.activation, hidden.candidates, hidden.dropout) == (128, "relu", "full", 0.0)
    output = network.output
    assert (output.candidates, output.correction, output.loss, output.targets) == ("lsh", "none", "softmax", "mean")
    assert output.budget == int(670091 * 0.005)
    assert output.lsh == LSHConfig(
        family="dwta", k=6, l=50, bin_size=8, code_bits=2, bucket_bits=18, capacity=128, insertion="fifo"
    )
    assert output.rehash == RehashConfig(schedule="fixed", period=50, renew=20)
    assert output.sampling == SamplingConfig(policy="vanilla", fill="uniform")
    optimizer = network.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.lazy, network.normalize) == ("adam", 1e-4, "exact", False)
    assert (training.epochs, training.batch_size, training.shuffle, training.schedule) == (10, 128, False, "constant")
    assert (found.n_features, found.n_labels) == (135909, 670091)
    assert (found.train_samples, found.test_samples) == (490449 // 128 * 128, 153025 // 128 * 128)
    tables = "K=2, L=20, RangePow=6 of layer 0"
    for name in ("Sparsity=0.005 of layer 1", tables, "Stepsize=1000", "weight=", "savedweight=", "logFile="):
        assert any(note.startswith(name) for note in found.notes), name


def test_the_order_of_lines_comments_and_spaces_mean_nothing(tmp_path, write):
    expected = reference.read(write())
    lines = [f"  {name}={value.replace(',', ' , ')}  " for name, value in AMAZON.items()]
    path = tmp_path / "other.csv"
    path.write_bytes("\r\n".join(["# K = 99", "", *reversed(lines), "Lr = 3 # not read"]).encode("utf-8-sig"))
    found = reference.read(path)
    assert found.config == expected.config
    assert (found.train, found.notes) == (expected.train, expected.notes)


def test_layers_of_as_many_neurons_as_are_made_up_are_computed_in_full(write):
    found = reference.read(write(sizesOfLayers="900,2000", Sparsity="0.5,0.9,1,0.1"))
    assert found.config.network.hidden[0].candidates == "full"
    assert found.config.network.output.budget == 1800
    assert any("all 900 neurons are computed" in note for note in found.notes)
    assert any(note.startswith("Sparsity=0.1 of layer 1 in prediction") for note in found.notes)
    small = reference.read(write(sizesOfLayers="128,2000")).config.network
    assert small.output.budget == 1000


def test_sampled_hidden_layers(write):
    sizes = {"numLayer": "3", "sizesOfLayers": "2000,100,5000", "K": "2,3,4", "L": "5,6,7", "RangePow": "6,7,8"}
    hidden = reference.read(write(**sizes, Sparsity="0.6,1,0.3,1,1,1")).config.network.hidden
    assert [(layer.units, layer.candidates) for layer in hidden] == [(2000, "lsh"), (100, "full")]
    assert (hidden[0].budget, hidden[0].lsh.k, hidden[0].lsh.l, hidden[0].lsh.bucket_bits) == (1200, 2, 5, 6)


def test_networks_without_tables(write):
    found = reference.read(write(Sparsity="1,1,1,1"))
    assert found.config.network.output.candidates == "full"
    assert any(note.startswith("Rehash=6400, Rebuild=128000: no effect") for note in found.notes)


def test_rehashing_that_is_no_whole_number_of_batches(write):
    found = reference.read(write(Rehash="1000", Rebuild="2600"))
    assert found.config.network.output.rehash == RehashConfig(schedule="fixed", period=7, renew=3)
    assert any(note.startswith("Rehash=1000: every 7 batches") for note in found.notes)
    assert any(note.startswith("Rebuild=2600: new hash functions") for note in found.notes)


def test_settings_that_a_run_can_do_without(write):
    names = ("Stepsize", "totRecords", "totRecordsTest", "trainData", "testData", "weight", "savedweight", "logFile")
    found = reference.read(write(**dict.fromkeys(names)))
    assert (found.train, found.test, found.train_samples, found.test_samples) == (None,) * 4
    assert not any(note.startswith(names) for note in found.notes)


def test_files_are_sought_from_the_current_folder_and_beside_the_configuration(tmp_path, write, monkeypatch):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path = write(trainData="train.txt")
    assert reference.read(path).train.resolve() == folder / "train.txt"
    (tmp_path / "train.txt").touch()
    assert reference.read(path).train.resolve() == tmp_path / "train.txt"
    (folder / "train.txt").touch()
    assert reference.read(path).train.resolve() == folder / "train.txt"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Batchsize": "ten"}, r"config.csv, line 5: Batchsize must be a whole number from 1 to 1,048,576, got 'ten'"),
        ({"Batchsize": "12.5"}, "line 5: Batchsize must be a whole number"),
        ({"Lr": "nan"}, "line 11: Lr must be a number above 0, at most 1,000, got 'nan'"),
        ({"Lr": "0"}, "line 11: Lr must be a number above 0"),
        ({"K": "2,x"}, "line 2: K must be a whole number from 1 to 16 for each layer, with commas between, got '2,x'"),
        ({"K": "2"}, r"line 2: K must be one number for each of the 2 layers \(numLayer\), got 1"),
        ({"sizesOfLayers": "128,128,670091"}, "line 14: sizesOfLayers must be one number for each of the 2 layers"),
        ({"sizesOfLayers": "100000,9"}, r"at most 65,536 units in a hidden layer, got 100000 \(layer 0\)"),
        ({"Sparsity": "1,0.005"}, "line 4: Sparsity must be 4 numbers: for each of the 2 layers one in training"),
        ({"Sparsity": "1,0,1,1"}, "line 4: Sparsity must be a number above 0, at most 1"),
        ({"Rehash": "100"}, "line 6: Rehash must be at least Batchsize, 128 samples, got 100"),
        ({"Epoch": ""}, "line 12: Epoch must be a whole number from 1 to 1,000,000, got ''"),
        ({"L": None}, "config.csv: L is missing; expected a line L = a whole number from 1 to 1,024 for each layer"),
        ({"Learning": "1"}, "line 21: unknown setting 'Learning'; expected one of numLayer, sizesOfLayers"),
        ({"trainData": ""}, "line 16: trainData must be the path of a file, got nothing"),
    ],
)
def test_settings_that_cannot_be(write, changes, message):
    with pytest.raises(ConfigError, match=message):
        reference.read(write(**changes))


def test_lines_that_are_no_settings(tmp_path, write):
    path = write()
    path.write_text(path.read_text() + "hello\n")
    with pytest.raises(ConfigError, match=r"line 21: expected name = value, got 'hello'"):
        reference.read(path)
    path = write()
    path.write_text(path.read_text() + "Lr = 0.5\n")
    found = reference.read(path)
    assert found.config.network.optimizer.lr == 0.5
    assert found.notes[0] == "Lr: is on lines 11 and 21; the last one counts"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a text file"):
        reference.read(path)


# Training

SMALL = {
    "sizesOfLayers": "16,1200",
    "InputDim": "210",
    "K": "2,3",
    "L": "4,5",
    "Batchsize": "32",
    "Rehash": "64",
    "Rebuild": "128",
    "totRecords": "330",
    "totRecordsTest": "100",
    "Epoch": "2",
    "Lr": "0.01",
    "trainData": "train.txt",
    "testData": "test.txt",
}


@pytest.fixture
def files(tmp_path):
    train, test = make_extreme(400, 200, 1200, test_samples=90, seed=3)
    save_xc(tmp_path / "train.txt", train)
    save_xc(tmp_path / "test.txt", test)
    return tmp_path


def test_train_as_the_configuration_says(run, write, files):
    result = run("train", "--reference-config", write(**SMALL), "--out", "m", "--json")
    assert result.status == 0, result.err
    report = json.loads(result.out)
    assert (report["batches"], report["epochs"]) == (2 * 10, 2)
    assert report["P@1"] is not None
    network = Network.load("m")
    assert (network.n_features, network.n_labels) == (210, 1200)
    assert network.config.output.lsh.family == "dwta"
    assert "config.csv: Sparsity=0.005 of layer 1: a sample computes 1,000 of 1,200 neurons" in result.err
    assert "train.txt has 200 features, padded to the 210 of InputDim" in result.err
    assert "train.txt: 400 samples, of which the first 320 are used (totRecords, whole batches)" in result.err
    assert "test.txt has 90 samples, which are all used, fewer than the 96 of totRecordsTest" in result.err


def test_options_and_files_of_the_command_line_come_first(run, write, files):
    (files / "train.txt").rename(files / "mine.txt")
    config = write(**SMALL | {"testData": None})
    options = ["--reference-config", config, "--max-batches", 3, "--lr", 0.5, "--json"]
    result = run("train", "mine.txt", *options, "--test", "test.txt")
    assert result.status == 0, result.err
    assert json.loads(result.out)["batches"] == 3
    assert Network.load("slide-model").config.optimizer.lr == 0.5


def test_runs_that_cannot_be(run, write, files):
    result = run("train", "--reference-config", write(**SMALL | {"trainData": None}))
    assert "trainData is missing" in result.err.splitlines()[-1]
    result = run("train", "--reference-config", write(**SMALL | {"InputDim": "199"}))
    assert "200 features, " in result.err.splitlines()[-1]
    assert "199 (InputDim): they do not belong together" in result.err.splitlines()[-1]
    result = run("train", "--reference-config", write(**SMALL), "--config", "run.toml")
    assert (result.status, "exclude each other" in result.err) == (2, True)


# Weights

SIZES = (30, 12, 10, 40)


def saved(path, rng, sizes=SIZES, **changes):
    """Write an archive as the program does; return its arrays."""
    arrays = {}
    for i, (below, size) in enumerate(pairwise(sizes)):
        arrays[f"w_layer_{i}"] = rng.normal(0, 0.3, (size, below))
        arrays[f"b_layer_{i}"] = rng.normal(0, 0.3, size)
        arrays[f"am_layer_{i}"] = rng.normal(0, 0.01, (size, below))
        arrays[f"av_layer_{i}"] = rng.random((size, below)) * 1e-3
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return arrays


def forward(arrays, X):
    """The vectors of every layer, from the features to the logits."""
    n_layers = len(arrays) // 4
    vectors = [X]
    for i in range(n_layers):
        vectors.append(vectors[-1] @ arrays[f"w_layer_{i}"].T + arrays[f"b_layer_{i}"])
        if i < n_layers - 1:
            vectors[-1] = np.maximum(vectors[-1], 0)
    return vectors


@pytest.fixture
def rng():
    return np.random.default_rng(9)


def settings(write, **changes):
    given = {
        "numLayer": "3",
        "InputDim": "30",
        "sizesOfLayers": "12,10,40",
        "K": "1,1,1",
        "L": "1,1,1",
        "RangePow": "3,3,3",
        "Sparsity": "1,1,1,1,1,1",
        "Batchsize": "8",
        "Lr": "0.01",
        "totRecords": "40",
        "Epoch": "3",
    }
    return write(**given | changes)


@pytest.mark.parametrize("sizes", [SIZES, (30, 12, 40)])
def test_saved_weights_predict(tmp_path, rng, sizes):
    arrays = saved(tmp_path / "w.npz", rng, sizes)
    X = rng.random((20, 30)).astype(np.float32) * (rng.random((20, 30)) < 0.4)
    logits = forward(arrays, X)[-1]
    network = load_weights(tmp_path / "w.npz", threads=1)
    ids, scores = network.predict(csr_matrix(X), 40)
    assert np.array_equal(ids, np.argsort(-logits, axis=1, kind="stable"))
    np.testing.assert_allclose(scores, -np.sort(-logits, axis=1), rtol=1e-4, atol=1e-5)
    assert not network.trainable


def test_saved_weights_of_a_sampled_first_layer(tmp_path, rng, write):
    arrays = saved(tmp_path / "w.npz", rng, (30, 1500, 40))
    shares = {"numLayer": "2", "sizesOfLayers": "1500,40", "K": "1,1", "L": "1,1", "RangePow": "3,3"}
    found = reference.read(settings(write, **shares, Sparsity="0.8,1,1,1"))
    network = load_weights(tmp_path / "w.npz", found, threads=1)
    assert network.config.hidden[0].candidates == "lsh"
    X = csr_matrix(rng.random((5, 30)), dtype=np.float32)
    expected = np.argsort(-forward(arrays, X.toarray())[-1], axis=1)[:, :5]
    assert np.array_equal(network.predict(X)[0], expected)


def test_training_goes_on_where_the_program_left_off(tmp_path, rng, write):
    """One batch moves the weights as its rule does, in NumPy: Adam's, on the mean of the samples' log-likelihoods."""
    arrays = {name: array.astype(np.float64) for name, array in saved(tmp_path / "w.npz", rng).items()}
    found = reference.read(settings(write))
    network = load_weights(tmp_path / "w.npz", found, moments=True, threads=1)
    step = 3 * 5
    assert network.step == step
    X = csr_matrix(rng.random((8, 30)) * (rng.random((8, 30)) < 0.4), dtype=np.float32)
    Y = csr_matrix(rng.random((8, 40)) < 0.1, dtype=np.float32) + csr_matrix(np.eye(8, 40), dtype=np.float32)
    Y.data[:] = 1
    network.train_batch(batch_of((X, Y), network.config))
    network.settle()

    vectors = forward(arrays, X.toarray())
    exp = np.exp(vectors[-1] - vectors[-1].max(axis=1, keepdims=True))
    delta = (Y.toarray() / Y.sum(axis=1) - exp / exp.sum(axis=1, keepdims=True)) / 8
    rate = 0.01 * np.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
    weights = network.copy_weights()
    for i, name in ((2, "output"), (1, "hidden.1"), (0, "hidden.0")):
        below = np.asarray(delta).T @ vectors[i]
        m = 0.9 * arrays[f"am_layer_{i}"] + 0.1 * below
        v = 0.999 * arrays[f"av_layer_{i}"] + 0.001 * below**2
        expected = arrays[f"w_layer_{i}"] + rate * m / (np.sqrt(v) + 1e-8)
        got = weights[f"{name}.weights"]
        np.testing.assert_allclose(got.T if i == 0 else got, expected, rtol=2e-4, atol=2e-5)
        delta = (np.asarray(delta) @ arrays[f"w_layer_{i}"]) * (vectors[i] > 0)


def test_archives_that_do_not_fit(tmp_path, rng, write):
    path = tmp_path / "w.npz"
    saved(path, rng)
    found = reference.read(settings(write, sizesOfLayers="12,10,41"))
    with pytest.raises(DataError, match=r"layers of sizes 30 - 12 - 10 - 40, .*config.csv 30 - 12 - 10 - 41"):
        load_weights(path, found)
    with pytest.raises(ValueError, match="must know the number of batches so far"):
        load_weights(path, moments=True)
    for changes, message in [
        ({"b_layer_1": None}, "there is no array b_layer_1"),
        ({"b_layer_1": np.zeros(9, np.float32)}, r"b_layer_1 has shape \[9\] and dtype float32; expected \[10\]"),
        ({"w_layer_1": None}, "there is no array w_layer_1, although there are 2 of that kind"),
        ({"w_layer_1": np.zeros((10, 13), np.float32)}, "w_layer_1 reads 13 inputs, but layer 0 has 12 neurons"),
        ({"w_layer_1": np.zeros((10, 12), int)}, "w_layer_1 has shape .* dtype int64; expected float32"),
        ({"w_layer_0": np.full((12, 30), np.nan, np.float32)}, "w_layer_0 has values that are not finite"),
    ]:
        saved(path, rng, **changes)
        with pytest.raises(DataError, match=message):
            load_weights(path)
    np.savez(path, a=np.zeros(3))
    with pytest.raises(DataError, match=r"expected the arrays w_layer_0, .* it has a.npy"):
        load_weights(path)
    path.write_bytes(b"PK nothing")
    with pytest.raises(DataError, match=r"not an archive of NumPy arrays \(\.npz\), or a damaged one"):
        load_weights(path)
    with pytest.raises(DataError, match=r"absent\.npz: there is no such file"):
        load_weights(tmp_path / "absent.npz")


def test_import_on_the_command_line(run, tmp_path, rng, write):
    arrays = saved(tmp_path / "w.npz", rng)
    result = run("import-reference", "w.npz", "--config", settings(write), "--out", "m", "--moments")
    assert result.status == 0, result.err
    assert "the biases are those from before training" in result.err
    network = Network.load("m")
    assert network.step == 15
    X = csr_matrix(rng.random((6, 30)), dtype=np.float32)
    assert np.array_equal(network.predict(X, 1)[0][:, 0], forward(arrays, X.toarray())[-1].argmax(axis=1))
    assert run("import-reference", "w.npz").status == 0
    assert "--moments needs the number of batches trained on" in run("import-reference", "w.npz", "--moments").err
    assert "it needs --moments" in run("import-reference", "w.npz", "--step", 3).err
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").touch()
    assert "is not a saved network" in run("import-reference", "w.npz", "--out", "taken").err
