"""The measurements of ranks run, at a small size; links of a given speed need root, what runs over them does not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
SMALL = ["--labels", "400", "--features", "300", "--units", "16", "--batches", "6"]


@pytest.fixture(scope="module")
def links(mpiexec):
    """What each of the workers of distributed_links.py prints on two ranks."""
    found = []
    for worker in ("slide", "dense", "calls"):
        done = mpiexec(2, BENCH / "distributed_links.py", "--worker", worker, *SMALL, "--points", "2000")
        sizes = {"nodes": 2, "mbit": 1000, "what": worker, "labels": 400, "batch_size": 256}
        found.append(sizes | json.loads(done.stdout.splitlines()[-1]))
    return found


def test_ranks_send_less_than_dense_gradients(links):
    ours, dense, calls = links
    assert ours["ms"] > 0 and sum(ours["counted_bytes"].values()) > 1000
    # Half of the numbers to the other rank, and half of the sums back.
    assert dense["computed_mb"] == pytest.approx(4e-6 * (300 * 16 + 16 + 400 * 17))
    assert {call["call"] for call in calls["calls"]} == {"join", "exchange"}


def test_model_beside_measurements(links, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "runs.jsonl").write_text("\n".join(map(json.dumps, links)))
    command = [sys.executable, BENCH / "distributed_model.py", "--features", "300", "--rows", "500", "--repeats", "1"]
    command += ["--measured", tmp_path / "runs.jsonl", "--out", tmp_path / "model.png", "--json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert {"step", "join of 1 KB"} <= {run["what"] for run in found["checked"]}
    times = {(run["mode"], run["link"], run["labels"], run["nodes"]): run["ms"] for run in found["foretold"]}
    full = [times["full", "100 Gbit/s", 100_000_000, n] for n in (1, 2, 4)]
    assert full[0] / full[2] == pytest.approx(4, rel=0.1)
    assert (tmp_path / "model.png").exists()


@pytest.mark.usefixtures("mpiexec")
def test_memory_of_ranks():
    command = [sys.executable, BENCH / "distributed_memory.py", *SMALL, "--ranks", "2", "--save", "--json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    run = json.loads(done.stdout)
    assert run["batches"] == 6 and 0.02 < run["peak_gb"] < 5
