"""Networks in forms that other programs read."""

import json

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from slide import HiddenConfig, LSHConfig, Network, NetworkConfig, OutputConfig, TrainingConfig
from slide.data import make_extreme
from slide.persist.checks import CheckpointError
from slide.persist.safetensors import SafetensorsFile
from slide.system import extras
from slide.system.extras import MissingExtra

N_FEATURES, N_LABELS = 60, 400


@pytest.fixture(scope="module")
def data():
    return make_extreme(800, N_FEATURES, N_LABELS)


def trained(data, hidden=HiddenConfig(17), **fields):  # noqa: B008
    config = NetworkConfig(hidden, OutputConfig("lsh+tail", budget=8, tail=8, lsh=LSHConfig(l=4)), **fields)
    network = Network(N_FEATURES, N_LABELS, config, threads=1)
    network.fit(data.X, data.Y, config=TrainingConfig(epochs=2, batch_size=64))
    return network


@pytest.fixture(scope="module")
def network(data):
    return trained(data)


def same_predictions(one, other, X):
    return all(np.array_equal(a, b) for a, b in zip(one.predict(X), other.predict(X), strict=True))


# safetensors


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"feature_weights": "idf", "precision": "bf16"},
        {"hidden": (HiddenConfig(24, candidates="lsh", budget=8, lsh=LSHConfig(k=2, l=2)), HiddenConfig(16))},
    ],
    ids=["default", "bf16", "layers"],
)
def test_safetensors_there_and_back(data, tmp_path, fields):
    safetensors = pytest.importorskip("safetensors.numpy")
    network, file = trained(data, **fields), tmp_path / "new" / "net.safetensors"
    network.save(file)
    back = Network.load(file, threads=1)
    assert same_predictions(back, network, data.X)
    assert (back.config, back.trainable) == (network.config, False)
    tensors = safetensors.load_file(file)
    assert np.array_equal(tensors["output.weights"], np.asarray(network.output.table.weights))
    assert {array.dtype for array in tensors.values()} == {np.dtype(np.float32)}
    assert list(file.parent.iterdir()) == [file]


