"""Runs of libFuzzer, by way of atheris, on a target: one that finds something notes it down and goes on."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from .build import copy_sources

INSTRUMENTED = ["slide", "tomllib", "zipfile"]
"""Python whose branches count; the kernels' are counted by the copy that `build` makes."""

SLOW_SECONDS = 3.0
"""Of a processor's time that an input may take."""

HANG_SECONDS = 400
"""After which libFuzzer ends a process: of the wall clock, and the machine may have other things to do."""

LONGEST = 4096
"""Bytes of an input; a lie about sizes needs few."""

MOST_CRASHES = 20


def run(name: str, seconds: int, work: Path) -> str:
    """Fuzz a target for some time and return a line that sums it up.

    Parameters
    ----------
    name : str
    seconds : int
        Of a processor's time: what the machine does besides takes nothing from a run.
    work : Path
        Where `build` put its copy. The corpus is kept there, and goes on from one run to the next; so are logs and
        findings.
    """
    from .targets import SEEDS

    copy = copy_sources(work)
    corpus, found, logs = work / "corpus" / name, work / "findings" / name, work / "logs"
    for folder in (corpus, found, logs):
        folder.mkdir(parents=True, exist_ok=True)
    log = logs / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.log"
    began, before, crashes = time.monotonic(), _children_seconds(), 0
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    while (left := int(seconds - (_children_seconds() - before))) > 0 and crashes < MOST_CRASHES:
        command = [sys.executable, "-m", "tools.fuzz", "child", name, "--work", str(work.resolve())]
        command += ["--seconds", str(left), "--", str(corpus)]
        command += [str(folder) for folder in (SEEDS / "seeds" / name, SEEDS / "findings" / name) if folder.is_dir()]
        command += [f"-timeout={HANG_SECONDS}", "-rss_limit_mb=2048", "-print_final_stats=1"]
        command += [f"-artifact_prefix={found}/", f"-max_len={LONGEST}", "-reload=0"]
        command += [f"-report_slow_units={HANG_SECONDS}"]
        with open(log, "ab") as stream:
            result = subprocess.run(command, cwd=copy, env=environment, stdout=stream, stderr=stream, check=False)
        if result.returncode == 0:
            break
        crashes += 1
    text = log.read_text(errors="replace")
    executed = sum(_executions(part) for part in re.split(r"INFO: Running with entropic", text))
    minutes = (_children_seconds() - before) / 60
    wall = time.monotonic() - began
    covered = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", text)
    samples, features, inputs = covered[-1] if covered else ("?", "?", "?")
    return (
        f"{name}: {wall / 60:.1f} minutes ({minutes:.1f} of CPU), {executed:,} executions "
        f"({executed / max(wall, 1e-9):.0f}/s), coverage {samples} samples, {features} features, corpus {inputs}, "
        f"{crashes} ended the process, {len(list(found.glob('*.txt')))} kinds of findings in {found}"
    )


def _children_seconds():
    """The time that processes have had of a processor, which this one started and that have ended."""
    now = os.times()
    return now.children_user + now.children_system


def _executions(text):
    """How often a process ran its target: as it says at its end, or when it was last heard of."""
    said = re.findall(r"stat::number_of_executed_units:\s*(\d+)", text) or re.findall(r"^#(\d+)\s", text, re.M)
    return int(said[-1]) if said else 0


def child(name: str, seconds: int, work: Path, arguments: list[str]) -> None:
    """Be the process that fuzzes; does not return.

    Parameters
    ----------
    name : str
    seconds : int
        Of a processor's time, after which it ends.
    work : Path
    arguments : list of str
        Of libFuzzer.
    """
    package = Path(find_spec("atheris").origin).parent
    # Before the kernels are loaded, which look for libFuzzer's functions among all that is global.
    ctypes.CDLL(str(next(package.glob("core_with_libfuzzer*"))), mode=ctypes.RTLD_GLOBAL)
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from .registry import all_targets
        from .targets import Finding

        target = all_targets()[name]
    # What a target makes once it makes before time counts.
    target.seeds()
    found = work / "findings" / name

    def test_one_input(data):
        began = time.process_time()
        try:
            target.examine(data)
        except Finding as finding:
            note(found, finding, data)
        if time.process_time() - began > SLOW_SECONDS:
            note(found, Finding("slow", f"took {time.process_time() - began:.1f} seconds of a processor"), data)
        if time.process_time() > seconds:
            # By which libFuzzer ends with its sums; an end by time it has for the wall's clock alone.
            os.kill(os.getpid(), signal.SIGUSR1)

    atheris.Setup(["fuzz", *arguments], test_one_input, internal_libfuzzer=True)
    atheris.Fuzz()


def note(found: Path, finding: Exception, data: bytes) -> None:
    """Keep the shortest input of each kind of finding, and what it did.

    Parameters
    ----------
    found : Path
    finding : Finding
    data : bytes
    """
    name = hashlib.sha256(finding.key.encode()).hexdigest()[:10]
    file = found / name
    if not file.exists() or len(data) < file.stat().st_size:
        file.write_bytes(data)
        (found / f"{name}.txt").write_text(f"{finding}\n")


def minimise(target, data: bytes) -> bytes:
    """Return a shorter input of the same kind of finding.

    Parameters
    ----------
    target : Target
    data : bytes
    """
    key = key_of(target, data)
    size = len(data) // 2
    while size:
        at = 0
        while at < len(data):
            shorter = data[:at] + data[at + size :]
            if key_of(target, shorter) == key:
                data = shorter
            else:
                at += size
        size //= 2
    return data


def key_of(target, data: bytes) -> str | None:
    """Return what kind of finding an input is, None if it is none."""
    from .targets import Finding

    try:
        target.examine(data)
    except Finding as finding:
        return finding.key
    return None
