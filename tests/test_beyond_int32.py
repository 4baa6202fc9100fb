"""Places beyond 2^31: parameters, non-zeros and slots whose offsets no int32 holds, in memory that nobody has touched.

What a system maps takes no memory before it is written to, and holes in a file no room: arrays of nine gigabytes cost
the few pages that a test touches. Where so much cannot be mapped the tests are skipped.
"""

import json

import numpy as np
import pytest

from slide import HiddenConfig, Network, NetworkConfig, OptimizerConfig, OutputConfig
from slide.data import folder, load, make_extreme, save_folder
from slide.data.batches import Batch
from slide.kernels import dtypes, tables
from slide.kernels.memory import HugeBuffer
from slide.kernels.rows import RowTable
from slide.kernels.sampling import ranked, vanilla
from slide.rows.storage import Storage

BEYOND = 1 << 31
UNITS = 1024
FEW, N_FEATURES = 60, 40
"""Of the twins: as many rows as the large networks use of theirs."""


@pytest.fixture
def untouched(monkeypatch):
    """Let networks be made whose weights nobody writes to, whatever the memory."""
    make_table = Storage.make_table

    def make(self, rows, dim, name, buffers, **rest):
        if rows <= 1 << 16:
            return make_table(self, rows, dim, name, buffers, **rest)
        try:
            table = RowTable(rows, dim, name=name, hugepages=False, biased=rest.get("biased", True), **self._asdict())
        except MemoryError as error:
            pytest.skip(str(error))
        buffers.add(name, table.buffer, shape=(rows, table.buffer.nbytes // (4 * rows)), dtype=dtypes.VALUE)
        return table

    monkeypatch.setattr(Storage, "make_table", make)
    monkeypatch.setenv("SLIDE_MEMORY_CHECK", "off")


def rows_beyond(dim, moments, precision):
    """How many rows have offsets beyond 2^31, some of them by `FEW`."""
    floats = RowTable.bytes_needed(1, dim, moments, precision) // 4
    return BEYOND // floats + 10 * FEW


def config_of(hidden, optimizer, precision, update):
    output = OutputConfig("inbatch", correction="none", loss="softmax")
    return NetworkConfig(hidden, output, optimizer, precision=precision, update=update, hugepages="off")


def batch_of(features, labels):
    """Six samples with three features and two labels each."""
    rng = np.random.default_rng(3)
    f = np.concatenate([np.sort(rng.choice(features, 3, replace=False)) for _ in range(6)]).astype(dtypes.INDEX)
    y = np.concatenate([np.sort(rng.choice(labels, 2, replace=False)) for _ in range(6)]).astype(dtypes.INDEX)
    values = rng.random(18).astype(np.float32)
    return Batch(np.arange(0, 19, 3, dtype=np.int64), f, values, np.arange(0, 13, 2, dtype=np.int64), y)


SGD = OptimizerConfig("sgd", lr=0.1)
WAYS = {
    "sgd": (SGD, "fp32", "grouped"),
    "adam": (OptimizerConfig("adam", lr=0.01), "fp32", "grouped"),
    "adagrad": (OptimizerConfig("adagrad", lr=0.1), "fp32", "grouped"),
    "bf16-moments": (OptimizerConfig("adam", lr=0.01, lazy="sparse"), "bf16-moments", "grouped"),
    "bf16": (SGD, "bf16", "grouped"),
    "hogwild": (SGD, "fp32", "hogwild"),
    "clipped": (OptimizerConfig("sgd", lr=0.1, clip_norm=0.1), "fp32", "grouped"),
}


@pytest.mark.parametrize("side", ["features", "labels"])
@pytest.mark.parametrize("way", WAYS)
def test_rows_beyond_train_as_rows_at_the_front(untouched, way, side):
    optimizer, precision, update = WAYS[way]
    hidden = HiddenConfig(UNITS if side == "features" else 16, dropout=0.0)
    if side == "labels":
        hidden = (hidden, HiddenConfig(UNITS, dropout=0.0))
    config = config_of(hidden, optimizer, precision, update)
    n = rows_beyond(UNITS, 2 if optimizer.name == "adam" else 0, precision)
    sizes = (n, FEW) if side == "features" else (N_FEATURES, n)
    large = Network(*sizes, config, threads=1)
    small = Network(*((FEW, FEW) if side == "features" else (N_FEATURES, FEW)), config, threads=1)
    last = np.arange(n - FEW, n)
    pick = (lambda net: net.hidden[0]) if side == "features" else (lambda net: net.output)
    assert pick(large).table.n_rows * (pick(large).table.buffer.nbytes // n) // 4 > BEYOND
    weights = np.random.default_rng(1).standard_normal((FEW, UNITS)).astype(np.float32) / 30
    pick(large).table.weights[n - FEW :] = weights
    pick(small).table.weights[...] = weights
    for net in (large, small):
        net.output.set_label_frequency(np.full(net.n_labels, 0.1))
    ids = np.arange(FEW)
    for _ in range(4):
        there = batch_of(last, ids) if side == "features" else batch_of(np.arange(N_FEATURES), last)
        here = batch_of(ids, ids) if side == "features" else batch_of(np.arange(N_FEATURES), ids)
        one, other = large.train_batch(there), small.train_batch(here)
        np.testing.assert_allclose(one.loss, other.loss, rtol=1e-6 if precision == "fp32" else 1e-3)
    # Bits that are rounded away at random are functions of the row.
    loose = {"rtol": 0, "atol": 2e-2} if precision != "fp32" else {"rtol": 0, "atol": 0}
    for name, array in pick(small).table.state().items():
        np.testing.assert_allclose(pick(large).table.state()[name][n - FEW :], np.asarray(array), **loose, err_msg=name)
    front = pick(large).table.state()
    assert not any(np.asarray(array[: 9 * FEW]).any() for array in front.values())
    if optimizer.name == "sgd":  # Others' rows would all have to catch up first.
        scores = _scores(large, last, side)
        np.testing.assert_allclose(scores, _scores(small, ids, side), rtol=0, atol=2e-2 if precision != "fp32" else 0)


def _scores(network, ids, side):
    """Logits of some samples, of the labels `ids` alone where there are many."""
    rng = np.random.default_rng(5)
    if side == "labels":
        X = rng.random((3, N_FEATURES)).astype(np.float32)
        labels, scores = network.predict(X, FEW, allowed=ids)
        return np.take_along_axis(scores, np.argsort(labels, axis=1), axis=1)
    from scipy.sparse import csr_matrix

    places, values = np.array([3, 20, 59]), rng.random(3).astype(np.float32)
    X = csr_matrix((values, ids[places], [0, 3]), shape=(1, network.n_features))
    return np.sort(network.predict(X, FEW)[1])


def test_a_mapped_network_with_rows_beyond(tmp_path):
    """A network of which no more is read than the few rows that may be predicted."""
    small = Network(N_FEATURES, FEW, NetworkConfig(HiddenConfig(UNITS, dropout=0.0)), threads=1)
    small.output.table.bias[:] = np.arange(FEW) / 100
    small.save(tmp_path / "model", serving=True)
    file, about = tmp_path / "model" / "output.rows.npy", tmp_path / "model" / "network.json"
    records = np.load(file)
    n = BEYOND * 4 // records.dtype.itemsize + FEW
    with open(file, "wb") as stream:
        header = {"descr": np.lib.format.dtype_to_descr(records.dtype), "fortran_order": False, "shape": (n,)}
        np.lib.format.write_array_header_1_0(stream, header)
        try:
            stream.seek((n - FEW) * records.dtype.itemsize, 1)
            stream.write(records.tobytes())
        except OSError as error:
            pytest.skip(f"no file may have holes or be that large here: {error}")
    about.write_text(json.dumps(json.loads(about.read_text()) | {"n_labels": n}))
    large = Network.load(tmp_path / "model", mmap=True, threads=1)
    X = np.random.default_rng(0).random((3, N_FEATURES)).astype(np.float32)
    found, scores = large.predict(X, 5, allowed=np.arange(n - FEW, n))
    expected, those = small.predict(X, 5)
    assert np.array_equal(found, expected + n - FEW)
    assert np.array_equal(scores, those)


def test_data_with_more_than_2_31_values(tmp_path):
    """The samples at its end are read, shuffled and learnt like any others."""
    samples = make_extreme(50, N_FEATURES, FEW, seed=2)
    save_folder(tmp_path / "data", samples)
    about = json.loads((tmp_path / "data" / folder.MANIFEST).read_text())
    length, n_long = BEYOND + 12345, 1 << 12
    X, Y = samples.X, samples.Y
    long = np.linspace(0, length, n_long + 1).astype(np.int64)
    offsets = {
        "X": np.concatenate([long, length + X.indptr[1:].astype(np.int64)]),
        "Y": np.concatenate([np.zeros(n_long + 1, np.int64), Y.indptr[1:].astype(np.int64)]),
    }
    about["n_points"] = n_long + 50
    for name in folder.NAMES:
        letter, part = name.split("_")
        matrix, dtype = {"X": X, "Y": Y}[letter], folder.PARTS[part]
        content = offsets[letter] if part == "indptr" else getattr(matrix, part).astype(dtype)
        before = 0 if part == "indptr" or letter == "Y" else length
        about["arrays"][name]["length"] = before + len(content)
        with open(tmp_path / "data" / f"{name}.npy", "wb") as stream:
            stream.write(folder._header(dtype, before + len(content)))
            try:
                stream.seek(before * dtype.itemsize, 1)
                stream.write(content.tobytes())
            except OSError as error:
                pytest.skip(f"no file may have holes or be that large here: {error}")
    about["fingerprint"] = folder._fingerprint(about)
    (tmp_path / "data" / folder.MANIFEST).write_text(json.dumps(about))
    data = load(tmp_path / "data")
    assert data.X.nnz == length + X.nnz > BEYOND
    tail = np.arange(n_long, n_long + 50)
    assert (data.X[tail] != X).nnz == 0
    one, other = (Network(N_FEATURES, FEW, NetworkConfig(HiddenConfig(8)), threads=1) for _ in range(2))
    for net, matrices, rows in ((one, (data.X, data.Y), tail), (other, (X, Y), tail - n_long)):
        net.output.set_label_frequency(np.full(FEW, 0.1))
        reader = net.reader(*matrices, 25)
        for batch in (rows[:25], rows[25:]):
            net.train_batch(reader.read(batch[::-1].copy()))
    assert np.array_equal(one.output.table.weights, other.output.table.weights)


def test_tables_with_more_than_2_31_slots():
    """Six tables whose room is far larger than what is in them: the last begin beyond 2^31."""
    n_tables, room, n, n_buckets = 6, 1 << 29, 40, 8
    try:
        memory = HugeBuffer(4 * n_tables * room, name="slots", hugepages=False)
    except MemoryError as error:
        pytest.skip(str(error))
    slots = memory.array((n_tables, room), dtypes.INDEX)
    codes = np.random.default_rng(0).integers(0, n_buckets, (n_tables, n)).astype(np.uint32)
    offsets, few = np.zeros((n_tables, n_buckets + 1), dtypes.INDEX), np.zeros((n_tables, n), dtypes.INDEX)
    expected = np.zeros_like(offsets)
    tables.build(codes, offsets, slots, 1)
    tables.build(codes, expected, few, 1)
    assert np.array_equal(offsets, expected)
    assert np.array_equal(slots[:, :n], few)
    asked = np.random.default_rng(1).integers(0, n_buckets, (n_tables, 3)).astype(np.uint32)
    for find in (vanilla, ranked):
        results = []
        for ids in (slots, few):
            out, counts = np.full((3, 20), -1, dtypes.INDEX), np.zeros(3, np.int64)
            nobody = (np.zeros(4, np.int64), np.zeros(0, dtypes.INDEX))
            find(asked, offsets, ids, n, *nobody, 20, 7, 1, out, counts, 1)
            results.append((out.tolist(), counts.tolist()))
        assert results[0] == results[1]
        assert min(results[0][1]) > 0


@pytest.mark.parametrize("bad", [BEYOND, BEYOND + 5])
def test_more_ids_than_an_int32_holds_are_refused(bad):
    for sizes in ((bad, 5), (5, bad)):
        with pytest.raises(ValueError, match=r"must be between 1 and 2\*\*31 - 1"):
            Network(*sizes)
