"""Matrices in files: rows are those of the same matrix in memory, and damage is found where it is read."""

import copy
import os
import pickle
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, random_array

from slide.data import DataError, Dataset, load, save_folder
from slide.data import statistics as figures
from slide.data.batches import BatchReader
from slide.data.dataset import is_mapped
from slide.data.mapped import stretches

N, FEATURES, LABELS = 60, 11, 7

fast = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
numbers = st.lists(st.integers(-N, N - 1), max_size=30)


def random(shape, seed, *, ones=False):
    rng = np.random.default_rng(seed)
    matrix = csr_matrix(random_array(shape, density=0.3, format="csr", dtype=np.float32, rng=rng))
    matrix.data[:] = 1 if ones else np.round(matrix.data * 3)
    return matrix


@pytest.fixture(scope="module")
def plain():
    return Dataset.from_arrays(random((N, FEATURES), 0), random((N, LABELS), 1, ones=True))


@pytest.fixture
def folder(plain, tmp_path):
    save_folder(tmp_path / "folder", plain)
    return tmp_path / "folder"


@pytest.fixture(scope="module")
def mapped(plain, tmp_path_factory):
    path = tmp_path_factory.mktemp("mapped") / "folder"
    save_folder(path, plain)
    return load(path)


def assert_equal(found, expected):
    assert found.shape == expected.shape
    assert type(found) is csr_matrix and found.indices.dtype == found.indptr.dtype == np.int32
    np.testing.assert_array_equal(found.toarray(), expected.toarray())


@fast
@given(st.one_of(numbers, st.slices(N), st.lists(st.booleans(), min_size=N, max_size=N), st.integers(-N, N - 1)))
def test_rows_are_the_same(plain, mapped, key):
    key = np.array(key, np.intp if not key else None) if isinstance(key, list) else key
    assert_equal(mapped.X[key], plain.X[key])
    if not isinstance(key, int):
        part = mapped.subset(key)
        assert_equal(part.Y, plain.Y[key])
        assert not is_mapped(part.X)


def test_rows_and_columns(plain, mapped):
    assert mapped.X[3, 5] == plain.X[3, 5]
    np.testing.assert_array_equal(mapped.X[[3, 1], [2, 5]], plain.X[[3, 1], [2, 5]])
    for key in ((slice(2, 9), 4), ([3, 1], slice(2, 5)), (4, slice(None)), (4, [1, 2])):
        assert_equal(mapped.X[key], csr_matrix(plain.X[key]))


@pytest.mark.parametrize("key", [N, -N - 1, [0, N], [True], [0.5], [[0]]])
def test_rows_that_are_not_there(mapped, key):
    with pytest.raises(IndexError):
        mapped.X[key]


def test_what_scipy_makes_of_it_is_in_memory(plain, mapped):
    for made, expected in ((mapped.X * 2, plain.X * 2), (mapped.X.T, plain.X.T), (mapped.X.copy(), plain.X)):
        assert not is_mapped(made)
        np.testing.assert_array_equal(made.toarray(), expected.toarray())
    for copied in (pickle.loads(pickle.dumps(mapped.X)), copy.deepcopy(mapped.X)):
        assert_equal(copied, plain.X)


def test_mapped_arrays_cannot_be_written(mapped):
    with pytest.raises(ValueError, match="read-only"):
        mapped.X.data[0] = 1


@fast
@given(st.sets(st.integers(0, N - 1), max_size=N), numbers, st.integers(1, 20), st.integers(1, 9))
def test_without_some_rows(plain, mapped, skipped, wanted, batch_size, piece):
    skipped = np.array(sorted(skipped), np.int64)
    rest = np.setdiff1d(np.arange(N), skipped)
    X, Y = mapped.X.without(skipped), mapped.Y.without(skipped)
    assert X.shape == (len(rest), FEATURES)
    assert_equal(Y[:], plain.Y[rest])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "PIECE", piece)
        np.testing.assert_array_equal(figures.column_counts(Y), plain.Y[rest].toarray().sum(axis=0))
        nonzero = figures.column_counts(X, nonzero=True)
    np.testing.assert_array_equal(nonzero, (plain.X[rest].toarray() != 0).sum(axis=0))
    assert_batches(X, Y, plain.subset(rest), [number % len(rest) for number in wanted] if len(rest) else [], batch_size)


