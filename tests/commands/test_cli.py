"""The command line, mostly in this process; signals and pipes in one of their own."""

import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

import slide
from slide import cli, metrics
from slide.commands import predict, training_run
from slide.config import HiddenConfig, TrainingConfig
from slide.data import Dataset, load, make_extreme, save_npz, save_xc
from slide.files.fields import as_json
from slide.network import Network
from slide.predict import topk
from slide.runs.history import read_history

SIZES = {"n_features": 200, "n_labels": 60}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with train.txt, test.txt and other.txt, which has other sizes."""
    folder = tmp_path_factory.mktemp("data")
    train, test = make_extreme(1_000, **SIZES, test_samples=200, seed=3)
    save_xc(folder / "train.txt", train)
    save_xc(folder / "test.txt", test)
    save_xc(folder / "other.txt", make_extreme(50, 201, 61))
    return folder


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    """The folder of a network trained on train.txt."""
    folder = tmp_path_factory.mktemp("models") / "model"
    assert cli.main(["train", f"{data}/train.txt", "--out", str(folder), "--threads", "1", "--no-cache"]) == 0
    return folder


@pytest.fixture
def refused(run):
    """Run a command line that must end in an error; return what is said of it."""

    def refused(*arguments):
        result = run(*arguments)
        assert (result.status, result.out) == (1, "")
        last = result.err.splitlines()[-1]
        assert last.startswith("slide: error: ")
        assert "Traceback" not in result.err
        return last

    return refused


@pytest.fixture
def misused(run):
    """Run a command line that argparse must refuse; return what is said of it."""

    def misused(*arguments):
        result = run(*arguments)
        assert (result.status, result.out) == (2, "")
        assert "usage: slide" in result.err
        return result.err.splitlines()[-1]

    return misused


def last_json(result):
    assert result.status == 0, result.err
    return json.loads(result.out.splitlines()[-1], parse_constant=pytest.fail)


# Train


def test_train_learns_saves_and_reports(run, data):
    options = ["--threads", 2, "--epochs", 4, "--lr", 0.02]
    result = run("train", data / "train.txt", "--test", data / "test.txt", *options)
    assert result.status == 0
    table = dict(line.rsplit(maxsplit=3)[:2] for line in result.out.splitlines()[2:])
    assert list(table) == ["%", "P", "nDCG", "PSP", "R", "P, most popular labels"]
    assert float(table["P"]) > 1.5 * float(table["P, most popular labels"])
    assert "epoch 4" in result.err
    assert json.loads(run("info", "slide-model", "--json").out)["step"] == 4 * 8


def test_train_json(run, data):
    options = ["--json", "--threads", 2, "--seed", 7, "--epochs", 2, "--out", "m", "--candidates", "lsh+tail"]
    report = last_json(run("train", data / "train.txt", "--test", data / "test.txt", *options))
    network, test = Network.load("m", threads=2), load(data / "test.txt")
    quality = network.evaluate(test.X, test.Y)
    assert {name: report[name] for name in quality} == quality
    assert 0 < report["PSP@5"] < 1
    assert 0 < report["popular"]["P@1"] < 1
    assert report["batches"] == 16
    assert report["epochs"] == 2
    assert (report["threads"], report["seed"], report["model"]) == (network.threads, 7, "m")
    assert report["ms_per_batch"] == pytest.approx(1e3 * report["train_seconds"] / 16)
    assert report["samples_per_second"] == pytest.approx(2_000 / report["train_seconds"])
    assert 0 < report["rehash_share"] < 1
    assert 0 < report["active_per_sample"] <= SIZES["n_labels"]
    assert report["peak_rss_bytes"] > 10 << 20
    assert report["stopped"] is report["out_of_patience"] is False
    assert report["best_epoch"] in (1, 2)
    assert report["best_quality"]["P@1"] > 0
    assert np.isfinite(report["loss"])


def test_train_json_without_test_data(run, data):
    report = last_json(run("train", data / "train.txt", "--json", "--max-batches", 1))
    assert [report[f"P@{k}"] for k in (1, 3, 5)] == [None] * 3
    assert report["popular"] is None


def test_train_on_fewer_points_than_propensities_need(run, data):
    save_xc("two.txt", load(data / "train.txt").subset(slice(2)))
    report = last_json(run("train", "two.txt", "--test", "two.txt", "--json"))
    assert "P@1" in report
    assert "PSP@1" not in report


def test_train_without_data_makes_some(run, monkeypatch):
    monkeypatch.setattr(training_run, "SYNTHETIC", {**SIZES, "n_samples": 500, "test_samples": 50})
    result = run("train", "--json")
    assert last_json(result)["P@1"] > 0
    assert "synthetic data" in result.err


def test_options_override_the_file_which_overrides_the_defaults(run, data, tmp_path):
    (tmp_path / "run.toml").write_text(
        "[training]\nepochs = 3\nbatch_size = 100\n"
        "[[network.hidden]]\nunits = 16\nactivation = 'linear'\n[network.output]\ncandidates = 'full'\ntail = 11\n"
    )
    options = ["--epochs", 1, "--batch-size", 50, "--max-batches", 5, "--lr", 0.01, "--seed", 5]
    options += ["--hidden", 24, "--candidates", "lsh+inbatch", "--budget", 33, "--precision", "bf16"]
    report = last_json(run("train", data / "train.txt", "--config", "run.toml", "--json", *options))
    assert (report["batches"], report["seed"]) == (5, 5)
    config = Network.load("slide-model").config
    assert config.hidden == (HiddenConfig(24, "linear"),)
    assert (config.optimizer.lr, config.precision) == (0.01, "bf16")
    assert (config.output.candidates, config.output.budget, config.output.tail) == ("lsh+inbatch", 33, 11)
    report = last_json(run("train", data / "train.txt", "--config", "run.toml", "--json"))
    assert (report["batches"], report["epochs"]) == (30, 3)
    assert Network.load("slide-model").config.output.candidates == "full"
    assert run("train", data / "train.txt", "--max-batches", 1, "--update", "hogwild").status == 0
    assert Network.load("slide-model").config.update == "hogwild"


def test_units_of_several_layers(run, data, tmp_path):
    (tmp_path / "run.toml").write_text(
        "[[network.hidden]]\nactivation = 'linear'\n[[network.hidden]]\ncandidates = 'lsh'\nbudget = 5\n"
    )
    command = ["train", data / "train.txt", "--config", "run.toml", "--max-batches", 1]
    assert run(*command, "--hidden", "24,32").status == 0
    expected = (HiddenConfig(24, "linear"), HiddenConfig(32, candidates="lsh", budget=5))
    assert Network.load("slide-model").config.hidden == expected
    assert re.search(r"hidden units: +24 \+ 32\n", run("info", "slide-model").out)
    assert run(*command, "--hidden", "8,9,10").status == 0
    assert Network.load("slide-model").config.hidden == (HiddenConfig(8), HiddenConfig(9), HiddenConfig(10))


def test_train_replaces_a_saved_network(run, data):
    for batches in (1, 2):
        assert run("train", data / "train.txt", "--max-batches", batches, "--out", "deep/m").status == 0
    assert json.loads(run("info", "deep/m", "--json").out)["step"] == 2


def test_train_masks_inputs(run, tmp_path):
    # Every feature is also a label: without the mask the network learns to name it.
    identity = np.tile(np.eye(20, dtype=np.float32), (20, 1))
    save_npz(tmp_path / "train.npz", Dataset.from_arrays(identity, identity))
    options = ["--test", "train.npz", "--json", "--lr", 0.05]
    assert last_json(run("train", "train.npz", *options))["P@1"] > 0.9
    masked = last_json(run("train", "train.npz", *options, "--mask-inputs"))
    assert masked["P@1"] == 0
    assert masked["popular"] is None


def test_svmlight_test_data_takes_the_sizes_of_the_training_data(run, tmp_path, data):
    (tmp_path / "train.svm").write_text("".join(f"{i % 5} 0:1 {1 + i % 9}:0.5\n" for i in range(90)))
    (tmp_path / "test.svm").write_text("1 0:1 1:0.5\n")
    assert run("train", "train.svm", "--test", "test.svm").status == 0
    assert run("evaluate", "slide-model", "test.svm").status == 0
    assert run("predict", "slide-model", "test.svm", "--format", "svmlight").status == 0


def test_log_lines_come_by_time(run, data, monkeypatch):
    monkeypatch.setattr("slide.runs.display.LOG_SECONDS", 0.0)
    result = run("train", data / "train.txt", "--test", data / "test.txt", "--epochs", 2)
    lines = [line for line in result.err.splitlines() if " batch " in line]
    assert len(lines) == 16
    assert re.search(
        r"batch 16 of 16: loss [\d.]+, P@1 [\d.]+% in training, [\d.]+% in test, [\d,]+ samples/s", lines[-1]
    )


def test_progress_bar_on_a_terminal(run, data, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    assert run("train", data / "train.txt", "--epochs", 2).status == 0
    assert "16/16" in terminal.getvalue()
    assert "samples/s" in terminal.getvalue()


def test_the_log_is_left_as_it_was(run, data):
    log = logging.getLogger("slide")
    before = log.level, list(log.handlers)
    run("train", data / "train.txt", "--max-batches", 1)
    assert (log.level, log.handlers) == before


# Train: the learning rate and early stopping


def test_options_of_the_training_loop(run, data, monkeypatch):
    seen = []
    monkeypatch.setattr(Network, "fit", lambda self, X, Y, **options: seen.append(options["config"]) or 1 / 0)
    options = ["--schedule", "cosine", "--warmup", 0.05, "--patience", 3, "--holdout", 0.2]
    with pytest.raises(ZeroDivisionError):
        run("train", data / "train.txt", *options)
    config = TrainingConfig(schedule="cosine", warmup=0.05, patience=3, holdout=0.2)
    assert seen == [config]


@pytest.fixture
def measured(monkeypatch):
    """Have evaluation report 50 %, then 40 % and so on; return the numbers of samples measured on."""
    sizes = []

    def evaluate(layers, X, Y, ks=(1, 3, 5), **options):
        sizes.append(X.shape[0])
        return dict.fromkeys((f"{metric}@{k}" for metric in ("P", "nDCG") for k in ks), 0.6 - 0.1 * len(sizes))

    monkeypatch.setattr(topk, "evaluate", evaluate)
    return sizes


def test_the_test_set_does_not_decide_when_to_stop(run, data, measured):
    command = ["train", data / "train.txt", "--test", data / "test.txt", "--patience", 2, "--json"]
    result = run(*command)
    report = last_json(result)
    # A tenth of the 1,000 training samples after each of 3 epochs, then once the 200 test samples.
    assert measured == [100, 100, 100, 200]
    assert (report["epochs"], report["best_epoch"], report["out_of_patience"]) == (3, 1, True)
    assert report["best_quality"]["P@1"] == pytest.approx(0.5)
    assert report["stopped"] is False
    assert "no holdout given: 10% of the training samples, at most 2,000, are set aside" in result.err
    assert "50.0% in validation" in result.err
    assert "in test" not in result.err
    assert "best epoch: 1 of 3, P@1 50.0% in validation; its weights are kept; stopped, out of patience" in result.err


def test_a_holdout_of_ones_own(run, data, measured):
    result = run("train", data / "train.txt", "--test", data / "test.txt", "--holdout", 0.05, "--epochs", 2)
    assert measured == [50, 50, 200]
    assert "40.0% in validation" in result.err
    assert "no holdout given" not in result.err
    assert "best epoch" not in result.err


def test_the_monitored_metric_is_shown(run, data, tmp_path, measured):
    (tmp_path / "run.toml").write_text("[training]\nmonitor = 'nDCG@3'\nkeep_best = true\nepochs = 1\n")
    result = run("train", data / "train.txt", "--config", "run.toml")
    assert "50.0% in validation, nDCG@3 50.0%" in result.err
    assert "best epoch: 1 of 1, nDCG@3 50.0% in validation; its weights are kept\n" in result.err


def test_the_best_weights_are_what_is_saved(run, data, tmp_path):
    # So high a learning rate that the first epochs are the best.
    options = ["--lr", 0.3, "--schedule", "constant", "--patience", 1, "--epochs", 50, "--json"]
    report = last_json(run("train", data / "train.txt", "--test", data / "test.txt", *options))
    assert report["out_of_patience"]
    assert report["best_epoch"] == report["epochs"] - 1
    options[-2] = report["best_epoch"]
    again = last_json(run("train", data / "train.txt", "--test", data / "test.txt", "--out", "again", *options))
    assert again["best_quality"] == report["best_quality"]
    for name in ("output.weights.npy", "hidden.0.weights.npy", "output.bias.npy"):
        assert np.array_equal(np.load(tmp_path / "slide-model" / name), np.load(tmp_path / "again" / name))


def test_a_signal_ends_a_run_with_patience(run, data, signals_in_batch):
    signals_in_batch(signal.SIGINT)
    result = run("train", data / "train.txt", "--patience", 1, "--json")
    assert result.status == 130
    report = json.loads(result.out)
    assert (report["stopped"], report["best_epoch"], report["best_quality"]) == (True, None, {})


def test_refusals_of_the_training_loop(refused, misused, data, tmp_path):
    train = data / "train.txt"
    (tmp_path / "run.toml").write_text("[training]\neval_points = 0\n")
    assert "TrainingConfig.patience must be an integer from 1" in refused("train", train, "--patience", 0)
    assert "TrainingConfig.holdout must be a number from 0 to below 1" in refused("train", train, "--holdout", 1)
    assert "TrainingConfig.warmup must be a share" in refused("train", train, "--warmup", 1.5)
    assert "eval_points must be 1 or more" in refused("train", train, "--config", "run.toml", "--patience", 1)
    assert "invalid choice: 'sine'" in misused("train", train, "--schedule", "sine")
    assert "invalid int value" in misused("train", train, "--patience", "1.5")


# Train: refusals


def test_missing_and_damaged_files(refused, tmp_path, data):
    (tmp_path / "bad.txt").write_text("1 5 5\n9 0:1\n")
    (tmp_path / "bad.toml").write_text("[network]\nsede = 1\n")
    train = data / "train.txt"
    assert "absent.txt: there is no such file" in refused("train", "absent.txt")
    assert "absent.txt: there is no such file" in refused("train", train, "--test", "absent.txt")
    assert "bad.txt, line 2" in refused("train", "bad.txt")
    assert "absent.toml: No such file" in refused("train", train, "--config", "absent.toml")
    assert "bad.toml: unknown setting 'network.sede'" in refused("train", train, "--config", "bad.toml")
    assert "OutputConfig.budget" in refused("train", train, "--budget", 0)
    assert not (tmp_path / "slide-model").exists()


def test_test_data_of_other_sizes(refused, data):
    line = refused("train", data / "train.txt", "--test", data / "other.txt")
    assert "other.txt has 201 features, the training data 200" in line


def test_bad_destinations_are_refused_before_anything_is_read(refused, tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    (tmp_path / "file").write_text("")
    assert "folder exists and is not a saved network" in refused("train", "absent.txt", "--out", "folder")
    assert "file exists and is not a saved network" in refused("train", "absent.txt", "--out", "file")
    assert "file is not a folder that can be" in refused("train", "absent.txt", "--out", "file/model")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "is not a folder that can be written to" in refused("train", "absent.txt", "--out", "model")


def test_the_copy_of_the_best_weights_counts(refused, data, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 10))
    assert "GiB copy of the best weights" in refused("train", data / "train.txt", "--patience", 2)
    assert "copy" not in refused("train", data / "train.txt", "--holdout", 0.1)


@pytest.mark.parametrize("candidates", ["lsh", "full", "inbatch"])
def test_networks_larger_than_memory(refused, data, monkeypatch, candidates):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 10))
    line = refused("train", data / "train.txt", "--candidates", candidates)
    assert "GiB are needed, 0.00 GiB are free" in line
    assert "GiB hidden.0 weights + " in line
    assert ("GiB output tables" in line) == (candidates == "lsh")
    assert ("or tables" in line) == (candidates == "lsh")


def test_overflow_leaves_the_saved_network(refused, run, tmp_path, data):
    huge = load(data / "train.txt")
    save_xc(tmp_path / "huge.txt", Dataset(huge.X * np.float32(1e38), huge.Y))
    (tmp_path / "run.toml").write_text("[network]\nnormalize = false\n")
    assert run("train", data / "train.txt", "--max-batches", 3).status == 0
    with np.errstate(all="ignore"):
        error = refused("train", "huge.txt", "--config", "run.toml", "--lr", 1000)
    assert "batch 1: the batch's features reach" in error
    assert Network.load("slide-model").config.normalize


def test_an_error_without_words(refused, data, monkeypatch):
    def fail(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(Network, "fit", fail)
    assert refused("train", data / "train.txt") == "slide: error: out of memory"


def test_usage_errors(misused, data):
    assert "invalid choice" in misused("walk")
    assert "invalid int value" in misused("train", data / "train.txt", "--epochs", "many")
    assert "expected a whole number from 1, got '0'" in misused("train", "--threads", 0)
    assert "expected a whole number from 1, got 'x'" in misused("evaluate", "m", "t", "--k", "1,x")
    assert "expected a whole number from 1, got ''" in misused("train", "--hidden", "8,")
    assert "--test needs the training data" in misused("train", "--test", data / "test.txt")
    assert "COMMAND" in misused()


# Signals


@pytest.fixture
def signals_in_batch(monkeypatch):
    """Have the third batch of training interrupted by some signals."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    train_batch = Network.train_batch

    def install(*numbers):
        def interrupted(self, *arguments, **options):
            stats = train_batch(self, *arguments, **options)
            if self.step == 3:
                for number in numbers:
                    signal.raise_signal(number)
            return stats

        monkeypatch.setattr(Network, "train_batch", interrupted)

    yield install
    signal.signal(signal.SIGINT, former)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_training_after_the_batch(run, data, signals_in_batch, number):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    signals_in_batch(number)
    result = run("train", data / "train.txt", "--test", data / "test.txt", "--json")
    assert result.status == 128 + number
    assert f"stopped by {number.name} after 3 batches" in result.err
    report = json.loads(result.out)
    assert report["stopped"] is True
    assert report["P@1"] is None
    assert json.loads(run("info", "slide-model", "--json").out)["step"] == 3
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_second_signal_interrupts_at_once(run, data, tmp_path, signals_in_batch):
    signals_in_batch(signal.SIGINT, signal.SIGINT)
    result = run("train", data / "train.txt")
    assert result.status == 130
    assert result.err.endswith("slide: interrupted\n")
    # Nothing but the history was written, and nothing stands in the way of the next run.
    assert [file.name for file in (tmp_path / "slide-model").iterdir()] == ["history.jsonl"]
    assert read_history(tmp_path / "slide-model").end["error"] == "KeyboardInterrupt"
    assert run("train", data / "train.txt", "--max-batches", 1).status == 0
    assert len(read_history(tmp_path / "slide-model").batches) == 1


