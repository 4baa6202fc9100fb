"""`slide evaluate` and `slide predict` with neighbours."""

import json

import numpy as np
import pytest

from slide import Mixture, Neighbours, Network, NetworkConfig
from slide.data import load, make_extreme, save_xc


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with train.txt, test.txt, other.txt, which has other sizes, and an untrained network."""
    folder = tmp_path_factory.mktemp("data")
    train, test = make_extreme(400, 100, 60, test_samples=80, seed=3)
    save_xc(folder / "train.txt", train)
    save_xc(folder / "test.txt", test)
    save_xc(folder / "other.txt", make_extreme(50, 101, 61))
    Network(100, 60, NetworkConfig(feature_weights="idf")).save(folder / "model")
    return folder


def mixed(folder, k=50, share=0.5):
    network, train = Network.load(folder / "model"), load(folder / "train.txt")
    return Mixture(network, Neighbours(train.X, train.Y, k=k, feature_weights=network.feature_weights), share)


@pytest.mark.parametrize(
    ("options", "k", "share"),
    [([], 50, 0.5), (["--share", "0.8", "--k-neighbours", "7"], 7, 0.8), (["--share", 0], 50, 0.0)],
)
def test_evaluate(run, folder, options, k, share):
    arguments = ["evaluate", folder / "model", folder / "test.txt", "--neighbours", folder / "train.txt", "--json"]
    report = json.loads(run(*arguments, *options).out)
    test = load(folder / "test.txt")
    expected = mixed(folder, k, share).evaluate(test.X, test.Y)
    assert {name: report[name] for name in expected} == expected
    assert (report["share"], report["k_neighbours"]) == (share, k)
    assert report["neighbours"] == str(folder / "train.txt")


def test_evaluate_alone_says_nothing_of_neighbours(run, folder):
    report = json.loads(run("evaluate", folder / "model", folder / "test.txt", "--json").out)
    assert not {"share", "k_neighbours", "neighbours"} & set(report)


def test_evaluate_masked(run, folder):
    arguments = ["evaluate", folder / "model", folder / "test.txt", "--neighbours", folder / "train.txt", "--json"]
    test = load(folder / "test.txt")
    expected = mixed(folder).evaluate(test.X, test.Y, mask_inputs=True)
    assert json.loads(run(*arguments, "--mask-inputs").out)["P@5"] == expected["P@5"]


def test_predict(run, folder):
    options = ["--neighbours", folder / "train.txt", "--share", 0.7, "--k-neighbours", 9, "--k", 3]
    result = run("predict", folder / "model", folder / "test.txt", *options)
    assert result.status == 0
    found = [[pair.split(":") for pair in line.split("\t")] for line in result.out.splitlines()]
    ids, probabilities = mixed(folder, 9, 0.7).predict(load(folder / "test.txt").X, 3)
    assert [[int(label) for label, _ in line] for line in found] == ids.tolist()
    np.testing.assert_allclose([[float(score) for _, score in line] for line in found], probabilities, rtol=1e-5)


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_refusals(run, folder, command):
    start = [command, folder / "model", folder / "test.txt"]
    result = run(*start, "--neighbours", folder / "other.txt")
    assert result.status == 1
    assert "other.txt has 101 features, the model 100" in result.err
    for option in ("--share", "--k-neighbours"):
        result = run(*start, option, 1)
        assert result.status == 2
        assert f"{option} needs the neighbours too: --neighbours TRAIN" in result.err
    for wrong in ("-0.5", "1.5", "half", "nan"):
        result = run(*start, "--neighbours", folder / "train.txt", f"--share={wrong}")
        assert result.status == 2
        assert f"expected a number from 0 to 1, got '{wrong}'" in result.err
