"""The measurements of speed run, at sizes that say nothing, and tell what they should."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import compare_baseline
import numpy as np
import pytest
import twins
from numpy.testing import assert_allclose

from slide.data import make_extreme
from slide.kernels import grouping, optim, sparse
from slide.kernels.rows import RowTable

BENCH = Path(__file__).resolve().parents[1] / "bench"
SMALL = {"SLIDE_BENCH_SCALE": "0.001", "SLIDE_BENCH_SECONDS": "0.01"}


def bench(script, *arguments, check=True):
    command = [sys.executable, str(BENCH / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=check, env=os.environ | SMALL)


def records(run):
    return [json.loads(line) for line in run.stdout.splitlines()]


SPEED = ("--synthetic", 400, "--features", 80, "--labels", 120, "--points", 60, "--seconds", 0.02, "--turn", 0.01)
SPEED += ("--active", 20, "--negatives", 20, "--units", 16, "--batch-size", 32, "--threads", 1)


def test_speed_of_what_is_installed():
    runs = records(bench("peers/speed.py", *SPEED, "--systems", "slide", "slide-paper", "--json"))
    assert [run["system"] for run in runs] == ["slide", "slide-paper"]
    for run in runs:
        assert run["mean_ms"] > 0
        assert run["median_ms"] > 0
        assert run["peak_mb"] > 1
        seconds, batches, quality = run["curve"][-1]
        assert seconds > 0
        assert batches == run["batches"] >= 2
        assert 0 <= quality <= 1


def test_what_is_not_installed_is_skipped(tmp_path):
    """A package that cannot be imported; where it is installed, this folder comes before it."""
    (tmp_path / "torch.py").write_text("raise ImportError")
    command = [sys.executable, str(BENCH / "peers/speed.py"), *map(str, SPEED), "--systems", "torch-sampled", "--json"]
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": path})
    assert records(run) == []
    assert "torch-sampled is skipped: PyTorch is not installed" in run.stderr


def test_speed_of_pytorch():
    pytest.importorskip("torch")
    systems = ["torch-sampled", "torch-full", "slide-softmax"]
    runs = records(bench("peers/speed.py", *SPEED, "--systems", *systems, "--json"))
    assert [run["system"] for run in runs] == systems


REFERENCE = f"""#!{sys.executable}
import sys
lines = [line.strip().split("=") for line in open(sys.argv[1])]
config = dict(lines)
samples = sum(1 for _ in open(config["trainData"])) - 1
assert samples == int(config["totRecords"]) and config["sizesOfLayers"] == "16,120"
batches = samples // int(config["Batchsize"])
with open(config["logFile"], "a") as log:
    log.write(f"Epoch 0\\n0 0 0.01\\n{{batches}} 6 0.25\\nEpoch 1\\n")
