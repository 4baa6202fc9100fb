"""The measurements of `slide.torch` run, at sizes that say nothing, and tell what they should."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

BENCH = Path(__file__).resolve().parents[1] / "bench"


def bench(script, *arguments):
    command = [sys.executable, str(BENCH / script), *map(str, arguments), "--threads", "1"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_layers_take_turns():
    sizes = ("--labels", 300, "--dim", 16, "--batch-size", 8, "--negatives", 20, "--turns", 2, "--seconds", 0)
    systems = ["slide", "plain-rows"]
    runs = [json.loads(line) for line in bench("torch_layer.py", *sizes, "--systems", *systems, "--json").splitlines()]
    assert [run["system"] for run in runs] == systems
    for run in runs:
        assert run["labels"] == 300
        assert run["steps"] == 4
        assert 0 < run["forward_ms"] < run["step_ms"]
        assert run["peak_mb"] > 1


@pytest.mark.parametrize("name", ["slide", "slide-grads", "plain", "plain-rows", "full", "full-bf16"])
def test_layers_learn(name, monkeypatch):
    """One that did less than its name says would look fast."""
    for folder in (BENCH.parent / "examples" / "torch", BENCH / "peers"):
        monkeypatch.syspath_prepend(str(folder))
    torch_layer = importlib.import_module("torch_layer")
    torch.manual_seed(0)
    args = SimpleNamespace(dim=16, negatives=40, lr=0.1)
    system = torch_layer.SYSTEMS[name](200, torch.ones(200, dtype=torch.int64), args)
    hidden, targets = torch.randn(8, 16).requires_grad_(), torch.arange(8) * 20
    before = system.loss(hidden, targets).item()
    system.loss(hidden, targets).backward()
    assert hidden.grad.abs().sum() > 0
    system.step()
    for _ in range(15):
        torch_layer.step(system, hidden, targets)
    assert system.loss(hidden, targets).item() < 0.3 * before


def test_quality():
    options = ("words=5000", "tokens=3000", "test-tokens=600", "dim=16", "steps=2")
    found = bench("torch_quality.py", "--examples", "gru_language_model", "--heads", "sampled", "--options", *options)
    row, yardstick = found.splitlines()[2], found.splitlines()[-1]
    assert row.startswith("| gru_language_model | sampled | 2 |")
    assert yardstick.startswith("Perplexity of the words' frequencies alone: ")