def start(*arguments, **options):
    """Start ``python -m slide`` in a process of its own."""
    command = [sys.executable, "-m", "slide", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_ctrl_c(data, tmp_path):
    options = ["--epochs", 1_000_000, "--threads", 1]
    with start("train", data / "train.txt", *options, cwd=tmp_path) as process:
        while "epoch 1," not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped by SIGINT" in err
    assert Network.load(tmp_path / "slide-model").n_labels == SIZES["n_labels"]


# Evaluate


def test_evaluate(run, data, model):
    result = run("evaluate", model, data / "test.txt", "--k", "10,2", "--threads", 2)
    assert result.status == 0
    assert [line.split()[0] for line in result.out.splitlines()] == ["%", "P", "nDCG", "R"]
    assert result.out.split()[1:3] == ["@2", "@10"]


def test_evaluate_json(run, data, model):
    network, train, test = Network.load(model), load(data / "train.txt"), load(data / "test.txt")
    arguments = ["evaluate", model, data / "test.txt", "--json"]
    report = last_json(run(*arguments, "--train", data / "train.txt"))
    inv_propensity = metrics.propensities(train.Y)
    expected = network.evaluate(test.X, test.Y, inv_propensity=inv_propensity)
    assert {name: report[name] for name in expected} == expected
    assert (report["points"], report["threads"], report["model"]) == (200, 1, str(model))
    report = last_json(run(*arguments, "--k", 7, "--mask-inputs"))
    expected = network.evaluate(test.X, test.Y, ks=[7], mask_inputs=True)
    assert {name: report[name] for name in expected} == expected
    assert "P@1" not in report


def test_evaluate_refusals(refused, data, model, tmp_path):
    assert "absent is not a saved network" in refused("evaluate", "absent", data / "test.txt")
    assert "other.txt has 201 features, the model 200" in refused("evaluate", model, data / "other.txt")
    (tmp_path / "labels.txt").write_text("1 200 61\n60 0:1\n")
    assert "labels.txt has 61 labels, the model 60" in refused("evaluate", model, "labels.txt")


# Predict


def test_predict(run, data, model, monkeypatch):
    monkeypatch.setattr(predict, "PREDICT_BLOCK", 64)
    ids, scores = Network.load(model).predict(load(data / "test.txt").X, 3)
    result = run("predict", model, data / "test.txt", "--k", 3)
    assert result.status == 0
    found = [[pair.split(":") for pair in line.split("\t")] for line in result.out.splitlines()]
    assert [[int(label) for label, _ in line] for line in found] == ids.tolist()
    # Blocks of other sizes may add up in another order; the absolute tolerance is for logits near 0.
    np.testing.assert_allclose([[float(s) for _, s in line] for line in found], scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["sketch", "lsh"])
def test_predict_through_an_index(run, data, model, mode):
    result = run("predict", model, data / "test.txt", "--mode", mode, "--candidates", 60, "--profile", "--mask-inputs")
    assert (result.status, len(result.out.splitlines())) == (0, 200)
    assert f"built the {mode} index" in result.err
    for name in ("exact", mode):
        figures = r"p50 \d+\.\d\d ms, p90 \d+\.\d\d ms, p99 \d+\.\d\d ms; in batches [\d,]+ samples/s"
        assert re.search(rf"{name}: single samples {figures}", result.err)
    if mode == "sketch":
        exact = run("predict", model, data / "test.txt", "--mask-inputs").out
        best = [[pair.split(":")[0] for pair in out.split()] for out in (result.out, exact)]
        assert np.mean([a == b for a, b in zip(*best, strict=True)]) > 0.99


def test_predict_through_an_index_of_no_points(run, model, tmp_path):
    (tmp_path / "none.txt").write_text("0 200 0\n")
    result = run("predict", model, "none.txt", "--mode", "sketch", "--profile")
    assert (result.status, result.out) == (0, "")


def test_predict_refuses_options_that_exclude_each_other(run, data, model):
    options = ["predict", model, data / "test.txt"]
    assert "--candidates needs a mode that proposes some" in run(*options, "--candidates", 9).err
    assert "--dims and --coverage need a sketch" in run(*options, "--coverage", 0.5).err
    mixed = run(*options, "--mode", "lsh", "--neighbours", data / "train.txt")
    assert (mixed.status, "takes no --mode" in mixed.err) == (2, True)


def test_predict_json_lines_to_a_file(run, data, model, tmp_path):
    options = ["--output-format", "jsonl", "--output", "out.jsonl", "--mask-inputs"]
    result = run("predict", model, data / "test.txt", "--k", 100, *options)
    assert (result.status, result.out) == (0, "")
    test = load(data / "test.txt")
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert len(lines) == 200
    for line, features in zip(lines, test.X, strict=True):
        sample = json.loads(line)
        masked = set(features.indices[features.indices < SIZES["n_labels"]])
        assert set(sample["labels"]) == set(range(SIZES["n_labels"])) - masked
        assert sample["scores"] == sorted(sample["scores"], reverse=True)


def test_predict_without_labels(run, model, tmp_path):
    (tmp_path / "in.txt").write_text("2 200 0\n 0:1 5:2\n \n")
    result = run("predict", model, "in.txt")
    assert result.status == 0
    assert [len(line.split("\t")) for line in result.out.splitlines()] == [5, 5]


def test_predict_refusals(refused, data, model):
    assert "other.txt has 201 features, the model 200" in refused("predict", model, data / "other.txt")
    line = refused("predict", model, data / "test.txt", "--output", "absent/out.tsv")
    assert "absent/out.tsv: No such file or directory" in line


def test_a_reader_that_has_had_enough(run, data, model, tmp_path, monkeypatch):
    with open(tmp_path / "out", "w") as closed:

        def write(text):
            raise BrokenPipeError

        stdout = SimpleNamespace(write=write, fileno=closed.fileno)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stdout)
            assert cli.main(["predict", str(model), str(data / "test.txt")]) == 0


