"""Files that someone tampered with, who wants memory, time or other files: each is refused by name."""

import gzip
import io
import json
import lzma
import os
import shutil
import zipfile

import numpy as np
import pytest

from slide import ConfigError, LSHConfig, Network, NetworkConfig, OutputConfig, RunConfig, SlideClassifier
from slide.config import HiddenConfig, TrainingConfig
from slide.data import DataError, load, make_extreme, save_folder, save_npz, unpacking, verify
from slide.data.files import open_bytes, whole_lines
from slide.estimator.labels import LabelSpace
from slide.persist.archive import pack, unpack
from slide.persist.checks import CheckpointError
from slide.reference.weights import load_weights

TEXT = b"2 6 4\n0,2 1:0.5 4:-2\n 5:1e-3\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a network with hash tables and moments, some of whose rows owe a step."""
    data = make_extreme(60, 20, 15)
    output = OutputConfig("lsh+tail", budget=4, tail=4, lsh=LSHConfig(k=2, l=2))
    network = Network(20, 15, NetworkConfig(HiddenConfig(6), output), threads=1)
    network.fit(data.X, data.Y, config=TrainingConfig(epochs=1, batch_size=16, eval_points=0))
    path = tmp_path_factory.mktemp("trained") / "net"
    network.save(path, moments=True)
    return path


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "net")


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_text_that_unpacks_to_too_much(tmp_path, monkeypatch, pack):
    path = tmp_path / "data.txt"
    path.write_bytes(pack(b"1 6 4\n" + b" " * 100_000))
    monkeypatch.setattr(unpacking, "FREE_BYTES", 100_010)
    assert load(path, cache=False).n_samples == 1
    monkeypatch.setattr(unpacking, "FREE_BYTES", 50_000)
    with pytest.raises(DataError, match=r"data\.txt: the file unpacks to more than 50,000 bytes, 200 times its size"):
        load(path, cache=False)
    # A file that is that large itself may.
    path.write_bytes(pack(np.random.default_rng(0).bytes(60_000)))
    assert sum(map(len, whole_lines(open_bytes(path), path))) == 60_000


def test_xz_in_several_streams_with_zeros_between(tmp_path):
    path = tmp_path / "data.xz"
    path.write_bytes(lzma.compress(TEXT[:9]) + bytes(8) + lzma.compress(b"") + lzma.compress(TEXT[9:]) + bytes(4))
    assert load(path, cache=False).X.nnz == 3
    path.write_bytes(lzma.compress(TEXT) + b"and more")
    with pytest.raises(DataError, match=r"data\.xz: the archive is damaged after"):
        load(path, cache=False)


def test_xz_that_asks_for_memory(tmp_path, monkeypatch):
    path = tmp_path / "data.xz"
    path.write_bytes(lzma.compress(TEXT, preset=9))
    assert load(path, cache=False).n_samples == 2
    monkeypatch.setattr(unpacking, "XZ_MEMORY", 32 << 20)
    with pytest.raises(DataError, match=r"data\.xz: the archive is damaged after 0 .*[Mm]emory"):
        load(path, cache=False)


@pytest.mark.parametrize("name", ["data.txt", "net/network.json", "net/output.weights.npy", "net/estimator.json"])
def test_pipes_are_not_waited_for(folder, tmp_path, name):
    path = tmp_path / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    if name == "data.txt":
        with pytest.raises(DataError, match=r"data\.txt is a pipe or a device"):
            load(path)
    else:
        with pytest.raises(CheckpointError, match=name.split("/")[1]):
            (SlideClassifier if "estimator" in name else Network).load(folder)


def test_links_to_devices_are_not_read(folder):
    (folder / "network.json").unlink()
    (folder / "network.json").symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=r"network\.json is a pipe or a device"):
        Network.load(folder)


def test_links_to_files_are_followed(folder, tmp_path):
    """As caches of models have them."""
    (folder / "output.bias.npy").rename(tmp_path / "blob")
    (folder / "output.bias.npy").symlink_to("../blob")
    assert Network.load(folder).n_labels == 15


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("output.v", -1.0, "has negative values"),
        ("hidden.0.bias_v", -1.0, "has negative values"),
        ("output.last_step", -1, "has negative values"),
        ("output.last_step", 5, "has a step after the last, 4"),
        ("output.m", np.nan, "has values that are not finite"),
        ("optimizer.nodes", np.inf, "has values that are not finite"),
    ],
)
def test_arrays_that_training_could_not_have_left(folder, name, value, message):
    file = folder / f"{name}.npy"
    if name.startswith("optimizer"):
        # As if rows owed the last step.
        data = make_extreme(60, 20, 15)
        network = Network.load(folder, threads=1)
        network.output.set_label_frequency(np.full(15, 0.1))
        network.train_batch(network.reader(data.X, data.Y, 16).read(np.arange(16)))
        from slide.persist.saved_network import write

        write(network.layers, folder, moments=True)
    array = np.load(file)
    array.flat[0] = value
    np.save(file, array)
    with pytest.raises(CheckpointError, match=rf"{name}\.npy: {message}"):
        Network.load(folder)


def test_rows_that_cannot_be_mapped_where_they_lie(trained, tmp_path):
    Network.load(trained, threads=1).save(tmp_path / "net", serving=True)
    file = tmp_path / "net" / "output.rows.npy"
    content = file.read_bytes()
    size = int.from_bytes(content[8:10], "little")
    header = content[10 : 10 + size].rstrip() + b"  \n"
    assert (10 + len(header)) % 64
    file.write_bytes(content[:8] + len(header).to_bytes(2, "little") + header + content[10 + size :])
    with pytest.raises(CheckpointError, match=r"output\.rows\.npy: the rows do not begin at a multiple of 64 bytes"):
        Network.load(tmp_path / "net", mmap=True)
    assert Network.load(tmp_path / "net").n_labels == 15


