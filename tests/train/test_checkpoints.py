"""Runs that are interrupted and go on: to the bits of the uninterrupted run, and never on anything else."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from slide import Network
from slide.config import (
    ConfigError,
    HiddenConfig,
    LSHConfig,
    NetworkConfig,
    OptimizerConfig,
    OutputConfig,
    RehashConfig,
    SamplingConfig,
    TrainingConfig,
)
from slide.data import DataError, make_extreme, save_npz
from slide.persist.checks import CheckpointError
from slide.predict import topk
from slide.train.callbacks import Callback
from slide.train.checkpoints import MANIFEST, Checkpoints, SavedRun, names_in

N_FEATURES, N_LABELS = 60, 40
TRAINING = TrainingConfig(epochs=4, batch_size=32, schedule="cosine", warmup=0.1, holdout=0.1, patience=3)
BATCHES = 4 * 9
LSH = LSHConfig(k=3, l=4)
OFTEN = RehashConfig(period=2)


@pytest.fixture(scope="module")
def data():
    return make_extreme(300, N_FEATURES, N_LABELS, labels_per_sample=2)


def small(candidates="lsh+tail", hidden=HiddenConfig(17), optimizer=None, output=None, **fields):  # noqa: B008
    rest = {"budget": 8, "tail": 8, "lsh": LSH, "rehash": OFTEN} | (output or {})
    optimizer = OptimizerConfig(**({"lr": 0.02} | (optimizer or {})))
    return NetworkConfig(hidden, OutputConfig(candidates, **rest), optimizer, **fields)


SAMPLED = HiddenConfig(24, candidates="lsh", budget=8, lsh=LSH, rehash=OFTEN, dropout=0.2)
CONFIGS = {
    "default": small(input_dropout=0.1),
    "uniform": small("uniform", feature_weights="idf"),
    "lsh": small("lsh", output={"loss": "softmax", "init": "mean"}),
    "lsh+inbatch": small("lsh+inbatch", output={"sampling": SamplingConfig(policy="topk")}),
    "inbatch": small("inbatch", output={"loss": "softmax", "label_weights": "propensity"}),
    "full": small("full"),
    "topk+tail": small("topk+tail", output={"loss": "softmax"}),
    "hogwild on one thread": small(update="hogwild"),
    "sgd": small(optimizer={"name": "sgd", "lr": 0.5, "weight_decay": 0.01}),
    "adagrad": small(optimizer={"name": "adagrad", "lr": 0.1, "clip_norm": 1.0}),
    "decay": small(optimizer={"lazy": "exact", "weight_decay": 0.01, "beta2": 0.95}),
    "sparse": small(optimizer={"lazy": "sparse"}, output={"tail_power": 0.5}),
    "bf16": small(precision="bf16"),
    "bf16-moments": small(precision="bf16-moments"),
    "sampled layers": small(hidden=(SAMPLED, HiddenConfig(16, dropout=0.2), SAMPLED)),
    "new functions": small(output={"rehash": RehashConfig(period=2, renew=3), "lsh": LSHConfig(k=3, l=4, capacity=3)}),
    "drift": small(output={"rehash": RehashConfig("drift", period=2, drift=0.05)}),
    "rare rehash": small(output={"rehash": RehashConfig("exponential", period=5, decay=0.5)}),
}


def new(config):
    return Network(N_FEATURES, N_LABELS, config, threads=1)


def all_of(network):
    """Everything that a network has learnt, as bytes by name."""
    layers = {**{layer.name: layer for layer in network.hidden}, "output": network.output}
    arrays = {f"{p}.{name}": view.copy() for p, layer in layers.items() for name, view in layer.state().items()}
    for name, layer in layers.items():
        if layer.index is not None:
            index = layer.index
            # What stands behind the last bucket of a table is of no account.
            ids = np.concatenate([ids[: ends[-1]] for ids, ends in zip(index.ids, index.offsets, strict=True)])
            arrays |= {f"{name}.codes": index.codes, f"{name}.offsets": index.offsets, f"{name}.ids": ids}
            arrays[f"{name}.rebuilds"] = np.array(index.rebuilds)
    if network.feature_weights is not None:
        arrays["feature_weights"] = network.feature_weights
    arrays["step"] = np.array(network.step)
    return {name: array.tobytes() for name, array in arrays.items()}


def without_times(history):
    """A history as plain values, but for how long things took."""
    values = dataclasses.asdict(history)
    for each in (values, *values["epochs"]):
        for name in [name for name in each if "seconds" in name]:
            del each[name]
    return values


def fit(network, data, training=TRAINING, **options):
    return network.fit(data.X, data.Y, config=training, **options)


def stop_at(batch):
    return lambda progress: progress.batch == batch


class StopAfter(Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch(self, progress):
        return progress.epoch == self.epoch


def assert_the_same(network, history, expected_network, expected_history):
    assert without_times(history) == without_times(expected_history)
    found, expected = all_of(network), all_of(expected_network)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


@pytest.fixture
def resumed(data, tmp_path):
    """Stop a run after a batch, go on in a network of its own and return that with its history."""

    def resumed(config, batch, training=TRAINING):
        folder = tmp_path / f"run-{batch}"
        first = fit(new(config), data, training, callbacks=[stop_at(batch)], checkpoints=Checkpoints(folder))
        assert first.stopped
        network = new(config)
        return network, fit(network, data, None, resume=folder)

    return resumed


# To the same bits


@pytest.mark.parametrize("batch", np.sort(np.random.default_rng(7).choice(BATCHES, 10, replace=False)) + 1)
def test_ten_positions(data, resumed, batch):
    network = new(CONFIGS["default"])
    history = fit(network, data)
    assert history.batches == BATCHES
    assert_the_same(*resumed(CONFIGS["default"], batch), network, history)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_kind_of_run(data, resumed, name):
    network = new(CONFIGS[name])
    history = fit(network, data)
    # In the first epoch, on an epoch's last batch, the smaller one, and past the best epoch that a run may have.
    for batch in (5, 18, history.batches - 2):
        assert_the_same(*resumed(CONFIGS[name], batch), network, history)


def test_again_and_again(data, tmp_path):
    """A run that is stopped in every epoch, and once more in one where it was resumed."""
    expected = new(CONFIGS["default"])
    history = fit(expected, data)
    resume = None
    for batch in (3, 7, 14, 20, 33):
        network = new(CONFIGS["default"])
        fit(network, data, callbacks=[stop_at(batch)], checkpoints=Checkpoints(tmp_path / "run"), resume=resume)
        resume = tmp_path / "run"
    network = new(CONFIGS["default"])
    assert_the_same(network, fit(network, data, resume=resume), expected, history)


def test_writing_checkpoints_changes_nothing(data, tmp_path):
    plain, watched = new(CONFIGS["default"]), new(CONFIGS["default"])
    history = fit(plain, data)
    assert_the_same(watched, fit(watched, data, checkpoints=Checkpoints(tmp_path / "run", every=1)), plain, history)


@pytest.mark.parametrize("every", [4, 9])
def test_checkpoints_that_were_written_on_the_way(data, tmp_path, every):
    expected = new(CONFIGS["default"])
    history = fit(expected, data, checkpoints=Checkpoints(tmp_path / "run", every=every, keep=99))
    for name in names_in(tmp_path / "run"):
        network = new(CONFIGS["default"])
        assert_the_same(network, fit(network, data, resume=tmp_path / "run" / name), expected, history)


def test_a_stop_at_the_end_of_an_epoch(data, tmp_path):
    expected = new(CONFIGS["default"])
    history = fit(expected, data)
    first = fit(
        new(CONFIGS["default"]),
        data,
        callbacks=[StopAfter(2)],
        checkpoints=Checkpoints(tmp_path / "run"),
    )
    assert first.epochs[-1].quality
    assert names_in(tmp_path / "run") == ["0000000018-epoch-2"]
    network = new(CONFIGS["default"])
    assert_the_same(network, fit(network, data, resume=tmp_path / "run"), expected, history)


def test_patience_runs_out_after_the_interruption(data, tmp_path):
    # So high a learning rate that an early epoch is the best; its weights come out of the checkpoint.
    config = small(optimizer={"lr": 0.5})
    training = dataclasses.replace(TRAINING, epochs=30, patience=2, schedule="constant")
    expected = new(config)
    history = fit(expected, data, training)
    assert history.out_of_patience
    assert 0 < history.best_epoch < len(history.epochs)
    stop = 9 * history.best_epoch + 4
    fit(new(config), data, training, callbacks=[stop_at(stop)], checkpoints=Checkpoints(tmp_path / "run"))
    network = new(config)
    assert_the_same(network, fit(network, data, None, resume=tmp_path / "run"), expected, history)


def test_rows_that_owe_steps_to_a_run_before(tmp_path):
    """Most rows are skipped by most steps, more of them than are replayed one by one."""
    data = make_extreme(300, 500, 300)
    config = small("uniform", output={"tail": 4}, optimizer={"lazy": "exact", "weight_decay": 0.01})
    training = TrainingConfig(epochs=1, batch_size=2, max_batches=100)

    def warm():
        network = Network(500, 300, config, threads=1)
        fit(network, data, training)
        return network

    expected = warm()
    assert expected.step > expected.optimizer.replay_until
    history = fit(expected, data, training)
    fit(warm(), data, training, callbacks=[stop_at(60)], checkpoints=Checkpoints(tmp_path / "run"))
    network = Network(500, 300, config, threads=1)
    assert_the_same(network, fit(network, data, training, resume=tmp_path / "run"), expected, history)


def test_a_checkpoint_is_a_saved_network(data, tmp_path):
    network, training = new(CONFIGS["default"]), TrainingConfig(epochs=4, batch_size=32)
    fit(network, data, training, callbacks=[stop_at(13)], checkpoints=Checkpoints(tmp_path / "run"))
    back = Network.load(tmp_path / "run" / "0000000013", threads=1)
    assert (back.step, back.trainable) == (13, True)
    ids, scores = back.predict(data.X)
    expected_ids, expected = network.predict(data.X)
    assert np.array_equal(ids, expected_ids)
    assert np.array_equal(scores, expected)


# What is kept


def test_the_newest_and_the_best_are_kept(data, tmp_path, monkeypatch):
    network, found = new(CONFIGS["default"]), []

    def look(progress):
        found.append(names_in(tmp_path / "run") if (tmp_path / "run").exists() else [])
        # The third epoch is the worst.
        return None

    training = dataclasses.replace(TRAINING, holdout=0.0, patience=None)
    qualities = iter([0.5, 0.6, 0.1, 0.2])
    monkeypatch.setattr(topk, "evaluate", lambda *rest, **options: {"P@1": next(qualities)})
    checkpoints = Checkpoints(tmp_path / "run", every=4, keep=2)
    fit(network, data, training, validation=(data.X, data.Y), callbacks=[look], checkpoints=checkpoints)
    # Without a holdout an epoch has ten batches.
    assert found[0] == found[3] == []
    assert found[4] == ["0000000004"]
    assert found[10] == ["0000000008", "0000000010-epoch-1"]
    assert found[20] == ["0000000016", "0000000020-epoch-2"]
    assert found[-1] == ["0000000020-epoch-2", "0000000032", "0000000036"]
    assert names_in(tmp_path / "run") == ["0000000020-epoch-2", "0000000032", "0000000036"]
    assert checkpoints.latest == tmp_path / "run" / "0000000036"
    assert [entry.name for entry in (tmp_path / "run").iterdir() if entry.name[0] == "."] == []


def test_no_checkpoint_without_a_reason(data, tmp_path):
    fit(new(CONFIGS["default"]), data, checkpoints=Checkpoints(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_full_disk_does_not_end_the_run(data, tmp_path, monkeypatch, caplog):
    plain, watched, fsync = new(CONFIGS["default"]), new(CONFIGS["default"]), os.fsync
    expected, checkpoints = fit(plain, data), Checkpoints(tmp_path / "run", every=5)

    def failing(descriptor):
        if checkpoints.latest is not None:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    assert_the_same(watched, fit(watched, data, checkpoints=checkpoints), plain, expected)
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["0000000005"]
    assert "could not be written, training goes on without it: No space left" in caplog.text


def test_a_folder_of_another_run_is_left_alone(data, tmp_path):
    fit(new(CONFIGS["default"]), data, callbacks=[stop_at(2)], checkpoints=Checkpoints(tmp_path / "run"))
    for resume in (None, tmp_path / "other"):
        if resume is not None:
            fit(new(CONFIGS["default"]), data, callbacks=[stop_at(2)], checkpoints=Checkpoints(resume))
        with pytest.raises(FileExistsError, match=r"has checkpoints of a run, the newest 0000000002: go on with"):
            fit(new(CONFIGS["default"]), data, checkpoints=Checkpoints(tmp_path / "run"), resume=resume)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(FileExistsError, match=r"has 'notes\.txt', which is not a checkpoint"):
        fit(new(CONFIGS["default"]), data, checkpoints=Checkpoints(tmp_path / "mine"))
    with pytest.raises(FileExistsError, match="is a file"):
        Checkpoints(tmp_path / "mine" / "notes.txt").begin()
    for options in ({"every": 0}, {"keep": 0}):
        with pytest.raises(ValueError, match="must be 1 or more, got 0"):
            Checkpoints(tmp_path / "run", **options)


# What is refused


@pytest.fixture
def stopped(data, tmp_path):
    """The folder of a run that stopped after five batches."""
    fit(new(CONFIGS["default"]), data, callbacks=[stop_at(5)], checkpoints=Checkpoints(tmp_path / "run"))
    return tmp_path / "run"


def test_other_settings_are_refused(data, stopped):
    with pytest.raises(ConfigError, match=r"training\.batch_size is 16 here and 32 in the run"):
        fit(new(CONFIGS["default"]), data, dataclasses.replace(TRAINING, batch_size=16), resume=stopped)
    with pytest.raises(ConfigError, match=r"network\.optimizer\.lr is 0\.5 here and 0\.02 in the run"):
        fit(new(small(optimizer={"lr": 0.5}, input_dropout=0.1)), data, resume=stopped)
    with pytest.raises(ConfigError, match=r"network\.hidden\[0\]\.units is 18 here and 17"):
        fit(new(small(hidden=HiddenConfig(18), input_dropout=0.1)), data, resume=stopped)
    with pytest.raises(ConfigError, match=r"training\.patience is None here and 3"):
        fit(new(CONFIGS["default"]), data, dataclasses.replace(TRAINING, patience=None), resume=stopped)
    with pytest.raises(ConfigError, match=r"network\.seed is 99 here and"):
        fit(new(dataclasses.replace(CONFIGS["default"], seed=99)), data, resume=stopped)
    fit(new(dataclasses.replace(CONFIGS["default"], hugepages="off")), data, resume=stopped)


def test_other_data_is_refused(data, stopped):
    other = data.subset(np.arange(299))
    with pytest.raises(DataError, match=r"the training data: .*299 samples here, 300 there"):
        fit(new(CONFIGS["default"]), other, resume=stopped)
    changed = data.subset(np.arange(300))
    changed.X.data[0] += 1
    changed.X.data[-1] += 1
    with pytest.raises(DataError, match="the same number of samples, but other contents"):
        fit(new(CONFIGS["default"]), changed, resume=stopped)
    with pytest.raises(DataError, match=r"the validation data: .*some here, none there"):
        fit(new(CONFIGS["default"]), data, resume=stopped, validation=(other.X, other.Y))
    with pytest.raises(DataError, match=r"label_weights: .*some here, none there"):
        fit(new(CONFIGS["default"]), data, resume=stopped, label_weights=np.ones(N_LABELS))
    with pytest.raises(DataError, match=r"mask_inputs: .*on here, off there"):
        fit(new(CONFIGS["default"]), data, resume=stopped, mask_inputs=True)


def test_another_network_is_refused(data, stopped):
    network = Network(N_FEATURES, N_LABELS + 1, CONFIGS["default"], threads=1)
    with pytest.raises(DataError, match="the training data has"):
        fit(network, data, resume=stopped)


def edit(file, change):
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: run.update(version=2), r"run\.json: format version 2, this slide .* reads version 1"),
        (lambda run: run.update(format="else"), r"run\.json: not a slide-run file"),
        (lambda run: run.pop("training"), r"run\.json: 'training'"),
        (lambda run: run["training"].update(epochs=0), r"run\.json: TrainingConfig\.epochs must be"),
        (lambda run: run["state"].pop("totals"), r"run\.json, 'state': KeyError\('totals'"),
        (lambda run: run["state"]["progress"].pop("batch"), r"run\.json: 'batch'"),
        (lambda run: run["state"].update(totals=[1]), r"totals must be 3 numbers, got 1"),
        (lambda run: run["state"].update(totals=1e400), r"run\.json, 'state': TypeError"),
        (lambda run: run["state"].update(under_way="no"), r"under_way must be true or false, got 'no'"),
        (lambda run: run["state"]["progress"].update(batches=None), r"batches must be a number .*, got None"),
        (lambda run: run["state"]["progress"].update(epoch=7), r"epoch 7, batch 5 of 36 and 0 finished epochs do"),
        (lambda run: run["state"]["history"].update(stopped=1), r"stopped must be true or false, got 1"),
        (lambda run: run["state"]["progress"].update(loss="x"), r"loss must be a number, got 'x'"),
        (lambda run: run["state"]["progress"].update(quality=[]), r"quality must be numbers by name, got \[\]"),
        (lambda run: run["state"]["best"].update(quality={"P@1": None}), r"P@1 must be a number, got None"),
        (lambda run: run["state"]["progress"].update(seconds=2.5), None),
    ],
)
def test_a_damaged_run(data, stopped, change, message):
    edit(stopped / "0000000005" / MANIFEST, change)
    if message is None:
        # Numbers that are wrong but could be right cannot be told.
        fit(new(CONFIGS["default"]), data, resume=stopped)
        return
    with pytest.raises(CheckpointError, match=message):
        fit(new(CONFIGS["default"]), data, resume=stopped)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda about: about.pop("training"), "'training': KeyError"),
        (lambda about: about["training"].update(settled_at=6), "settled_at must be a number from 0 to 5, got 6"),
        (lambda about: about["training"].update(settled_at="0"), "settled_at must be a number from 0 to 5, got .0."),
        (lambda about: about["training"]["tables"]["output"].pop("next"), "KeyError"),
        (lambda about: about.update(step=6), r"optimizer\.log_keep|optimizer\.steps"),
        (lambda about: about.update(moments=False), "moments False"),
    ],
)
def test_a_damaged_network_of_a_run(data, stopped, change, message):
    edit(stopped / "0000000005" / "network.json", change)
    with pytest.raises(CheckpointError, match=message):
        fit(new(CONFIGS["default"]), data, resume=stopped)


def test_codes_out_of_range(data, stopped):
    file = stopped / "0000000005" / "output.codes.npy"
    np.save(file, np.full_like(np.load(file), 2**20))
    with pytest.raises(CheckpointError, match="'training'"):
        fit(new(CONFIGS["default"]), data, resume=stopped)


def test_what_is_no_checkpoint(data, tmp_path):
    network = new(CONFIGS["default"])
    with pytest.raises(CheckpointError, match="is not a checkpoint of a run and has none"):
        fit(network, data, resume=tmp_path)
    fit(network, data)
    network.save(tmp_path / "net", moments=True)
    with pytest.raises(CheckpointError, match=r"is not a checkpoint.*Network\.load and fit"):
        fit(network, data, resume=tmp_path / "net")


def test_a_damaged_newest_checkpoint_names_the_others(data, tmp_path):
    checkpoints = Checkpoints(tmp_path / "run", every=2)
    fit(new(CONFIGS["default"]), data, callbacks=[stop_at(4)], checkpoints=checkpoints)
    (checkpoints.latest / MANIFEST).write_bytes(b"{")
    with pytest.raises(CheckpointError, match=r"run\.json: .*; .*run has others: 0000000002"):
        SavedRun(tmp_path / "run")


# Killed


KILLED = """
import os, signal, sys

