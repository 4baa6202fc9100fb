"""How fast is slide beside what else trains such a network on a CPU? The same network, data and threads, in turns.

    python bench/peers/speed.py TRAIN TEST [--systems slide torch-sampled ...] [--plot FILE.png]
    python bench/peers/speed.py --synthetic 490449 [--reference PATH]

Every system is in a process of its own and trains for ``--turn`` seconds while the others wait, then the next, in
another order every time, so that what disturbs the machine disturbs all; `systems.py` says what each is. After a turn
P@1 is measured off the clock, with the same exact search on the same samples. Shown are milliseconds a batch, rebuilt
tables included and the first batch left out, seconds of training to a P@1, the highest P@1, and the largest memory
during training, data included. Learning rates are constant, ``--lr`` for slide's default mode, ``--softmax-lr`` for
the others. What is not installed is skipped. As set: 11 minutes and 12 GB for six systems, fewer with ``--seconds``.

``--synthetic POINTS`` draws data of Amazon-670K's shape in place of files: 135,909 features, 75 a sample, and 670,091
labels, five a sample.

``--reference PATH``, repeatable, is your own build of the released C++ or of the optimised one, both of which read a
configuration file. It runs alone, after the others, for ``--reference-batches`` batches, on text files and with the
settings of the released Amazon-670K configuration. It writes how long training took to its log, in whole seconds, from
which the mean is; a build that also prints every batch's milliseconds gives a median by ``--reference-pattern``.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import draw, table
from reference import MEASURED, run_reference
from systems import SYSTEMS, Unavailable

from slide.data import load, make_extreme
from slide.data.order import epoch_order

AMAZON = {"n_features": 135_909, "n_labels": 670_091, "features_per_sample": 75, "labels_per_sample": 5}


def main():
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        train, test = read(args)
        keep(folder / "train", train)
        keep(folder / "test", test)
        runs = {}
        workers = start(args, folder)
        try:
            in_turns(workers, args)
            runs = {name: worker.report() for name, worker in workers.items()}
        finally:
            for worker in workers.values():
                worker.stop()
        for binary in args.reference:
            try:
                runs[binary.name] = run_reference(binary, train, test, folder, args)
            except Unavailable as error:
                print(f"{binary} is skipped: {error}", file=sys.stderr, flush=True)
    if args.json:
        for name, run in runs.items():
            print(json.dumps({"system": name, **run}))
    else:
        print(markdown(runs, args.target))
        print(f"\nMeasured here before, on other samples, with Amazon-670K's sizes: {MEASURED}.")
    if args.plot:
        plot(runs, args.plot)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", metavar="TRAIN", type=Path, nargs="?")
    parser.add_argument("test", metavar="TEST", type=Path, nargs="?")
    parser.add_argument("--synthetic", metavar="POINTS", type=int, help="draw so many, in place of TRAIN and TEST")
    parser.add_argument("--features", type=int, default=AMAZON["n_features"], help="of the synthetic data")
    parser.add_argument("--labels", type=int, default=AMAZON["n_labels"], help="of the synthetic data")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), metavar="SYSTEM")
    parser.add_argument("--seconds", type=float, default=72, help="each system trains")
    parser.add_argument("--turn", type=float, default=6, help="seconds of training in one go")
    parser.add_argument("--points", type=int, default=1000, help="measured on")
    parser.add_argument("--target", type=float, help="P@1 to be reached, 0 to 1; by default 0.9 of the best one's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--units", type=int, default=128, help="of the hidden layer")
    parser.add_argument("--active", type=int, default=3800, help="neurons of a sample in the paper's mode")
    parser.add_argument("--negatives", type=int, default=3500, help="that a batch shares in sampled softmax")
    parser.add_argument("--lr", type=float, default=8e-3, help="of slide's default mode")
    parser.add_argument("--softmax-lr", type=float, default=2e-3)
    parser.add_argument("--adagrad-lr", type=float, default=0.1, help="of TensorFlow's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reference", metavar="PATH", type=Path, action="append", default=[])
    parser.add_argument("--reference-batches", type=int, default=100)
    parser.add_argument("--reference-pattern", metavar="REGEX", help="what it prints of a batch; its group, in ms")
    parser.add_argument("--json", action="store_true", help="a line of JSON for every system")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="P@1 against seconds of training")
    args = parser.parse_args()
    if args.synthetic is None and args.test is None:
        parser.error("TRAIN and TEST are needed, or --synthetic POINTS")
    if args.plot:
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            parser.error("--plot needs Matplotlib: the extra plot")
    return args


def read(args):
    if args.synthetic is None:
        return load(args.train), draw(load(args.test), args.points)
    shape = AMAZON | {"n_features": args.features, "n_labels": args.labels}
    return make_extreme(args.synthetic, **shape, seed=args.seed, test_samples=args.points)


def keep(folder, data):
    """Write a data set's arrays where every process can map them, so that they are in memory once."""
    folder.mkdir()
    np.save(folder / "shape.npy", [data.n_features, data.n_labels])
    for letter, matrix in (("X", data.X), ("Y", data.Y)):
        for name in ("data", "indices", "indptr"):
            np.save(folder / f"{letter}.{name}.npy", getattr(matrix, name))


def mapped(folder):
    from scipy.sparse import csr_matrix

    from slide.data import Dataset

    columns = np.load(folder / "shape.npy")
    found = []
    for letter, n in zip("XY", columns, strict=True):
        arrays = [np.load(folder / f"{letter}.{name}.npy", mmap_mode="r") for name in ("data", "indices", "indptr")]
        found.append(csr_matrix(tuple(arrays), shape=(len(arrays[2]) - 1, int(n)), copy=False))
    return Dataset(*found, name=folder.name)