def edit(file, change):
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda about: about["config"]["output"]["lsh"].update(bucket_bits=30, k=32), "lsh of output: tables of"),
        (
            lambda about: about["config"]["output"]["lsh"].update(projection="sparse", k=32, l=1024),
            "lsh of output|codes",
        ),
        (lambda about: about["training"]["tables"]["output"].update(next="1"), "next must be a number from 0"),
        (lambda about: about["training"]["tables"]["output"].update(generation=-1), "generation must be a number"),
        (lambda about: about["training"]["tables"]["output"].update(built_at=1e3), "built_at must be a number"),
        (lambda about: about["training"]["tables"]["output"].update(seconds="x"), "seconds must be a number"),
        (lambda about: about.update(step=True), "step must be a number"),
        (lambda about: about["config"]["optimizer"].update(lr=10**400), "OptimizerConfig.lr must be a number above 0"),
    ],
)
def test_manifests_that_ask_for_too_much(folder, change, message):
    edit(folder / "network.json", change)
    with pytest.raises(CheckpointError, match=rf"net/.*({message})"):
        Network.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda about: about["params"].update(threshold=None), "threshold must be a number .*, got None"),
        (lambda about: about["params"].update(epochs="many"), "TrainingConfig.epochs must be an integer"),
        (lambda about: about["params"].update(hidden_units=[0]), "HiddenConfig.units must be an integer"),
        (lambda about: about.update(seen=[1e400, 3]), "samples must be a number from 0 to"),
        (lambda about: about.update(seen=[3, 10**400]), "labels of samples must be a number from 0 to"),
        (lambda about: about["labels"].update(type="<U100000000"), "longer labels than there are"),
    ],
)
def test_classifiers_that_could_not_predict(tmp_path, change, message):
    data = make_extreme(60, 20, 15)
    classifier = SlideClassifier(epochs=1, batch_size=16, hidden_units=6, n_jobs=1)
    classifier.fit(data.X, [[f"label {id_}" for id_ in row.indices] for row in data.Y]).save(tmp_path / "net")
    edit(tmp_path / "net" / "estimator.json", change)
    with pytest.raises(CheckpointError, match=rf"estimator\.json: .*{message}"):
        SlideClassifier.load(tmp_path / "net")


def test_labels_of_a_type_that_is_longer_than_they_are():
    plain = LabelSpace(np.array(["a", "bcd"]), "single", np.dtype(np.int64)).to_plain()
    assert LabelSpace.from_plain(plain).labels.tolist() == ["a", "bcd"]
    with pytest.raises(ValueError, match="longer labels than there are"):
        LabelSpace.from_plain(plain | {"type": "<U100000000"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network.optimizer.lr = 1" + "0" * 400, r"OptimizerConfig\.lr must be a number above 0 .* got 10000"),
        ("network.seed = 0x" + "f" * 5000, r"NetworkConfig\.seed must be .* got a number of thousands of digits"),
        ("network = " + "[" * 5000, "nested more deeply"),
        ("training.schedule = '" + "x" * 5000 + "'", r"one of 'linear', .* got '" + "x" * 999 + r"\.\.\.$"),
    ],
)
def test_settings_of_any_length(tmp_path, text, message):
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(ConfigError, match=rf"run\.toml: .*{message}"):
        RunConfig.from_toml(tmp_path / "run.toml")


def test_names_in_a_manifest_lead_nowhere(tmp_path):
    from slide.data.folder import _fingerprint

    save_folder(tmp_path / "folder", make_extreme(9, 8, 5))
    edit(tmp_path / "folder" / "dataset.json", lambda about: about["arrays"].update({"../../secret": {"digest": "0"}}))
    edit(tmp_path / "folder" / "dataset.json", lambda about: about.update(fingerprint=_fingerprint(about)))
    verify(tmp_path / "folder")


def test_archives_of_other_kinds_of_compression(tmp_path):
    save_npz(tmp_path / "data.npz", make_extreme(9, 8, 5))
    with zipfile.ZipFile(tmp_path / "data.npz") as archive:
        arrays = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "data.npz", "w", zipfile.ZIP_LZMA) as archive:
        for name, content in arrays.items():
            archive.writestr(name, content)
    with pytest.raises(DataError, match=r"data\.npz: X_shape is neither stored nor deflated|X_data is neither"):
        load(tmp_path / "data.npz", cache=False)


def test_packed_networks_are_not_compressed(folder):
    network = Network.load(folder, threads=1)
    content = pack(network.save, moments=network.trainable)
    assert unpack(content, Network).n_labels == 15
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
    with pytest.raises(CheckpointError, match="a file in it is compressed"):
        unpack(stream.getvalue(), Network)


def test_saved_weights_of_squares_that_are_negative(tmp_path):
    arrays = {}
    for i, (below, above) in enumerate(((6, 4), (4, 3))):
        for letter in ("w", "am", "av"):
            arrays[f"{letter}_layer_{i}"] = np.ones((above, below), np.float32)
        arrays[f"b_layer_{i}"] = np.ones(above, np.float32)
    np.savez(tmp_path / "w.npz", **arrays)
    assert load_weights(tmp_path / "w.npz", moments=True, step=2).step == 2
    arrays["av_layer_1"][0, 0] = -1
    np.savez(tmp_path / "w.npz", **arrays)
    with pytest.raises(DataError, match=r"w\.npz: av_layer_1 has negative values"):
        load_weights(tmp_path / "w.npz", moments=True, step=2)
