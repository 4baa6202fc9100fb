"""The measurements of `slide.torch` run, at sizes that say nothing, and tell what they should."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

BENCH = Path(__file__).resolve().parents[1] / "bench"


def bench(script, *arguments):
    command = [sys.executable, str(BENCH / script), *map(str, arguments), "--threads", "1"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_layers():
    sizes = ("--labels", 300, "--dim", 16, "--batch-size", 8, "--negatives", 20, "--turns", 1, "--seconds", 0)
    systems = ["slide-grads", "plain-rows", "full-bf16"]
    runs = [json.loads(line) for line in bench("torch_layer.py", *sizes, "--systems", *systems, "--json").splitlines()]
    assert [run["system"] for run in runs] == systems
    for run in runs:
        assert run["labels"] == 300
        assert run["steps"] == 2
        assert 0 < run["forward_ms"] < run["step_ms"]
        assert run["peak_mb"] > 1


def test_quality():
    options = ("words=5000", "tokens=3000", "test-tokens=600", "dim=16", "steps=2")
    found = bench("torch_quality.py", "--examples", "gru_language_model", "--heads", "sampled", "--options", *options)
    row, yardstick = found.splitlines()[2], found.splitlines()[-1]
    assert row.startswith("| gru_language_model | sampled | 2 |")
    assert yardstick.startswith("Perplexity of the words' frequencies alone: ")
