"""Folders of mapped arrays: the same as `load` reads, whole or not at all, and refused when damaged."""

import functools
import gzip
import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix, csr_matrix

from slide.data import DataError, Dataset, convert, load, npz, save_folder, save_npz, save_xc, verify
from slide.data import text as text_formats
from slide.data.dataset import is_mapped
from slide.data.files import whole_lines
from slide.data.folder import MANIFEST, NAMES, describe

TEXT = "3 6 4\n0,2 1:0.5 4:-2\n 5:1e-3\n3\n"

tokens = st.lists(st.tuples(st.integers(0, 8), st.sampled_from([0.5, -2.0, 0.0, 3e-3])), max_size=6)
samples = st.lists(st.tuples(st.lists(st.integers(0, 5), max_size=4), tokens), max_size=25)


def lines(samples, first=0):
    """Lines of text, unsorted and with repeats, as the samples happen to be."""
    for labels, features in samples:
        listed = " ".join(f"{feature + first}:{value}" for feature, value in features)
        yield f"{','.join(map(str, labels))} {listed}\n"


def assert_same(found, expected):
    assert (found.n_samples, found.n_features, found.n_labels) == (
        expected.n_samples,
        expected.n_features,
        expected.n_labels,
    )
    for matrix, other in ((found.X, expected.X), (found.Y, expected.Y)):
        for part in ("indptr", "indices", "data"):
            np.testing.assert_array_equal(getattr(matrix, part), getattr(other, part))


@pytest.fixture
def folder(write, tmp_path):
    convert(write(TEXT), tmp_path / "folder")
    return tmp_path / "folder"


@pytest.fixture
def small_pieces(monkeypatch):
    """Read text a few bytes, and archives a few rows, at a time."""
    monkeypatch.setattr(text_formats, "whole_lines", functools.partial(whole_lines, chunk_bytes=16))
    monkeypatch.setattr(npz, "BLOCK_ROWS", 3)


fast = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fast
@given(samples, st.sampled_from(["xc", "gz", "npz", "memory"]))
def test_converted_is_what_load_reads(write, small_pieces, tmp_path_factory, samples, kind):
    target = tmp_path_factory.mktemp("out") / "folder"
    text = f"{len(samples)} 9 6\n" + "".join(lines(samples))
    path = write(gzip.compress(text.encode()), "data.gz") if kind == "gz" else write(text)
    expected = load(path, cache=False)
    if kind == "npz":
        path = path.with_suffix(".npz")
        save_npz(path, expected)
    if kind == "memory":
        save_folder(target, expected)
    else:
        convert(path, target)
    found = load(target)
    assert is_mapped(found.X) and is_mapped(found.Y) and found.name == "folder"
    assert_same(found, expected)
    verify(target)


@fast
@given(samples.filter(lambda samples: any(features or labels for labels, features in samples)), st.sampled_from([0, 1]))
def test_converted_svmlight(write, small_pieces, tmp_path_factory, samples, first):
    target = tmp_path_factory.mktemp("out") / "folder"
    text = "# a comment\n" + "".join(lines(samples, first))
    convert(write(text, "data.svm"), target)
    assert_same(load(target), load(write(text, "data.svm"), cache=False))
    verify(target)


def test_sizes_may_be_given(write, tmp_path):
    path = write("1 1:2\n", "data.svm")
    convert(path, tmp_path / "folder", n_features=7, n_labels=5, zero_based=True)
    assert_same(load(tmp_path / "folder"), load(path, n_features=7, n_labels=5, zero_based=True, cache=False))
    assert load(tmp_path / "folder", n_features=9).X.shape == (1, 9)
    with pytest.raises(DataError, match="has 5 labels; it cannot be read with fewer, 4"):
        load(tmp_path / "folder", n_labels=4)


