"""What does a batch cost beside its rows? The time of one that has next to none, and its share of a real one's.

    python bench/overhead.py [--threads 2] [--json]

A batch of four samples in a network of 50 features, 16 units and 60 labels goes the same road as a batch of 128 in one
of Amazon-670K's shape: what it takes is Python, NumPy and what kernels do before they begin, and an upper limit of
those in a large batch. Medians of 1,000 small batches and of 300 large ones, after 200 that do not count.
"""

import argparse
import json
import time

import numpy as np
from shapes import BATCH, FEATURES, FEATURES_PER_POINT, LABELS, LABELS_PER_POINT, UNITS

from slide import Network, NetworkConfig
from slide.config import HiddenConfig, OutputConfig
from slide.data import make_extreme
from slide.system.blas import one_blas_thread

SMALL, LARGE, WARM = 1_000, 300, 200


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    small = milliseconds(SMALL, 4, 50, 60, 16, 2, 2, OutputConfig(tail=16), 1)
    shape = BATCH, FEATURES, LABELS, UNITS, FEATURES_PER_POINT, LABELS_PER_POINT
    large = milliseconds(LARGE, *shape, OutputConfig(), args.threads)
    if args.json:
        print(json.dumps({"small_ms": small, "large_ms": large, "share": small / large, "threads": args.threads}))
    else:
        print(f"small batch {small:.3f} ms, large batch {large:.2f} ms, at most {small / large:.1%} beside its rows")


def milliseconds(count, batch, features, labels, units, features_per_sample, labels_per_sample, output, threads):
    """Return the median time of a batch."""
    sizes = {"features_per_sample": features_per_sample, "labels_per_sample": labels_per_sample}
    data = make_extreme(batch * 200, features, labels, **sizes)
    network = Network(features, labels, NetworkConfig(hidden=(HiddenConfig(units),), output=output), threads=threads)
    network.output.set_label_frequency(np.bincount(data.Y.indices, minlength=labels) / data.n_samples)
    reader, rng = network.reader(data.X, data.Y, batch), np.random.default_rng(0)
    seconds = []
    with one_blas_thread():
        for _ in range(WARM + count):
            rows = rng.integers(0, data.n_samples, batch)
            start = time.perf_counter()
            network.train_batch(reader.read(rows))
            seconds.append(time.perf_counter() - start)
    return 1e3 * float(np.median(seconds[WARM:]))


if __name__ == "__main__":
    main()
