"""The history of a training run as a file of JSON lines: every language can read it, also after the run was killed.

`HistoryFile` writes it during the run and `read_history` reads it. Each line is an object. Its ``kind`` is

- ``"run"``, the first line: the format's version, the time at which the run began, the sizes, the configuration, the
  threads, the names of the data and the machine. If a run goes on from a checkpoint, there is such a line too, with the
  ``batch`` of the checkpoint; lines above it that belong to later batches do not count;
- ``"batch"``, about 500 times over the run and at least every 10 seconds (`slide.runs.pace.Pace`): the running means
  of `slide.train.records.Progress`, the learning rate, and the process's memory;
- ``"epoch"``, for each epoch: the same, with means over the epoch, and the ``quality`` if it was measured;
- ``"end"``: the fields of `slide.train.records.History`, and the peak memory of the process. If the run was killed,
  there is no such line, and the last line may be cut short;
- ``"test"``, if the network was measured on test data after the run: its ``quality`` there.

Names are those of the Python objects, except that ``points`` and ``measured_points`` count samples. Seconds are seconds
of training, memory is in bytes, quality is in fractions of 1, and numbers that are not finite are null.
"""

from __future__ import annotations

import json
import logging
import math
import os
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
"""Beginning of the line with which a run begins or goes on."""

DIGITS = 7
"""Significant digits of the running means."""

PROGRESS = ("epoch", "batch", "samples", "seconds", "loss", "precision", "active", "lr", "rehash_seconds")
NUMBERS = {
    "run": ("batch", "batches", "n_features", "n_labels", "points", "measured_points", "threads"),
    "batch": (*PROGRESS, "rss_bytes"),
    "epoch": (*PROGRESS, "rss_bytes"),
    "end": ("batch", "samples", "seconds", "active", "rehash_seconds", "peak_rss_bytes"),
    "test": ("points",),
}
"""Numbers in the lines of each kind."""

MEANS = ("loss", "precision", "active", "lr")
"""Numbers that may be null."""

OBJECTS = {
    "run": ("config", "machine", "data"),
    "batch": (),
    "epoch": ("quality",),
    "end": ("best_quality",),
    "test": ("quality",),
}
"""Objects in the lines of each kind."""


class HistoryError(ValueError):
    """A history that cannot be read; the message names the file, the line and the fault."""


