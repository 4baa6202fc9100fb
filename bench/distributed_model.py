"""How long would a step take on 1 to 64 machines, for 1 to 100 million labels? A model, held against what was measured.

    python bench/distributed_model.py [--measured RUNS.jsonl] [--out bench/figures/distributed_model.png] [--json]

The costs of computing are measured here first, in seconds of one core: hidden layers for batches of some sizes, and the
output layer for shards, candidates and batches of some sizes; a line is fitted to each. A step on N machines, one rank
and a shard of the labels each, then takes

- what computing takes: hidden layers for the whole batch on every rank (``h0 + h1 B``), the output layer for its shard
  of labels and S candidates (``o0 + o1 B S / N + o2 S / N``), over the cores of a machine at some efficiency, and a
  constant for all else (``--rest``);
- what nothing hides: rounds of messages, of `latency` each, and the bytes of the hidden layer's gradient and, with a
  softmax, of its terms, at the link's speed. A gather takes log2 N rounds, an exchange, of which MPICH posts 32
  messages at a time, N / 32;
- and never less than what all bytes take on the link, those of the next batch included, which travel meanwhile.

``--measured`` has the lines that ``python bench/distributed_links.py --nodes 1 2 4 --json`` printed. Each step and each
call there is foretold, steps with one thread a rank on ``--cores`` cores that the ranks share, and the error given in
percent: if all travels meanwhile that can, and if nothing does. Latency is that of the smallest call, bandwidth what
the largest two differ by, and computing takes longer by the factor by which it does on one node. Without it there is
no such table. What is foretold of other machines
is for the default mode (1,024 draws and the labels of the batch), for the same with the features in shards too, so that
hidden layers are cut by N for one exchange more, and for the full softmax, whose candidates are all labels; with a
batch of ``--batch-size`` samples whatever the number of machines, and features drawn uniformly, the most that hidden
layers can have to do. As set: one minute.
"""

import argparse
import json
import math
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import table
from shapes import FEATURES, FEATURES_PER_POINT, LABELS_PER_POINT, UNITS, make_samples

from slide import HiddenConfig, Network, NetworkConfig, OutputConfig
from slide.rows.storage import Storage

NODES = (1, 2, 4, 8, 16, 32, 64)
LABELS = (1_000_000, 10_000_000, 100_000_000)
LINKS = {"1 Gbit/s": (1e9 / 8, 50e-6), "10 Gbit/s": (1e10 / 8, 30e-6), "100 Gbit/s": (1e11 / 8, 5e-6)}
"""Bytes a second in either direction, and seconds of a round of messages."""

MODES = ("default", "features cut", "full")

DRAWS = 1024
"""Of the default mode, in all shards together."""

SIZES = (64, 128, 256, 512)
"""Of batches whose computing is measured."""


def main():
    args = parse_arguments()
    costs = measure_costs(args)
    measured = [json.loads(line) for line in args.measured.read_text().splitlines()] if args.measured else []
    steps = checked(costs, measured, args)
    rows = foretold(costs, args)
    if args.json:
        print(json.dumps({"costs": costs, "checked": steps, "foretold": rows}))
    else:
        print(report(costs, steps, rows, args))
    if args.out is not None:
        draw(rows, args)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, metavar="FILE")
    parser.add_argument("--cores", type=int, default=2, help="that the measured ranks shared")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--features", type=int, default=FEATURES)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 400_000], help="of the shards measured")
    parser.add_argument("--threads", type=int, default=16, help="of a machine that is foretold")
    parser.add_argument("--efficiency", type=float, default=0.8, help="of these threads, beside one")
    parser.add_argument("--rest", type=float, default=0.5, help="milliseconds of a step beside layers and messages")
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--out", type=Path, metavar="FILE.png")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def measure_costs(args):
    """Return the seconds of a core that layers take, as coefficients: hidden [1, B], output [1, B S, S]."""
    hidden, output = [], []
    for rows in args.rows:
        for draws in (128, 1024, 4096):
            network = Network(
                args.features, rows, NetworkConfig(HiddenConfig(UNITS), OutputConfig(tail=draws)), threads=1
            )
            for size in SIZES:
                of_hidden, of_output, active = time_layers(network, size, args)
                hidden.append((1, size, of_hidden))
                output.append((1, size * active, active, of_output))
    return {"hidden": fit(hidden), "output": fit(output)}


def time_layers(network, size, args):
    """Return the median seconds that the hidden and the output layer take for a batch, and its candidates."""
    X, Y = make_samples(size * (args.repeats + 2), args.features, network.n_labels)
    network.output.set_label_frequency(np.full(network.n_labels, LABELS_PER_POINT / network.n_labels), samples=10**6)
    reader, found, active = network.reader(X, Y, size), [], 0.0
    layers, spent = (network.hidden[0], network.output), [0.0, 0.0]
    for i, layer in enumerate(layers):
        for name in ("forward", "step"):
            setattr(layer, name, timed(getattr(layer, name), spent, i))
    for first in range(0, X.shape[0], size):
        spent[:] = 0.0, 0.0
        active = network.train_batch(reader.read(np.arange(first, first + size))).active
        found.append(tuple(spent))
    for layer in layers:
        del layer.forward, layer.step
    of_hidden, of_output = np.median(found[2:], axis=0)
    return float(of_hidden), float(of_output), active


