"""Does anything grow while a process trains for hours? Memory, descriptors, threads and the time of a batch, followed.

    python bench/long_run.py --seconds 7200 --out run.jsonl      # about a fifth of a core; then
    python bench/long_run.py --plot run.png run.jsonl            # curves, and a table of their slopes

One call of ``fit_stream`` trains on samples that are made as they are used, at a steady pace, all of them new and of
one distribution, with a learning rate that falls as it does by default where a stream has no known end. Its output
samples by hash tables that are rebuilt at fixed intervals, every so often with new hash functions. On the way, as
users do: quality is measured on a probe every minute; every ten minutes the network is saved with its moments, read
back and compared; every minute a small network is made, trained by ``fit`` on two threads, pickled, asked and dropped.
A line of JSON every half a minute says what the process holds, and the time of what was done since the last, on the
thread's CPU and on the wall. Other load on the machine moves the first too, by the caches and the memory that all
share, so the table also has a batch's time over an evaluation's, whose work never changes.

The table has each curve's mean after the warm-up, and what a line through the means of twelve equal parts of the time
says that it changes over the whole run, with its standard error. As 0.1 of the run is left out at the start, allocators
and hash tables have found their size by then.
"""

import argparse
import gc
import json
import os
import pickle
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import table
from scipy.sparse import csr_matrix

from slide import (
    HiddenConfig,
    Network,
    NetworkConfig,
    OptimizerConfig,
    OutputConfig,
    RehashConfig,
    TrainingConfig,
    __version__,
)
from slide.config import CANDIDATES
from slide.kernels.parallel import isa

FEATURES, LABELS, UNITS = 30_000, 20_000, 64
LABELS_PER_POINT, FEATURES_PER_LABEL, NOISE = 3, 16, 10
PROBE = 1000
VISITORS = (500, 2_000, 5_000)
"""Numbers of labels of the small networks, in turn."""
PARTS, WARM_UP = 12, 0.1

CURVES = {
    "rss_mb": "resident, MB",
    "private_mb": "private, MB",
    "mappings": "mappings",
    "descriptors": "file descriptors",
    "threads": "threads",
    "blocks": "Python's memory blocks",
    "objects": "objects the collector knows",
    "train_cpu_ms": "a batch, CPU ms",
    "train_wall_ms": "a batch, wall ms",
    "evaluate_cpu_ms": "evaluation, CPU ms",
    "ratio": "a batch / an evaluation, CPU",
    "precision": "P@1 on the probe",
    "save_cpu_ms": "save, load, compare, CPU ms",
    "visitor_cpu_ms": "a small network's life, CPU ms",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="?", type=Path, metavar="RUN.jsonl", help="with --plot: what --out wrote")
    parser.add_argument("--seconds", type=float, default=7200)
    parser.add_argument("--batches", type=int, help="end after so many")
    parser.add_argument("--pace", type=float, default=12, help="batches a second")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--candidates", choices=CANDIDATES, default="lsh+tail")
    parser.add_argument("--schedule", choices=("inverse_sqrt", "constant"), default="inverse_sqrt")
    parser.add_argument("--lr", type=float, help="by default that of the configuration")
    parser.add_argument("--sample", type=float, default=30, help="seconds between lines")
    parser.add_argument("--minute", type=float, default=60, help="seconds that count as a minute of the above")
    parser.add_argument("--out", type=Path, help="by default standard output")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    args = parser.parse_args()
    if args.plot is not None:
        if args.records is None:
            parser.error("--plot needs RUN.jsonl")
        show(args.records, args.plot)
        return
    with open(args.out, "w") if args.out else os.fdopen(os.dup(1), "w") as file:
        LongRun(args, file).go()


