"""The measurements run: each on a data set of a few samples, its output a record for every run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from slide import Network, RunConfig
from slide.data import load, make_extreme, save_xc

BENCH = Path(__file__).resolve().parents[1] / "bench"
SCRIPTS = ("dense_reference.py", "candidates.py", "sparsity_curve.py", "precision.py", "peers/compare.py")


def bench(script, *arguments):
    command = [sys.executable, str(BENCH / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ)).stdout


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    paths = [folder / "train.txt", folder / "test.txt"]
    for path, data in zip(paths, make_extreme(300, 100, 50, test_samples=60, seed=1), strict=True):
        save_xc(path, data)
    return paths


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_the_command(script):
    assert f"python bench/{script} TRAIN" in bench(script, "--help")


def test_paper_report(files, tmp_path):
    pytest.importorskip("matplotlib")
    bench("paper/report.py", *files, "--out", tmp_path, "--neurons", 300, "--only", "insertion", "policies")
    report = (tmp_path / "report.md").read_text()
    assert "0.371 s" in report
    assert "top-K" in report
    assert (tmp_path / "policies.png").exists()


def test_streaming_memory(tmp_path):
    options = ("--sizes", 3, "--batches", 20, "--batch-size", 64, "--folder", tmp_path)
    (line,) = bench("streaming_memory.py", *options, "--json").splitlines()
    run = json.loads(line)
    assert run["points"] == 12_000 and 0.5 < run["folder_mb"] < 5
    assert {*run["convert"]} == {*run["train"]} == {"seconds", "anon_mb", "file_mb"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads what Linux tells of a process")
def test_long_run(tmp_path):
    pytest.importorskip("matplotlib")
    options = ("--batches", 4, "--minute", 0, "--sample", 0, "--pace", 1000, "--batch-size", 32)
    bench("long_run.py", *options, "--out", tmp_path / "run.jsonl")
    about, *samples = map(json.loads, (tmp_path / "run.jsonl").read_text().splitlines())
    assert about["pace"] == 1000 and [sample["batch"] for sample in samples] == [1, 2, 3, 4]
    for what in ("train", "evaluate", "save", "visitor"):
        assert all(sample[f"{what}_cpu_ms"] > 0 for sample in samples)
    shown = bench("long_run.py", "--plot", tmp_path / "run.png", tmp_path / "run.jsonl")
    assert "| resident, MB |" in shown
    assert (tmp_path / "run.png").exists()


def test_memory_prediction():
    (line,) = bench("memory_prediction.py", "--sizes", 5, "--json").splitlines()
    run = json.loads(line)
    assert run["predicted"] == pytest.approx(run["measured"], rel=0.1)


@pytest.mark.parametrize("path", sorted((BENCH / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_settings_are_read(path):
    assert RunConfig.from_toml(path) != RunConfig()


def test_candidates(files):
    options = ("--seeds", 2, "--epochs", 1, "--candidates", "lsh", "uniform", "--budgets", 8, "--tails", 8, "--json")
    runs = [json.loads(line) for line in bench("candidates.py", *files, *options).splitlines()]
    settings = [(run["candidates"], run["correction"], run["budget"], run["tail"]) for run in runs[::2]]
    assert settings == [("lsh", None, 8, None), ("uniform", "logq", None, 8), ("uniform", "none", None, 8)]
    assert all(0 <= run["P@1"] <= 1 and run["seconds"] > 0 for run in runs)


def test_validation_never_reads_the_test_file(files):
    options = ("--validate", "--seeds", 1, "--epochs", 1, "--shares", 0.1, "--methods", "uniform", "--json")
    runs = bench("sparsity_curve.py", files[0], "nowhere.txt", *options).splitlines()
    assert [json.loads(run)["method"] for run in runs] == ["full", "uniform"]


def test_precision(files):
    options = ("--seeds", 1, "--epochs", 1, "--precisions", "fp32", "bf16", "--json")
    runs = [json.loads(line) for line in bench("precision.py", *files, *options).splitlines()]
    assert [(run["optimizer"], run["precision"]) for run in runs] == [
        ("adam", "fp32"), ("adam", "bf16"), ("adagrad", "fp32"), ("adagrad", "bf16")
    ]
    assert all(run["P@1"] > 0 and run["ms"] > 0 for run in runs)
    assert runs[1]["parameter_bytes"] < 0.6 * runs[0]["parameter_bytes"]


def test_peers_that_need_no_package(files):
    options = ("--seeds", 1, "--epochs", 1, "--methods", "slide", "knn", "--mask-inputs", "--json")
    runs = [json.loads(line) for line in bench("peers/compare.py", *files, *options).splitlines()]
    assert [run["method"] for run in runs] == ["slide", "knn"]
    assert all(run["P@1"] > 0 for run in runs)


def test_dense_network_is_slide_without_sampling(files, tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "run.toml").write_text(
        '[network]\ninput_dropout = 0.1\n[[network.hidden]]\nunits = 32\ndropout = 0.2\n'
        '[network.output]\ncandidates = "full"\n[network.optimizer]\nlazy = "exact"\nweight_decay = 0.01\n'
    )
    options = ("--seeds", 1, "--epochs", 3, "--config", tmp_path / "run.toml", "--json")
    sampled, dense, _ = map(json.loads, bench("dense_reference.py", *files, *options).splitlines())
    # Rounding may turn one prediction of the 60.
    assert sampled["last"]["P@5"] == pytest.approx(dense["last"]["P@5"], abs=1.1 / 60 / 5)


def test_hogwild():
    options = ("--features", 100, "--labels", 200, "--batch-size", 20, "--batches", 2, "--threads", 1, "--json")
    (run,) = [json.loads(line) for line in bench("hogwild.py", *options).splitlines()]
    assert run["threads"] == 1
    assert run["ratio"] == pytest.approx(run["hogwild"] / run["grouped"])


def test_overhead(monkeypatch):
    monkeypatch.setenv("SLIDE_BENCH_SCALE", "0.002")
    figures = json.loads(bench("overhead.py", "--threads", 1, "--json"))
    assert figures["share"] == pytest.approx(figures["small_ms"] / figures["large_ms"])


def test_search(files, tmp_path):
    train = load(files[0])
    Network(train.n_features, train.n_labels).save(tmp_path / "model")
    command = ("search.py", tmp_path / "model", *files, "--dims", 4, "--candidates", 8, 20, "--singles", 2)
    command += ("--coverages", 0.5, 1)
    runs = [json.loads(line) for line in bench(*command, "--json").splitlines()]
    assert [(run["mode"], run["candidates"]) for run in runs] == [
        ("sketch", 8),
        ("sketch", 20),
        ("sketch", 8),
        ("sketch", 20),
        ("lsh", 8),
        ("lsh", 20),
    ]
    assert all(0 <= run["recall@5"] <= 1 and run["speed-up"] > 0 and run["index bytes"] > 0 for run in runs)
    assert "| lsh | simhash |" in bench(*command)
