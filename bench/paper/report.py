"""The paper's hardware results on this machine, each beside the paper's own: python bench/paper/report.py TRAIN TEST

Writes DIR/report.md and its figures: hugepages, threads, inefficiency, batch sizes, sampled against full softmax,
insertion policies, sampling policies. Every training run has a process of its own; runs that are compared alternate,
and medians are shown. What the processor or the system does not count is named, with the reason.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import published
import tables
from common import table

from slide import RunConfig
from slide.config import HiddenConfig
from slide.config.dicts import to_dict
from slide.hugepages.facts import facts
from slide.hugepages.text import size
from slide.system.info import config_facts

HERE = Path(__file__).resolve().parent
UNAVAILABLE = "not available here"
COUNTS = (
    "instructions",
    "cycles",
    "cache misses",
    "branch misses",
    "dTLB load misses",
    "iTLB load misses",
    "page walks",
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", metavar="TRAIN", type=Path)
    parser.add_argument("test", metavar="TEST", type=Path)
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("paper-report"))
    parser.add_argument("--threads", metavar="N", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--epochs", metavar="N", type=int, default=3)
    parser.add_argument("--rounds", metavar="N", type=int, default=3)
    parser.add_argument("--limit", metavar="N", type=int, default=0, help="fewer samples to train on")
    parser.add_argument("--neurons", metavar="N", type=int, default=205_443, help="in the hash tables' measurements")
    parser.add_argument("--only", metavar="SECTION", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sections = [_machine(args)]
    for name in args.only:
        sections.append(SECTIONS[name](args))
        print(sections[-1], flush=True)
        (args.out / "report.md").write_text("\n\n".join(sections) + "\n")


def _runs(args, variants):
    """Run every variant (a configuration and a number of threads) in turn, so many rounds; return lists by name."""
    found = {name: [] for name in variants}
    for _ in range(args.rounds):
        for name, (config, threads) in variants.items():
            job = {"train": str(args.train), "test": str(args.test), "limit": args.limit}
            job |= {"threads": threads, "config": to_dict(config)}
            command = [sys.executable, str(HERE / "one.py"), json.dumps(job)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[name].append(json.loads(out.splitlines()[-1]))
    return found


def _config(args, batch=128, hugepages="auto", **output):
    run = RunConfig()
    network = replace(run.network, hidden=(HiddenConfig(128),), hugepages=hugepages)
    network = replace(network, output=replace(network.output, **output))
    return RunConfig(network, replace(run.training, epochs=args.epochs, batch_size=batch))


def _median(runs, value):
    values = [value(run) if callable(value) else run[value] for run in runs]
    return None if None in values else statistics.median(values)


def _rate(runs, name, per=None):
    """A count a second or, with `per`, as a share of another count."""
    events = [run["events"] for run in runs]
    if any(name not in found or (per is not None and not found.get(per)) for found in events):
        return UNAVAILABLE
    if per is None:
        return f"{statistics.median(run['events'][name] / run['seconds'] for run in runs):,.0f}/s"
    return f"{100 * statistics.median(found[name] / found[per] for found in events):.2f} %"


def _reasons(runs):
    """Why what is not available is not."""
    reasons = {}
    for name, why in runs[0]["missing"].items():
        reasons.setdefault(why, []).append(name)
    return "\n\n".join(f"{UNAVAILABLE.capitalize()}: {', '.join(names)}: {why}." for why, names in reasons.items())


def _machine(args):
    known, installed = facts(), config_facts()
    rows = [
        ("processor", platform.processor() or platform.machine()),
        ("cores", psutil.cpu_count()),
        ("memory", size(psutil.virtual_memory().total)),
        ("kernel", platform.release()),
        ("virtual machine", (known.get("virtual") or {}).get("machine") or "no sign of one"),
        ("transparent hugepages", (known.get("thp") or {}).get("mode") or UNAVAILABLE),
        ("instruction set", installed["isa"]),
        ("data", f"{args.train.parent.name or args.train.name}, {args.epochs} epochs, 128 hidden units"),
    ]
    command = f"python bench/paper/report.py {args.train.name} {args.test.name} --threads "
    command += f"{' '.join(map(str, args.threads))} --epochs {args.epochs} --rounds {args.rounds}"
    return (
        f"# The paper's hardware results\n\n`{command}` on this machine; the paper's: {published.MACHINE}. "
        f"Times compare within a table only.\n\n" + table(["machine", ""], rows)
    )


def _hugepages(args):
    threads = max(args.threads)
    variants = {pages: (_config(args, hugepages=pages), threads) for pages in ("off", "auto")}
    found = _runs(args, variants)
    ours = {
        "dTLB load miss rate": lambda runs: _rate(runs, "dTLB load misses", "dTLB loads"),
        "iTLB load miss rate": lambda runs: _rate(runs, "iTLB load misses", "iTLB loads"),
        "page faults": lambda runs: f"{_median(runs, lambda run: run['minor_faults'] / run['seconds']):,.0f}/s",
    }
    rows = []
    for name, *theirs in published.HUGEPAGES:
        mine = [ours[name](found[pages]) if name in ours else UNAVAILABLE for pages in ("off", "auto")]
        rows.append([name, *theirs, *mine])
    seconds = {pages: _median(runs, "seconds") for pages, runs in found.items()}
    shares = {pages: _median(runs, "huge_share") for pages, runs in found.items()}
    told = {pages: UNAVAILABLE if share is None else f"{share:.0%}" for pages, share in shares.items()}
    rows.append(["page walks for loads", "", "", *(_rate(found[pages], "page walks") for pages in ("off", "auto"))])
    rows.append(["share in hugepages", "", "", told["off"], told["auto"]])
    rows.append(["training, s", "", "", f"{seconds['off']:.2f}", f"{seconds['auto']:.2f}"])
    header = ["metric", "paper, without", "paper, with", "here, without", "here, with"]
    ratio = f"With hugepages training is {seconds['off'] / seconds['auto']:.2f} times as fast here, threads: {threads}."
    why = f"{_reasons(found['off'])}\n\nCycles in page walks and reads from RAM are no event that every processor has."
    return f"## Hugepages\n\n{table(header, rows)}\n\n{ratio} The paper, {published.SPEEDUP}.\n\n{why}"


def _threads(args):
    found = _runs(args, {n: (_config(args), n) for n in args.threads})
    seconds = {n: _median(runs, "seconds") for n, runs in found.items()}
    first = args.threads[0]
    rows = [
        [n, f"{seconds[n]:.2f}", f"{seconds[first] / seconds[n]:.2f}", f"{_median(runs, 'utilisation'):.0%}"]
        for n, runs in found.items()
    ]
    theirs = [[n, *shares] for n, shares in published.UTILISATION.items()]
    _plot(args, "threads.png", "threads", "seconds", {"training": (list(seconds), list(seconds.values()))})
    counts = [[kind, *(_rate(found[n], kind) for n in args.threads)] for kind in COUNTS]
    counts.append(["instructions a cycle", *(_per_cycle(found[n]) for n in args.threads)])
    return (
        "## Threads and core utilisation\n\n"
        + table(["threads", "seconds", "times as fast", "core utilisation"], rows, text=0)
        + "\n\nUtilisation is processor time over time on all threads. The paper's, by VTune:\n\n"
        + table(["threads", "SLIDE", "TensorFlow on the CPU"], theirs, text=0)
        + "\n\n![threads](threads.png)\n\n## Inefficiency\n\n"
        + "Top-down metrics need events of one processor model; these are the portable ones.\n\n"
        + table(["count", *(f"threads: {n}" for n in args.threads)], counts)
        + f"\n\n{_reasons(found[first])}\n\nThe paper: {published.INEFFICIENCY}."
    )


def _per_cycle(runs):
    share = _rate(runs, "instructions", "cycles")
    return share if share == UNAVAILABLE else f"{float(share[:-2]) / 100:.2f}"


def _quality_rows(found):
    return [
        [
            name,
            f"{_median(runs, 'seconds'):.2f}",
            f"{_median(runs, 'ms_per_batch'):.2f}",
            f"{100 * _median(runs, 'P@1'):.2f}",
            f"{_median(runs, 'active'):,.0f}",
        ]
        for name, runs in found.items()
    ]


QUALITY = ["seconds", "ms a batch", "P@1, %", "active neurons"]


def _batches(args):
    found = _runs(args, {n: (_config(args, batch=n), max(args.threads)) for n in (64, 128, 256)})
    lines = {"training": (list(found), [_median(runs, "seconds") for runs in found.values()])}
    _plot(args, "batches.png", "batch size", "seconds", lines)
    rows = table(["batch", *QUALITY], _quality_rows(found), text=0)
    return f"## Batch sizes\n\n{rows}\n\n![batches](batches.png)\n\nThe paper: {published.BATCHES}."


def _softmax(args):
    kinds = {"lsh (the paper's)": "lsh", "static sample": "uniform", "lsh and static": "lsh+tail", "full": "full"}
    threads = max(args.threads)
    variants = {name: (_config(args, candidates=kind, loss="softmax"), threads) for name, kind in kinds.items()}
    rows = table(["softmax", *QUALITY], _quality_rows(_runs(args, variants)))
    return f"## Sampled against full softmax\n\n{rows}\n\nThe paper: {published.SOFTMAX}."


def _insertion(args):
    found = tables.insertion(args.neurons, max(args.threads))
    rows = [
        [kind, *published.INSERTION[kind], f"{one['inserting']:.3f} s", f"{one['inserting'] + one['hashing']:.3f} s"]
        for kind, one in found.items()
    ]
    header = ["full bucket", "paper, inserting", "paper, with hashing", "here, inserting", "here, with hashing"]
    what = f"{args.neurons:,} neurons of {tables.DIM}, SimHash, K = 9, L = 50, {tables.CAPACITY} a bucket"
    return f"## Insertion\n\n{what}; the paper's 205,443.\n\n{table(header, rows)}"


def _policies(args):
    budgets = (64, 256, 1024)
    found = tables.sampling(args.neurons, budgets, max(args.threads))
    times = {name: [1e6 * found[policy][budget] for budget in budgets] for policy, name in tables.POLICIES.items()}
    rows = [[name, *(f"{one:.1f}" for one in values)] for name, values in times.items()]
    lines = {name: (budgets, values) for name, values in times.items()}
    _plot(args, "policies.png", "budget", "microseconds a sample", lines, log=True)
    header = ["policy", *(f"budget {budget:,}" for budget in budgets)]
    return (
        f"## Sampling policies\n\nMicroseconds a sample, {args.neurons:,} neurons.\n\n{table(header, rows)}\n\n"
        f"![policies](policies.png)\n\nThe paper: {published.POLICIES}."
    )


def _plot(args, name, x, y, lines, log=False):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for label, (places, values) in lines.items():
        axes.plot(places, values, marker="o", label=label)
    axes.set(xlabel=x, ylabel=y)
    if log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, None)
    axes.legend()
    figure.savefig(args.out / name)


SECTIONS = {
    "hugepages": _hugepages,
    "threads": _threads,
    "batches": _batches,
    "softmax": _softmax,
    "insertion": _insertion,
    "policies": _policies,
}


if __name__ == "__main__":
    main()