class World:
    """Samples whose labels each bring their own features, some of them, among others that mean nothing."""

    def __init__(self, n_features, n_labels, seed):
        self._rng = np.random.default_rng(seed)
        self._shape = n_features, n_labels
        own = np.random.default_rng(0)
        self._features = own.integers(0, n_features, (n_labels, FEATURES_PER_LABEL))

    def samples(self, n):
        """Return (X, Y) of n new samples."""
        n_features, n_labels = self._shape
        # The square makes low ids common and high ones rare.
        labels = (n_labels * self._rng.random((n, LABELS_PER_POINT)) ** 2).astype(int)
        own = self._features[labels].reshape(n, -1)
        noise = self._rng.integers(0, n_features, (n, NOISE))
        columns = np.hstack([self._rng.permuted(own, axis=1)[:, : own.shape[1] * 3 // 4], noise])
        values = self._rng.exponential(size=columns.shape).astype(np.float32)
        return _matrix(columns, values, n_features), _matrix(labels, np.ones(labels.shape, np.float32), n_labels)


def _matrix(columns, values, width):
    starts = np.arange(0, columns.size + 1, columns.shape[1])
    matrix = csr_matrix((values.ravel(), columns.ravel(), starts), shape=(len(columns), width))
    matrix.sum_duplicates()
    return matrix


class Stopwatch:
    """Adds up the time of blocks, on the thread's CPU and on the wall, and how many there were."""

    def __init__(self):
        self.cpu = self.wall = 0.0
        self.times = 0

    def __enter__(self):
        self._cpu, self._wall = time.thread_time(), time.perf_counter()
        return self

    def __exit__(self, *exception):
        self.cpu += time.thread_time() - self._cpu
        self.wall += time.perf_counter() - self._wall
        self.times += 1

    def take(self):
        """Return CPU and wall milliseconds of a block, mean since the last call, or None without any."""
        means = (1e3 * self.cpu / self.times, 1e3 * self.wall / self.times) if self.times else (None, None)
        self.__init__()
        return means


class LongRun:
    """The run: a stream of samples at a steady pace, and what is done between batches."""

    def __init__(self, args, file):
        self.args, self.file = args, file
        output = OutputConfig(
            candidates=args.candidates, budget=100, rehash=RehashConfig(schedule="fixed", period=500, renew=5)
        )
        optimizer = OptimizerConfig() if args.lr is None else OptimizerConfig(lr=args.lr)
        config = NetworkConfig(HiddenConfig(UNITS), output, optimizer)
        self.network = Network(FEATURES, LABELS, config, threads=1)
        self.world, self.probe = World(FEATURES, LABELS, seed=1), World(FEATURES, LABELS, seed=2).samples(PROBE)
        self.training, self.evaluating, self.saving, self.visiting = (Stopwatch() for _ in range(4))
        self.visits, self.quality = 0, None
        self.folder = Path(tempfile.mkdtemp(prefix="long-run-"))
        self.due = {"sample": args.sample, "minute": args.minute, "ten": 10 * args.minute}

    def go(self):
        args = self.args
        about = {name: getattr(args, name) for name in ("seconds", "pace", "batch_size", "candidates", "schedule")}
        about |= {"lr": self.network.config.optimizer.lr, "isa": isa()}
        self._write({**about, "version": __version__, "python": sys.version.split()[0], "began": time.time()})
        self.start = time.perf_counter()
        try:
            config = TrainingConfig(batch_size=args.batch_size, max_batches=args.batches, schedule=args.schedule)
            self.network.fit_stream(self._stream(), config=config, callbacks=[self._after_batch])
        finally:
            shutil.rmtree(self.folder)

    def _stream(self):
        due = time.perf_counter()
        while self._now() < self.args.seconds:
            block = self.world.samples(self.args.batch_size)
            due = max(due + 1 / self.args.pace, time.perf_counter() - 1)  # a paused process does not hurry afterwards
            time.sleep(max(0, due - time.perf_counter()))
            self.training.__enter__()
            yield block

    def _after_batch(self, progress):
        self.training.__exit__()
        now = self._now()
        if self._is_due("minute", now, self.args.minute):
            with self.evaluating:
                self.quality = self.network.evaluate(*self.probe)
            self._visitor()
        if self._is_due("ten", now, 10 * self.args.minute):
            self._save()
        if self._is_due("sample", now, self.args.sample):
            self._write({"t": now, **self._figures(progress), **holds()})

    def _is_due(self, what, now, every):
        if now < self.due[what]:
            return False
        self.due[what] = now + every
        return True

    def _now(self):
        return time.perf_counter() - self.start

    def _figures(self, progress):
        figures = {"batch": progress.batch, "loss": progress.loss, "active": progress.active}
        figures["rehash_seconds"] = progress.rehash_seconds
        figures["precision"] = self.quality and self.quality["P@1"]
        for name in ("training", "evaluating", "saving", "visiting"):
            key = {"training": "train", "evaluating": "evaluate", "saving": "save", "visiting": "visitor"}[name]
            figures[f"{key}_cpu_ms"], figures[f"{key}_wall_ms"] = getattr(self, name).take()
        return figures

    def _save(self):
        with self.saving:
            X = self.probe[0][:100]
            for what, mmap in ({"moments": True}, False), ({"serving": True}, True):
                self.network.save(self.folder / "model", **what)
                again = Network.load(self.folder / "model", threads=1, mmap=mmap)
                if not all(map(np.array_equal, again.predict(X), self.network.predict(X))):
                    raise AssertionError("a network that was saved and read back predicts otherwise")

    def _visitor(self):
        with self.visiting:
            labels = VISITORS[self.visits % len(VISITORS)]
            self.visits += 1
            X, Y = World(1000, labels, seed=self.visits).samples(256)
            visitor = Network(1000, labels, NetworkConfig(HiddenConfig(16)), threads=2)
            visitor.fit(X, Y, config=TrainingConfig(batch_size=64))
            pickle.loads(pickle.dumps(visitor)).predict(X)

    def _write(self, record):
        print(json.dumps(record), file=self.file, flush=True)


def holds():
    """Return what this process has at the moment."""
    # Python's cache of methods by name fills up with strings, 4,096 at most, in the course of hours.
    (getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache)()
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 / 1e6 for line in lines}
    return {
        "rss_mb": sizes["Rss"],
        "pss_mb": sizes["Pss"],
        "private_mb": sizes["Private_Clean"] + sizes["Private_Dirty"],
        "mappings": len(Path("/proc/self/maps").read_text().splitlines()),
        "descriptors": len(os.listdir("/proc/self/fd")) - 1,
        "threads": len(os.listdir("/proc/self/task")),
        "blocks": sys.getallocatedblocks(),
        "objects": len(gc.get_objects()),
        "collections": [generation["collections"] for generation in gc.get_stats()],
        "process_cpu": time.process_time(),
    }


def change(t, values):
    """Return a curve's mean, what it changes by from `t`'s start to its end, and the standard error of that.

    The line goes through the means of `PARTS` equal parts, since neighbouring samples are not independent.
    """
    edges = np.linspace(t[0], t[-1], PARTS + 1)
    part = np.clip(np.searchsorted(edges, t, side="right") - 1, 0, PARTS - 1)
    some = [part == i for i in range(PARTS) if (part == i).any()]
    x, y = (np.array([array[rows].mean() for rows in some]) for array in (t, values))
    x = x - x.mean()
    slope = x @ y / (x @ x)
    left = y - y.mean() - slope * x
    error = np.sqrt(left @ left / max(len(x) - 2, 1) / (x @ x))
    span = t[-1] - t[0]
    return values.mean(), slope * span, error * span


def show(records, path):
    """Print the table of a run and draw its curves."""
    from matplotlib.figure import Figure

    about, *samples = map(json.loads, records.read_text().splitlines())
    for sample in samples:
        evaluated = sample["evaluate_cpu_ms"]
        sample["ratio"] = evaluated and sample["train_cpu_ms"] / evaluated
    figure = Figure(figsize=(11, 11), layout="constrained")
    all_axes = figure.subplots(-(-len(CURVES) // 3), 3, sharex=True).ravel()
    rows = []
    for axes in all_axes[len(CURVES) :]:
        axes.set_axis_off()
    for axes, (name, title) in zip(all_axes, CURVES.items(), strict=False):
        t, values = np.array([(s["t"], s[name]) for s in samples if s[name] is not None], float).reshape(-1, 2).T
        axes.plot(t / 60, values, linewidth=1, marker="." if len(t) < 30 else None)
        axes.set(title=title)
        axes.title.set_fontsize("medium")
        late = t >= WARM_UP * samples[-1]["t"]
        if late.sum() < 3:
            continue
        mean, moved, error = change(t[late], values[late])
        axes.set_ylim(min(0.9 * mean, values[late].min()), max(1.1 * mean, values[late].max()))
        shares = [f"{100 * value / mean:+.2f} %" for value in (moved, error)]
        rows.append([title, f"{mean:,.4g}" if mean < 1e4 else f"{mean:,.0f}", shares[0], shares[1].lstrip("+")])
    for axes in all_axes[len(CURVES) - 3 : len(CURVES)]:
        axes.set_xlabel("minutes")
        axes.tick_params(labelbottom=True)
    figure.savefig(path, dpi=110)
    last = samples[-1]
    print(
        f"{last['t'] / 3600:.2f} h, {last['batch']:,} batches of {about['batch_size']}, "
        f"{100 * last['process_cpu'] / last['t']:.0f} % of a core, P@1 {last['precision'] or 0:.3f}"
    )
    print(table(["", "mean", "change over the run", "standard error"], rows))


if __name__ == "__main__":
    main()