def test_archive_of_any_types_is_made_canonical(tmp_path, small_pieces):
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(0, 20, 200), rng.integers(0, 15, 200)
    X = coo_matrix((rng.normal(size=200), (rows, columns)), shape=(20, 15)).tocsr()
    X.indices[:] = X.indices[::-1].copy()
    parts = {"X": X, "Y": csr_matrix(rng.integers(0, 3, (20, 4)))}
    arrays = {f"{name}_{part}": getattr(M, part) for name, M in parts.items() for part in npz.PARTS}
    np.savez_compressed(tmp_path / "data.npz", **arrays)
    convert(tmp_path / "data.npz", tmp_path / "folder")
    found = load(tmp_path / "folder")
    assert_same(found, load(tmp_path / "data.npz"))
    assert np.array_equal(found.X.toarray(), X.astype(np.float64).toarray().astype(np.float32))


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"Y_data": np.array([1, -1, 1, 1.0])}, "in the rows from 0 on, .*is negative"),
        ({"X_indices": np.array([0, 1, 2, 9], np.int32)}, "not a valid sparse matrix"),
        ({"X_indptr": np.array([0, 3, 1, 3, 4])}, "X_indptr must have 5 entries"),
        ({"X_indptr": np.array([1, 2, 3, 3, 4])}, "must begin with 0"),
        ({"X_indptr": np.array([0, 1, 2, 3, 3])}, "end with the 4 entries"),
        ({"X_shape": np.array([3, 4])}, "must have 4 entries"),
        ({"Y_shape": np.array([3, 4]), "Y_indptr": np.array([0, 1, 2, 4])}, "X has 4 rows and Y has 3"),
    ],
)
def test_bad_archive_is_refused(tmp_path, small_pieces, arrays, problem):
    eye = csr_matrix(np.eye(4, dtype=np.float32))
    good = {f"{name}_{part}": getattr(eye, part) for name in "XY" for part in npz.PARTS}
    np.savez(tmp_path / "data.npz", **{**good, **arrays})
    with pytest.raises(DataError, match=problem):
        convert(tmp_path / "data.npz", tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz"]


@pytest.mark.parametrize("cut", [100, 700, -3])
def test_truncated_archive_is_refused(tmp_path, cut):
    eye = csr_matrix(np.eye(4, dtype=np.float32))
    save_npz(tmp_path / "data.npz", Dataset(eye, eye))
    (tmp_path / "data.npz").write_bytes((tmp_path / "data.npz").read_bytes()[:cut])
    with pytest.raises(DataError, match="damaged"):
        convert(tmp_path / "data.npz", tmp_path / "folder")


def test_bad_text_names_its_line_and_leaves_nothing(write, small_pieces, tmp_path):
    path = write(TEXT.replace("5:1e-3", "5:x"))
    with pytest.raises(DataError, match=r"line 3: the value of '5:x' is not a number"):
        convert(path, tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["data.txt"]


@pytest.mark.parametrize("former", [False, True])
def test_interruption_leaves_what_was_there(write, small_pieces, tmp_path, former):
    path = write(TEXT)
    if former:
        convert(path, tmp_path / "folder")
    before = sorted(file.name for file in tmp_path.iterdir())

    def interrupt(n_samples, n_bytes):
        assert n_samples < 3 and n_bytes > 0
        if n_samples:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(write(TEXT.replace("0.5", "0.7")), tmp_path / "folder", on_piece=interrupt)
    assert sorted(file.name for file in tmp_path.iterdir()) == before
    if former:
        assert load(tmp_path / "folder").X.data[0] == 0.5


def test_former_folder_is_replaced_also_while_it_is_mapped(write, folder):
    former = load(folder)
    convert(write(TEXT.replace("0.5", "0.7")), folder)
    assert load(folder).X[0].data[0] == pytest.approx(0.7)
    assert former.X[0].data[0] == 0.5
    assert sorted(file.name for file in folder.parent.iterdir()) == ["data.txt", "folder"]


def test_a_link_stays_one(write, folder, tmp_path):
    (tmp_path / "link").symlink_to("folder")
    convert(write(TEXT.replace("0.5", "0.7")), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert load(folder).X[0].data[0] == pytest.approx(0.7)


def test_something_else_is_not_replaced(write, tmp_path):
    path = write(TEXT)
    (tmp_path / "photos").mkdir()
    for target in (path, tmp_path / "photos"):
        with pytest.raises(FileExistsError, match="exists and is not a data set's folder"):
            convert(path, target)
        with pytest.raises(FileExistsError, match="exists and is not a data set's folder"):
            save_folder(target, load(path))
    assert path.read_text() == TEXT and (tmp_path / "photos").is_dir()


def test_folder_is_no_source(folder, tmp_path):
    with pytest.raises(DataError, match="is a data set's folder already"):
        convert(folder, tmp_path / "other")


def test_folder_without_a_manifest(tmp_path):
    with pytest.raises(DataError, match="is a folder, and not one that `slide convert` wrote"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"it has no dataset.json"):
        load(tmp_path, format="folder")


@pytest.mark.parametrize("name", NAMES)
def test_every_array_is_missed_and_measured(folder, name):
    file = folder / f"{name}.npy"
    content = file.read_bytes()
    for damaged in (content[:-1], content + b"\0", b""):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"{name}.npy: {len(content)} bytes expected .* found {len(damaged)}"):
            load(folder)
    file.write_bytes(content[::-1])
    with pytest.raises(DataError, match=rf"{name}.npy: .*damaged"):
        load(folder)
    file.unlink()
    with pytest.raises(DataError, match=rf"{name}.npy: there is no such file"):
        load(folder)


def test_array_of_another_type(folder):
    file = folder / "X_data.npy"
    np.save(file, np.load(file).astype(np.int32))
    with pytest.raises(DataError, match=r"X_data.npy: expected float32 \[3\], found int32 \[3\]"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": "slide-network"}, "field format"),
        ({"version": 2}, r"field version is 2, expected 1"),
        ({"n_points": -1}, "field n_points"),
        ({"n_labels": True}, "field n_labels"),
        ({"n_features": 5}, "field fingerprint does not belong"),
        ({"arrays": {}}, "field arrays"),
        ({"fingerprint": "0"}, "field fingerprint"),
    ],
)
def test_manifest_is_checked(folder, change, problem):
    about = describe(folder)
    (folder / MANIFEST).write_text(json.dumps(about | change))
    with pytest.raises(DataError, match=rf"{MANIFEST}: {problem}"):
        load(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_manifest_that_is_none(folder, content):
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(DataError, match=MANIFEST):
        load(folder)


@pytest.mark.parametrize("name", NAMES)
def test_verify_finds_any_byte(folder, name):
    verify(folder)
    file = folder / f"{name}.npy"
    content = bytearray(file.read_bytes())
    content[128 + 8 * name.endswith("indptr")] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}.npy: the numbers are not those that were written"):
        verify(folder)


def test_same_data_same_fingerprint(write, folder, tmp_path):
    save_folder(tmp_path / "saved", load(write(TEXT)))
    assert describe(tmp_path / "saved")["fingerprint"] == describe(folder)["fingerprint"]
    convert(write(TEXT.replace("0.5", "0.7")), tmp_path / "saved")
    assert describe(tmp_path / "saved")["fingerprint"] != describe(folder)["fingerprint"]


def test_folder_may_be_moved_and_read_by_numpy(folder, tmp_path):
    shutil.move(folder, tmp_path / "elsewhere")
    data = load(tmp_path / "elsewhere")
    np.testing.assert_array_equal(np.load(tmp_path / "elsewhere" / "X_data.npy"), data.X.data)
    save_xc(tmp_path / "back.txt", data)
    assert_same(load(tmp_path / "back.txt"), data)