def test_other_safetensors_files_are_refused(network, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    file = tmp_path / "net.safetensors"
    with pytest.raises(CheckpointError, match="there is no such file"):
        Network.load(file)
    file.write_bytes(b"no header here")
    with pytest.raises(CheckpointError, match="damaged, or no safetensors file"):
        Network.load(file)
    safetensors.save_file({"output.weights": np.zeros((2, 2), np.float32)}, file)
    with pytest.raises(CheckpointError, match=r"has no 'slide' in its metadata.*Network\.initialize"):
        Network.load(file)
    with pytest.raises(FileExistsError, match="is not a saved network"):
        network.save(file)
    file.unlink()
    network.save(file)
    tensors, about = safetensors.load_file(file), SafetensorsFile(file).about()
    del tensors["output.bias"]
    safetensors.save_file(tensors, file, {"slide": json.dumps(about)})
    with pytest.raises(CheckpointError, match=r"has no array 'output\.bias'"):
        Network.load(file)
    tensors["output.bias"] = np.zeros(N_LABELS)
    safetensors.save_file(tensors, file, {"slide": json.dumps(about)})
    with pytest.raises(CheckpointError, match=r"net\.safetensors, output\.bias: expected float32 \[400\], found"):
        Network.load(file)
    safetensors.save_file(tensors, file, {"slide": "{"})
    with pytest.raises(CheckpointError, match="metadata 'slide'"):
        Network.load(file)
    safetensors.save_file(tensors, file, {"slide": json.dumps(about | {"n_labels": 10**9})})
    with pytest.raises(CheckpointError, match=r"output\.weights: 68,000,000,000 bytes expected"):
        Network.load(file)


def test_a_safetensors_file_has_weights_alone(network, tmp_path):
    for options in ({"moments": True}, {"serving": True}):
        with pytest.raises(ValueError, match="has only weights"):
            network.save(tmp_path / "net.safetensors", **options)


def test_the_missing_package_is_named(network, tmp_path, monkeypatch):
    def fail(name):
        raise ImportError

    monkeypatch.setattr(extras.importlib, "import_module", fail)
    with pytest.raises(MissingExtra, match=r"pip install 'slide-xc\[safetensors\]'"):
        network.save(tmp_path / "net.safetensors")
    assert list(tmp_path.iterdir()) == []


# The output layer as a matrix


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_matrix_and_vectors_give_the_logits(data, precision):
    network = trained(data, precision=precision)
    matrix, queries = network.output_matrix(centred=False), network.hidden_vectors(data.X, append_one=True)
    assert (matrix.shape, matrix.dtype) == ((N_LABELS, 18), np.float32)
    assert (queries.shape, queries.dtype) == ((data.n_samples, 18), np.float32)
    assert np.array_equal(network.hidden_vectors(data.X), queries[:, :-1])
    ids, scores = network.predict(data.X, k=3)
    np.testing.assert_allclose(np.take_along_axis(queries @ matrix.T, ids, 1), scores, rtol=1e-4, atol=1e-4)
    centred = network.output_matrix()
    np.testing.assert_allclose(centred, matrix - matrix.mean(axis=0), atol=1e-5)
    assert np.array_equal((queries @ centred.T).argmax(axis=1), ids[:, 0])


def test_hidden_vectors_of_many_points_and_of_none(network, data, monkeypatch):
    whole = network.hidden_vectors(data.X)
    monkeypatch.setattr("slide.predict.topk.PREDICT_BLOCK", 300)
    assert np.array_equal(network.hidden_vectors(data.X), whole)
    assert network.hidden_vectors(csr_matrix((0, N_FEATURES), dtype=np.float32)).shape == (0, 17)
    with pytest.raises(ValueError, match="X has 3 features, the network 60"):
        network.hidden_vectors(csr_matrix((1, 3), dtype=np.float32))


def test_recall_of_hnswlib(network, data):
    hnswlib = pytest.importorskip("hnswlib")
    matrix = network.output_matrix()
    index = hnswlib.Index("ip", matrix.shape[1])
    index.init_index(N_LABELS, random_seed=1)
    index.add_items(matrix, num_threads=1)
    index.set_ef(100)
    found, _ = index.knn_query(network.hidden_vectors(data.X, append_one=True), 5, num_threads=1)
    exact, _ = network.predict(data.X, k=5)
    assert np.mean([len(np.intersect1d(a, b)) / 5 for a, b in zip(found, exact, strict=True)]) > 0.95


# The command


def test_export(run, network, data, tmp_path):
    pytest.importorskip("safetensors")
    network.save("model")
    assert run("export", "model", "net.safetensors", "--output-matrix", "labels.npy").status == 0
    assert np.array_equal(np.load("labels.npy"), network.output_matrix())
    assert run("export", "model", "--output-matrix", "raw.npy", "--raw").status == 0
    assert np.array_equal(np.load("raw.npy"), network.output_matrix(centred=False))
    about = json.loads(run("info", "net.safetensors", "--json").out)
    assert (about["n_labels"], about["bytes"]) == (N_LABELS, (tmp_path / "net.safetensors").stat().st_size)
    assert run("export", "net.safetensors", "served", "--serving").status == 0
    assert same_predictions(Network.load("served", mmap=True), network, data.X)
    assert run("export", "served", "again").status == 0
    assert same_predictions(Network.load("again"), network, data.X)


def test_export_refusals(run, network, tmp_path):
    network.save("model")
    assert "name OUT, or --output-matrix FILE" in run("export", "model").err
    assert "OUT is MODEL itself" in run("export", "model", "model").err
    assert "--serving needs a folder" in run("export", "model", "net.safetensors", "--serving").err
    assert "--serving needs a folder" in run("export", "model", "--serving", "--output-matrix", "labels.npy").err
    assert "--raw is about" in run("export", "model", "net.safetensors", "--raw").err
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "letters.txt").touch()
    assert "exists and is not a saved network" in run("export", "model", "folder").err
    (tmp_path / "labels.npy").mkdir()
    result = run("export", "model", "--output-matrix", "labels.npy")
    assert (result.status, "labels.npy" in result.err) == (1, True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "labels.npy", "model"]
