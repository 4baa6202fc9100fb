"""Facts about this installation and the machine that it is on."""

from __future__ import annotations

import platform
import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TextIO

import numpy as np
import psutil

from slide.kernels import parallel

try:
    __version__ = version("slide-xc")
except PackageNotFoundError:  # a source tree that was built in place
    __version__ = "0+unknown"

CPUINFO = Path("/proc/cpuinfo")
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def hugepage_mode() -> str:
    """Return the system's transparent hugepage mode: "always", "madvise", "never", or "unavailable"."""
    try:
        text = THP.read_text()
    except OSError:
        return "unavailable"
    return text[text.find("[") + 1 : text.find("]")]


def config_facts() -> dict:
    """Return what `show_config` prints, as a dict."""
    return {
        "version": __version__,
        "python": sys.version.split()[0],
        "openmp": parallel.openmp_version() or None,
        "threads": parallel.resolve_threads(),
        "isa": parallel.isa(),
        "isa_supported": parallel.isa_supported(),
        "hugepages": hugepage_mode(),
    }


def machine_facts() -> dict:
    """Return the facts that a measurement depends on, apart from the program; none names the machine or its user."""
    facts = config_facts()
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count(logical=False),
        "cpus": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.system(),
        "numpy": np.__version__,
        **{name: facts[name] for name in ("python", "openmp", "isa", "hugepages")},
    }


def peak_rss_bytes() -> int:
    """Return the largest resident memory that this process has had so far, in bytes."""
    # ru_maxrss is in bytes on macOS, and in KiB on other systems.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _processor() -> str:
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def show_config(file: TextIO | None = None) -> None:
    """Print the version, OpenMP, the number of threads, the instruction set and the hugepage mode.

    Parameters
    ----------
    file : file-like, optional
        File to print to. By default standard output.

    Examples
    --------
    >>> import slide
    >>> slide.show_config()  # doctest: +SKIP
    slide 0.1.0 on Python 3.12.3
    OpenMP:          yes (5.0)
    threads:         8
    instruction set: avx512 (this processor has avx512)
    hugepages:       madvise: large buffers ask for 2 MiB pages and get them
    """
    facts = config_facts()
    openmp = f"yes ({facts['openmp']})" if facts["openmp"] else "no: built without it, so there is one thread"
    pages = {
        "always": "always: large buffers get 2 MiB pages",
        "madvise": "madvise: large buffers ask for 2 MiB pages and get them",
        "never": "never: switched off in the kernel; large buffers use 4 KiB pages",
        "unavailable": "unavailable on this system",
    }
    print(
        f"slide {facts['version']} on Python {facts['python']}\n"
        f"OpenMP:          {openmp}\n"
        f"threads:         {facts['threads']}\n"
        f"instruction set: {facts['isa']} (this processor has {facts['isa_supported']})\n"
        f"hugepages:       {pages.get(facts['hugepages'], facts['hugepages'])}",
        file=file or sys.stdout,
    )
