"""Hardware and kernel counters through ``perf_event_open``, with a reason for each one that is missing.

Virtual machines rarely have hardware counters, and ``kernel.perf_event_paranoid`` may forbid them to users. The
kernel's own counts of page faults are nearly always there. A missing count is never replaced by a guess.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import struct
import sys

HARDWARE, SOFTWARE, CACHE, RAW = 0, 1, 3, 4
DTLB, ITLB, LLC = 3, 4, 2
ACCESS, MISS = 0, 1

EVENTS = {
    "page faults": (SOFTWARE, 2),
    "minor faults": (SOFTWARE, 5),
    "major faults": (SOFTWARE, 6),
    "context switches": (SOFTWARE, 3),
    "cycles": (HARDWARE, 0),
    "instructions": (HARDWARE, 1),
    "cache misses": (HARDWARE, 3),
    "branch misses": (HARDWARE, 5),
    "dTLB loads": (CACHE, DTLB | ACCESS << 16),
    "dTLB load misses": (CACHE, DTLB | MISS << 16),
    "iTLB load misses": (CACHE, ITLB | MISS << 16),
    "iTLB loads": (CACHE, ITLB | ACCESS << 16),
}
"""Type and config of the events that ``linux/perf_event.h`` has names for."""

PAGE_WALKS = {"GenuineIntel": 0x0E08}
"""Raw event of each vendor for page walks that a load waited for (Intel's ``DTLB_LOAD_MISSES.WALK_COMPLETED``, since
Skylake).
"""

SYSCALL = {"x86_64": 298, "aarch64": 241, "ppc64le": 319, "riscv64": 241, "s390x": 331}

DISABLED, INHERIT, EXCLUDE_KERNEL, EXCLUDE_HV, ENABLE_ON_EXEC = 1 << 0, 1 << 1, 1 << 5, 1 << 6, 1 << 12
ENABLE, DISABLE, RESET = 0x2400, 0x2401, 0x2403
TOTAL_TIMES = 1 << 0 | 1 << 1

EXPLANATIONS = {
    errno.ENOENT: "this processor, or the virtual machine around it, offers no such counter",
    errno.EOPNOTSUPP: "this processor, or the virtual machine around it, cannot count it",
    errno.EACCES: "not permitted: kernel.perf_event_paranoid is too high (sudo sysctl kernel.perf_event_paranoid=1)",
    errno.EPERM: "not permitted: kernel.perf_event_paranoid or a container's seccomp profile forbids it",
    errno.ENOSYS: "this kernel has no perf_event_open, or a sandbox hides it",
    errno.EBUSY: "another program has the counters",
    errno.EMFILE: "too many open files",
}


class Counters:
    """Counts events of a process while it is used as a context.

    Parameters
    ----------
    pid : int
        Process to count; 0 stands for the calling thread.
    children : bool
        Also count the threads and processes that it starts from now on.
    on_exec : bool
        Start counting when the process executes another program, and also count the children of that program.

    Attributes
    ----------
    missing : dict
        Event -> reason, for each event that is not counted.
    """

    def __init__(self, pid: int = 0, *, children: bool = False, on_exec: bool = False):
        self.missing: dict[str, str] = {}
        self._files: dict[str, int] = {}
        flags = DISABLED | EXCLUDE_HV | (INHERIT if children or on_exec else 0) | (ENABLE_ON_EXEC if on_exec else 0)
        for name, (kind, config) in {**EVENTS, **_page_walks(self.missing)}.items():
            # Users may count hardware events only in user mode; faults are counted by the kernel itself.
            self._open(name, kind, config, pid, flags if kind == SOFTWARE else flags | EXCLUDE_KERNEL)

    def _open(self, name: str, kind: int, config: int, pid: int, flags: int) -> None:
        number = SYSCALL.get(platform.machine())
        if not sys.platform.startswith("linux") or number is None:
            self.missing[name] = f"perf_event_open is not known on {sys.platform}, {platform.machine()}"
            return
        attributes = ctypes.create_string_buffer(128)
        struct.pack_into("=IIQQQQQ", attributes, 0, kind, 128, config, 0, 0, TOTAL_TIMES, flags)
        libc = ctypes.CDLL(None, use_errno=True)
        file = libc.syscall(number, attributes, pid, -1, -1, ctypes.c_ulong(8))  # 8: close on exec
        if file < 0:
            code = ctypes.get_errno()
            self.missing[name] = EXPLANATIONS.get(code, os.strerror(code))
        else:
            self._files[name] = file

    def __enter__(self) -> Counters:
        for file in self._files.values():
            fcntl.ioctl(file, RESET, 0)
            fcntl.ioctl(file, ENABLE, 0)
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._files.values():
            fcntl.ioctl(file, DISABLE, 0)

    def read(self) -> dict[str, float]:
        """Return the counts so far by event.

        The count of an event that shared a counter with others is scaled up to the whole time. An event that never had
        a counter is left out, with a reason in `missing`.
        """
        counts = {}
        for name, file in self._files.items():
            value, enabled, running = struct.unpack("=QQQ", os.read(file, 24))
            if running:
                counts[name] = value * enabled / running
            elif enabled and name not in ("context switches",):
                self.missing[name] = "the kernel never gave it a counter: too many events at once"
            else:
                counts[name] = float(value)
        return counts

    def close(self) -> None:
        """Release the counters."""
        for file in self._files.values():
            with contextlib.suppress(OSError):
                os.close(file)
        self._files.clear()


def _page_walks(missing: dict[str, str]) -> dict[str, tuple[int, int]]:
    """Return this processor's event of page walks, or add the reason to `missing`."""
    vendor = ""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        vendor = next((line.split(":")[1].strip() for line in file if line.startswith("vendor_id")), "")
    if vendor in PAGE_WALKS:
        return {"page walks": (RAW, PAGE_WALKS[vendor])}
    missing["page walks"] = f"no event for them is known here ({vendor or platform.machine()})"
    return {}
