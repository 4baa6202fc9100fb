"""``slide convert``, and other commands on what it writes."""

import json
import os
import signal

import pytest

from slide.commands import console
from slide.data import load, make_extreme, save_xc


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with train.txt.gz and test.txt."""
    folder = tmp_path_factory.mktemp("data")
    train, test = make_extreme(1_000, 200, 60, test_samples=200, seed=3)
    save_xc(folder / "train.txt.gz", train)
    save_xc(folder / "test.txt", test)
    return folder


def test_convert_and_train(run, data):
    result = run("convert", data / "train.txt.gz", "train")
    assert result.status == 0, result.err
    assert result.out == f"{load('train')!r} in train\n"
    assert "converting" in result.err
    assert run("convert", data / "test.txt", "deep/test").status == 0
    figures = []
    for train, test in (("train", "deep/test"), (data / "train.txt.gz", data / "test.txt")):
        options = ("--threads", "1", "--epochs", "2", "--patience", "1", "--json")
        result = run("train", train, "--test", test, "--out", "model", *options)
        assert result.status == 0, result.err
        figures.append(json.loads(result.out.splitlines()[-1])["P@1"])
        assert run("evaluate", "model", test, "--train", train, "--neighbours", train).status == 0
        assert run("predict", "model", test).status == 0
    assert all(figure > 0.3 for figure in figures)


def test_json(run, data):
    result = run("convert", data / "test.txt", "folder", "--json")
    report = json.loads(result.out)
    test = load("folder")
    assert report == {
        "n_points": 200,
        "n_features": 200,
        "n_labels": 60,
        "values": test.X.nnz,
        "labels_of_points": test.Y.nnz,
        "folder": "folder",
    }


def test_sizes_and_format_are_passed_on(run, tmp_path):
    (tmp_path / "data.txt").write_text("1 0:2\n")
    arguments = ("data.txt", "folder", "--format", "svmlight", "--zero-based", "yes")
    assert run("convert", *arguments, "--n-features", "7", "--n-labels", "5").status == 0
    assert load("folder").X.shape == (1, 7) and load("folder").Y.shape == (1, 5)


def test_verify(run, data, tmp_path):
    assert run("convert", data / "test.txt", "folder").status == 0
    result = run("convert", "--verify", "folder")
    assert result.status == 0 and "is as it was written" in result.err
    file = tmp_path / "folder" / "Y_indices.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    result = run("convert", "--verify", "folder")
    assert result.status == 1 and "Y_indices.npy: the numbers are not those that were written" in result.err


@pytest.mark.parametrize("arguments", [("a",), ("a", "b", "--verify")])
def test_misuse(run, arguments):
    result = run("convert", *arguments)
    assert result.status == 2 and "--verify takes a folder alone" in result.err


def test_refuses_to_overwrite(run, data, tmp_path):
    (tmp_path / "photos").mkdir()
    result = run("convert", data / "test.txt", "photos")
    assert result.status == 1
    assert result.err.splitlines()[-1] == (
        "slide: error: photos exists and is not a data set's folder; choose another name or remove it"
    )


def test_malformed_text_leaves_nothing(run, tmp_path):
    (tmp_path / "data.txt").write_text("2 3 3\n1 1:1\n1 x\n")
    result = run("convert", "data.txt", "folder")
    assert result.status == 1 and "data.txt, line 3: 'x' is not a feature" in result.err
    assert os.listdir() == ["data.txt"]


def test_progress_is_logged(run, data, monkeypatch):
    monkeypatch.setattr("slide.commands.console.LOG_SECONDS", 0)
    result = run("convert", data / "test.txt", "folder")
    assert "200 samples, 0 MB written" in result.err


@pytest.fixture
def interruptible():
    """Interrupts are what they are in a terminal: a shell has its background processes ignore them."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("interruptible")
def test_signals_leave_nothing_half_made(run, data, monkeypatch, number):
    before = signal.getsignal(number)
    monkeypatch.setattr(console.PiecesDisplay, "piece_done", lambda *state: os.kill(os.getpid(), number))
    assert run("convert", data / "test.txt", "folder").status == 128 + number
    assert os.listdir() == []
    assert signal.getsignal(number) is before
