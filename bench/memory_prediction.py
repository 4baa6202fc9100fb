"""Predicted against measured memory, for networks from 10 MB to 8 GB: python bench/memory_prediction.py

Each size has a process of its own. What is measured is the growth of its resident memory, by the kernel's account to
the page: first for the network as it is made, then with what training on a few random batches allocates besides. What
is predicted is known before anything is allocated (`slide.model.footprint`).
"""

import argparse
import json
import subprocess
import sys

import numpy as np
from common import table
from scipy.sparse import csr_matrix

from slide import Network, NetworkConfig
from slide.config import HiddenConfig
from slide.model.footprint import BatchShape
from slide.system.memory import resident
from slide.system.smaps import resident_bytes

MEGABYTES = (10, 80, 640, 2000, 8000)
POINTS, FEATURES, LABELS = 64, 32, 4
"""Of a batch, and of each of its samples."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", metavar="MB", type=int, nargs="+", default=MEGABYTES)
    parser.add_argument("--hugepages", choices=("auto", "off", "hugetlb"), default="auto")
    parser.add_argument("--json", action="store_true", help="print a record for every size instead of the table")
    parser.add_argument("--one", metavar="MB", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(measure(args.one, args.hugepages)))
        return
    runs = []
    for size in args.sizes:
        command = [sys.executable, __file__, "--one", str(size), "--hugepages", args.hugepages]
        runs.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        if args.json:
            print(json.dumps(runs[-1]), flush=True)
    if not args.json:
        print(table(["network", "rows", "units", *HEADER], [show(run) for run in runs]))


HEADER = ["predicted, MB", "measured, MB", "difference", "with batches: predicted, MB", "measured, MB", "difference"]


def measure(megabytes, hugepages):
    """Return the figures of one size."""
    units = 64 if megabytes < 100 else 256
    config = NetworkConfig(HiddenConfig(units), hugepages=hugepages)
    row = next(iter(Network.bytes_needed(1, 1, config).values()))
    rows = megabytes * 10**6 // (2 * row)
    # What a process allocates once, for whatever network comes first, is not this one's.
    train(*sizes_of(1000, config))
    batches = sizes_of(rows, config)
    shape = BatchShape.of(*batches[1:3], POINTS)
    predicted = resident(Network.bytes_needed(rows, rows, config), hugepages)
    predicted_in_all = resident(Network.bytes_needed(rows, rows, config, batch=shape), hugepages)
    before = resident_bytes()
    if before is None:
        sys.exit("this system does not tell what is resident: /proc/self/smaps_rollup is missing")
    network = make(rows, config)
    made = resident_bytes() - before
    train(network, *batches[1:])
    return {
        "megabytes": megabytes,
        "rows": 2 * rows,
        "units": units,
        "predicted": predicted,
        "measured": made,
        "predicted_with_batches": predicted_in_all,
        "measured_with_batches": resident_bytes() - before,
    }


def make(rows, config):
    network = Network(rows, rows, config)
    network.output.set_label_frequency(np.full(rows, min(1.0, LABELS / rows)))
    return network


def sizes_of(rows, config):
    """A network of that many rows in each layer, unless it is large, and two batches of points for it."""
    rng = np.random.default_rng(0)
    n = 2 * POINTS
    X = csr_matrix(
        (np.ones(n * FEATURES, np.float32), rng.integers(0, rows, n * FEATURES), np.arange(n + 1) * FEATURES), (n, rows)
    )
    labels = rng.integers(0, rows, n * LABELS)
    Y = csr_matrix((np.ones(n * LABELS, np.float32), labels, np.arange(n + 1) * LABELS), (n, rows))
    return (make(rows, config) if rows <= 1000 else None), X, Y


def train(network, X, Y):
    reader = network.reader(X, Y, POINTS)
    for first in (0, POINTS):
        network.train_batch(reader.read(np.arange(first, first + POINTS)))


def show(run):
    cells = [f"{run['megabytes']:,} MB", f"{run['rows']:,}", run["units"]]
    for kind in ("", "_with_batches"):
        predicted, measured = run[f"predicted{kind}"], run[f"measured{kind}"]
        cells += [f"{predicted / 1e6:,.1f}", f"{measured / 1e6:,.1f}", f"{100 * (predicted / measured - 1):+.2f} %"]
    return cells


if __name__ == "__main__":
    main()
