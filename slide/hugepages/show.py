"""Each command's result as text and tables."""

from __future__ import annotations

import textwrap

from slide.hugepages.bench import MODES
from slide.hugepages.text import UNAVAILABLE, paint, share, size, table

COLOUR_OF = {"yes": "green", "no": "red", "in part": "yellow", "unknown": "yellow"}
WIDTH = 118


def status(result: dict) -> str:
    """Return the text of ``status``."""
    known, answer = result["facts"], result["verdict"]
    lines = _facts(known) if known["linux"] else []
    question = f"Will a buffer that asks get hugepages here? {answer['answer']}."
    lines += ["", paint(question, COLOUR_OF[answer["answer"]])]
    lines += [_wrap(line, "  ") for line in answer["why"]]
    for change in answer["changes"]:
        lines += ["", _wrap(f"To change it: {change['what']}:", ""), f"    {paint(change['command'], 'bold')}"]
        lines.append(_wrap(f"cost: {change['cost']}", "  "))
    lines += [_wrap(f"note: {note}", "") for note in answer["notes"]]
    if known["missing"]:
        lines += ["", "What this view lacks:"]
        lines += [f"  {source}: {why}" for source, why in known["missing"].items()]
    return "\n".join(lines).strip()


def _wrap(text: str, indent: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=f"{indent}  ", break_on_hyphens=False)


def _facts(known: dict) -> list[str]:
    thp, memory, group, virtual = known["thp"], known["memory"], known["cgroup"], known["virtual"]
    daemon = ", ".join(f"{name} {value}" for name, value in thp["khugepaged"].items() if value is not None)
    own = ", ".join(f"{size(page)} {mode}" for page, mode in thp["sizes"].items() if mode not in (None, "never"))
    own_state = {None: UNAVAILABLE, True: "turned off by prctl", False: "allowed"}[known["process_thp_disabled"]]
    rows = [
        ("kernel", known["kernel"] or UNAVAILABLE),
        ("transparent hugepages", thp["mode"] or UNAVAILABLE),
        ("  of", ", ".join(filter(None, [size(thp["page"]) if thp["page"] else "", own and f"by size: {own}"])) or "-"),
        ("  defrag", thp["defrag"] or UNAVAILABLE),
        ("  shared memory", thp["shmem"] or UNAVAILABLE),
        ("  khugepaged", daemon or UNAVAILABLE),
        ("  this process", own_state),
        ("reserved hugepages", _pools(known["hugetlb"])),
        ("memory", f"{size(memory['total'])}, {size(memory['available'])} available"),
        ("  in transparent hugepages", size(memory["in_transparent_hugepages"])),
        ("free in blocks of 2 MiB", _blocks(known["free_blocks"])),
        ("control group", _group(group)),
        ("NUMA nodes", ", ".join(f"{node['node']}: {size(node['total'])}" for node in known["numa"]) or UNAVAILABLE),
        ("container", virtual["container"] or "no sign of one"),
        ("virtual machine", virtual["machine"] or "no sign of one"),
    ]
    width = max(len(name) for name, _ in rows)
    return [f"{name.ljust(width)}  {value}" for name, value in rows]


def _pools(pools: list[dict]) -> str:
    if not pools:
        return "this kernel has none"
    return ", ".join(f"{size(pool['page'])}: {pool['nr']} ({pool['free']} free)" for pool in pools)


def _blocks(blocks: dict | None) -> str:
    return UNAVAILABLE if blocks is None else f"{size(blocks['in_hugepages'])} of {size(blocks['free'])} free"


def _group(group: dict) -> str:
    if group["version"] is None:
        return "none that limits memory was found"
    if group["limit"] is None:
        return f"version {group['version']}, without a memory limit"
    return f"version {group['version']}, limit {size(group['limit'])}, {size(group['available'])} left"


def probe(result: dict) -> str:
    """Return the text of ``probe``."""
    rows = [
        (
            row["mode"],
            row["advice"],
            size(row["bytes"]),
            UNAVAILABLE if row["huge"] is None else share(row["huge"], row["resident"]),
            f"{1e3 * row['seconds']:.1f} ms",
            f"{row['seconds'] / row['bytes'] * (1 << 30):.3f} s",
            f"{row['minor_faults']:,}",
            row["major_faults"],
        )
        for row in result["buffers"]
    ]
    header = ("asked", "answer", "size", "in hugepages", "faulting", "per GiB", "minor faults", "major")
    lines = [table(header, rows)]
    for row in result["buffers"]:
        events = ", ".join(f"{name} {count:,}" for name, count in row["system"].items() if count)
        lines.append(f"{row['mode']}: in the whole system meanwhile: {events or 'no hugepage events'}")
    return "\n".join(lines)


