"""What prediction through a search index finds and how much faster it is: every mode against the exact prediction.

    python bench/search.py MODEL TRAIN TEST [--dims 32 64 96] [--candidates 256 1024 4096] [--points 1024]

MODEL is a folder that ``slide train`` wrote. A sketch is fitted to samples of TRAIN; samples of TEST are predicted, in
one batch and one by one. The exact prediction is timed again beside each setting, and speed-up is the ratio of the
medians of both: what else runs on the machine then slows down both alike.
"""

import argparse
import itertools
import json
import time
from pathlib import Path

import numpy as np
from common import draw, table

from slide import Network, metrics
from slide.config import LSHConfig
from slide.data import load

K = 5
FITTED = 4096
REPEATS = 3


def main():
    args = parse_arguments()
    network = Network.load(args.model, threads=args.threads)
    fitted, test = draw(load(args.train), FITTED), draw(load(args.test), args.points)
    runs = []
    for mode, setting, options, effort in settings(args, network):
        start = time.perf_counter()
        index = network.build_search_index(mode, fitted.X if mode == "sketch" else None, **options)
        built = time.perf_counter() - start
        for candidates in effort:
            figures = measure(network, test, args.singles, mode=mode, candidates=candidates)
            run = {"mode": mode, "setting": setting, "candidates": candidates, **figures}
            run["labels"] = getattr(index, "n_rows", network.n_labels)
            runs.append({**run, "index bytes": index.nbytes, "build seconds": built})
            if args.json:
                print(json.dumps(runs[-1]), flush=True)
    if not args.json:
        print(f"{network!r}: {test.n_samples:,} samples, {network.threads} threads\n")
        print(markdown(runs))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "train", "test"):
        parser.add_argument(name, metavar=name.upper(), type=Path)
    parser.add_argument("--dims", nargs="*", type=int, default=[32, 64, 96], help="of sketches")
    parser.add_argument("--coverages", nargs="+", type=float, default=[0.8, 1.0], help="of sketches")
    parser.add_argument("--families", nargs="*", default=["simhash"], help="of hash tables")
    parser.add_argument("--candidates", nargs="+", type=int, default=[256, 1024, 4096])
    parser.add_argument("--points", type=int, default=1024, help="of TEST, drawn at random")
    parser.add_argument("--singles", type=int, default=50, help="samples predicted one by one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="a line of JSON for every setting, as soon as it is there")
    return parser.parse_args()


def settings(args, network):
    """Yield mode, a name, the index's options, and numbers of candidates."""
    effort = [n for n in args.candidates if n <= network.n_labels]
    for dims, coverage in itertools.product(args.dims, args.coverages):
        name = f"{dims} dimensions" + (f", coverage {coverage:g}" if coverage < 1 else "")
        yield "sketch", name, {"dims": dims, "coverage": coverage}, effort
    for family in args.families:
        yield "lsh", family, {"lsh": LSHConfig(family=family)}, effort


def measure(network, test, singles, **how):
    """Return quality and speed of a mode, and the exact prediction's speed beside it."""
    seconds = {"exact": [], "found": []}
    for _ in range(REPEATS):
        exact = timed(seconds["exact"], lambda: network.predict(test.X, K))
        found = timed(seconds["found"], lambda: network.predict(test.X, K, **how))
    alone = {"exact": [], "found": []}
    for i in range(min(singles, test.n_samples)):
        timed(alone["exact"], lambda i=i: network.predict(test.X[i], K))
        timed(alone["found"], lambda i=i: network.predict(test.X[i], K, **how))
    hits = (exact[:, :, None] == found[:, None, :]).any(axis=2)
    exact_seconds, found_seconds = (float(np.median(seconds[name])) for name in ("exact", "found"))
    return {
        "recall@1": float(hits[:, 0].mean()),
        "recall@5": float(hits.mean()),
        "P@1": metrics.evaluate_topk(found, test.Y, [1])["P@1"],
        "exact P@1": metrics.evaluate_topk(exact, test.Y, [1])["P@1"],
        "samples/s": test.n_samples / found_seconds,
        "speed-up": exact_seconds / found_seconds,
        **{f"single p{p} ms": 1000 * float(np.percentile(alone["found"], p)) for p in (50, 99) if alone["found"]},
        "single speed-up": float(np.median(alone["exact"]) / np.median(alone["found"])) if alone["found"] else None,
    }


def timed(seconds, predict):
    """Call a prediction, note how long it took and return its labels."""
    start = time.perf_counter()
    ids, _ = predict()
    seconds.append(time.perf_counter() - start)
    return ids


def markdown(runs):
    header = [name for name in runs[0] if runs[0][name] is not None]
    return table(header, [[shown(run[name]) for name in header] for run in runs], text=2)


def shown(value):
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else value


if __name__ == "__main__":
    main()
