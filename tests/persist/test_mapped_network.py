"""Networks that predict from a file that is mapped into memory."""

import json
import pickle

import numpy as np
import pytest

from slide import HiddenConfig, LSHConfig, Network, NetworkConfig, OutputConfig, TrainingConfig
from slide.data import make_extreme
from slide.kernels.bfloat16 import BFloat16View
from slide.kernels.rows import RowTable
from slide.persist.checks import CheckpointError
from slide.persist.format import MANIFEST
from slide.rows.storage import MappedStorage

N_FEATURES, N_LABELS = 60, 200
SAMPLED = HiddenConfig(24, candidates="lsh", budget=8, lsh=LSHConfig(k=2, l=2))
CONFIGS = {
    "default": NetworkConfig(HiddenConfig(17)),
    "bf16": NetworkConfig(HiddenConfig(33), precision="bf16", feature_weights="idf"),
    "bf16-moments": NetworkConfig(HiddenConfig(16), precision="bf16-moments"),
    "tables": NetworkConfig(HiddenConfig(17), OutputConfig("lsh+tail", budget=8, lsh=LSHConfig(l=4))),
    "layers": NetworkConfig((SAMPLED, HiddenConfig(17, "linear"), SAMPLED)),
}


@pytest.fixture(scope="module")
def data():
    return make_extreme(600, N_FEATURES, N_LABELS)


def trained(data, name="default"):
    network = Network(N_FEATURES, N_LABELS, CONFIGS[name], threads=1)
    network.fit(data.X, data.Y, config=TrainingConfig(epochs=1, batch_size=64))
    return network


@pytest.fixture
def served(data, tmp_path):
    """The folder of a network saved for serving."""
    trained(data).save(tmp_path / "net", serving=True)
    return tmp_path / "net"


def assert_predicts_the_same(one, other, X):
    assert all(np.array_equal(a, b) for a, b in zip(one.predict(X), other.predict(X), strict=True))


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_predictions_are_the_same(data, tmp_path, name, mmap):
    network = trained(data, name)
    network.save(tmp_path / "net", serving=True)
    back = Network.load(tmp_path / "net", threads=1, mmap=mmap)
    assert (back.mapped, back.trainable, back.config) == (mmap, False, network.config)
    assert_predicts_the_same(back, network, data.X)
    assert back.evaluate(data.X, data.Y) == network.evaluate(data.X, data.Y)
    for mode in ("sketch", "lsh"):
        for each in (back, network):
            each.build_search_index(mode, data.X)
        found, expected = (each.predict(data.X, mode=mode, candidates=50)[0] for each in (back, network))
        assert np.array_equal(found, expected)


def test_rows_can_be_read_by_name(data, tmp_path):
    network = trained(data)
    network.save(tmp_path / "net", serving=True)
    assert sorted(file.name for file in (tmp_path / "net").iterdir()) == [
        "hidden.0.bias.npy",
        "hidden.0.rows.npy",
        "network.json",
        "output.rows.npy",
    ]
    rows = np.load(tmp_path / "net" / "output.rows.npy", mmap_mode="r")
    assert np.array_equal(rows["weights"], network.output.table.weights)
    assert np.array_equal(rows["bias"], network.output.table.bias)


def test_a_mapped_network_cannot_be_changed(data, served):
    network = Network.load(served, threads=1, mmap=True)
    with pytest.raises(RuntimeError, match="it can only predict"):
        network.fit(data.X, data.Y)
    with pytest.raises(RuntimeError, match="can only predict"):
        network.initialize(labels=np.zeros((N_LABELS, 17)))
    with pytest.raises(RuntimeError, match="can only predict"):
        network.grow(N_LABELS + 1)
    with pytest.raises(RuntimeError, match="mmap=False"):
        network.set_weights(network.copy_weights())
    with pytest.raises(ValueError, match="read-only"):
        network.output.table.weights[:] = 0
    with pytest.raises(ValueError, match="read-only"):
        network.output.table.bias[0] = 0


def test_it_can_be_saved_and_copied(data, served, tmp_path):
    network = Network.load(served, threads=1, mmap=True)
    network.save(tmp_path / "plain")
    assert_predicts_the_same(Network.load(tmp_path / "plain"), network, data.X)
    copy = pickle.loads(pickle.dumps(network))
    assert not copy.mapped
    assert_predicts_the_same(copy, network, data.X)
    assert any(line["name"] == "output weights" for line in network.memory_report())


def test_predictions_outlive_the_folder(data, served):
    network = Network.load(served, threads=1, mmap=True)
    expected = network.predict(data.X)
    trained(data, "bf16").save(served)
    assert all(np.array_equal(a, b) for a, b in zip(network.predict(data.X), expected, strict=True))


