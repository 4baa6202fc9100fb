"""What a user sees of training: on terminals of some widths, and where standard error is no terminal."""

import fcntl
import io
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from types import SimpleNamespace

import pytest
from small_runs import train

from slide.commands.console import logging_to_stderr
from slide.data import make_extreme, save_xc
from slide.runs.display import TrainingDisplay
from slide.train.records import Progress


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    train_data, test_data = make_extreme(4_000, 100, 50, test_samples=60, seed=1)
    save_xc(folder / "train.txt", train_data)
    save_xc(folder / "test.txt", test_data)
    return folder


def on_a_terminal(columns, *arguments, cwd):
    """Run ``slide`` on a terminal so wide; return its exit status and what it wrote."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-m", "slide", *map(str, arguments)]
    written = []

    def read():
        try:
            while chunk := os.read(ours, 65536):
                written.append(chunk)
        except OSError:
            # How Linux says that nobody has the terminal open any more.
            pass

    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd) as process:
        os.close(theirs)
        reader = threading.Thread(target=read)
        reader.start()
        process.wait(timeout=60)
        reader.join(timeout=60)
    os.close(ours)
    return process.returncode, b"".join(written).decode()


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_on_a_terminal(columns, data, tmp_path):
    options = ["--test", data / "test.txt", "--epochs", 2, "--threads", 1, "--out", "m"]
    os.symlink(data / "train.txt", tmp_path / "train.txt")
    status, text = on_a_terminal(columns, "train", "train.txt", *options, "--no-cache", cwd=tmp_path)
    assert status == 0
    assert "\x1b" not in text
    lines = text.replace("\r\n", "\n").split("\n")
    for line in lines:
        # What is written over a line before it, too. A path is a word, which is not broken.
        for drawn in line.split("\r"):
            assert len(drawn) < columns or str(data) in drawn
    bars = [drawn for line in lines for drawn in line.split("\r") if "%|" in drawn]
    assert bars[0].startswith("  0%|")
    assert re.match(r"100%\|█+\| 64/64 \[", bars[-1])
    assert len(bars[-1]) == columns - 1
    assert ("samples/s" in bars[-1]) == (columns == 200)
    # Log lines are whole, and none is left on the line of the bar.
    shown = [line.rpartition("\r")[2] for line in lines]
    assert sum(bool(re.match(r"\d\d:\d\d:\d\d epoch \d, [\d.]+ s: .*P@1", line)) for line in shown) == 2
    assert any(line.startswith(f"{'P':<22}") for line in shown)


def test_where_there_is_no_terminal(data, tmp_path):
    command = ["train", data / "train.txt", "--epochs", "2", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "slide", *map(str, command)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0
    assert "\r" not in done.stderr
    assert "%|" not in done.stderr
    assert all(re.match(r"\d\d:\d\d:\d\d \w", line) for line in done.stderr.splitlines())
    assert done.stdout.startswith("64 batches in ")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def progress(**fields):
    return Progress(epoch=3, batch=12, batches=40, samples=1200, seconds=2.0, loss=1.5, precision=0.25, **fields)


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (90, "loss 1.500, P@1 25.0% in training, 50.0% in test, nDCG@3 40.0%, 600 samples/s"),
        (70, "loss 1.500, P@1 25.0% in training, 50.0% in test, nDCG@3 40.0%"),
        (50, "P@1 25.0%, 50.0% in test, nDCG@3 40.0%"),
        (25, "loss 1.500, P@1 25.0%"),
        (10, "P@1 25.0%"),
        (5, ""),
    ],
)
def test_what_matters_least_is_left_out(room, expected):
    display = TrainingDisplay(monitor="nDCG@3")
    assert display._summary(progress(quality={"P@1": 0.5, "nDCG@3": 0.4}), room) == expected


def test_the_bar_ends_with_what_was_measured_last(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr("slide.runs.display.columns", lambda: 200)
    with logging_to_stderr():
        _, history = train([TrainingDisplay()])
    assert f"{history.epochs[-1].quality['P@1']:.1%} in test" in sys.stderr.getvalue().rpartition("\r")[2]


def test_the_display_closes_where_training_fails(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    display = TrainingDisplay()
    with pytest.raises(ZeroDivisionError):
        train([display, lambda progress: 1 / 0])
    assert sys.stderr.getvalue().endswith("\n")


def test_a_run_that_goes_on_is_shown_from_there(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    display = TrainingDisplay()
    display.on_start(SimpleNamespace(progress=progress()))
    display.on_end(None)
    assert "12/40" in sys.stderr.getvalue()


def test_long_log_lines_are_broken_between_words(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "30")
    with logging_to_stderr():
        logging.getLogger("slide").info("one two three four five six seven eight nine ten")
    lines = sys.stderr.getvalue().splitlines()
    assert len(lines) > 1
    assert all(len(line) < 30 for line in lines)
    assert all(line.startswith(" " * 9) for line in lines[1:])
