"""How does the time of a batch grow with the number of labels? At a fixed number of active neurons, beside all of them.

    python bench/growth.py [--labels 67000 200000 670000 2000000 5000000] [--modes default lsh full]

Synthetic data of as many features as Amazon-670K has, 128 units, every size and mode in a process of its own: the
median and mean milliseconds of ``--batches`` batches, the mean with its share of rebuilding tables, and the largest
memory. ``default`` is slide's default mode, ``lsh`` samples that take ``--active`` neurons from hash tables, ``full``
the full softmax of every output, by PyTorch where it is installed, else by slide, for ``--full-batches`` batches. What
would take more memory than is free is skipped and said so. As set: 8 minutes, and 10 GB at five million labels.
"""

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from common import groups, table
from shapes import FEATURES, FEATURES_PER_POINT, LABELS_PER_POINT, UNITS

from slide import HiddenConfig, LSHConfig, Network, NetworkConfig, OutputConfig, RehashConfig, SamplingConfig
from slide.data import make_extreme

SIZES = (67_000, 200_000, 670_000, 2_000_000, 5_000_000)
MODES = ("default", "lsh", "full")
SPARE = 1 << 30
"""Bytes to leave free, for the data and the rest of the process."""


def main():
    args = parse_arguments()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    runs = []
    for labels in args.labels:
        for mode in args.modes:
            needs, free = bytes_needed(mode, labels, args), psutil.virtual_memory().available
            if needs + SPARE > free:
                why = f"needs {needs / 1e9:.1f} GB and a spare one, {free / 1e9:.1f} are free"
                print(f"{mode} at {labels:,} labels is skipped: {why}", file=sys.stderr, flush=True)
                continue
            run = {"labels": labels, "mode": mode} | alone(mode, labels, args)
            runs.append(run)
            print(json.dumps(run), file=sys.stdout if args.json else sys.stderr, flush=True)
    if not args.json:
        print(markdown(runs, args.modes))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", nargs="+", type=int, default=SIZES, metavar="N")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES, metavar="MODE")
    parser.add_argument("--active", type=int, default=1000, help="neurons of a sample in the mode lsh")
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--full-batches", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="a line of JSON for every run, as soon as it is there")
    return parser.parse_args()


def configuration(mode, args):
    if mode == "default":
        output = OutputConfig()
    elif mode == "full":
        output = OutputConfig(candidates="full", loss="softmax")
    else:
        output = OutputConfig(
            candidates="lsh",
            correction="none",
            loss="softmax",
            budget=args.active,
            lsh=LSHConfig(),
            rehash=RehashConfig(period=max(1, args.batches // 2)),
            sampling=SamplingConfig(fill="uniform"),
        )
    return NetworkConfig(HiddenConfig(UNITS, dropout=0.0), output, seed=args.seed)


def bytes_needed(mode, labels, args):
    """What a network's arrays take, and where all outputs are computed, these too."""
    needs = sum(Network.bytes_needed(FEATURES, labels, configuration(mode, args)).values())
    if mode == "full":
        # Gradients of the weights, and logits with what autograd keeps of them.
        needs += 4 * labels * (UNITS + 4 * args.batch_size)
    return needs


def alone(mode, labels, args):
    """Measure in a new process: the memory is that of one network."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(measure, mode, labels, args).result()
        except BrokenProcessPool:
            raise SystemExit(f"{mode} at {labels:,} labels: the process died, probably for want of memory") from None


def measure(mode, labels, args):
    """Return the figures of one size and mode."""
    from speed import peak_mb

    n = args.full_batches if mode == "full" else args.batches
    sizes = {"features_per_sample": FEATURES_PER_POINT, "labels_per_sample": LABELS_PER_POINT}
    data = make_extreme((n + 1) * args.batch_size, FEATURES, labels, **sizes, seed=args.seed)
    step, network = make(mode, data, args)
    times = []
    for first in range(0, data.n_samples, args.batch_size):
        start = time.perf_counter()
        active = step(np.arange(first, first + args.batch_size))
        times.append(1e3 * (time.perf_counter() - start))
    times = np.array(times[1:])
    return {
        "median_ms": float(np.median(times)),
        "mean_ms": float(times.mean()),
        "rehash_ms": 0.0 if network is None else 1e3 * network.rehash_seconds / (n + 1),
        "active": active,
        "batches": n,
        "by": "slide" if network is not None else "PyTorch",
        "peak_mb": peak_mb(),
    }


def make(mode, data, args):
    """Return what takes a step on some rows and returns how many neurons were active, and the network if slide's."""
    if mode == "full" and find_spec("torch") is not None:
        from systems import TorchFull

        settings = argparse.Namespace(**vars(args), units=UNITS, softmax_lr=1e-3)
        full = TorchFull(data, settings)

        def dense_step(rows):
            full.step(rows)
            return float(data.n_labels)

        return dense_step, None
    network = Network(data.n_features, data.n_labels, configuration(mode, args), threads=args.threads)
    frequency = np.bincount(data.Y.indices, minlength=data.n_labels) / data.n_samples
    network.output.set_label_frequency(frequency, samples=data.n_samples)
    reader = network.reader(data.X, data.Y, args.batch_size)
    return (lambda rows: network.train_batch(reader.read(rows)).active), network


def markdown(runs, modes):
    header = ["labels"]
    for mode in modes:
        header += [f"{mode}, ms (mean)", "MB", "active"]
    rows = []
    for (labels,), some in groups(runs, ["labels"]).items():
        row, by_mode = [f"{labels:,}"], {run["mode"]: run for run in some}
        for mode in modes:
            run = by_mode.get(mode)
            if run is None:
                row += ["", "", ""]
                continue
            row += [f"{run['median_ms']:,.1f} ({run['mean_ms']:,.1f})", f"{run['peak_mb']:,.0f}"]
            row += [f"{run['active']:,.0f}"]
        rows.append(row)
    return table(header, rows)


if __name__ == "__main__":
    main()
