"""The history of a training run as a file: JSON lines, which every language reads and a killed run leaves whole.

`HistoryFile` writes it during the run and `read_history` reads it. Each line is an object, whose ``kind`` is

- ``"run"``, the first line: the format's version, when the run began, the sizes, the configuration, the threads, the
  names of the data and what the machine is. A run that goes on where another ended has such a line too, whose ``batch``
  is that of the checkpoint it goes on from; what the run before did after that batch does not count;
- ``"batch"``, some 500 times over the run and at least every 10 seconds (`slide.runs.pace.Pace`): the running means
  of `slide.train.records.Progress`, the learning rate, and the process's memory;
- ``"epoch"``, for each: the same with means over the epoch and the ``quality`` that was measured at its end, if it was;
- ``"end"``: the fields of `slide.train.records.History`, and the most memory the process has had. A run that was killed has
  no such line, and its last line may be cut short;
- ``"test"``, where the network was measured on test data after the run: its ``quality`` there.

Names are those of the Python objects; seconds are of training, bytes are bytes, quality is in fractions of 1, and what
is not a finite number is null.
"""

from __future__ import annotations

import json
import logging
import math
import os
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil

from slide.config import RunConfig
from slide.config.dicts import to_dict
from slide.files.atomic import naming
from slide.files.fields import as_json
from slide.persist.format import FORMER_HISTORY, HISTORY, MANIFEST
from slide.runs.pace import Pace
from slide.system.info import __version__, machine_facts, peak_rss_bytes
from slide.train.callbacks import Callback, Run

if TYPE_CHECKING:
    from slide.train.records import History, Progress

log = logging.getLogger("slide")

FORMAT = "slide-history"
VERSION = 1
RUN = '{"kind": "run"'
"""How a line begins with which a run begins or goes on."""

DIGITS = 7
"""Of the running means."""

PROGRESS = ("epoch", "batch", "samples", "seconds", "loss", "precision", "active", "lr", "rehash_seconds")
NUMBERS = {
    "run": ("batch", "batches", "n_features", "n_labels", "points", "measured_points", "threads"),
    "batch": (*PROGRESS, "rss_bytes"),
    "epoch": (*PROGRESS, "rss_bytes"),
    "end": ("batch", "samples", "seconds", "active", "rehash_seconds", "peak_rss_bytes"),
    "test": ("points",),
}
"""The numbers that a line of each kind has."""

MEANS = ("loss", "precision", "active", "lr")
"""Those that may be null."""

OBJECTS = {
    "run": ("config", "machine", "data"),
    "batch": (),
    "epoch": ("quality",),
    "end": ("best_quality",),
    "test": ("quality",),
}
"""The objects that a line of each kind has."""


class HistoryError(ValueError):
    """A history that cannot be read; the message names the file, the line and the fault."""


