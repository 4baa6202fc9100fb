"""The history of a run that is killed and goes on is that of the run as if nothing had happened."""

import json
import signal
import subprocess
import sys

import pytest

from slide import Network
from slide.data import make_extreme, save_npz
from slide.runs.history import read_history

KILLED = """
import os, signal
from slide import cli, Network

train_batch = Network.train_batch

def killing(self, *arguments, **options):
    stats = train_batch(self, *arguments, **options)
    if self.step == 14:
        os.kill(os.getpid(), signal.SIGKILL)
    return stats

Network.train_batch = killing
cli.main(%r)
"""
SETTINGS = ["--epochs", "4", "--batch-size", "30", "--hidden", "8", "--candidates", "lsh+tail", "--holdout", "0.1"]
SETTINGS += ["--no-cache", "--threads", "1"]


@pytest.fixture
def command(tmp_path):
    save_npz(tmp_path / "train.npz", make_extreme(300, 60, 40, labels_per_sample=2))
    return ["train", "train.npz", *SETTINGS]


def numbers(lines):
    """Lines of a history without what depends on the machine."""
    return [{name: line[name] for name in line if "seconds" not in name and name != "rss_bytes"} for line in lines]


@pytest.mark.parametrize("half_a_line", [False, True])
def test_killed_and_resumed(run, command, tmp_path, half_a_line):
    assert run(*command, "--out", "whole").status == 0
    program = KILLED % [*command, "--out", "model", "--checkpoint-every", "4"]
    killed = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    history = tmp_path / "model" / "history.jsonl"
    before = read_history(tmp_path / "model")
    assert (before.end, before.last["batch"]) == (None, 13)
    if half_a_line:
        history.write_bytes(history.read_bytes()[:-20])
    result = run("train", "train.npz", "--no-cache", "--resume", "model.checkpoints")
    assert result.status == 0, result.err
    assert "going on from model.checkpoints/0000000012" in result.err
    whole, resumed = read_history(tmp_path / "whole"), read_history(tmp_path / "model")
    assert (whole.header["batch"], resumed.header["batch"]) == (0, 12)
    assert numbers(resumed.batches) == numbers(whole.batches)
    assert numbers(resumed.epochs) == numbers(whole.epochs)
    assert [line["batch"] for line in resumed.batches] == list(range(1, 37))
    for name in ("batch", "samples", "active", "best_epoch", "best_quality", "stopped", "error"):
        assert resumed.end[name] == whole.end[name], name
    assert 0 < resumed.end["rehash_seconds"] < resumed.end["seconds"]
    assert [json.loads(line)["kind"] for line in history.read_text().splitlines() if line[-1:] == "}"].count("run") == 2


def test_beside_a_file_of_weights(run, command, tmp_path):
    pytest.importorskip("safetensors")
    for _ in range(2):
        assert run(*command, "--out", "model.safetensors", "--plot", "run.png").status == 0
        assert len(read_history(tmp_path / "model.safetensors.history.jsonl").epochs) == 4
        assert Network.load(tmp_path / "model.safetensors").n_labels == 40
    (tmp_path / "other.safetensors").write_bytes(b"weights of something else")
    result = run(*command, "--out", "other.safetensors")
    assert (result.status, "is not a saved network" in result.err) == (1, True)