def timed(call, spent, i):
    """Count the seconds of a core that a call takes: others on the machine take none of them."""

    def counted(*args, **options):
        start = time.thread_time()
        try:
            return call(*args, **options)
        finally:
            spent[i] += time.thread_time() - start

    return counted


def fit(samples):
    """Return coefficients that are 0 or more, with the least squares of relative errors."""
    samples = np.array(samples, float)
    scale = samples[:, -1:]
    return nnls(samples[:, :-1] / scale, np.ones(len(samples)))[0].tolist()


def step_seconds(costs, n, labels, batch, link, *, full=False, cut=False, busy=1.0, rest=0.0):
    """Return what a step takes on n machines with a shard of the labels each, in all and in parts.

    Computing takes `busy` times as long as on a core of its own; `cut` is with features in shards. The full softmax is
    a softmax, the default mode one-vs-all.
    """
    bandwidth, latency = link
    wanted = min(labels, batch * LABELS_PER_POINT)
    candidates = (labels if full else wanted + DRAWS) / n
    parts = {
        "hidden layers": busy * (costs["hidden"][0] + costs["hidden"][1] * batch / (n if cut else 1)),
        "output layer": busy * float(np.dot(costs["output"], (1, batch * candidates, candidates))),
        "rest": rest,
    }
    of_others = (n - 1) / n
    # The gradient goes to those who have the samples, and from them to all; a softmax's terms go from all to all.
    exposed = (4 if cut else 2) * of_others * batch * UNITS * 4 + (56 * (n - 1) * batch if full else 0)
    hidden = of_others * batch * (8 * FEATURES_PER_POINT + 4 * LABELS_PER_POINT + 8) + 40 * (n - 1)
    hidden += 0 if full else 16 * (n - 1) * batch
    rounds = (1 + cut) * (rounds_of("exchange", n) + rounds_of("join", n)) + (rounds_of("join", n) if full else 0)
    parts["latency"] = rounds * latency
    parts["bytes"] = exposed / bandwidth
    link_alone = (exposed + hidden) / bandwidth
    total = max(sum(parts.values()), link_alone)
    return total, parts | {"link": link_alone}


def links_of(measured):
    """Return the bandwidth and latency of links, by nodes and Mbit/s, as the calls have them."""
    found = {}
    for run in measured:
        if run["what"] == "calls":
            joins = [call for call in run["calls"] if call["call"] == "join"]
            (less, more), latency = joins[-2:], 1e-3 * joins[0]["ms"] / rounds_of("join", run["nodes"])
            bandwidth = 1e3 * (more["bytes"] - less["bytes"]) / max(more["ms"] - less["ms"], 1e-3)
            found[run["nodes"], run["mbit"]] = bandwidth, latency
    return found


def rounds_of(call, n):
    """Return the rounds of messages of a call on n ranks, one after the other; an exchange posts 32 at a time."""
    return math.ceil((n - 1) / 32) if call == "exchange" else math.ceil(math.log2(n))


def checked(costs, measured, args):
    """Return each measured step and call with what the model says of it."""
    found, links, alone = [], links_of(measured), []
    for run in measured:
        if run["what"] == "slide" and run["nodes"] == 1:
            total = step_seconds(costs, 1, run["labels"], run["batch_size"], (math.inf, 0.0), rest=1e-3 * args.rest)[0]
            alone.append(1e-3 * run["ms"] / total)
    # How much longer than a core of its own a rank's computing took, beside whatever else the machine had to do.
    slower = float(np.median(alone)) if alone else 1.0
    for run in measured:
        n, mbit = run["nodes"], run["mbit"]
        bandwidth, latency = link = links.get((n, mbit), (125e3 * mbit if mbit else math.inf, 0.0))
        if run["what"] == "slide":
            busy = slower * max(1.0, n / args.cores)
            options = {"busy": busy, "rest": 1e-3 * args.rest * busy}
            total, parts = step_seconds(costs, n, run["labels"], run["batch_size"], link, **options)
            found.append(compared(n, mbit, "step", run["ms"], 1e3 * total))
            in_turn = sum(parts.values()) - parts["bytes"]
            found.append(compared(n, mbit, "step, nothing meanwhile", run["ms"], 1e3 * in_turn))
        for call in run.get("calls", ()):
            total = latency * rounds_of(call["call"], n) + call["bytes"] / bandwidth
            name = f"{call['call']} of {call['bytes'] / 1e3:,.0f} KB"
            found.append(compared(n, mbit, name, call["ms"], 1e3 * total))
    return found


