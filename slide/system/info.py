"""What this installation is and what it runs on."""

from __future__ import annotations

import platform
import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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
    """Return what a measurement depends on besides the program: nothing that names the machine or its user."""
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
    """Return the most memory that this process has had at a time."""
    # ru_maxrss counts KiB, on macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _processor():
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def show_config(file=None) -> None:
    """Print the version, OpenMP, threads, instruction set and hugepage state.

    Parameters
    ----------
    file : file-like, optional
        By default standard output.
    """
    facts = config_facts()
    openmp = f"yes ({facts['openmp']})" if facts["openmp"] else "no: built without it, everything runs on one thread"
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