def assert_batches(X, Y, expected, rows, batch_size):
    """A reader of one gives the batches that a reader of the other gives."""
    readers = [BatchReader(*pair, batch_size, normalize=True) for pair in ((X, Y), (expected.X, expected.Y))]
    for first in range(0, len(rows), batch_size):
        one, other = (reader.read(np.array(rows[first : first + batch_size], np.int64)) for reader in readers)
        for name in ("indptr", "indices", "values", "label_ptr", "labels"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@fast
@given(st.lists(st.lists(st.integers(0, N - 1), min_size=1, max_size=6), max_size=8), st.data())
def test_batches_whatever_is_in_memory(plain, mapped, batches, data):
    readers = [BatchReader(pair.X, pair.Y, 6, normalize=False) for pair in (mapped, plain)]
    for rows in batches:
        if data.draw(st.booleans()):
            window = np.array(sorted(data.draw(st.sets(st.integers(0, N - 1)))), np.int64)
            order = data.draw(st.permutations(range(len(stretches(window)[0]))))
            readers[0].fetch(*(ends[order] for ends in stretches(window)))
            # To have others read from the disk meanwhile changes nothing.
            readers[0].expect(np.array([0, N - 2]), np.array([1, N]))
        one, other = (reader.read(np.array(rows, np.int64)) for reader in readers)
        for name in ("indptr", "indices", "values", "label_ptr", "labels"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_longest_rows(plain, mapped, monkeypatch):
    lengths = np.sort(np.diff(plain.X.indptr))
    for piece in (4, 1000):
        monkeypatch.setattr(figures, "PIECE", piece)
        for matrix in (plain.X, mapped.X):
            for count in (1, 5, N, 2 * N):
                assert figures.longest_rows(matrix, count) == (lengths[-1], lengths[-count:].sum())


def test_reader_refuses_rows_that_are_not_there(mapped):
    reader = BatchReader(mapped.X, mapped.Y, 4, normalize=False)
    for rows in ([N], [-1]):
        with pytest.raises(ValueError, match="not in 0"):
            reader.read(np.array(rows, np.int64))
    with pytest.raises(ValueError, match="no room"):
        reader.read(np.zeros(5, np.int64))


def overwrite(folder, name, place, number):
    """Put another number into an array, behind the back of whoever has it open."""
    array = np.load(folder / f"{name}.npy", mmap_mode="r+")
    array[place] = number
    array.flush()


@pytest.mark.parametrize(
    ("name", "number", "problem"),
    [
        ("X_indices", FEATURES, "the id 11 is not one of the 11 columns"),
        ("Y_indices", -1, "the id -1 is not one of the 7 columns"),
        ("X_data", np.inf, "a value is not finite"),
        ("X_indptr", 10**12, "the offsets of the rows"),
        ("Y_indptr", -5, "the offsets of the rows"),
    ],
)
def test_damage_is_found_before_kernels_trust_it(folder, name, number, problem):
    data = load(folder)
    reader = BatchReader(data.X, data.Y, 8, normalize=False)
    overwrite(folder, name, 1, number)
    expected = re.escape(str(folder / f"{name}.npy")) + f": {problem}.*; the folder is damaged, convert the data again"
    with pytest.raises(DataError, match=expected):
        reader.read(np.arange(8))
    with pytest.raises(DataError, match=expected):
        getattr(data, name[0])[:8]
    if name.endswith("indptr"):
        with pytest.raises(DataError, match="do not ascend"):
            figures.longest_rows(getattr(data, name[0]), 3)
    elif name.endswith("indices"):
        with pytest.raises(DataError, match=problem):
            figures.column_counts(getattr(data, name[0]))


def test_file_that_becomes_shorter_is_an_error_and_no_crash(folder):
    data = load(folder)
    os.truncate(folder / "X_indices.npy", 140)
    with pytest.raises(DataError, match=r"X_indices.npy: the file ends after 140 bytes"):
        data.X[:]


@fast
@given(st.lists(st.integers(0, 20), max_size=20))
def test_runs(numbers):
    starts, stops = stretches(np.array(numbers, np.int64))
    found = [number for start, stop in zip(starts, stops, strict=True) for number in range(start, stop)]
    assert found == numbers
    assert (starts < stops).all()
    assert (starts[1:] != stops[:-1]).all()


@fast
@given(st.integers(0, N), st.integers(0, N), st.lists(st.integers(0, N - 1), unique=True), st.data())
def test_a_part_is_what_it_is_of_the_same_matrix_in_memory(plain, mapped, one, other, skipped, data):
    first, last = sorted((one, other))
    part, expected = mapped.X.part(first, last), plain.X[first:last]
    kept = np.setdiff1d(np.arange(last - first), skipped)
    rows = np.array(sorted(row for row in skipped if row < last - first), np.int64)
    for matrix, twin in ((part, expected), (part.without(rows), expected[kept])):
        assert matrix.shape == twin.shape
        numbers = data.draw(st.lists(st.integers(0, max(0, matrix.shape[0] - 1)), max_size=9 if matrix.shape[0] else 0))
        assert (matrix[np.array(numbers, np.int64)] != twin[numbers]).nnz == 0
        np.testing.assert_array_equal(figures.column_counts(matrix), figures.column_counts(twin))
    assert figures.n_entries(part) == expected.nnz
    assert figures.longest_rows(part, 3) == figures.longest_rows(expected, 3)


def test_batches_of_a_part(plain, mapped):
    rows = np.array([4, 0, 19, 7])
    found = BatchReader(mapped.X.part(30, 50), mapped.Y.part(30, 50), 4, normalize=True).read(rows)
    expected = BatchReader(plain.X, plain.Y, 4, normalize=True).read(rows + 30)
    for name in ("indptr", "indices", "values", "label_ptr", "labels"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