class HistoryFile(Callback):
    """Writes the history of a run, line by line: what there is can be read while the run goes on.

    A run that goes on from a checkpoint (its first `Progress` has a ``batch``) appends to the file; any other begins
    a new one. In the folder of a saved network the history of that network is kept beside as ``history.former.jsonl``
    until another network is saved there. What cannot be written once the run has begun is told in the log and does not
    end the run.

    Parameters
    ----------
    path : path-like
        The file; its folder is made if there is none.
    data : dict of str, optional
        Names of the data, such as ``{"train": "train.txt.xz"}``, for the first line.
    """

    def __init__(self, path: str | os.PathLike, *, data: dict[str, str] | None = None) -> None:
        self.path = Path(path)
        self._data = dict(data or {})

    def on_start(self, run: Run) -> None:
        """Begin the file, or append to it.

        Raises
        ------
        FileExistsError
            There is a file of that name that is no history.
        OSError
            The file cannot be written.
        """
        self._run, self._pace, self._broken = run, Pace(run.progress.batches), False
        self._process = psutil.Process()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            content = self.path.read_bytes()
            if content and not content.startswith(RUN.encode()):
                raise FileExistsError(f"{self.path} exists and is no history of a run; choose another name")
            if run.progress.batch == 0:
                self._make_way()
        network = run.network
        header = {
            "kind": "run",
            "format": FORMAT,
            "version": VERSION,
            "slide": __version__,
            "began": _now(),
            "batch": run.progress.batch,
            "batches": run.progress.batches,
            "n_features": network.n_features,
            "n_labels": network.n_labels,
            "points": run.samples,
            "measured_points": run.measured_samples,
            "threads": network.threads,
            "config": to_dict(RunConfig(network.config, run.config)),
            "data": self._data,
            "machine": machine_facts(),
        }
        # A run that was killed may have left half a line.
        self._append(("\n" if _lacks_newline(self.path) else "") + as_json(header) + "\n")

    def on_batch(self, progress: Progress) -> None:
        """Write a line if it is time for one."""
        if self._pace.due(progress.batch):
            figures = self._figures(progress)
            self._write("batch", {name: _rounded(value) for name, value in figures.items()})

    def on_epoch(self, progress: Progress) -> None:
        """Write the epoch's line."""
        epoch = progress.finished
        means = {"loss": epoch.loss, "precision": epoch.precision, "active": epoch.active}
        self._write("epoch", {**self._figures(progress), **means, "quality": epoch.quality})

    def on_end(self, history: History) -> None:
        """Write the last line."""
        progress = self._run.progress
        record = {
            "ended": _now(),
            "batch": progress.batch,
            "samples": progress.samples,
            "seconds": progress.seconds,
            "rehash_seconds": progress.rehash_seconds,
            "active": history.active_per_sample,
            "skipped": history.skipped,
            "stopped": history.stopped,
            "out_of_patience": history.out_of_patience,
            "best_epoch": history.best_epoch,
            "best_quality": history.best_quality,
            "bytes_per_batch": history.bytes_per_batch,
            "error": history.error,
            "peak_rss_bytes": peak_rss_bytes(),
        }
        self._write("end", record)

    def tested(self, quality: dict[str, float], samples: int) -> None:
        """Write the quality on test data, measured after the run.

        Parameters
        ----------
        quality : dict
            As ``Network.evaluate`` returns it.
        samples : int
            That it was measured on.
        """
        self._write("test", {"points": samples, "quality": quality})

    def _figures(self, progress):
        figures = {name: getattr(progress, name) for name in PROGRESS}
        figures["skipped"] = progress.skipped
        return {**figures, "rss_bytes": self._process.memory_info().rss}

    def _write(self, kind, record):
        if self._broken:
            return
        try:
            self._append(as_json({"kind": kind, **record}) + "\n")
        except OSError as error:
            self._broken = True
            log.warning("%s: %s; the run goes on, its history ends here", self.path, error.strerror)

    def _make_way(self):
        """Put the history of the network that is saved here aside; any other goes."""
        former = self.path.with_name(FORMER_HISTORY)
        if self.path.name == HISTORY and self.path.with_name(MANIFEST).is_file() and not former.exists():
            self.path.rename(former)
        else:
            self.path.unlink()

    def _append(self, text):
        # Opened every time: the folder may be replaced meanwhile, when a network is saved there.
        with naming(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(text)


@dataclass
class RecordedRun:
    """A run as its history tells it.

    Attributes
    ----------
    path : Path
        The file.
    name : str
        That of its folder or, if the file is not called ``history.jsonl``, its own.
    header : dict
        Its first line or, if the run went on from a checkpoint, the line with which it last did.
    batches, epochs : list of dict
        The lines of batches and epochs, in order.
    end : dict or None
        The last line; None if the run goes on or was killed.
    test : dict
        Quality on test data; empty if it was not measured.
    cut_short : bool
        Whether the last line is incomplete, which leaves it out.
    """

    path: Path
    name: str
    header: dict
    batches: list[dict] = field(default_factory=list)
    epochs: list[dict] = field(default_factory=list)
    end: dict | None = None
    test: dict[str, float] = field(default_factory=dict)
    cut_short: bool = False

    @property
    def last(self) -> dict:
        """The last line that has the figures of progress; empty if there is none."""
        lines = [lines[-1] for lines in (self.batches, self.epochs) if lines]
        return max(lines, key=lambda line: line["batch"], default={})

    @property
    def measured(self) -> list[dict]:
        """The lines of the epochs at whose end quality was measured."""
        return [epoch for epoch in self.epochs if epoch["quality"]]

    def column(self, name: str) -> np.ndarray:
        """Return a figure of the batches' lines, nan where it is null.

        Parameters
        ----------
        name : str
            Of a field.
        """
        return np.array([batch[name] for batch in self.batches], dtype=np.float64)


def read_history(path: str | os.PathLike) -> RecordedRun:
    """Read the history of a run.

    Parameters
    ----------
    path : path-like
        The file, or the folder of the network.

    Raises
    ------
    HistoryError
        There is no history, or it is damaged or of another version. A last line that is cut short is no damage: it is
        left out, as is one on which a run has gone on from a checkpoint.
    """
    path = Path(path)
    file = path / HISTORY if path.is_dir() else path
    try:
        *lines, rest = file.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        raise HistoryError(
            f"{file}: there is no such file; slide train writes it into the folder of the network, and from Python "
            "slide.runs.history.HistoryFile does"
        ) from None
    except OSError as error:
        raise HistoryError(f"{file}: {error.strerror}") from None
    run = None
    for number, line in enumerate([*lines, rest] if rest else lines, 1):
        where = f"{file}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            run_follows = number < len(lines) and lines[number].startswith(RUN)
            if run is None or not (number > len(lines) or run_follows):
                raise HistoryError(f"{where}: not an object in JSON ({error}); expected the history of a run") from None
            run.cut_short = not run_follows
            continue
        kind = _checked(record, where)
        if kind == "run":
            run = _begun(run, record, file)
        elif run is None:
            raise HistoryError(f"{where}: a history begins with a line of kind 'run', this one is of kind {kind!r}")
        elif kind == "end":
            run.end = record
        elif kind == "test":
            run.test = record["quality"]
        elif kind == "batch":
            run.batches.append(record)
        else:
            # An epoch that was cut short is over once more where the run goes on.
            run.epochs = [epoch for epoch in run.epochs if epoch["epoch"] != record["epoch"]] + [record]
    if run is None:
        raise HistoryError(f"{file}: the file is empty; a history begins with a line of kind 'run'")
    if run.cut_short:
        log.warning("%s, line %d: cut short, and left out: the run was killed or goes on", file, number)
    return run


def _begun(before, header, file):
    """Return the run that a header begins or, after a checkpoint, goes on with."""
    name = file.absolute().parent.name if file.name == HISTORY else file.stem
    run = RecordedRun(file, name, header)
    if before is not None:
        run.batches = [line for line in before.batches if line["batch"] <= header["batch"]]
        run.epochs = [line for line in before.epochs if line["batch"] <= header["batch"]]
    return run


def _checked(record, where):
    """Return the kind of a line, or raise HistoryError if it lacks what such a line has."""
    if not isinstance(record, dict) or record.get("kind") not in NUMBERS:
        raise HistoryError(f"{where}: expected an object whose 'kind' is one of {', '.join(NUMBERS)}")
    kind = record["kind"]
    if kind == "run" and (record.get("format") != FORMAT or record.get("version") != VERSION):
        raise HistoryError(
            f"{where}: expected {FORMAT!r} of version {VERSION}, which this slide {__version__} reads; found "
            f"{record.get('format')!r} of version {record.get('version')!r}"
        )
    for name in NUMBERS[kind]:
        value = record.get(name, "")
        if not _is_number(value) and (value is not None or name not in MEANS):
            raise HistoryError(f"{where}: {name!r} must be a number, {_found(record, name)}")
    for name in OBJECTS[kind]:
        value = record.get(name)
        if not isinstance(value, dict):
            raise HistoryError(f"{where}: {name!r} must be an object, {_found(record, name)}")
        if name.endswith("quality") and not all(map(_is_number, value.values())):
            raise HistoryError(f"{where}: {name!r} must hold numbers, found {value!r}")
    return kind


def _found(record, name):
    return f"found {record[name]!r}" if name in record else "and there is none"


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _rounded(value):
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _lacks_newline(path):
    """Whether the last line of a file, if there is one, has no end."""
    try:
        with open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"
    except OSError:
        return False


def _now():
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
