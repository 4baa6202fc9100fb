
import json
import logging
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from small_runs import train, write_history

from slide.config import RunConfig
from slide.config.dicts import from_dict
from slide.data import make_extreme, save_xc
from slide.network import Network
from slide.persist import saved_network
from slide.runs import history
from slide.runs.history import HistoryError, HistoryFile, read_history
from slide.train.records import Epoch, Progress


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A history of two epochs of four batches; what ``fit`` returned is its `history`."""
    path = tmp_path_factory.mktemp("written") / "run" / "history.jsonl"
    return SimpleNamespace(path=path, history=write_history(path))


@pytest.fixture
def copied(written, tmp_path):
    """A copy that may be changed."""
    path = tmp_path / "copy.jsonl"
    path.write_bytes(written.path.read_bytes())
    return path


def kinds(path):
    return [json.loads(line)["kind"] for line in path.read_text().splitlines()]


def test_what_is_written(written):
    assert kinds(written.path) == ["run", *["batch"] * 4, "epoch", *["batch"] * 4, "epoch", "end"]
    run, done = read_history(written.path), written.history
    header = run.header
    assert (header["n_features"], header["n_labels"], header["points"], header["measured_points"]) == (100, 50, 400, 60)
    assert (header["batch"], header["batches"], header["threads"]) == (0, 8, 1)
    assert header["data"] == {"train": "samples.txt"}
    config = from_dict(RunConfig, header["config"])
    assert (config.training.batch_size, config.network.hidden[0].units) == (100, 8)
    assert [line["samples"] for line in run.batches] == [100, 200, 300, 400, 500, 600, 700, 800]
    assert [line["lr"] for line in run.batches] == sorted((line["lr"] for line in run.batches), reverse=True)
    for line, epoch in zip(run.epochs, done.epochs, strict=True):
        assert (line["loss"], line["precision"], line["active"]) == (epoch.loss, epoch.precision, epoch.active)
        assert line["quality"] == epoch.quality
    assert run.measured == run.epochs
    assert run.last == run.batches[-1]
    end = run.end
    assert (end["seconds"], end["active"]) == (done.train_seconds, done.active_per_sample)
    assert (end["best_epoch"], end["best_quality"], end["error"]) == (done.best_epoch, done.best_quality, None)
    # Linux counts what a process has only roughly.
    assert 0 < 0.9 * run.column("rss_bytes").max() < end["peak_rss_bytes"]
    assert list(run.column("batch")) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (run.name, run.test, run.cut_short) == ("run", {}, False)


def test_nothing_tells_whose_machine_it_was(written):
    text = written.path.read_text().splitlines()[0]
    assert os.uname().nodename not in text
    assert os.sep + "home" not in text
    assert str(written.path.parent) not in text
    assert set(json.loads(text)["machine"]) >= {"processor", "cores", "cpus", "memory_bytes", "isa", "python"}


def test_names(written, copied):
    assert read_history(written.path.parent).name == "run"
    assert read_history(written.path.parent).path == written.path
    assert read_history(copied).name == "copy"


def test_a_run_that_fails_says_so(tmp_path):
    def fail(progress):
        if progress.batch == 3:
            raise FloatingPointError("the loss is not finite")

    with pytest.raises(FloatingPointError):
        train([HistoryFile(tmp_path / "h.jsonl"), fail])
    run = read_history(tmp_path / "h.jsonl")
    assert run.end["error"] == "FloatingPointError: the loss is not finite"
    assert run.end["batch"] == len(run.batches) == 3


def test_a_new_run_begins_a_new_file(tmp_path):
    for epochs in (2, 1):
        write_history(tmp_path / "h.jsonl", epochs=epochs)
    assert len(read_history(tmp_path / "h.jsonl").epochs) == 1
    assert os.listdir(tmp_path) == ["h.jsonl"]


def go_on(path, batch):
    """Have a history file told that a run goes on after a batch, and of the next."""
    network = SimpleNamespace(n_features=100, n_labels=50, threads=1, config=RunConfig().network)
    progress = Progress(batch=batch, batches=8, epoch=2, samples=100 * batch, loss=1.0, precision=0.5, active=20.0)
    run = SimpleNamespace(
        network=network, config=RunConfig().training, samples=400, measured_samples=0, progress=progress
    )
    file = HistoryFile(path)
    file.on_start(run)
    progress.batch += 1
    file.on_batch(progress)
    return file


def test_a_run_that_goes_on_appends(written, copied):
    go_on(copied, 6)
    assert copied.read_bytes().startswith(written.path.read_bytes())
    run = read_history(copied)
    # What came after the checkpoint does not count.
    assert [line["batch"] for line in run.batches] == [1, 2, 3, 4, 5, 6, 7]
    assert [line["batch"] for line in run.epochs] == [4]
    assert (run.end, run.header["batch"], run.batches[-1]["loss"]) == (None, 6, 1.0)


def test_an_epoch_that_was_cut_short_counts_once(tmp_path):
    path = tmp_path / "h.jsonl"
    train([HistoryFile(path), lambda progress: progress.batch == 6])
    assert [(line["epoch"], line["batch"]) for line in read_history(path).epochs] == [(1, 4), (2, 6)]
    file = go_on(path, 6)
    progress = file._run.progress
    progress.batch, progress.finished = 8, Epoch(2, 4, 1.0, 0.5, 20.0, 1.0, {"P@1": 0.5})
    file.on_epoch(progress)
    epochs = read_history(path).epochs
    assert [(line["epoch"], line["batch"]) for line in epochs] == [(1, 4), (2, 8)]
    assert epochs[1]["quality"] == {"P@1": 0.5}


def test_a_run_that_goes_on_without_its_file_begins_one(tmp_path):
    go_on(tmp_path / "h.jsonl", 6)
    assert [line["batch"] for line in read_history(tmp_path / "h.jsonl").batches] == [7]


def test_a_line_that_was_cut_short(copied, caplog):
    whole = copied.read_bytes()
    copied.write_bytes(whole[: whole.rindex(b'{"kind": "epoch"') + 40])
    with caplog.at_level(logging.WARNING, logger="slide"):
        run = read_history(copied)
    assert run.cut_short
    assert (len(run.batches), len(run.epochs), run.end) == (8, 1, None)
    assert "copy.jsonl, line 11: cut short, and left out: the run was killed or goes on" in caplog.text
    caplog.clear()
    go_on(copied, 8)
    run = read_history(copied)
    assert not run.cut_short
    assert len(run.batches) == 9
    assert not caplog.text


def test_a_line_that_lacks_nothing_but_its_end(copied):
    copied.write_bytes(copied.read_bytes().rstrip())
    run = read_history(copied)
    assert run.end is not None
    assert not run.cut_short


def test_an_interrupted_write_ends_the_history_and_not_the_run(tmp_path, caplog):
    path = tmp_path / "folder" / "h.jsonl"

    def take_away(progress):
        if progress.batch == 2:
            path.unlink()
            path.parent.rmdir()

    with caplog.at_level(logging.WARNING, logger="slide"):
        train([HistoryFile(path), take_away])
    assert caplog.text.count("No such file or directory; the run goes on, its history ends here") == 1
    assert not path.exists()


def test_a_place_that_cannot_be_written_to_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError):
        train([HistoryFile(tmp_path / "file" / "h.jsonl")])


def test_what_is_no_history_is_not_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"notes.txt exists and is no history of a run; choose another name"):
        write_history(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_history_file_serves_several_runs_in_turn(tmp_path):
    file = HistoryFile(tmp_path / "h.jsonl")
    for epochs in (2, 1):
        train([file], epochs=epochs)
    assert len(read_history(tmp_path / "h.jsonl").epochs) == 1


def test_numbers_that_are_not_finite_are_null(tmp_path):
    file = go_on(tmp_path / "h.jsonl", 3)
    progress = Progress(batch=5, epoch=1)
    file._write("batch", file._figures(progress))
    line = json.loads((tmp_path / "h.jsonl").read_text().splitlines()[-1])
    assert line["loss"] is None
    loss = read_history(tmp_path / "h.jsonl").column("loss")
    assert loss[0] == 1.0
    assert loss[1] != loss[1]


# Refusals


def change(path, number, **fields):
    """Change fields of a line; those that are None are left out."""
    lines = path.read_text().splitlines()
    record = {**json.loads(lines[number - 1]), **fields}
    lines[number - 1] = json.dumps({name: value for name, value in record.items() if value is not None})
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("number", "fields", "message"),
    [
        (1, {"version": 9}, "line 1: expected 'slide-history' of version 1, .*; found 'slide-history' of version 9"),
        (1, {"format": "x"}, "line 1: expected 'slide-history' of version 1, .*; found 'x' of version 1"),
        (1, {"n_labels": "many"}, "line 1: 'n_labels' must be a number, found 'many'"),
        (1, {"config": None}, "line 1: 'config' must be an object, and there is none"),
        (3, {"samples": None}, "line 3: 'samples' must be a number, and there is none"),
        (3, {"samples": True}, "line 3: 'samples' must be a number, found True"),
        (3, {"kind": "bach"}, "line 3: expected an object whose 'kind' is one of run, batch, epoch, end, test"),
        (6, {"quality": {"P@1": "good"}}, "line 6: 'quality' must hold numbers, found {'P@1': 'good'}"),
    ],
)
def test_lines_that_are_not_as_they_should_be(copied, number, fields, message):
    change(copied, number, **fields)
    with pytest.raises(HistoryError, match=f"copy.jsonl, {message}"):
        read_history(copied)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("[1]\n", "line 1: expected an object"),
        ("1 5 5\n", "line 1: not an object in JSON"),
        ('{"kind": "run"', "line 1: not an object in JSON"),
        ('{"kind": "test", "points": 1, "quality": {}}\n', "line 1: a history begins with a line of kind 'run'"),
        ("\x89PNG\r\n", "line 1: not an object in JSON"),
    ],
)
def test_what_is_no_history(tmp_path, content, message):
    (tmp_path / "x.jsonl").write_text(content, newline="")
    with pytest.raises(HistoryError, match=f"x.jsonl[,:] {message}"):
        read_history(tmp_path / "x.jsonl")


def test_damage_in_the_middle(copied):
    lines = copied.read_text().splitlines()
    lines[4] = lines[4][:30]
    copied.write_text("\n".join(lines) + "\n")
    with pytest.raises(HistoryError, match=r"line 5: not an object in JSON .*expected the history of a run"):
        read_history(copied)


def test_there_is_no_history(tmp_path):
    with pytest.raises(HistoryError, match=r"history.jsonl: there is no such file; slide train writes it"):
        read_history(tmp_path)
    with pytest.raises(HistoryError, match=r"absent: there is no such file"):
        read_history(tmp_path / "absent")


# In the folder of a network


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    train_data, test_data = make_extreme(400, 100, 50, test_samples=60, seed=1)
    save_xc(folder / "train.txt", train_data)
    save_xc(folder / "test.txt", test_data)
    return folder


def test_train_always_writes_a_history(run, data, tmp_path):
    train_file, test_file = data / "train.txt", data / "test.txt"
    result = run("train", train_file, "--test", test_file, "--batch-size", 100, "--epochs", 2, "--json")
    assert result.status == 0
    recorded = read_history(tmp_path / "slide-model")
    assert recorded.name == "slide-model"
    assert recorded.header["data"] == {"train": "train.txt", "test": "test.txt"}
    assert (len(recorded.batches), len(recorded.epochs), recorded.end["stopped"]) == (8, 2, False)
    assert recorded.test["P@1"] == json.loads(result.out)["P@1"]
    assert str(data) not in recorded.path.read_text()
    assert Network.load(tmp_path / "slide-model").step == 0


def test_the_history_of_a_network_stays_until_another_is_saved(run, data, tmp_path, monkeypatch):
    train_file, folder = data / "train.txt", tmp_path / "slide-model"
    command = ["train", train_file, "--batch-size", 100, "--max-batches"]
    assert run(*command, 3).status == 0
    first = (folder / "history.jsonl").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(saved_network, "save", lambda *arguments, **options: 1 / 0)
        for batches in (4, 5):
            with pytest.raises(ZeroDivisionError):
                run(*command, batches)
            assert (folder / "history.former.jsonl").read_bytes() == first
            assert len(read_history(folder).batches) == batches
    assert run(*command, 6).status == 0
    assert not (folder / "history.former.jsonl").exists()
    assert len(read_history(folder).batches) == 6


def test_only_what_a_run_leaves_may_be_replaced(run, data, tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "history.jsonl").write_text("")
    (folder / "notes.txt").write_text("mine")
    result = run("train", data / "train.txt", "--out", folder)
    assert (result.status, "exists and is not a saved network" in result.err) == (1, True)
    (folder / "notes.txt").unlink()
    assert run("train", data / "train.txt", "--out", folder, "--max-batches", 1).status == 0


def test_a_network_is_saved_without_a_history_that_is_gone(run, data, tmp_path, monkeypatch):
    monkeypatch.setattr(HistoryFile, "on_end", lambda self, history: self.path.unlink())
    result = run("train", data / "train.txt", "--max-batches", 1)
    assert result.status == 0
    assert "the network is saved without its history" in result.err
    assert not (tmp_path / "slide-model" / "history.jsonl").exists()


def test_a_killed_run_leaves_its_history(data, tmp_path):
    command = ["train", data / "train.txt", "--epochs", "1000000", "--threads", "1"]
    with subprocess.Popen(
        [sys.executable, "-m", "slide", *map(str, command)], stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        while "epoch 2," not in process.stderr.readline():
            assert process.poll() is None
        process.kill()
    assert process.returncode == -signal.SIGKILL
    run = read_history(tmp_path / "slide-model")
    assert len(run.epochs) >= 2
    assert run.end is None


def test_what_the_file_holds_is_documented():
    for names in (history.NUMBERS, history.OBJECTS):
        assert all(f'``"{kind}"``' in history.__doc__ for kind in names)