def test_other_saved_networks_cannot_be_mapped(data, tmp_path):
    network = trained(data)
    network.save(tmp_path / "net")
    with pytest.raises(CheckpointError, match=r"not saved for serving.*slide export .*net COPY --serving"):
        Network.load(tmp_path / "net", mmap=True)
    with pytest.raises(ValueError, match="a network for serving has no moments"):
        network.save(tmp_path / "both", serving=True, moments=True)


@pytest.mark.parametrize("mmap", [False, True])
def test_damaged_rows(served, mmap):
    file = served / "output.rows.npy"
    content = file.read_bytes()
    for damaged, message in (
        (content[:-4], "damaged"),
        (content[:1000], "bytes expected for 200 x 17 weights"),
        (b"", "bytes expected"),
    ):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=rf"output\.rows\.npy: .*{message}"):
            Network.load(served, mmap=mmap)
    np.save(file, np.zeros((N_LABELS, 40), np.float32))
    with pytest.raises(CheckpointError, match=r"output\.rows\.npy: expected .*, found float32"):
        Network.load(served, mmap=mmap)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"output\.rows\.npy: "):
        Network.load(served, mmap=mmap)
    about = json.loads((served / MANIFEST).read_text())
    (served / MANIFEST).write_text(json.dumps(about | {"moments": True}))
    with pytest.raises(CheckpointError):
        Network.load(served, mmap=mmap)


def test_nan_is_found_where_everything_is_read(served):
    rows = np.load(served / "output.rows.npy")
    rows["weights"][3, 4] = np.nan
    np.save(served / "output.rows.npy", rows)
    with pytest.raises(CheckpointError, match=r"output\.weights.npy: has values that are not finite"):
        Network.load(served)
    assert Network.load(served, mmap=True).n_labels == N_LABELS


# Tables of somebody else's rows


def test_records_of_a_table():
    for precision, kind in (("fp32", np.ndarray), ("bf16", BFloat16View)):
        records = np.zeros(5, RowTable.record_dtype(17, precision))
        records["bias"] = np.arange(5)
        records = aligned(records)
        table = RowTable(5, 17, moments=0, precision=precision, records=records)
        assert (table.read_only, table.bias.tolist()) == (True, [0, 1, 2, 3, 4])
        assert isinstance(table.weights, kind)
        with pytest.raises(ValueError, match="cannot be changed"):
            table.fill_uniform(1.0, 0, 1)
    assert not RowTable(5, 17).read_only


def aligned(records):
    """A copy that begins at a multiple of 64 bytes."""
    room = np.zeros(records.nbytes + 64, np.uint8)
    first = -room.ctypes.data % 64
    room[first : first + records.nbytes] = records.view(np.uint8)
    return room[first : first + records.nbytes].view(records.dtype)


def test_records_that_do_not_fit():
    records = aligned(np.zeros(5, RowTable.record_dtype(17)))
    for options, message in (
        ({"moments": 2}, "no room for what an optimizer keeps"),
        ({"moments": 0, "accumulates": True}, "no room for what an optimizer keeps"),
        ({"moments": 0, "records": records[:4]}, r"records must be \[5\]"),
        ({"moments": 0, "records": np.zeros(5, np.float32)}, r"records must be \[5\]"),
        ({"moments": 0, "precision": "bf16"}, r"records must be \[5\]"),
        ({"moments": 0, "records": aligned(np.zeros(10, records.dtype))[::2]}, "contiguous"),
    ):
        with pytest.raises(ValueError, match=message):
            RowTable(5, 17, **({"records": records} | options))
    shifted = np.zeros(records.nbytes + 128, np.uint8)
    first = -shifted.ctypes.data % 64 + 4
    shifted = shifted[first : first + records.nbytes].view(records.dtype)
    with pytest.raises(ValueError, match="64 bytes"):
        RowTable(5, 17, moments=0, records=shifted)


def test_no_kernel_steps_read_only_rows():
    from slide.kernels import optim

    table = RowTable(5, 17, moments=0, records=aligned(np.zeros(5, RowTable.record_dtype(17))))
    with pytest.raises(ValueError, match="cannot be changed"):
        optim.check_moments(table, optim.sgd(0.1, 1))


def test_a_storage_maps_what_a_layer_asks_for():
    asked = []

    def records(name, rows, dim):
        asked.append((name, rows, dim))
        return aligned(np.zeros(rows, RowTable.record_dtype(dim)))

    network = Network(6, 5, NetworkConfig(HiddenConfig(16)), trainable=False, storage=MappedStorage("fp32", records))
    assert asked == [("hidden.0", 6, 16), ("output", 5, 16)]
    assert network.mapped
