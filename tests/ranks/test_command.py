"""``slide train --distributed``."""

import json

import numpy as np
import pytest

from slide import Network
from slide.data import make_extreme, save_folder, save_xc
from slide.runs.history import read_history

SETTINGS = ["--epochs", "2", "--batch-size", "32", "--hidden", "8", "--candidates", "full", "--threads", "1"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, data in zip(("train", "test"), make_extreme(130, 60, 31, test_samples=20, seed=5), strict=True):
        save_xc(folder / f"{name}.txt", data)
        save_folder(folder / name, data)
    return folder


def test_two_ranks_save_one_network_from_files_or_folders(mpiexec, files):
    reports = {}
    for kind in (".txt", ""):
        data = [files / f"train{kind}", "--test", files / f"test{kind}", "--mask-inputs", "--json"]
        out = files / f"model{kind}"
        done = mpiexec(2, "-m", "slide", "train", *data, *SETTINGS, "--distributed", "--out", out)
        reports[kind] = json.loads(done.stdout)
        network, run = Network.load(out, threads=1), read_history(out)
        assert run.end["batch"] == 10
        assert run.end["bytes_per_batch"]["gradient"] > 0
        assert done.stderr.count("epoch 2") == 1
        test = make_extreme(130, 60, 31, test_samples=20, seed=5)[1]
        quality = network.evaluate(test.X, test.Y, mask_inputs=True)
        assert quality["P@3"] == pytest.approx(reports[kind]["P@3"])
        assert run.test == pytest.approx({name: reports[kind][name] for name in run.test})
    # Windows of a folder that is read in pieces hold all of it, so that the order is the same.
    assert reports[""]["loss"] == pytest.approx(reports[".txt"]["loss"])
    weights = [Network.load(files / f"model{kind}", threads=1).copy_weights() for kind in (".txt", "")]
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_options_of_ranks_need_ranks(run):
    result = run("train", "--label-shards", "2")
    assert result.status == 2 and "--label-shards needs --distributed" in result.err
    result = run("train", "--shard-features")
    assert result.status == 2 and "--shard-features needs --distributed" in result.err
