"""Saved networks: there and back, and every way in which a folder can be wrong."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest

from slide import Network
from slide.config import HiddenConfig, LSHConfig, NetworkConfig, OptimizerConfig, OutputConfig, TrainingConfig
from slide.data import make_extreme
from slide.persist.checks import CheckpointError
from slide.persist.format import MANIFEST
from slide.persist.saved_network import describe

N_FEATURES, N_LABELS = 60, 40


@pytest.fixture(scope="module")
def data():
    return make_extreme(300, N_FEATURES, N_LABELS)


def train(net, data, batches=10):
    net.fit(data.X, data.Y, config=TrainingConfig(epochs=100, batch_size=32, max_batches=batches))


@pytest.fixture
def make_network(data):
    """Make a network that has been trained a little."""

    def make_network(candidates="lsh+tail", optimizer="adam"):
        output = OutputConfig(candidates, budget=8, tail=8, loss="softmax", lsh=LSHConfig(l=4))
        config = NetworkConfig(HiddenConfig(17), output, OptimizerConfig(optimizer, lr=0.01))
        net = Network(N_FEATURES, N_LABELS, config, threads=1)
        train(net, data)
        return net

    return make_network


@pytest.fixture
def saved(make_network, tmp_path):
    """The folder of a saved network, ready to be damaged."""
    path = tmp_path / "net"
    make_network().save(path)
    return path


def state_of(net):
    return {
        f"{prefix}.{name}": view.copy()
        for prefix, layer in [*((layer.name, layer) for layer in net.hidden), ("output", net.output)]
        for name, view in layer.state().items()
    }


def edit_manifest(folder, **changes):
    about = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(about | changes))


# --- There and back


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("moments", [False, True])
def test_predictions_survive(make_network, data, tmp_path, moments, optimizer):
    net = make_network(optimizer=optimizer)
    net.save(tmp_path / "net", moments=moments)
    back = Network.load(tmp_path / "net", threads=2)
    assert all(np.array_equal(a, b) for a, b in zip(net.predict(data.X), back.predict(data.X), strict=True))
    assert back.config == net.config
    assert (back.step, back.trainable) == ((net.step, True) if moments else (0, False))
    if moments:
        before, after = state_of(net), state_of(back)
        assert all(np.array_equal(before[name], after[name]) for name in before)
    else:
        with pytest.raises(RuntimeError, match="can only predict"):
            train(back, data)


@pytest.mark.parametrize("moments", [False, True])
def test_feature_weights_survive(data, tmp_path, moments):
    net = Network(N_FEATURES, N_LABELS, NetworkConfig(HiddenConfig(17), feature_weights="idf"), threads=1)
    train(net, data)
    net.save(tmp_path / "net", moments=moments)
    back = Network.load(tmp_path / "net")
    assert np.array_equal(back.feature_weights, net.feature_weights)
    assert not (net.feature_weights == 1).all()
    assert all(np.array_equal(a, b) for a, b in zip(net.predict(data.X), back.predict(data.X), strict=True))
    (tmp_path / "net" / "feature_weights.npy").unlink()
    with pytest.raises(CheckpointError, match=r"feature_weights\.npy"):
        Network.load(tmp_path / "net")


def test_networks_saved_before_a_setting_was_known_load(saved):
    about = describe(saved)
    for name in ("feature_weights", "input_dropout"):
        del about["config"][name]
    for name in ("init", "init_scale"):
        del about["config"]["output"][name]
    del about["config"]["hidden"][0]["dropout"]
    edit_manifest(saved, **about)
    assert Network.load(saved).feature_weights is None


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("candidates", ["full", "lsh", "lsh+tail"])
def test_training_goes_on_as_if_nothing_had_happened(make_network, data, tmp_path, candidates, optimizer):
    net = make_network(candidates, optimizer)
    net.save(tmp_path / "net", moments=True)
    back = Network.load(tmp_path / "net", threads=1)
    train(net, data)
    train(back, data)
    here, there = state_of(net), state_of(back)
    for name in here:
        assert np.array_equal(here[name], there[name]), name
    if candidates != "full":
        assert back.output.index.rebuilds == net.output.index.rebuilds


def as_version_1(folder):
    """Make a saved network what the first version of the format was."""
    about = describe(folder)
    for name in ("layout", "training"):
        del about[name]
    (folder / MANIFEST).write_text(json.dumps(about | {"version": 1}))
    for codes in folder.glob("*.codes.npy"):
        codes.unlink()


@pytest.mark.parametrize("moments", [False, True])
def test_version_1_loads(make_network, data, tmp_path, moments):
    net = make_network("lsh+tail")
    net.save(tmp_path / "net", moments=moments)
    assert (tmp_path / "net" / "output.codes.npy").exists() == moments
    as_version_1(tmp_path / "net")
    back = Network.load(tmp_path / "net", threads=1)
    assert all(np.array_equal(a, b) for a, b in zip(net.predict(data.X), back.predict(data.X), strict=True))
    assert (back.trainable, back.step) == (moments, 10 if moments else 0)
    if moments:
        # Its tables are built before the next batch.
        assert back.output.index.rebuilds == 0
        train(back, data)
        assert back.step == 20
        assert back.output.index.rebuilds >= 1


@pytest.mark.parametrize("moments", [False, True])
def test_several_layers_survive(data, tmp_path, moments):
    lsh = LSHConfig(k=2, l=4)
    hidden = (
        HiddenConfig(30, candidates="lsh", budget=10, lsh=lsh),
        HiddenConfig(17, "linear"),
        HiddenConfig(40, candidates="lsh", budget=10, lsh=lsh),
    )
    net = Network(N_FEATURES, N_LABELS, NetworkConfig(hidden, OutputConfig("lsh", budget=8, lsh=lsh)), threads=1)
    train(net, data)
    net.save(tmp_path / "net", moments=moments)
    names = {file.name for file in (tmp_path / "net").iterdir()}
    layers = ["hidden.0", "hidden.1", "hidden.2", "output"]
    assert {f"{layer}.{part}.npy" for layer in layers for part in ("weights", "bias")} <= names
    assert ("hidden.2.bias_v.npy" in names) == moments
    back = Network.load(tmp_path / "net")
    assert back.config == net.config
    assert all(np.array_equal(a, b) for a, b in zip(net.predict(data.X), back.predict(data.X), strict=True))
    before, after = state_of(net), state_of(back)
    for name in before if moments else [name for name in after if name.endswith(("weights", "bias"))]:
        assert np.array_equal(before[name], after[name]), name
    if moments:
        train(back, data)
        assert back.step == 20
        assert [layer.index is not None for layer in back.hidden] == [True, False, True]


def test_saving_again_replaces_the_old_network(make_network, data, tmp_path):
    path = tmp_path / "net"
    net = make_network()
    net.save(path, moments=True)
    train(net, data)
    net.save(path)
    assert np.array_equal(Network.load(path).output.table.weights, net.output.table.weights)
    assert sorted(file.name for file in path.iterdir()) == [
        "hidden.0.bias.npy",
        "hidden.0.weights.npy",
        "network.json",
        "output.bias.npy",
        "output.weights.npy",
    ]
    assert list(tmp_path.iterdir()) == [path]


def test_folders_above_are_made(make_network, tmp_path):
    make_network().save(tmp_path / "a" / "b" / "net")
    assert Network.load(tmp_path / "a" / "b" / "net").n_labels == N_LABELS


def test_describe(saved):
    about = describe(saved)
    assert (about["n_features"], about["n_labels"], about["step"], about["moments"]) == (
        N_FEATURES,
        N_LABELS,
        10,
        False,
    )
    assert [layer["units"] for layer in about["config"]["hidden"]] == [17]
    assert about["index"]["l"] == 4


def test_network_without_tables_describes_none(make_network, tmp_path):
    make_network("full").save(tmp_path / "net")
    assert describe(tmp_path / "net")["index"] is None


# --- Saving that does not work


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_not_a_network_is_not_replaced(make_network, tmp_path, kind):
    path = tmp_path / "net"
    if kind == "file":
        path.write_text("precious")
    else:
        path.mkdir()
        (path / "history.jsonl").touch()
        (path / "precious").touch()
    with pytest.raises(FileExistsError, match="is not a saved network"):
        make_network().save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "precious" if kind == "file" else (path / "precious").exists()


@pytest.mark.parametrize("names", [[], ["history.jsonl"], ["history.jsonl", "history.former.jsonl"]])
def test_what_a_run_leaves_that_never_saved_is_replaced(make_network, tmp_path, names):
    path = tmp_path / "net"
    path.mkdir()
    for name in names:
        (path / name).touch()
    make_network().save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert not any((path / name).exists() for name in names)


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("fails_at", [1, 3, 5])
def test_failed_save_leaves_everything_as_it_was(make_network, data, tmp_path, monkeypatch, exists, fails_at):
    path = tmp_path / "net"
    net = make_network()
    if exists:
        net.save(path)
        expected = Network.load(path).output.table.weights.copy()
        train(net, data)
    written = []
    fsync = os.fsync

    def failing_fsync(file):
        written.append(file)
        if len(written) == fails_at:
            raise OSError(28, "No space left on device")
        fsync(file)

    monkeypatch.setattr(os, "fsync", failing_fsync)
    with pytest.raises(OSError, match="No space left"):
        net.save(path)
    assert list(tmp_path.iterdir()) == ([path] if exists else [])
    if exists:
        assert np.array_equal(Network.load(path).output.table.weights, expected)


# --- Folders that are wrong


@pytest.mark.parametrize("path", ["none", "empty"])
def test_folder_without_a_network(tmp_path, path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=rf"{path} is not a saved network: it has no network.json"):
        Network.load(tmp_path / path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"\xff\xff", "decode"),
        (b"[" * 100_000, "nested"),
        (b"[]", "not a slide-network file"),
        (b"{}", "not a slide-network file"),
        (b'{"format": "slide-network"}', "format version None, this slide .* reads versions 1 to 3"),
        (b'{"format": "slide-network", "version": 4}', "version 4, this slide .* reads versions 1 to 3; a newer"),
        (b'{"format": "slide-network", "version": 1}', "config"),
    ],
    ids=lambda part: repr(part[:40]),
)
def test_bad_manifest(saved, content, message):
    (saved / MANIFEST).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"network\.json: .*{message}"):
        Network.load(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": 3}, r"network\.json: .*must be a section"),
        ({"config": {"layers": 3}}, r"network\.json: unknown setting 'layers'"),
        ({"config": {"hidden": [{"units": 0}]}}, r"network\.json: .*HiddenConfig.units must be"),
        ({"config": {"hidden": []}}, r"network\.json: .*hidden must be a HiddenConfig or"),
        ({"config": {"hidden": {"units": 17}}}, r"network\.json: \[\[hidden\]\] must be a list of sections"),
        ({"config": {"hidden": [{"units": 17}] * 2}}, r"hidden\.1\.weights\.npy: .* 17 x 17 weights, found 0"),
        ({"n_labels": "40"}, r"network\.json: n_labels must be a number"),
        ({"n_labels": True}, r"network\.json: n_labels must be a number"),
        ({"n_labels": 2**31}, r"network\.json: n_labels must be a number"),
        ({"n_features": -1}, r"network\.json: n_features must be a number"),
        ({"step": None}, r"network\.json: step must be a number"),
        ({"n_labels": 0}, r"output\.weights\.npy: .*expected for 0 x 17 weights"),
        ({"n_labels": 2**31 - 1}, r"output\.weights\.npy: 146,028,887,996 bytes expected for 2,147,483,647 x 17"),
        ({"n_features": 61}, r"hidden\.0\.weights\.npy: expected float32 \[61, 17\], found float32 \[60, 17\]"),
        ({"n_labels": 39}, r"output\.weights\.npy: expected float32 \[39, 17\], found float32 \[40, 17\]"),
        ({"config": {"hidden": [{"units": 16}]}}, r"hidden\.0\.weights\.npy: expected float32 \[60, 16\]"),
        (
            {"config": {"hidden": [{"units": 2**16}]}},
            r"hidden\.0\.weights\.npy: 15,728,640 bytes expected for 60 x 65,536 weights",
        ),
        ({"moments": True}, r"hidden\.0\.last_step\.npy: .*not saved completely"),
    ],
)
def test_lying_manifest(saved, changes, message):
    edit_manifest(saved, **changes)
    with pytest.raises(CheckpointError, match=message):
        Network.load(saved)


def damage_by_removal(file):
    file.unlink()


def damage_by_truncation(file):
    file.write_bytes(file.read_bytes()[:-1])


def damage_by_emptying(file):
    file.write_bytes(b"")


def damage_by_noise(file):
    file.write_bytes(b"\x80\x04noise" * 2000)


def damage_by_a_cut_header(file):
    file.write_bytes(file.read_bytes()[:20] + bytes(5000))


def damage_by_another_type(file):
    np.save(file, np.load(file).astype(np.float64))


def damage_by_byte_order(file):
    np.save(file, np.load(file).astype(">f4"))


def damage_by_another_shape(file):
    array = np.load(file)
    np.save(file, np.concatenate([array, array]))


def damage_by_nan(file):
    array = np.load(file)
    array.flat[array.size // 2] = np.nan
    np.save(file, array)


def damage_by_infinities(file):
    array = np.load(file)
    array.flat[0], array.flat[1] = np.inf, -np.inf
    np.save(file, array)


def damage_by_an_archive(file):
    """A .npz under the name of a .npy."""
    array = np.load(file)
    with open(file, "wb") as stream:
        np.savez(stream, array=array, more=array)


class Bomb:
    """Tells when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was executed",)


