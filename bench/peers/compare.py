"""slide beside other packages for extreme classification: quality, seconds and memory, on the same samples.

    python bench/peers/compare.py TRAIN TEST [--methods slide omikuji pecos ...] [--config FILE.toml] [--seeds 3]

Every method runs in a process of its own, on two threads (``--threads``) where it can; `adapters.py` has the settings.
Training is timed without conversion to a method's own format, prediction without that of the queries (omikuji and
fastText read their own file, which is counted); `slide.metrics` evaluates all. With ``--mask-inputs`` a method that
cannot leave labels out itself is asked for as many more as the sample has features. The peak memory is the process',
data included. A method whose package is missing is skipped; the extra ``peers`` has them all.
"""

import json
import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from adapters import METHODS, Unsuitable
from common import KS, configuration, groups, options, parse, read, record, spread, table

from slide import metrics

TOP = max(KS)


def main():
    args = parse_arguments()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    runs = []
    for method in args.methods:
        for seed in range(args.seeds):
            run = alone(method, seed, args)
            if "skipped" in run:
                print(f"{method} is skipped: {run['skipped']}", file=sys.stderr, flush=True)
                break
            record(args, runs, run)
    if not args.json:
        print(markdown(runs))


def parse_arguments():
    parser = options(__doc__)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--lr", type=float, help="of slide, in place of the configuration's")
    parser.add_argument("--verbose", action="store_true", help="show what the packages print")
    parser.add_argument("--monitor", default="P@1", help="what slide-mixture is tuned for")
    args = parse(parser)
    args.run_config = configuration(args, lr=args.lr)
    return args


def alone(method, seed, args):
    """Measure in a new process, so that one method's memory, threads and faults are not another's."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(measure, method, seed, args).result()
        except BrokenProcessPool:
            return {"skipped": "its process died"}
        except Exception as error:  # the other methods' figures are wanted all the same
            return {"skipped": f"it failed with {type(error).__name__}: {error}"}


def measure(method, seed, args):
    """Return the figures of one run, or why there are none."""
    # Some packages draw a progress bar with a line for every sample.
    if not args.verbose:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
    with tempfile.TemporaryDirectory() as folder:
        try:
            peer = METHODS[method](args.threads, seed, folder, args)
            train, test = read(args)
            peer.prepare(train)
        except ImportError as error:
            return {"skipped": f"{error}; the extra 'peers' has the packages"}
        except Unsuitable as error:
            return {"skipped": str(error)}
        start = time.perf_counter()
        peer.fit()
        seconds = time.perf_counter() - start - peer.tuning_seconds
        ids, predict_seconds = predict(peer, test.X, train.n_labels, args.mask_inputs and not peer.masks)
    quality = metrics.evaluate_topk(ids, test.Y, KS, metrics.propensities(train.Y))
    return {
        "method": method,
        "seed": seed,
        **{name: quality[name] for kind in ("P", "PSP") for name in (f"{kind}@{k}" for k in KS)},
        "train_seconds": seconds,
        "tuning_seconds": peer.tuning_seconds,
        "predict_ms": 1e3 * predict_seconds / test.n_samples,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "version": peer.version,
        "threads": args.threads,
        "settings": peer.settings,
    }


def predict(peer, X, n_labels, mask):
    """Return every sample's best labels that may be predicted [n, TOP], and the seconds spent by the method."""
    ids, seconds = np.full((X.shape[0], TOP), -1), 0.0
    for rows, depth in by_depth(X, n_labels, mask):
        samples = X[rows]
        queries = peer.queries(samples)
        start = time.perf_counter()
        found = peer.predict(queries, depth)
        seconds += time.perf_counter() - start
        ids[rows] = first_allowed(padded(found, depth), samples if mask else None)
    return ids, seconds


def by_depth(X, n_labels, mask):
    """Yield (rows, how many labels to ask for): with a mask TOP more than a sample has features, at least."""
    if not mask:
        yield np.arange(X.shape[0]), min(TOP, n_labels)
        return
    # In powers of two, so that samples with few features do not pay for those with many.
    depths = 2 ** np.ceil(np.log2(TOP + np.diff(X.indptr))).astype(int)
    for depth in np.unique(depths):
        yield np.flatnonzero(depths == depth), min(int(depth), n_labels)


def padded(found, k):
    """Return label ids [n, k] from rows that may be shorter, -1 where there is none."""
    if isinstance(found, np.ndarray):
        return found
    out = np.full((len(found), k), -1)
    for row, ids in zip(out, found, strict=True):
        row[: len(ids)] = ids
    return out


def first_allowed(ids, X):
    """Return the first TOP ids of every row that are not among the sample's features, -1 where there are fewer."""
    allowed = ids >= 0
    if X is not None:
        rows = np.arange(X.shape[0])
        width = max(X.shape[1], ids.max(initial=0) + 1)
        banned = np.repeat(rows * width, np.diff(X.indptr)) + X.indices
        allowed &= ~np.isin(rows[:, None] * width + ids, banned)
    first = np.argsort(~allowed, axis=1, kind="stable")[:, :TOP]
    best = np.where(np.take_along_axis(allowed, first, 1), np.take_along_axis(ids, first, 1), -1)
    return np.pad(best, ((0, 0), (0, TOP - best.shape[1])), constant_values=-1)


def markdown(runs):
    names = [f"{kind}@{k}" for kind in ("P", "PSP") for k in KS]
    header = ["method", *names, "training, s", "tuning, s", "prediction, ms a sample", "peak, MB"]
    rows = []
    for (method,), some in groups(runs, ["method"]).items():
        row = [method] + [spread([run[name] for run in some], scale=100) for name in names]
        row += [spread([run[name] for run in some], digits=1) for name in ("train_seconds", "tuning_seconds")]
        row += [spread([run["predict_ms"] for run in some], digits=3)]
        row += [spread([run["peak_mb"] for run in some], digits=0)]
        rows.append(row)
    versions = {run["method"]: run["version"] for run in runs if run["version"]}
    return table(header, rows) + f"\n\n{json.dumps(versions)}"


if __name__ == "__main__":
    main()
