"""Watches how much of a process's memory is in hugepages."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from slide.hugepages.counters import Counters
from slide.system import smaps
from slide.system.proc import System

BUFFER_LOG = "SLIDE_BUFFER_LOG"
"""Environment variable with the name of a file to which the package writes where its buffers are."""

# The launcher waits until its counters are open before it becomes the command.
_LAUNCHER = (
    "import os, sys; ready = int(sys.argv[1]); os.read(ready, 1); os.close(ready); os.execvp(sys.argv[2], sys.argv[2:])"
)


class Watcher:
    """Looks at a process again and again.

    Parameters
    ----------
    names : path-like, optional
        File to which a process of this package writes where its buffers are.

    Attributes
    ----------
    samples : list of dict
        One for each look: seconds since the first look, resident and huge bytes, and page faults per second since the
        look before.
    mappings : list of dict
        Size, resident and huge bytes of the mappings with the same label, largest first, at the look with the most
        resident memory.
    missing : dict
        Path -> reason, for each file that could not be read.

    Raises
    ------
    ProcessLookupError
        There is no such process.
    """

    def __init__(self, pid: int, names: str | os.PathLike | None = None):
        import psutil

        self._gone = (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied)
        try:
            self._process = psutil.Process(pid)
        except psutil.NoSuchProcess:
            raise ProcessLookupError(f"there is no process {pid}") from None
        self._names = names
        self._start = time.monotonic()
        self._last: tuple[float, int, int] | None = None
        self.samples: list[dict] = []
        self.mappings: list[dict] = []
        self.missing: dict[str, str] = {}

    def look(self) -> dict | None:
        """Take a sample and return it; None if the process has ended."""
        system = System()
        try:
            resident = self._process.memory_info().rss
            found = smaps.mappings(system, self._process.pid)
        except self._gone:
            return None
        # A process that has ended but was not waited for has no memory left.
        if not resident or found == []:
            return None
        now = time.monotonic()
        sample = {"seconds": now - self._start, "resident": resident, "anonymous": None, "huge": None}
        sample["minor_faults_per_second"], sample["major_faults_per_second"] = self._fault_rates(system, now)
        if found is None:
            self.missing.update(system.missing)
        else:
            sample["anonymous"] = sum(mapping.anonymous for mapping in found)
            sample["huge"] = sum(mapping.huge for mapping in found)
            if resident >= max((one["resident"] for one in self.samples), default=0):
                self.mappings = self._largest(found)
        self.samples.append(sample)
        return sample

    def _fault_rates(self, system: System, now: float) -> tuple[float | None, float | None]:
        """Return minor and major page faults per second since the last look; None at the first look."""
        text = system.text(f"proc/{self._process.pid}/stat")
        if text is None:
            return None, None
        fields = text.rpartition(")")[2].split()
        minor, major = int(fields[7]), int(fields[9])
        before, self._last = self._last, (now, minor, major)
        if before is None or now <= before[0]:
            return None, None
        seconds = now - before[0]
        return (minor - before[1]) / seconds, (major - before[2]) / seconds

    def _largest(self, found: list[smaps.Mapping]) -> list[dict]:
        """Return the mappings, those with the same label together, largest first."""
        buffers = self._buffers()
        parts = [*smaps.of_ranges(buffers, found)]
        for part, name in zip(parts, buffers.values(), strict=True):
            part.label = f"slide: {name}"
        rest = [mapping for mapping in found if not any(a < mapping.end and mapping.start < b for a, b in buffers)]
        lines: dict[str, dict] = {}
        for mapping in (*parts, *rest):
            label = _label(mapping.label)
            line = lines.setdefault(label, {"label": label, "size": 0, "resident": 0, "huge": 0})
            for what in ("size", "resident", "huge"):
                line[what] += getattr(mapping, what)
        return sorted((line for line in lines.values() if line["resident"]), key=lambda line: -line["resident"])

    def _buffers(self) -> dict[tuple[int, int], str]:
        """Return the names of the package's buffers by their addresses; the last one if several had the same place."""
        buffers: dict[tuple[int, int], str] = {}
        text = ""
        if self._names is not None:
            with contextlib.suppress(OSError):
                text = Path(self._names).read_text()
        for line in text.splitlines():
            match = re.fullmatch(r"([0-9a-f]+)-([0-9a-f]+) (.*)", line)
            if match:
                start, end = int(match.group(1), 16), int(match.group(2), 16)
                for gone in [place for place in buffers if place[0] < end and start < place[1]]:
                    del buffers[gone]
                buffers[start, end] = match.group(3)
        return buffers


def _label(label: str) -> str:
    named = re.fullmatch(r"\[anon:slide (.*)\]", label)
    return f"slide: {named.group(1)}" if named else label or "anonymous"


def watch(
    pid: int, *, interval: float = 1.0, count: int | None = None, seen: Callable[[dict], object] | None = None
) -> dict:
    """Look at a process every `interval` seconds until it ends, or `count` times.

    `seen` is called with each sample.
    """
    watcher = Watcher(pid)
    _follow(watcher, interval, count, seen, lambda: True)
    return _report(watcher, pid=pid)


def run(command: Sequence[str], *, interval: float = 0.5, seen: Callable[[dict], object] | None = None) -> dict:
    """Start a command and look at it every `interval` seconds until it ends; return the samples and its exit status.

    `seen` is called with each sample. Raises OSError if the command cannot be started.
    """
    ready, go = os.pipe()
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder, "buffers")
        launcher = [sys.executable, "-S", "-c", _LAUNCHER, str(ready), *command]
        process = subprocess.Popen(launcher, pass_fds=[ready], env={**os.environ, BUFFER_LOG: str(names)})
        os.close(ready)
        counters = Counters(process.pid, on_exec=True)
        os.write(go, b"x")
        os.close(go)
        start = time.monotonic()
        watcher = Watcher(process.pid, names)
        try:
            _follow(watcher, interval, None, seen, lambda: process.poll() is None)
            status = process.wait()
        except KeyboardInterrupt:
            status = process.wait()
    events = counters.read()
    counters.close()
    report = _report(watcher, command=list(command), status=status, seconds=time.monotonic() - start)
    return {**report, "events": events, "counters_missing": counters.missing}


def _follow(
    watcher: Watcher,
    interval: float,
    count: int | None,
    seen: Callable[[dict], object] | None,
    alive: Callable[[], bool],
) -> None:
    """Look until the process has ended, or `count` times; the first looks come sooner, for short commands."""
    pause = min(interval, 0.05)
    while alive() and (count is None or len(watcher.samples) < count):
        sample = watcher.look()
        if sample is None:
            break
        if seen is not None:
            seen(sample)
        if count is not None and len(watcher.samples) >= count:
            break
        time.sleep(pause)
        pause = min(interval, 2 * pause)


def _report(watcher: Watcher, **about: object) -> dict:
    return {**about, "samples": watcher.samples, "mappings": watcher.mappings, "missing": watcher.missing}
