"""Memory that reading one input may take, held by the system: what goes beyond it fails as if there were no more."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

STATM = Path("/proc/self/statm")


def limited() -> bool:
    """Return whether memory can be limited here."""
    return resource is not None and STATM.exists()


@contextlib.contextmanager
def memory(allowance: int) -> Iterator[None]:
    """Let the process take so many more bytes of address space, touched or not, while the block runs.

    Where the system does not tell how much there is, nothing is limited.

    Parameters
    ----------
    allowance : int
    """
    if not limited():
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(STATM.read_text().split()[0]) * resource.getpagesize()
    most = now + allowance if before[1] == resource.RLIM_INFINITY else min(now + allowance, before[1])
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
