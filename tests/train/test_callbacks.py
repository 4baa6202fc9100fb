import logging
import subprocess
import sys

import numpy as np
import pytest
from small_runs import train

from slide import SlideClassifier
from slide.runs import pace as module
from slide.runs.pace import PARTS, Pace
from slide.train.callbacks import Callback
from slide.train.records import Epoch, Progress


class Recorder(Callback):
    """Takes note of all that it is told."""

    def __init__(self, stop=None):
        self.told, self.stop = [], stop

    def on_start(self, run):
        self.run = run
        self.told.append("start")

    def on_batch(self, progress):
        assert progress is self.run.progress
        self.told.append(progress.batch)
        return ("batch", progress.batch) == self.stop

    def on_epoch(self, progress):
        self.finished = progress.finished
        self.told.append(f"epoch {progress.epoch}")
        return ("epoch", progress.epoch) == self.stop

    def on_end(self, history):
        self.history = history
        self.told.append("end")


def test_what_a_callback_is_told():
    recorder = Recorder()
    network, history = train([recorder], candidates="lsh", holdout=0.5)
    assert recorder.told == ["start", 1, 2, 3, 4, "epoch 1", 5, 6, 7, 8, "epoch 2", "end"]
    assert recorder.history is history
    assert recorder.finished is history.epochs[-1]
    run = recorder.run
    assert (run.network, run.samples, run.measured_samples) == (network, 400, 60)
    progress = run.progress
    assert progress.batches == 8
    assert 0 < progress.rehash_seconds == history.rehash_seconds < progress.seconds == history.train_seconds
    # The schedule falls to zero, one batch after the last.
    assert progress.lr == pytest.approx(network.config.optimizer.lr / 8)


def test_nothing_may_be_measured():
    recorder = Recorder()
    train([recorder], epochs=1, eval_points=0)
    assert recorder.run.measured_samples == 0
    assert recorder.finished.quality == {}


@pytest.mark.parametrize(
    ("stop", "told"),
    [
        (("batch", 5), ["start", 1, 2, 3, 4, "epoch 1", 5, "epoch 2", "end"]),
        (("epoch", 1), ["start", 1, 2, 3, 4, "epoch 1", "end"]),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_one_callback_ends_the_run_of_all(stop, told, place):
    recorders = [Recorder(), Recorder()]
    recorders[place].stop = stop
    _, history = train(recorders)
    assert history.stopped
    assert [recorder.told for recorder in recorders] == [told, told]


def test_a_function_is_called_after_every_batch():
    seen = []
    _, history = train([lambda progress: seen.append(progress.batch), lambda progress: progress.batch == 2])
    assert seen == [1, 2]
    assert history.stopped


class Failing(Callback):
    def __init__(self, event):
        setattr(self, event, self._fail)

    def _fail(self, *arguments):
        raise ZeroDivisionError("by zero")


@pytest.mark.parametrize("event", ["on_start", "on_batch", "on_epoch", "on_end"])
def test_those_that_began_are_told_of_the_end(event):
    before, after = Recorder(), Recorder()
    with pytest.raises(ZeroDivisionError):
        train([before, Failing(event), after])
    assert before.told[-1] == "end"
    assert before.told.count("end") == 1
    assert after.told == [] if event == "on_start" else after.told[-1] == "end"
    if event != "on_end":
        assert before.history.error == "ZeroDivisionError: by zero"


def test_an_interruption_has_no_message():
    recorder = Recorder()

    def interrupt(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train([recorder, interrupt])
    assert recorder.history.error == "KeyboardInterrupt"


@pytest.mark.parametrize("callbacks", [Recorder(), print, None, 3])
def test_callbacks_are_a_list(callbacks):
    with pytest.raises(TypeError, match=r"callbacks takes a list, such as callbacks=\[display\]; got"):
        train(callbacks)


@pytest.mark.parametrize("callback", [Recorder, "on_batch", None])
def test_what_is_no_callback(callback):
    with pytest.raises(TypeError, match=r"derived from slide.train.callbacks.Callback, and functions .* got"):
        train([callback])


def test_the_classifier_hands_callbacks_on():
    recorder = Recorder()
    classifier = SlideClassifier(hidden_units=4, epochs=1, batch_size=2)
    classifier.fit([[0.0, 1.0], [1.0, 0.0]], ["a", "b"], callbacks=[recorder])
    classifier.partial_fit([[0.0, 1.0]], ["a"], callbacks=[recorder])
    assert recorder.told == ["start", 1, "epoch 1", "end"] * 2


@pytest.mark.parametrize(
    ("batches", "noted"),
    [(1, 1), (7, 7), (PARTS, PARTS), (PARTS + 1, PARTS // 2 + 1), (1_000_000, PARTS)],
)
def test_pace_by_batches(batches, noted, monkeypatch):
    monkeypatch.setattr(module.time, "monotonic", lambda: 0.0)
    pace = Pace(batches)
    due = [batch for batch in range(1, batches + 1) if pace.due(batch)]
    assert due[0] == 1
    assert len(due) == noted


def test_pace_by_time(monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock) / 2)
    pace = Pace(10**9)
    # A look at the clock takes two seconds, and so does a note.
    assert [batch for batch in range(1, 13) if pace.due(batch)] == [1, 6, 11]


def test_pace_of_a_run_of_unknown_length():
    pace = Pace(0)
    due = [batch for batch in range(1, 100_001) if pace.due(batch)]
    assert due[:99] == list(range(1, 100))
    assert max(np.diff(due)) < 100_000 / 50
    assert len(due) < 2 * PARTS


def test_progress_before_the_first_batch():
    progress = Progress()
    assert progress.finished is None
    assert Epoch(1, 1, 0.0, 0.0, 0.0, 0.0, {}).quality == progress.quality


SILENT = """
import logging
import slide
logging.getLogger("slide").warning("not to be seen")
"""
SHOWN = "import logging\nlogging.basicConfig()" + SILENT


@pytest.mark.parametrize(("program", "seen"), [(SILENT, False), (SHOWN, True)])
def test_a_program_that_sets_up_no_logging_is_told_nothing(program, seen, tmp_path):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0
    assert (("not to be seen" in done.stderr), done.stdout) == (seen, "")


def test_the_package_has_one_logger():
    names = {name for name in logging.root.manager.loggerDict if name.startswith("slide")}
    assert names == {"slide"}
