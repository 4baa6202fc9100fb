"""NumPy archives: the round trip, and archives that were not written by us."""

import io
import zipfile

import numpy as np
import psutil
import pytest

from slide.data import DataError, Dataset, load, save_npz
from slide.data.npz import scan_npz
from slide.data.samples import SampleArrays


@pytest.fixture
def dataset():
    rng = np.random.default_rng(0)
    X = np.where(rng.random((20, 15)) < 0.3, rng.standard_normal((20, 15)), 0)
    return Dataset.from_arrays(X, rng.random((20, 9)) < 0.2)


@pytest.fixture
def arrays(dataset, tmp_path):
    save_npz(tmp_path / "arrays.npz", dataset)
    with np.load(tmp_path / "arrays.npz") as archive:
        return dict(archive)


@pytest.fixture
def load_arrays(tmp_path):
    def load_arrays(arrays, save=np.savez, **options):
        save(tmp_path / "data.npz", **arrays)
        return load(tmp_path / "data.npz", **options)

    return load_arrays


def assert_same(left, right):
    for ours, theirs in ((left.X, right.X), (left.Y, right.Y)):
        assert ours.shape == theirs.shape
        assert (ours != theirs).nnz == 0


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_round_trip(dataset, arrays, load_arrays, save):
    assert set(arrays) == {
        f"{letter}_{part}" for letter in "XY" for part in ("data", "indices", "indptr", "shape")
    }
    loaded = load_arrays(arrays, save)
    assert_same(loaded, dataset)
    assert loaded.name == "data"


def test_other_types_and_order_are_normalised(dataset, arrays, load_arrays):
    arrays |= {name: array.astype(np.int64) for name, array in arrays.items() if not name.endswith("data")}
    arrays["X_data"] = arrays["X_data"].astype(np.float64)
    arrays["Y_data"] = arrays["Y_data"].astype(bool).astype(np.uint8)
    assert_same(load_arrays(arrays), dataset)


def test_sizes_can_be_given(arrays, load_arrays):
    assert load_arrays(arrays, n_features=50, n_labels=60).Y.shape == (20, 60)
    with pytest.raises(DataError, match="X is not a valid sparse matrix"):
        load_arrays(arrays, n_features=3)


def changed(array, position, value):
    array = array.copy()
    array[position] = value
    return array


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("X_data", lambda a: changed(a, 3, np.nan), "X, row .*, column .*: nan is not finite"),
        ("X_data", lambda a: a.astype(complex), "X_data has shape .* and dtype complex128"),
        ("X_data", lambda a: a.reshape(-1, 1), "X_data has shape"),
        ("X_data", lambda a: a[:-1], "X is not a valid sparse matrix"),
        ("X_data", lambda a: a.astype(object), "X_data has shape .* and dtype object"),
        ("X_indices", lambda a: changed(a, 0, 15), "X is not a valid sparse matrix"),
        ("X_indices", lambda a: changed(a, 0, -1), "X is not a valid sparse matrix"),
        ("X_indices", lambda a: a.astype(float), "X_indices has shape .* and dtype float64"),
        ("X_indptr", lambda a: changed(a, 5, a[6] + 1), "X is not a valid sparse matrix"),
        ("X_indptr", lambda a: a[:-1], "X_indptr must have 21 entries"),
        ("X_indptr", lambda a: changed(a, -1, a[-1] - 1), "X_indptr must have 21 entries"),
        ("X_shape", lambda a: changed(a, 0, 2**62), "X_indptr must have"),
        ("X_shape", lambda a: changed(a, 1, 2**40), "X has 1,099,511,627,776 columns"),
        ("X_shape", lambda a: -a, "X_shape must be two numbers"),
        ("X_shape", lambda a: np.r_[a, 1], "X_shape must be two numbers"),
        ("Y_data", lambda a: -a, "Y, row .* is negative"),
        ("Y_shape", None, "there is no array Y_shape"),
    ],
)
def test_refused(arrays, load_arrays, tmp_path, name, change, message):
    if change is None:
        del arrays[name]
    else:
        arrays[name] = change(arrays[name])
    with pytest.raises(DataError, match=r"data\.npz: " + message) as refusal:
        load_arrays(arrays)
    assert not still_open(refusal)
    with pytest.raises(DataError) as refusal:
        scan_npz(tmp_path / "data.npz", SampleArrays())
    assert not still_open(refusal)


def still_open(refusal):
    """The archives that are open while an error, with every frame that it came through, is still there."""
    assert refusal.value.__traceback__ is not None
    return [file.path for file in psutil.Process().open_files() if file.path.endswith("data.npz")]


def test_numbers_of_rows_must_agree(dataset, arrays, load_arrays, tmp_path):
    save_npz(tmp_path / "fewer.npz", dataset.subset(slice(5)))
    with np.load(tmp_path / "fewer.npz") as fewer:
        arrays |= {name: fewer[name] for name in fewer if name.startswith("Y")}
    with pytest.raises(DataError, match=r"data\.npz: X has 20 rows and Y has 5"):
        load_arrays(arrays)


def npy_of(shape):
    """An npy file that announces float32 of this shape and holds one value."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue() + bytes(4)


def test_headers_that_lie_are_not_believed(write):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("X_data.npy", npy_of((10**12,)))
    with pytest.raises(DataError, match="X_data announces 1,000,000,000,000 values"):
        load(write(file.getvalue(), "data.npz"))


def test_damaged_archives(dataset, tmp_path, write):
    save_npz(tmp_path / "whole.npz", dataset)
    content = (tmp_path / "whole.npz").read_bytes()
    for size in (4, 100, len(content) - 5):
        with pytest.raises(DataError, match=r"data\.npz: the archive is damaged"):
            load(write(content[:size], "data.npz"))
    flipped = bytearray(content)
    flipped[150] ^= 0xFF
    with pytest.raises(DataError, match=r"data\.npz: the archive is damaged"):
        load(write(bytes(flipped), "data.npz"))
    with pytest.raises(DataError, match="is not a NumPy archive"):
        load(write("1 2 3\n0 1:1\n"), format="npz")


def test_every_flipped_byte_is_noticed_or_harmless(dataset, tmp_path, write):
    save_npz(tmp_path / "whole.npz", dataset)
    content = (tmp_path / "whole.npz").read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(4, len(content), size=200).tolist():
        flipped = bytearray(content)
        flipped[position] ^= 1 << rng.integers(8)
        try:
            assert_same(load(write(bytes(flipped), "data.npz")), dataset)
        except DataError as refusal:
            assert "data.npz" in str(refusal)