def bench(result: dict) -> str:
    """Return the text of ``bench``."""
    modes = [mode for mode in MODES if any(mode in row["seconds"] for row in result["results"])]
    header = ["operation", "row", "working set"]
    header += [f"{MODES[mode]}, ns per row" for mode in modes] + [f"{MODES[mode]} faster" for mode in modes[1:]]
    rows = []
    for row in result["results"]:
        times, ratios = row["seconds"], row["speedup"]
        nanoseconds = [f"{1e9 * times[mode] / row['rows']:.1f}" if mode in times else None for mode in modes]
        ratios = [f"{ratios[mode]:.2f} x" if mode in ratios else None for mode in modes[1:]]
        rows.append([row["operation"], size(row["row_bytes"]), size(row["working_set"]), *nanoseconds, *ratios])
    lines = [table(header, rows), f"medians of {result['rounds']} interleaved rounds"]
    lines += _coverage(result["results"])
    # Context switches are left out, because they say nothing about pages.
    events = {name for row in result["results"] for found in row["events_per_row"].values() for name in found}
    events -= {"context switches"}
    counted = [(row, mode) for row in result["results"] for mode in modes]
    shown = [name for name in sorted(events) if any(_count(row, mode, name) >= 5e-4 for row, mode in counted)]
    if shown:
        lines += ["", "events per row:"]
        cells = [
            [row["operation"], size(row["row_bytes"]), size(row["working_set"])]
            + [" / ".join(f"{_count(row, mode, name):.3f}" for mode in modes) for name in shown]
            for row in result["results"]
        ]
        names = " / ".join(MODES[mode] for mode in modes)
        lines += [table(["operation", "row", "working set", *(f"{name} ({names})" for name in shown)], cells)]
    return "\n".join([*lines, *_counters(result["counters_missing"])])


def _count(row: dict, mode: str, name: str) -> float:
    return row["events_per_row"].get(mode, {}).get(name, 0.0)


def _coverage(results: list[dict]) -> list[str]:
    """Return a warning if the advised buffers are not in hugepages, or if that cannot be seen."""
    shares = [row["huge_share"].get("auto") for row in results]
    if any(found is None for found in shares):
        return ["whether the advised buffers really are in hugepages cannot be seen here"]
    low = min(shares, default=1.0)
    return [] if low > 0.95 else [f"only {low:.0%} of an advised buffer is in hugepages: `status` says why"]


def _counters(missing: dict[str, str]) -> list[str]:
    """Return a line for each reason, with the counters that are missing for it."""
    reasons: dict[str, list[str]] = {}
    for name, why in missing.items():
        reasons.setdefault(why, []).append(name)
    return [_wrap(f"{UNAVAILABLE}: {', '.join(names)}: {why}", "") for why, names in reasons.items()]


def sample(one: dict) -> str:
    """Return a line about one look at a process."""
    rate = one["minor_faults_per_second"]
    faults = ""
    if rate is not None:
        faults = f", {rate:,.0f} minor and {one['major_faults_per_second']:,.0f} major faults per second"
    huge = UNAVAILABLE if one["huge"] is None else f"{size(one['huge'])} ({share(one['huge'], one['resident'])})"
    return f"{one['seconds']:8.1f} s: {size(one['resident'])} resident, {huge} in hugepages{faults}"


def _short(label: str, most: int = 60) -> str:
    """Return the end of a long label, which tells more about a file than the beginning."""
    return label if len(label) <= most else f"...{label[3 - most:]}"


def watched(result: dict, *, most: int = 20) -> str:
    """Return the text of ``watch`` and ``run`` after their last look, with the `most` largest mappings."""
    lines = []
    if result["samples"]:
        peak = max(result["samples"], key=lambda one: one["resident"])
        lines.append(f"at its largest:{sample(peak)}")
    rows = [
        (_short(line["label"]), size(line["size"]), size(line["resident"]), share(line["huge"], line["resident"]))
        for line in result["mappings"][:most]
    ]
    if rows:
        lines.append(table(("mapping", "size", "resident", "in hugepages"), rows))
    if len(result["mappings"]) > most:
        lines.append(f"and {len(result['mappings']) - most} smaller ones")
    if result.get("events"):
        lines.append("events: " + ", ".join(f"{name} {count:,.0f}" for name, count in result["events"].items()))
    lines += _counters(result.get("counters_missing", {}))
    lines += [f"{UNAVAILABLE}: {source}: {why}" for source, why in result["missing"].items()]
    if "status" in result:
        lines.append(f"exit status {result['status']} after {result['seconds']:.1f} s")
    return "\n".join(lines)
