"""A mode of prediction beside the exact one: in Python, and as ``slide predict`` and ``slide evaluate`` report it."""

import json

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from slide import Network, NetworkConfig, TrainingConfig, metrics
from slide.data import load, make_extreme, save_xc
from slide.predict import profile

SIZES = {"n_features": 120, "n_labels": 500}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with train.txt, test.txt and the network trained on it."""
    folder = tmp_path_factory.mktemp("serving")
    train, test = make_extreme(600, **SIZES, test_samples=70, seed=4)
    save_xc(folder / "train.txt", train)
    save_xc(folder / "test.txt", test)
    network = Network(*SIZES.values(), NetworkConfig(), threads=1)
    network.fit(train.X, train.Y, config=TrainingConfig(epochs=3))
    network.save(folder / "model")
    return folder


def last_json(result):
    assert result.status == 0, result.err
    return json.loads(result.out.splitlines()[-1])


def test_overlap():
    exact = np.array([[1, 2, 3], [4, 5, -1], [-1, -1, -1]])
    found = np.array([[2, 1, 9], [4, -1, -1], [7, -1, -1]])
    shares = profile.overlap(exact, found, [1, 2, 3])
    assert shares == {"recall@1": 0.5, "recall@2": (1 + 0.5) / 2, "recall@3": (2 / 3 + 1 / 2) / 2}
    assert np.isnan(profile.overlap(exact[2:], found[2:], [1])["recall@1"])


def test_timings_call_everything_on_the_same_points(monkeypatch):
    monkeypatch.setattr(profile, "SINGLES", 4)
    monkeypatch.setattr(profile, "BATCH", 6)
    seen = {"a": [], "b": []}
    X = csr_matrix(np.arange(1.0, 11.0)[:, None])
    calls = {name: lambda x, name=name: seen[name].append(x.toarray()[:, 0].tolist()) for name in seen}
    times = profile.timings(calls, X)
    assert seen["a"] == seen["b"] == [[1], [1], [2], [3], [4], *[[1, 2, 3, 4, 5, 6]] * profile.REPEATS]
    for figures in times.values():
        assert 0 < figures["p50_ms"] <= figures["p90_ms"] <= figures["p99_ms"]
        assert figures["points_per_second"] > 0


@pytest.mark.parametrize("mode", ["sketch", "lsh", "lsh-votes"])
def test_evaluate_puts_a_mode_beside_the_exact_prediction(run, folder, mode):
    command = ["evaluate", folder / "model", folder / "test.txt", "--mode", mode, "--candidates", 50, "--k", "1,4"]
    report = last_json(run(*command, "--train", folder / "train.txt", "--json"))
    network, test = Network.load(folder / "model"), load(folder / "test.txt")
    train = load(folder / "train.txt")
    inv_propensity = metrics.propensities(train.Y)
    expected = network.evaluate(test.X, test.Y, ks=(1, 4), inv_propensity=inv_propensity)
    assert {name: report["exact"][name] for name in expected} == pytest.approx(expected)
    assert {"P@1", "nDCG@4", "p50_ms", "p99_ms", "points_per_second"} <= set(report["sampled"])
    assert 0 < report["recall"]["recall@4"] <= 1
    assert report["speedup"]["p50_ms"] == pytest.approx(report["exact"]["p50_ms"] / report["sampled"]["p50_ms"])
    assert (report["mode"], report["candidates"], report["points"]) == (mode, 50, 70)
    assert report["index_bytes"] > 0

    lines = run(*command).out.splitlines()
    assert lines[0].split() == ["exact", mode]
    assert [line.split()[0] for line in lines[1:7]] == ["P@1,", "nDCG@1,", "R@1,", "P@4,", "nDCG@4,", "R@4,"]
    assert [line.split()[0] for line in lines[7:]] == ["p50", "p90", "p99", "samples/s", "of", "of"]


def test_a_sketch_with_all_labels_is_as_good_as_exact(run, folder):
    command = ["evaluate", folder / "model", folder / "test.txt", "--mode", "sketch", "--candidates", 500, "--json"]
    report = last_json(run(*command, "--mask-inputs"))
    assert report["recall"] == {"recall@1": 1.0, "recall@3": 1.0, "recall@5": 1.0}
    assert report["sampled"]["P@5"] == report["exact"]["P@5"]


def test_options_that_exclude_each_other(run, folder):
    for command in ("evaluate", "predict"):
        options = [command, folder / "model", folder / "test.txt"]
        assert "--candidates needs a mode that proposes some" in run(*options, "--candidates", 9).err
        mixed = run(*options, "--mode", "lsh", "--neighbours", folder / "train.txt")
        assert (mixed.status, "takes no --mode" in mixed.err) == (2, True)
    mixed = run("predict", *options[1:], "--allow", "ids.txt", "--neighbours", folder / "train.txt")
    assert (mixed.status, "takes no --allow" in mixed.err) == (2, True)


@pytest.mark.parametrize("mode", ["exact", "sketch", "lsh-votes"])
def test_predict_allows_labels_of_a_file(run, folder, tmp_path, mode):
    (tmp_path / "ids.txt").write_text("7\n\n 411 \n33\n")
    options = ["--allow", "ids.txt", "--mode", mode, "--output-format", "jsonl"]
    result = run("predict", folder / "model", folder / "test.txt", *options)
    assert result.status == 0, result.err
    found = {label for line in result.out.splitlines() for label in json.loads(line)["labels"]}
    assert found <= {7, 33, 411}
    assert found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3\n500\n", "ids.txt, line 2: expected the id of a label, a number from 0 to 499, got '500'"),
        ("cat\n", "ids.txt, line 1: expected the id of a label, a number from 0 to 499, got 'cat'"),
        ("-1\n", "line 1: expected the id of a label"),
        ("\n", "ids.txt has no label ids"),
    ],
)
def test_files_of_labels_that_cannot_be(run, folder, tmp_path, text, message):
    (tmp_path / "ids.txt").write_text(text)
    result = run("predict", folder / "model", folder / "test.txt", "--allow", "ids.txt")
    assert (result.status, result.out) == (1, "")
    assert message in result.err.splitlines()[-1]


def test_the_profile_as_json(run, folder, tmp_path):
    options = ["--mode", "sketch", "--profile-json", "profile.json"]
    assert run("predict", folder / "model", folder / "test.txt", *options).status == 0
    report = json.loads((tmp_path / "profile.json").read_text())
    assert (report["k"], report["threads"], report["n_labels"]) == (5, 1, 500)
    assert set(report["modes"]) == {"exact", "sketch"}
    assert set(report["modes"]["sketch"]) == {"p50_ms", "p90_ms", "p99_ms", "points_per_second"}
    options = ["--neighbours", folder / "train.txt", "--profile"]
    assert "mixture: single samples p50" in run("predict", folder / "model", folder / "test.txt", *options).err