from slide import Network
from slide.config import *
from slide.data import load
from slide.train.checkpoints import Checkpoints

data, checkpoints = load("data.npz", cache=False), Checkpoints("run", every=5, keep=1)
fsync, left = os.fsync, [int(sys.argv[1])]

def killing(descriptor):
    fsync(descriptor)
    left[0] -= checkpoints.latest is not None
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)

os.fsync = killing
config = NetworkConfig(HiddenConfig(8), OutputConfig("lsh+tail", budget=8, tail=8, lsh=LSHConfig(k=3, l=4)), seed=3)
network = Network(data.n_features, data.n_labels, config, threads=1)
network.fit(data.X, data.Y, config=TrainingConfig(epochs=2, batch_size=32), checkpoints=checkpoints)
"""
KILLED_CONFIG = NetworkConfig(HiddenConfig(8), OutputConfig("lsh+tail", budget=8, tail=8, lsh=LSH), seed=3)


@pytest.mark.parametrize("writes", [1, 12, 18, 19])
def test_killed_while_it_writes(data, tmp_path, writes):
    save_npz(tmp_path / "data.npz", data)
    command = [sys.executable, "-c", KILLED, str(writes)]
    killed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    unfinished = [entry for entry in os.listdir(tmp_path / "run") if entry[0] == "."]
    # Killed before the second got its name, or after that and before the first was removed.
    first, second = "0000000005", "0000000010-epoch-1"
    assert (len(unfinished), names_in(tmp_path / "run")) in [(1, [first]), (0, [first, second])]
    training = TrainingConfig(epochs=2, batch_size=32)
    expected, network = new(KILLED_CONFIG), new(KILLED_CONFIG)
    history = fit(expected, data, training)
    checkpoints = Checkpoints(tmp_path / "run", every=5, keep=1)
    found = fit(network, data, training, resume=tmp_path / "run", checkpoints=checkpoints)
    assert_the_same(network, found, expected, history)
    assert os.listdir(tmp_path / "run") == ["0000000015"]


# The command


@pytest.fixture
def files(data, tmp_path):
    """Two data sets in files, and the options of a run of 40 batches."""
    save_npz(tmp_path / "train.npz", data)
    save_npz(tmp_path / "other.npz", data.subset(np.arange(200)))
    settings = ["--epochs", 4, "--batch-size", 30, "--hidden", 17, "--no-cache", "--holdout", 0.1]
    return ["train", "train.npz", *settings]


@pytest.fixture
def interrupted(run, files, monkeypatch):
    """Have a run interrupted in its 14th batch, and go on undisturbed from then on."""
    train_batch = Network.train_batch

    def signalling(self, *arguments, **options):
        stats = train_batch(self, *arguments, **options)
        if self.step == 14:
            signal.raise_signal(signal.SIGTERM)
        return stats

    def interrupted(*options):
        with monkeypatch.context() as patch:
            patch.setattr(Network, "train_batch", signalling)
            return run(*files, *options)

    return interrupted


def saved_files(folder):
    """What a saved network has in its files, but for times."""
    about = json.loads((folder / "network.json").read_text())
    if about["index"]:
        del about["index"]["rebuild_seconds"]
    return about, {file.name: file.read_bytes() for file in folder.glob("*.npy")}


@pytest.mark.parametrize("options", [[], ["--patience", 2]], ids=["plain", "patience"])
def test_the_command_goes_on_where_it_was(run, files, interrupted, tmp_path, options):
    whole = run(*files, *options, "--out", "whole", "--json")
    first = interrupted(*options, "--out", "model")
    assert first.status == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after 14 batches; saving what was learnt" in first.err
    assert "the run goes on with the same command and --resume model.checkpoints" in first.err
    assert [entry.name for entry in (tmp_path / "model.checkpoints").iterdir()] == ["0000000014"]
    second = run("train", "train.npz", "--no-cache", "--resume", "model.checkpoints", "--json")
    assert "going on from model.checkpoints/0000000014, batch 14" in second.err
    assert saved_files(tmp_path / "model") == saved_files(tmp_path / "whole")
    reports = [json.loads(result.out) for result in (whole, second)]
    for name in ("loss", "batches", "epochs", "best_quality", "best_epoch", "active_per_sample", "stopped"):
        assert reports[0][name] == reports[1][name], name


def test_checkpoints_of_the_command(run, files, tmp_path):
    assert run(*files, "--checkpoint-every", 4, "--keep", 3).status == 0
    names = names_in(tmp_path / "slide-model.checkpoints")
    # The run's end has none; the best epoch's stands before the newest, unless it is one of them.
    assert names[-3:] == ["0000000024", "0000000028", "0000000032"] or "0000000027-epoch-3" in names[-3:]
    assert 3 <= len(names) <= 4
    line = run(*files).err
    assert "slide-model.checkpoints has checkpoints of a run, the newest" in line
    assert "--resume slide-model.checkpoints" in line
    result = run(*files, "--resume", f"slide-model.checkpoints/{names[0]}", "--out", "elsewhere")
    assert result.status == 0
    assert saved_files(tmp_path / "elsewhere") == saved_files(tmp_path / "slide-model")


def test_the_command_refuses_other_settings_and_data(run, files, interrupted, tmp_path):
    interrupted()
    before = saved_files(tmp_path / "slide-model")
    resume = ["--no-cache", "--resume", "slide-model.checkpoints"]
    (tmp_path / "run.toml").write_text("[network.output]\ntail = 9\n")
    for options, message in (
        (["train.npz", "--lr", 0.5], "network.optimizer.lr is 0.5 here and 0.008 in the run"),
        (["train.npz", "--epochs", 9], "training.epochs is 9 here and 4 in the run"),
        (["train.npz", "--config", "run.toml"], "network.hidden[0].units is 256 here and 17 in the run"),
        (["other.npz"], "the training data: not the same as in the run"),
        (["train.npz", "--test", "other.npz", "--mask-inputs"], "mask_inputs: not the same as in the run"),
        (["train.npz", "--out", "fresh", "--resume", "nowhere"], "nowhere is not a checkpoint of a run and has none"),
    ):
        result = run("train", *resume, *options)
        assert result.status == 1
        assert message in result.err.splitlines()[-1]
    assert saved_files(tmp_path / "slide-model") == before
    # What the run has anyway may be said again.
    assert run("train", "train.npz", *resume, "--epochs", 4, "--hidden", 17).status == 0


def test_sigterm_of_a_process(data, tmp_path):
    save_npz(tmp_path / "train.npz", data)
    command = [sys.executable, "-m", "slide", "train", "train.npz", "--no-cache", "--threads", "1", "--hidden", "8"]
    command += ["--epochs", "1000000"]
    options = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, **options) as process:
        while "epoch 1," not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert "--resume slide-model.checkpoints" in err
    saved = SavedRun(tmp_path / "slide-model.checkpoints")
    assert (saved.training.epochs, saved.batch >= 3) == (1_000_000, True)
