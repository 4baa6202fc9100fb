"""Whether a buffer that asks for hugepages gets them here, and what to change if not."""

from __future__ import annotations

from slide.hugepages.facts import HUGEPAGE
from slide.hugepages.text import size

ENABLED = "/sys/kernel/mm/transparent_hugepage/enabled"
OWN_SIZE = "/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/enabled"

LITTLE = 64 << 20
"""Amount of free memory in blocks of 2 MiB below which the kernel soon has to move pages to make more."""

COST_OF_MADVISE = (
    "programs that do not ask notice nothing; those that ask may keep up to 2 MiB for every region that they use in "
    "part, and wait for 2 MiB to be cleared at a first touch"
)


def verdict(known: dict) -> dict:
    """Return the answer for a large buffer that asks with ``madvise``, as the package's buffers do.

    `known` is what `slide.hugepages.facts.facts` returns.

    Returns
    -------
    dict
        ``"answer"``: ``"yes"``, ``"no"``, ``"in part"`` or ``"unknown"``; ``"why"``: sentences; ``"changes"``: dicts of
        ``"what"`` to do, the ``"command"`` and its ``"cost"``; ``"notes"``: more sentences.
    """
    if not known["linux"]:
        return {"answer": "unknown", "why": list(known["missing"].values()), "changes": [], "notes": []}
    answer, why, changes = _transparent(known)
    notes = _reserved(known, answer, changes) + _limits(known)
    if known["virtual"]["container"] and changes:
        notes.append("this looks like a container: these settings are the host's, and must be changed there")
    if known["virtual"]["machine"] and answer == "yes":
        notes.append(
            "this is a virtual machine: for the processor a page is huge only if the host backs the guest's memory "
            "with hugepages too, which cannot be seen from inside; `bench` shows how much faster they are here"
        )
    return {"answer": answer, "why": why, "changes": changes, "notes": notes}


def _transparent(known: dict) -> tuple[str, list[str], list[dict]]:
    """Return the answer, the reasons and the changes for transparent hugepages."""
    thp, mode = known["thp"], known["thp"]["mode"]
    if mode is None:
        return _no_mode(known)
    if mode == "never":
        return "no", ["transparent hugepages are off (never): madvise has no effect"], [_enable(thp)]
    if known["process_thp_disabled"]:
        off = "this process, or an ancestor of it, turned them off for itself: prctl(PR_SET_THP_DISABLE)"
        return "no", [off], [_undo_prctl()]
    blocks, defrag = known["free_blocks"], thp["defrag"]
    if blocks is not None and blocks["in_hugepages"] < LITTLE:
        return _fragmented(blocks, defrag)
    which = "every large region gets them" if mode == "always" else "a region that asks with madvise gets them"
    why = [f"transparent hugepages are on ({mode}): {which}, at its first touch"]
    if blocks is not None:
        why.append(f"{size(blocks['in_hugepages'])} of {size(blocks['free'])} free are in blocks of 2 MiB and more")
    return "yes", why, []


def _no_mode(known: dict) -> tuple[str, list[str], list[dict]]:
    """Return the answer if the mode of transparent hugepages could not be read."""
    reason = known["missing"].get(ENABLED, "it has no choice in brackets")
    if "permission" in reason:
        change = {
            "what": "read the mode with more permissions",
            "command": f"sudo cat {ENABLED}",
            "cost": "none: it only looks; or use `probe`, which needs no permission and finds out by trying",
        }
        return "unknown", [f"{ENABLED} cannot be read: {reason}"], [change]
    if "no such" not in reason:
        return "unknown", [f"{ENABLED} cannot be read: {reason}"], []
    change = {
        "what": "boot a kernel that has transparent hugepages",
        "command": "grep TRANSPARENT_HUGEPAGE /boot/config-$(uname -r)",
        "cost": "a reboot; distributions' kernels have them, some sandboxes and small virtual machines do not",
    }
    return "no", [f"this kernel has no transparent hugepages: there is no {ENABLED}"], [change]


def _enable(thp: dict) -> dict:
    # The switch of 2 MiB pages may be off itself, or inherit from the general one.
    path = OWN_SIZE if thp["sizes"].get(HUGEPAGE) == "never" else ENABLED
    return {
        "what": "let programs ask for them, until the next boot (transparent_hugepage=madvise on the kernel's command "
        "line makes it last)",
        "command": f"echo madvise | sudo tee {path}",
        "cost": COST_OF_MADVISE,
    }


def _undo_prctl() -> dict:
    return {
        "what": "start the program from a process that has not turned them off, or turn them on again in a wrapper",
        "command": "python -c 'import ctypes, os, sys; ctypes.CDLL(None).prctl(41, 0, 0, 0, 0); "
        'os.execvp(sys.argv[1], sys.argv[1:])\' COMMAND',
        "cost": "none to other programs; they may have been turned off to save memory that is used in small parts",
    }


def _fragmented(blocks: dict, defrag: str | None) -> tuple[str, list[str], list[dict]]:
    why = [
        f"they are on, but only {size(blocks['in_hugepages'])} of {size(blocks['free'])} free are in blocks of 2 MiB: "
        + (
            f"with defrag = {defrag} the kernel makes more only in the background, so a buffer starts on 4 KiB pages"
            if defrag in ("never", "defer")
            else "the kernel must move other pages to make more, and may give up"
        )
    ]
    change = {
        "what": "let the kernel gather free memory into large blocks now",
        "command": "echo 1 | sudo tee /proc/sys/vm/compact_memory",
        "cost": "seconds of one core, in which programs may stall briefly; helps until memory is fragmented again",
    }
    return "in part", why, [change]


def _reserved(known: dict, answer: str, changes: list[dict]) -> list[str]:
    """Return notes about the pools of reserved pages; if the answer is not yes, add how to fill one to `changes`."""
    pools = [pool for pool in known["hugetlb"] if pool["page"] == HUGEPAGE]
    free = sum((pool["free"] or 0) - (pool["resv"] or 0) for pool in pools)
    if free > 0:
        return [
            f'{size(free * HUGEPAGE)} of reserved 2 MiB pages are free: hugepages = "hugetlb" takes them in every mode '
            "of transparent hugepages"
        ]
    if pools and answer in ("no", "in part"):
        changes.append(
            {
                "what": 'or reserve 1 GiB of 2 MiB pages, which hugepages = "hugetlb" then takes',
                "command": "echo 512 | sudo tee /proc/sys/vm/nr_hugepages",
                "cost": "nothing else can use that memory until 0 is written there",
            }
        )
    return []


def _limits(known: dict) -> list[str]:
    """Return a note about the memory limit of the control group."""
    group = known["cgroup"]
    if group["limit"] is None:
        return []
    return [
        f"control group {group['group']} (version {group['version']}) limits memory to {size(group['limit'])}, "
        f"{size(group['available'])} left: hugepages count in full, even if a program uses only part of them"
    ]