def test_broken_pipe(model, tmp_path):
    save_npz(tmp_path / "many.npz", make_extreme(20_000, **SIZES))
    with start("predict", model, "many.npz", "--threads", 1, cwd=tmp_path) as process:
        assert process.stdout.readline().count(":") == 5
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 0
    assert "Error" not in err
    assert "Broken" not in err


# Info and the rest


def test_info_on_a_network(run, model):
    result = run("info", model)
    assert result.status == 0
    assert re.search(r"hidden units: +256\n", result.out)
    assert re.search(r"labels: +60\n", result.out)
    assert re.search(r"optimizer state: +no\n", result.out)
    assert "Hash tables" not in result.out
    assert 'candidates = "uniform"' in result.out
    about = last_json(run("info", model, "--json"))
    network = Network.load(model)
    assert about["parameters"] == sum(
        layer.state()[name].size for layer in network.layers for name in ("weights", "bias")
    )
    assert about["bytes"] == sum(file.stat().st_size for file in model.iterdir())


@pytest.mark.parametrize("candidates", ["lsh+tail", "full"])
def test_info_has_the_hash_tables_that_there_are(run, data, candidates):
    result = run("train", data / "train.txt", "--candidates", candidates, "--max-batches", 1)
    assert result.status == 0
    assert ("of it rehashing" in result.out) == (candidates == "lsh+tail")
    assert ("Hash tables" in run("info", "slide-model").out) == (candidates == "lsh+tail")