def damage_by_an_object_array(file):
    np.save(file, np.full(20_000, Bomb(), object), allow_pickle=True)


def damage_by_a_pickle(file):
    file.write_bytes(pickle.dumps([Bomb()] * 5) + bytes(20_000))


DAMAGES = [value for name, value in list(globals().items()) if name.startswith("damage_by_")]


@pytest.mark.parametrize("name", ["hidden.0.weights", "output.weights", "output.bias"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_array(saved, damage, name):
    file = saved / f"{name}.npy"
    damage(file)
    with pytest.raises(CheckpointError, match=rf"{name}\.npy: "):
        Network.load(saved)


def test_folder_in_place_of_an_array(saved):
    (saved / "output.bias.npy").unlink()
    (saved / "output.bias.npy").mkdir()
    with pytest.raises(CheckpointError, match=r"output\.bias\.npy: "):
        Network.load(saved)


def test_damage_is_found_in_moments_as_well(make_network, tmp_path):
    path = tmp_path / "net"
    make_network().save(path, moments=True)
    damage_by_nan(path / "output.v.npy")
    with pytest.raises(CheckpointError, match=r"output\.v\.npy: has values that are not finite"):
        Network.load(path)


def test_a_copied_folder_is_the_same_network(saved, data, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    assert np.array_equal(Network.load(tmp_path / "copy").predict(data.X)[0], Network.load(saved).predict(data.X)[0])


def test_moments_that_there_are_not(saved, tmp_path):
    with pytest.raises(ValueError, match="without the optimizer's state"):
        Network.load(saved).save(tmp_path / "other", moments=True)
    assert not (tmp_path / "other").exists()
