"""Will a buffer that asks for hugepages get them here, and what to change if not."""

from __future__ import annotations

from slide.hugepages.facts import HUGEPAGE
from slide.hugepages.text import size

ENABLED = "/sys/kernel/mm/transparent_hugepage/enabled"
OWN_SIZE = "/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/enabled"

LITTLE = 64 << 20
"""Free memory in blocks of 2 MiB below which the kernel will soon have to move pages to make more."""

COST_OF_MADVISE = (
    "programs that do not ask notice nothing; those that do may keep up to 2 MiB for every region they use in part, "
    "and wait for 2 MiB to be cleared at a first touch"
)


def verdict(known: dict) -> dict:
    """Return the answer for a large buffer that is advised with ``madvise``, as the package's are.

    Parameters
    ----------
    known : dict
        Of `slide.hugepages.facts.facts`.

    Returns
    -------
    dict
        ``"answer"``: ``"yes"``, ``"no"``, ``"in part"`` or ``"unknown"``; ``"why"``: sentences; ``"changes"``: what to
        do, each with ``"what"``, ``"command"`` and ``"cost"``; ``"notes"``: sentences beside the question.
    """
    if not known["linux"]:
        return {"answer": "unknown", "why": list(known["missing"].values()), "changes": [], "notes": []}
    answer, why, changes = _transparent(known)
    notes = _reserved(known, answer, changes) + _limits(known)
    if known["virtual"]["container"] and changes:
        notes.append("this looks like a container: these settings are the host's, and changed there")
    if known["virtual"]["machine"] and answer == "yes":
        notes.append(
            "this is a virtual machine: a page is only huge to the processor if the host backs the guest's memory with "
            "hugepages too, which cannot be seen from inside; `bench` shows what is left of the effect"
        )
    return {"answer": answer, "why": why, "changes": changes, "notes": notes}


def _transparent(known):
    thp, mode = known["thp"], known["thp"]["mode"]
    if mode is None:
        return _no_mode(known)
    if mode == "never":
        return "no", ["transparent hugepages are off (never): madvise is taken and has no effect"], [_enable(thp)]
    if known["process_thp_disabled"]:
        why = "this process, or one it descends from, turned them off for itself: prctl(PR_SET_THP_DISABLE)"
        return "no", [why], [_undo_prctl()]
    blocks, defrag = known["free_blocks"], thp["defrag"]
    if blocks is not None and blocks["in_hugepages"] < LITTLE:
        return _fragmented(blocks, defrag)
    said = "every large region gets them" if mode == "always" else "a region that asks with madvise gets them"
    why = [f"transparent hugepages are on ({mode}): {said}, at its first touch"]
    if blocks is not None:
        why.append(f"{size(blocks['in_hugepages'])} of {size(blocks['free'])} free are in blocks of 2 MiB and more")
    return "yes", why, []


def _no_mode(known):
    reason = known["missing"].get(ENABLED, "it has no choice in brackets")
    if "permission" in reason:
        change = {
            "what": "have the mode read by someone who may",
            "command": f"sudo cat {ENABLED}",
            "cost": "none: it only looks; or run `probe`, which needs no permission and finds out by trying",
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


def _enable(thp):
    path = OWN_SIZE if thp["sizes"].get(HUGEPAGE) == "never" else ENABLED
    # What the one switch inherits the other must allow.
    return {
        "what": "let programs ask for them, until the next boot (transparent_hugepage=madvise on the kernel's command "
        "line makes it last)",
        "command": f"echo madvise | sudo tee {path}",
        "cost": COST_OF_MADVISE,
    }


def _undo_prctl():
    return {
        "what": "start the program from a process that has not turned them off, or turn them on again in a wrapper",
        "command": "python -c 'import ctypes, os, sys; ctypes.CDLL(None).prctl(41, 0, 0, 0, 0); "
        'os.execvp(sys.argv[1], sys.argv[1:])\' COMMAND',
        "cost": "none to others; whoever turned them off may have wanted memory used in small parts to stay small",
    }


def _fragmented(blocks, defrag):
    why = [
        f"they are on, but only {size(blocks['in_hugepages'])} of {size(blocks['free'])} free are in blocks of 2 MiB: "
        + (
            f"with defrag = {defrag} the kernel gathers more in the background only, so a buffer starts on 4 KiB pages"
            if defrag in ("never", "defer")
            else "the kernel must move other pages to make more, and may give up"
        )
    ]
    change = {
        "what": "have the kernel gather free memory into large blocks now",
        "command": "echo 1 | sudo tee /proc/sys/vm/compact_memory",
        "cost": "seconds of one core, in which programs may stall for moments; helps until memory is broken up again",
    }
    return "in part", why, [change]


def _reserved(known, answer, changes):
    """What the pools of reserved pages could do; where the answer is no, how to fill one."""
    pools = [pool for pool in known["hugetlb"] if pool["page"] == HUGEPAGE]
    free = sum((pool["free"] or 0) - (pool["resv"] or 0) for pool in pools)
    if free > 0:
        return [
            f'{size(free * HUGEPAGE)} of reserved 2 MiB pages are free: hugepages = "hugetlb" takes them, whatever the '
            "mode of the transparent ones"
        ]
    if pools and answer in ("no", "in part"):
        changes.append(
            {
                "what": 'or reserve 1 GiB of 2 MiB pages, which hugepages = "hugetlb" then takes',
                "command": "echo 512 | sudo tee /proc/sys/vm/nr_hugepages",
                "cost": "that memory is gone for everything else, used or not, until 0 is written there",
            }
        )
    return []


def _limits(known):
    group = known["cgroup"]
    if group["limit"] is None:
        return []
    return [
        f"control group {group['group']} (version {group['version']}) limits memory to {size(group['limit'])}, "
        f"{size(group['available'])} left: hugepages count in full, also where a program uses them in part"
    ]