def test_info_on_this_installation(run):
    assert "instruction set" in run("info").out
    assert last_json(run("info", "--json"))["version"] == slide.__version__


def test_info_on_what_is_no_network(refused, tmp_path):
    (tmp_path / "network.json").write_text('{"format": "slide-network", "version": 1}')
    assert "network.json lacks 'config'" in refused("info", tmp_path)


def test_json_has_no_nan():
    text = as_json({"a": float("nan"), "b": {"c": float("inf"), "d": 1.5}, "e": None, "f": "x"})
    assert json.loads(text) == {"a": None, "b": {"c": None, "d": 1.5}, "e": None, "f": "x"}


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "info"])
def test_help(run, command):
    result = run(command, "--help")
    assert result.status == 0
    assert "usage: slide " + command in result.out


def test_help_shows_defaults(run):
    text = " ".join(run("train", "--help").out.split())
    assert "passes over the data (default: 8)" in text
    assert "number of batches after which to end the run (default: none)" in text
    assert "units of each hidden layer, from the features upward (default: 256)" in text
    assert "on --holdout, never on the test data (default: none)" in text
    assert "(default: slide-model)" in text


def test_version(run, tmp_path):
    assert run("--version").out == f"slide {slide.__version__}\n"
    with start("--version", cwd=tmp_path) as process:
        out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, f"slide {slide.__version__}\n")
