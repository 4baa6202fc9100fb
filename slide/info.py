"""What this installation is and what it runs on."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from slide.kernels import parallel

try:
    __version__ = version("slide-xc")
except PackageNotFoundError:  # a source tree that was built in place
    __version__ = "0+unknown"

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