class HistoryFile(Callback):
    """Writes the history of a run, line by line; it can be read while the run goes on.

    A run that goes on from a checkpoint (its first `Progress` has a ``batch``) appends to the file; any other run
    begins a new one. In the folder of a saved network, the history of that network is renamed to
    ``history.former.jsonl`` and kept until another network is saved there. If a line cannot be written after the run
    has begun, the log says so, the run goes on and its history ends.

    Parameters
    ----------
    path : path-like
        File to write; its folder is made if it does not exist.
    data : dict of str to str, optional
        Names of the data for the first line, such as ``{"train": "train.txt.xz"}``.
    """

    def __init__(self, path: str | os.PathLike, *, data: dict[str, str] | None = None) -> None:
        self.path = Path(path)
        self._data = dict(data or {})

    def on_start(self, run: Run) -> None:
        """Begin the file, or append to it.

        Raises
        ------
        FileExistsError
            There is a file with that name that is no history.
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
        assert epoch is not None, "an epoch has ended"
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
        """Write the quality on test data after the run.

        Parameters
        ----------
        quality : dict
            Result of ``Network.evaluate``.
        samples : int
            Number of samples that it was measured on.
        """
        self._write("test", {"points": samples, "quality": quality})

    def _figures(self, progress: Progress) -> dict[str, Any]:
        figures = {name: getattr(progress, name) for name in PROGRESS}
        figures["skipped"] = progress.skipped
        return {**figures, "rss_bytes": self._process.memory_info().rss}

    def _write(self, kind: str, record: dict[str, Any]) -> None:
        if self._broken:
            return
        try:
            self._append(as_json({"kind": kind, **record}) + "\n")
        except OSError as error:
            self._broken = True
            log.warning("%s: %s; the run goes on, its history ends here", self.path, error.strerror)

    def _make_way(self) -> None:
        """Rename the history if it belongs to the network that is saved here, or remove it."""
        former = self.path.with_name(FORMER_HISTORY)
        if self.path.name == HISTORY and self.path.with_name(MANIFEST).is_file() and not former.exists():
            self.path.rename(former)
        else:
            self.path.unlink()

    def _append(self, text: str) -> None:
        # The file is opened every time: when a network is saved here, the whole folder is replaced.
        with naming(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(text)


@dataclass
class RecordedRun:
    """A run, read from its history.

    Attributes
    ----------
    path : Path
        The file.
    name : str
        Name of the file's folder or, if the file is not called ``history.jsonl``, of the file.
    header : dict
        The first line or, if the run went on from a checkpoint, the last line of kind ``"run"``.
    batches, epochs : list of dict
        The lines of batches and epochs, in order.
    end : dict or None
        The last line; None if the run goes on or was killed.
    test : dict of str to float
        Quality on test data; empty if it was not measured.
    cut_short : bool
        Whether the last line was incomplete and has been left out.
    """

    path: Path
    name: str
    header: dict[str, Any]
    batches: list[dict[str, Any]] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] | None = None
    test: dict[str, float] = field(default_factory=dict)
    cut_short: bool = False

    @property
    def last(self) -> dict:
        """The last line with figures of progress; empty if there is none."""
        lines = [lines[-1] for lines in (self.batches, self.epochs) if lines]
        return max(lines, key=lambda line: line["batch"], default={})

    @property
    def measured(self) -> list[dict]:
        """The lines of the epochs after which quality was measured."""
        return [epoch for epoch in self.epochs if epoch["quality"]]

    def column(self, name: str) -> np.ndarray:
        """Return a field of the batches' lines as a float64 array [lines], NaN where it is null."""
        return np.array([batch[name] for batch in self.batches], dtype=np.float64)


def read_history(path: str | os.PathLike) -> RecordedRun:
    """Read the history of a run.

    Parameters
    ----------
    path : path-like
        The file, or the folder of the network.

    Returns
    -------
    RecordedRun

    Raises
    ------
    HistoryError
        There is no history, or it is damaged or of another version. A line that is cut short, because the run was
        killed there, is left out; it raises nothing.
    """
    path = Path(path)
    file = path / HISTORY if path.is_dir() else path
    try:
        *lines, rest = file.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        raise HistoryError(
            f"{file}: there is no such file; slide train writes it into the folder of the network, and from Python "
            "slide.runs.HistoryFile does"
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
            # An epoch that was cut short ends a second time after the run goes on.
            run.epochs = [epoch for epoch in run.epochs if epoch["epoch"] != record["epoch"]] + [record]
    if run is None:
        raise HistoryError(f"{file}: the file is empty; a history begins with a line of kind 'run'")
    if run.cut_short:
        log.warning("%s, line %d: cut short, and left out: the run was killed or goes on", file, number)
    return run


def _begun(before: RecordedRun | None, header: dict[str, Any], file: Path) -> RecordedRun:
    """Return the run that a header begins or, from a checkpoint of the run before, continues."""
    name = file.absolute().parent.name if file.name == HISTORY else file.stem
    run = RecordedRun(file, name, header)
    if before is not None:
        run.batches = [line for line in before.batches if line["batch"] <= header["batch"]]
        run.epochs = [line for line in before.epochs if line["batch"] <= header["batch"]]
    return run


def _checked(record: Any, where: str) -> str:
    """Return the kind of a line, or raise HistoryError if a field is missing or has a wrong type."""
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


def _found(record: dict[str, Any], name: str) -> str:
    return f"found {record[name]!r}" if name in record else "and there is none"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _rounded(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _lacks_newline(path: Path) -> bool:
    """Return whether a file's last line, if there is one, has no newline."""
    try:
        with open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"
    except OSError:
        return False


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