print("batch 500 ms\\nbatch 700 ms\\nbatch 900 ms")
"""


def test_speed_of_a_reference(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH / "peers"))
    from reference import run_reference

    binary = tmp_path / "reference"
    binary.write_text(REFERENCE)
    binary.chmod(0o755)
    train, test = make_extreme(400, 80, 120, test_samples=60)
    args = SimpleNamespace(reference_batches=10, batch_size=32, units=16, threads=1, reference_pattern=None)
    run = run_reference(binary, train, test, tmp_path, args)
    assert (run["batches"], run["mean_ms"], run["median_ms"]) == (10, 600, None)
    assert run["curve"] == [(6, 10, 0.25)]
    args.reference_pattern = r"batch (\d+) ms"
    run = run_reference(binary, train, test, tmp_path, args)
    assert (run["mean_ms"], run["median_ms"]) == (700, 700)


def test_growth():
    options = ("--labels", 200, "--active", 20, "--batches", 2, "--full-batches", 2)
    runs = records(bench("growth.py", *options, "--batch-size", 16, "--threads", 1, "--json"))
    assert [run["mode"] for run in runs] == ["default", "lsh", "full"]
    assert all(run["median_ms"] > 0 and run["peak_mb"] > 1 for run in runs)
    assert runs[1]["active"] == pytest.approx(20)
    assert runs[2]["active"] == 200


def test_roofline():
    limits, *kernels = records(bench("roofline.py", "--threads", 1, "--json"))
    assert all(value > 0 for value in limits["limits"].values())
    assert len(kernels) == 13
    assert all(kernel["ms"] > 0 and kernel["share"] > 0 for kernel in kernels)


def test_baseline_is_written_and_compared_with(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pytest_benchmark")
    for name, value in SMALL.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "baseline.json"
    options = ["-k", "shared_logits or group", "--baseline", str(path)]
    assert compare_baseline.main([*options, "--update", "--runs", "1"]) == 0
    kept = json.loads(path.read_text())["ratios"]
    group, logits = "bench_kernels.py::test_group", "bench_kernels.py::test_shared_logits"
    assert list(kept) == [group, logits]

    def measure(expression, names=()):
        """The group is a tenth slower, the logits twice as slow at first."""
        asked.append(list(names))
        ratios = {group: 1.1 * kept[group], logits: kept[logits] * worse[len(asked) - 1]}
        return {name: {"ms": 1.0, "twin_ms": 1.0, "rounds": 5, "ratio": ratios[name]} for name in names or ratios}

    monkeypatch.setattr(compare_baseline, "measure", measure)
    worse, asked = (2.0, 1.1), []
    assert compare_baseline.main(options) == 0
    assert asked == [[], [logits]]
    worse, asked = (2.0, 1.9, 1.8), []
    assert compare_baseline.main(options) == 1
    assert asked == [[], [logits], [logits]]
    assert "| +80 | SLOWER |" in capsys.readouterr().out
    worse, asked = (1.8,), []
    assert compare_baseline.main([*options, "--tolerance", "0.9"]) == 0
    worse, asked = (0.5,), []
    assert compare_baseline.main(options) == 0
    assert "| -50 | faster |" in capsys.readouterr().out


def test_baseline_names_every_benchmark():
    pytest.importorskip("pytest_benchmark")
    files = [str(BENCH / name) for name in ("bench_kernels.py", "bench_batch.py")]
    command = [sys.executable, "-m", "pytest", "--collect-only", *files]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=BENCH.parent).stdout
    names = {line.removeprefix("bench/") for line in found.splitlines() if "::" in line}
    assert names == set(json.loads((BENCH / "baseline.json").read_text())["ratios"])


def test_twins_do_what_the_kernels_do():
    """One that did less would make its kernel look slow."""
    rng = np.random.default_rng(0)
    ours, other = RowTable(50, 16), RowTable(50, 16)
    for table in (ours, other):
        table.fill_uniform(1.0, 1, 1)
    ids = np.concatenate([rng.permutation(50)[:12] for _ in range(8)]).astype(np.int32)
    indptr = np.arange(0, 97, 12)
    deltas, hidden = rng.standard_normal(96).astype(np.float32), rng.standard_normal((8, 16)).astype(np.float32)
    groups, gradient, below = grouping.PairGroups(96), sparse.SampleGradient(8, 16), np.empty((8, 16), np.float32)
    groups.group(ids, indptr[:-1].copy(), indptr[1:].copy(), 50)
    logits = np.empty(96, np.float32)
    sparse.sddmm(ours, groups, hidden, logits, 1)
    assert_allclose(twins.sddmm(other.weights, other.bias, ids, indptr, hidden), logits, rtol=1e-4, atol=1e-5)
    gradient.clear()
    optim.step_groups(ours, groups, deltas, hidden, gradient, optim.adam(1e-3, 0.9, 0.999, 1e-8, 1), 1)
    gradient.sum_into(below, None, 1)
    assert_allclose(twins.step_pairs(other.state(), ids, indptr, deltas, hidden), below, rtol=1e-4, atol=1e-4)
    # The twin leaves out the correction of the moments' start, which is a factor.
    assert_allclose(other.state()["m"], ours.state()["m"], rtol=1e-4, atol=1e-6)
    assert_allclose(other.state()["v"], ours.state()["v"], rtol=1e-4, atol=1e-6)
