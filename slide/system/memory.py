"""The memory that this process can still allocate, and whether something fits into it."""

from __future__ import annotations

import os

import psutil

from slide.kernels.memory import HUGEPAGE
from slide.system.cgroups import memory_limit
from slide.system.info import hugepage_mode

try:
    import resource
except ImportError:  # pragma: no cover - Windows has no such limits
    resource = None  # type: ignore[assignment]


OVERRIDE = "SLIDE_MEMORY_CHECK"
"""Environment variable that, when it is ``off``, switches the check of available memory off."""

PAGE = 4096


def resident(needs: dict[str, int], hugepages: str = "auto") -> int:
    """Return the bytes of memory that arrays take once they are written to, in whole pages for each array.

    Parameters
    ----------
    needs : dict
        Bytes of each array by name, as `slide.model.footprint.bytes_needed` returns them.
    hugepages : str
        The setting of the configuration. If the system has no hugepages, small pages are taken.
    """
    huge = hugepages != "off" and hugepage_mode() in ("always", "madvise")
    pages = [HUGEPAGE if huge and size >= HUGEPAGE else PAGE for size in needs.values()]
    return sum(-(-size // page) * page for size, page in zip(needs.values(), pages, strict=True))


def available() -> tuple[int, str]:
    """Return the bytes that can still be allocated, and the reason: the machine, a control group, or a ulimit."""
    limit, found = memory_limit(), [(psutil.virtual_memory().available, "free")]
    if limit.limit is not None and limit.available is not None:
        found.append((limit.available, f"left by the limit of control group {limit.group}, {_gib(limit.limit)}"))
    return min([*found, *_left_by_ulimits()], key=lambda each: each[0])


def _left_by_ulimits() -> list[tuple[int, str]]:
    """Return what the process's own limits leave, with the reason. These limits count addresses, used or not."""
    if resource is None:
        return []
    memory = psutil.Process().memory_info()
    left: list[tuple[int, str]] = []
    for name, option, used in (("RLIMIT_AS", "-v", memory.vms), ("RLIMIT_DATA", "-d", getattr(memory, "data", 0))):
        soft = resource.getrlimit(getattr(resource, name))[0]
        if soft != resource.RLIM_INFINITY:
            left.append((max(0, soft - used), f"left by the limit {name} (ulimit {option}), {_gib(soft)}"))
    return left


def check_fit(needs: dict[str, int], hugepages: str = "auto", instead: str | None = None) -> None:
    """Raise MemoryError if arrays need more memory than is available, unless the variable `OVERRIDE` is ``off``.

    The message adds up what is needed, and says what is available, why, and what to do.

    Parameters
    ----------
    needs, hugepages
        See `resident`.
    instead : str, optional
        Advice for the message. By default ways to make the network smaller.
    """
    total = resident(needs, hugepages)
    if os.environ.get(OVERRIDE) == "off":
        return
    free, source = available()
    if total <= free:
        return
    if instead is None:
        tables = any(name.endswith(" tables") for name in needs)
        fewer = f"fewer hidden units{' or tables (network.output.lsh.l)' if tables else ''}"
        instead = f"choose {fewer}, the precision bf16 or the optimizer adagrad or sgd"
    raise MemoryError(
        f"{arithmetic(needs, total)} are needed, {_gib(free)} are {source}; {instead}, "
        f"or set {OVERRIDE}=off to try anyway"
    )


def arithmetic(needs: dict[str, int], total: int) -> str:
    """Return the sum as text: each large array, all small ones together, and the total."""
    always = " weights", " tables"
    large = {name: size for name, size in needs.items() if 100 * size >= total or name.endswith(always)}
    rest = total - sum(large.values())
    terms = [f"{_gib(size)} {name}" for name, size in large.items()]
    if rest > 0:
        terms.append(f"{_gib(rest)} smaller arrays and the rest of their pages")
    return f"{' + '.join(terms)} = {_gib(total)}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