class Worker:
    """A system in its own process, which trains and measures when it is told to."""

    def __init__(self, name, folder, args):
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        kind = SYSTEMS[name]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(args.threads))
        before = dict(os.environ)
        os.environ.update(kind.environment | threads)
        try:
            self.process = context.Process(target=serve, args=(theirs, name, folder, args), daemon=True)
            self.process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        theirs.close()
        self.answer()
        self.times, self.curve, self.peak = [], [(0.0, 0, None)], 0.0

    def answer(self):
        try:
            kind, value = self.pipe.recv()
        except EOFError:
            raise Unavailable("its process died") from None
        if kind == "error":
            raise Unavailable(value)
        return value

    def train(self, seconds):
        self.pipe.send(("train", seconds))
        times, peak = self.answer()
        self.times += times
        self.peak = max(self.peak, peak)

    def measure(self):
        self.pipe.send(("measure", None))
        self.curve.append((sum(self.times) / 1e3, len(self.times), self.answer()))

    def report(self):
        times = np.array(self.times)
        return {
            "batches": len(times),
            "mean_ms": float(times.mean()),
            "median_ms": float(np.median(times)),
            "peak_mb": self.peak,
            "curve": self.curve[1:],
        }

    def stop(self):
        with suppress(OSError):
            self.pipe.send(("stop", None))
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()


def start(args, folder):
    """Return the workers of those systems that can be measured here."""
    workers = {}
    for name in args.systems:
        try:
            workers[name] = Worker(name, folder, args)
        except Unavailable as error:
            print(f"{name} is skipped: {error}", file=sys.stderr, flush=True)
    return workers


def in_turns(workers, args):
    """Let each train for its seconds, a turn at a time."""
    names = list(workers)
    for turn in range(max(1, round(args.seconds / args.turn))):
        shift = turn % max(1, len(names))
        for name in names[shift:] + names[:shift]:
            try:
                workers[name].train(args.turn)
                workers[name].measure()
            except Unavailable as error:
                print(f"{name} stops: {error}", file=sys.stderr, flush=True)
                workers.pop(name).stop()
                continue
            seconds, batches, quality = workers[name].curve[-1]
            print(f"{name}: {batches} batches, {seconds:.1f} s, P@1 {quality:.4f}", file=sys.stderr, flush=True)
        names = list(workers)


def serve(pipe, name, folder, args):
    """Do what comes through the pipe, in the worker's process."""
    try:
        train, test = mapped(folder / "train"), mapped(folder / "test")
        system = SYSTEMS[name](train, args)
        rows = batches(train.n_samples, args)
        # What is compiled, or touched for the first time, at the first batch is not what is compared.
        system.step(next(rows))
        pipe.send(("ready", None))
        while True:
            what, value = pipe.recv()
            if what == "stop":
                return
            reply = train_for(system, rows, value) if what == "train" else measure(system, test)
            pipe.send((what, reply))
    except Exception as error:  # the other systems' figures are wanted all the same
        pipe.send(("error", str(error) if isinstance(error, Unavailable) else f"{type(error).__name__}: {error}"))


def batches(n, args):
    """The rows of one batch after the other: the same for every system."""
    epoch = 0
    while True:
        epoch += 1
        order = epoch_order(n, args.seed, epoch)
        for first in range(0, n - n % args.batch_size or n, args.batch_size):
            yield order[first : first + args.batch_size]


def train_for(system, rows, seconds):
    """Return the milliseconds of each batch, and the most memory there was, in MB."""
    forget_peak()
    times, begin = [], time.perf_counter()
    while not times or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        system.step(next(rows))
        times.append(1e3 * (time.perf_counter() - start))
    return times, peak_mb()


def forget_peak():
    """Let the kernel count the peak anew: what measuring takes is not training's."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb():
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def measure(system, test):
    return float(system.measured().evaluate(test.X, test.Y, ks=(1,))["P@1"])


def seconds_to(curve, target):
    """Seconds of training after which P@1 reached a target, between two measurements by interpolation; or None."""
    before = (0.0, 0.0)
    for seconds, _, quality in curve:
        if quality >= target:
            return before[0] + (seconds - before[0]) * (target - before[1]) / max(quality - before[1], 1e-12)
        before = seconds, quality
    return None


def markdown(runs, target=None):
    best = {name: max((sample[2] for sample in run["curve"]), default=0.0) for name, run in runs.items()}
    if target is None:
        target = 0.9 * max(best.values(), default=0.0)
    header = ["system", "batches", "ms a batch, mean", "median", f"seconds to P@1 = {100 * target:.1f} %"]
    header += ["best P@1, %", "peak, MB"]
    rows = []
    for name, run in runs.items():
        median = "" if run["median_ms"] is None else f"{run['median_ms']:,.1f}"
        reached = seconds_to(run["curve"], target) if best[name] else None
        row = [name, f"{run['batches']:,}", f"{run['mean_ms']:,.1f}", median]
        row += ["" if reached is None else f"{reached:,.1f}", f"{100 * best[name]:.2f}" if best[name] else ""]
        rows.append([*row, f"{run['peak_mb']:,.0f}"])
    return table(header, rows)


def plot(runs, path):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for name, run in runs.items():
        if run["curve"]:
            seconds, _, quality = zip(*run["curve"], strict=True)
            axes.plot([0, *seconds], [0, *(100 * q for q in quality)], marker=".", label=name)
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("P@1, %")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
