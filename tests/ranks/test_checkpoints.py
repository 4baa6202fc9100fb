"""Runs on several ranks that are interrupted, or lose a rank, go on: on as many ranks to the bit, and on any number."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from slide.data import DataError, make_extreme, save_npz
from slide.train.checkpoints import SavedRun

PROGRAM = Path(__file__).parent / "resumed.py"
ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = {
    "labels": {"training": {"holdout": 0.2, "keep_best": True}},
    "grid": {"output": {"candidates": "full"}, "distribution": {"data_shards": 2}, "own": True},
    "features": {"distribution": {"shard_features": True}},
    "tables": {"output": {"candidates": "lsh+tail", "loss": "softmax"}},
    "kept back": {"distribution": {"data_shards": 2, "keep_rows": 0.5}},
    # Stopped where replicas are averaged anyway: for a checkpoint, or since it is time.
    "averaged": {"distribution": {"data_shards": 2, "average_every": 5}, "stops": [7, 20]},
}


@pytest.fixture(scope="module")
def resumed(mpiexec):
    """Run scenarios of resumed.py on n ranks; return what rank 0 found of each."""

    def run(n, folder, scenarios):
        return json.loads(mpiexec(n, PROGRAM, folder, json.dumps(scenarios)).stdout)

    return run


@pytest.fixture(scope="module")
def of_four(resumed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return folder, resumed(4, folder, SCENARIOS)


@pytest.mark.parametrize("name", SCENARIOS)
def test_four_ranks_go_on_to_the_bit(of_four, name):
    found = of_four[1][name]
    assert found["same bits"]
    assert found["saved"]
    assert 1 <= found["checkpoints"] <= 3


@pytest.mark.parametrize("ranks", [2, 3])
def test_other_numbers_of_ranks_go_on(of_four, resumed, ranks):
    folder, expected = of_four
    # Shards that draw for themselves have other candidates in another number.
    others = {name: {**SCENARIOS[name], "distribution": {}} for name in SCENARIOS if name != "averaged"}
    others["features"] = {"distribution": {"shard_features": ranks == 3}}
    for name, found in resumed(ranks, folder, others).items():
        rel = 0.05 if name in ("tables", "kept back") else 1e-4
        assert found["loss"] == pytest.approx(expected[name]["loss"], rel=rel)
        assert found["weight"] == pytest.approx(expected[name]["weight"], rel=rel)


def test_points_held_out_of_shares_stay_held_out(of_four, mpiexec):
    scenario = {"labels": {**SCENARIOS["labels"], "distribution": {"portions": None}}}
    done = mpiexec(5, PROGRAM, of_four[0], json.dumps(scenario), check=False)
    assert done.returncode and "Resume it on a number of ranks that divides 12" in done.stderr


def test_a_run_of_one_process_goes_on_on_ranks(mpiexec, tmp_path):
    save_npz(tmp_path / "train.npz", make_extreme(120, 60, 37, seed=3))
    command = ["-m", "slide", "train", tmp_path / "train.npz", "--out", tmp_path / "model", "--threads", "1"]
    options = ["--checkpoint-every", "2", "--batch-size", "30", "--hidden", "8", "--epochs", "2"]
    mpiexec(1, *command, *options)
    done = mpiexec(2, *command, "--distributed", "--resume", tmp_path / "model.checkpoints", "--json")
    assert json.loads(done.stdout)["batches"] == 8
    assert "the run had its samples in 1 portions, 2 ranks have them in 2" in done.stderr


def test_one_process_refuses_to_go_on_with_a_run_of_ranks(of_four):
    saved = SavedRun(of_four[0] / "grid")
    with pytest.raises(DataError, match="had its samples in 12 portions, on several ranks"):
        saved.check_facts({})


@pytest.mark.usefixtures("mpiexec")
def test_a_killed_rank_loses_nothing(tmp_path):
    command = [sys.executable, ROOT / "tools" / "kill_ranks.py", "--kills", "2", "--points", "2400", "--epochs", "1"]
    command += ["--ranks", "3", "2", "--folder", tmp_path, "--json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    *kills, summary = map(json.loads, done.stdout.splitlines())
    assert summary["lost"] == 0 and summary["same_ranks_bitwise"]
    assert all("Killed (signal 9)" in kill["said"] and "on any number of ranks" in kill["said"] for kill in kills)