def compared(n, mbit, what, measured, model):
    """A line of the table of errors."""
    error = 100 * (model / measured - 1)
    return {"nodes": n, "mbit": mbit, "what": what, "measured_ms": measured, "model_ms": model, "error": error}


def foretold(costs, args):
    """Return a step for each mode, link, number of labels and of machines."""
    rows = []
    for mode in MODES:
        for name, link in LINKS.items():
            for labels in LABELS:
                for n in NODES:
                    busy = 1 / max(1.0, args.threads * args.efficiency)
                    options = {"full": mode == "full", "cut": mode == "features cut"}
                    options |= {"rest": 1e-3 * args.rest, "busy": busy}
                    total, parts = step_seconds(costs, n, labels, args.batch_size, link, **options)
                    row = {"mode": mode, "link": name, "labels": labels, "nodes": n}
                    row |= {"ms": 1e3 * total, "gb": memory(labels, n, args) / 1e9}
                    rows.append(row | {"most": max(parts, key=parts.get)})
    return rows


def memory(labels, n, args):
    """Bytes of a machine's parameters, in float32 with Adam's moments."""
    storage = Storage.of(NetworkConfig(HiddenConfig(UNITS)))
    return storage.bytes_needed(-(-labels // n), UNITS) + storage.bytes_needed(args.features, UNITS)


def report(costs, steps, rows, args):
    """The tables."""
    said = [f"hidden layers: {line(costs['hidden'], ('', ' a sample'))}"]
    said += [f"output layer: {line(costs['output'], ('', ' a sample and candidate', ' a candidate'))}"]
    if steps:
        header, cells = ["what", "nodes", "link, Mbit/s", "measured, ms", "model, ms", "error"], []
        for run in steps:
            times = f"{run['measured_ms']:.1f}", f"{run['model_ms']:.1f}", f"{run['error']:+.0f} %"
            cells.append((run["what"], run["nodes"], run["mbit"] or "unlimited", *times))
        said += ["", table(header, cells)]
    for mode in MODES:
        machines = f"machines of {args.threads} threads"
        said += ["", f"{mode}, batches of {args.batch_size}, {machines}: ms a step and what takes most of it", ""]
        header = ["link", "labels", *(f"{n}" for n in NODES), "doubling saves less than a tenth from"]
        cells = []
        for name in LINKS:
            for labels in of_mode(mode):
                some = [run for run in rows if (run["mode"], run["link"], run["labels"]) == (mode, name, labels)]
                times = (f"{run['ms']:,.1f} {run['most'].split()[0]}" for run in some)
                cells.append((name, f"{labels:,}" if mode == "full" else "any", *times, saturates(some)))
        said += [table(header, cells, text=2)]
    header = ["labels", *(f"{n}" for n in NODES)]
    some = [run for run in rows if run["mode"] == "default" and run["link"] == next(iter(LINKS))]
    cells = [(f"{labels:,}", *(f"{run['gb']:,.1f}" for run in some if run["labels"] == labels)) for labels in LABELS]
    said += ["", "GB of parameters on each machine, float32 with moments:", "", table(header, cells)]
    return "\n".join(said)


def of_mode(mode):
    """Return the numbers of labels to tell of: where candidates are drawn a step is the same for any."""
    return LABELS if mode == "full" else LABELS[:1]


def saturates(runs):
    """Return the number of machines from which on twice as many save less than a tenth of the time."""
    for run, doubled in pairwise(runs):
        if doubled["ms"] > 0.9 * run["ms"]:
            return run["nodes"]
    return f"more than {runs[-1]['nodes']}"


def line(coefficients, units):
    """Coefficients with units, in microseconds."""
    return " + ".join(f"{1e6 * value:.3g} µs{unit}" for value, unit in zip(coefficients, units, strict=True))


def draw(rows, args):
    """Draw steps against machines: a panel for each mode, a line for each number of labels and link."""
    from matplotlib.figure import Figure

    from slide.runs.plots import COLOURS, STYLES

    figure = Figure(figsize=(14, 4.5), layout="constrained")
    panels = figure.subplots(1, len(MODES))
    for panel, mode in zip(panels, MODES, strict=True):
        for labels, colour in zip(of_mode(mode), COLOURS, strict=False):
            for name, style in zip(LINKS, STYLES, strict=False):
                some = [run for run in rows if (run["mode"], run["link"], run["labels"]) == (mode, name, labels)]
                samples = [run["nodes"] for run in some], [run["ms"] for run in some]
                what = f"{labels // 10**6} M labels" if mode == "full" else "any number of labels"
                panel.plot(*samples, style, color=colour, label=f"{what}, {name}")
        panel.set(xscale="log", yscale="log" if mode == "full" else "linear", xlabel="machines", ylabel="ms a step")
        panel.set_ylim(bottom=None if mode == "full" else 0)
        panel.set_xticks(NODES, [str(n) for n in NODES])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.set_title(f"{mode}, batches of {args.batch_size}, machines of {args.threads} threads", fontsize=10)
        panel.legend(fontsize=7)
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
