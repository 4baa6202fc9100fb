"""What does a training step of an output layer cost in PyTorch, with `slide.torch` and without?

    python bench/torch_layer.py [--labels 50000 200000 670000] [--dim 128] [--systems slide full ...]

A step is the loss of a batch's hidden vectors, which are given, its gradient with respect to them and to the layer, and
the optimizer's step. Targets are drawn by Zipf's law, and known to be. The systems:

    slide         slide.torch.SampledLinear, stepped in the backward pass by RowAdam
    slide-grads   the same with gradients that are kept for RowAdam's step
    plain         a sampled softmax as one writes it in PyTorch, with sparse gradients and SparseAdam
    plain-rows    the same written for speed: rows gathered, Adam on these alone, put back by index_copy_
    full          nn.Linear, cross_entropy, torch.optim.Adam(fused=True)
    full-bf16     the same with products in bfloat16 (autocast)

All but plain-rows are heads of `examples/torch/heads.py`; all but the full ones draw as many negatives. Every system is
in a process of its own, and they take turns, in another order every time, so that what disturbs the machine disturbs
all. PyTorch's processes keep the memory that they free, and get hugepages: else page faults cost the full softmax more
than its arithmetic. Shown are medians of milliseconds a step, how many times slide's these are, and the largest memory
during training. As set: 4 minutes, and 10 GB at 670,000 labels.
"""

import argparse
import json
import os
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np

BENCH = Path(__file__).resolve().parent
sys.path[:0] = [str(BENCH / "peers"), str(BENCH.parent / "examples" / "torch")]

from common import table  # noqa: E402

KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(256 << 20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""No array is a mapping of its own, which freeing would give back; and ask for hugepages (glibc 2.35 or later)."""

PARTS = ("forward", "backward", "optimizer")


class Slide:
    """One of the output layers of the examples, with its optimizer: the others differ by name."""

    name = "sampled"

    def __init__(self, n_labels, counts, args):
        import heads

        self.head, self.optimizer = heads.make(self.name, args.dim, counts, args.lr, args.negatives)

    def loss(self, hidden, targets):
        return self.head.loss(hidden, targets)

    def step(self):
        self.optimizer.step()
        self.optimizer.zero_grad()


class SlideGradients(Slide):
    def __init__(self, n_labels, counts, args):
        from slide.torch import RowAdam

        super().__init__(n_labels, counts, args)
        self.optimizer = RowAdam(self.head, args.lr)


class Plain(Slide):
    name = "plain"


class Full(Slide):
    name = "full"


class FullBF16(Full):
    def loss(self, hidden, targets):
        import torch

        with torch.autocast("cpu", torch.bfloat16):
            return self.head.loss(hidden, targets)


class PlainRows:
    """The batch's labels and negatives that it shares, every row once."""

    def __init__(self, n_labels, counts, args):
        import torch
        from systems import Rows

        self.n_labels, self.negatives, self.lr, self.steps = n_labels, args.negatives, args.lr, 0
        limit = args.dim**-0.5
        self.weight = Rows(torch, torch.empty(n_labels, args.dim).uniform_(-limit, limit))
        self.bias = Rows(torch, torch.zeros(n_labels, 1))
        self.log_absent = torch.log1p(-counts / counts.sum())

    def loss(self, hidden, targets):
        import torch

        n = len(targets)
        drawn = torch.randint(self.n_labels, (self.negatives,))
        labels, places = torch.unique(torch.cat([targets, drawn]), return_inverse=True)
        log_q = torch.log(-torch.expm1(n * self.log_absent[labels] + self.negatives * np.log1p(-1 / self.n_labels)))
        own = torch.zeros(n, len(labels))
        # Whether a sample's own label is in was not left to chance.
        own[torch.arange(n), places[:n]] = log_q[places[:n]]
        logits = torch.addmm(self.bias.take(labels).T - log_q, hidden, self.weight.take(labels).T) + own
        return torch.nn.functional.cross_entropy(logits, places[:n])

    def step(self):
        self.steps += 1
        self.weight.step(self.lr, self.steps)
        self.bias.step(self.lr, self.steps)


SYSTEMS = {
    "slide": Slide,
    "slide-grads": SlideGradients,
    "plain": Plain,
    "plain-rows": PlainRows,
    "full": Full,
    "full-bf16": FullBF16,
}


def main():
    args = parse_arguments()
    runs = []
    for n_labels in args.labels:
        runs += measure(n_labels, args)
    if args.json:
        for run in runs:
            print(json.dumps(run))
    else:
        print(markdown(runs))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", nargs="+", type=int, default=(50_000, 200_000, 670_000), metavar="N")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--negatives", type=int, default=2048)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), metavar="SYSTEM")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1.5, help="of a turn, which has two steps at least")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="a line of JSON for every size and system")
    return parser.parse_args()


def measure(n_labels, args):
    """Return the figures of every system, which take turns."""
    workers = {name: Worker(name, n_labels, args) for name in args.systems}
    times = {name: [] for name in workers}
    peaks = dict.fromkeys(workers, 0.0)
    try:
        names = list(workers)
        before = {name: worker.answer() for name, worker in workers.items()}
        for turn in range(args.turns):
            shift = turn % len(names)
            for name in names[shift:] + names[:shift]:
                some, peak = workers[name].turn(args.seconds)
                times[name] += some
                peaks[name] = max(peaks[name], peak)
    finally:
        for worker in workers.values():
            worker.stop()
    runs = []
    for name in names:
        found = np.array(times[name])
        run = {"labels": n_labels, "dim": args.dim, "batch_size": args.batch_size, "negatives": args.negatives}
        run |= {"threads": args.threads, "system": name, "steps": len(found), "step_ms": np.median(found.sum(1))}
        run |= {f"{part}_ms": np.median(found[:, i]) for i, part in enumerate(PARTS)}
        run |= {"peak_mb": peaks[name], "before_mb": before[name]}
        runs.append(run)
        print(f"{name}, {n_labels:,} labels: {run['step_ms']:.2f} ms, {run['peak_mb']:,.0f} MB", file=sys.stderr)
    return runs


class Worker:
    """A system in its own process."""

    def __init__(self, name, n_labels, args):
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(args.threads))
        before = dict(os.environ)
        os.environ.update(threads | ({} if name.startswith("slide") else KEEP_MEMORY))
        try:
            self.process = context.Process(target=serve, args=(theirs, name, n_labels, args), daemon=True)
            self.process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        theirs.close()
        self.what = f"{name} at {n_labels:,} labels"

    def turn(self, seconds):
        self.pipe.send(seconds)
        return self.answer()

    def answer(self):
        try:
            return self.pipe.recv()
        except EOFError:
            raise SystemExit(f"{self.what}: the process died, for want of memory unless it said otherwise") from None

    def stop(self):
        self.pipe.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()


def serve(pipe, name, n_labels, args):
    """Take turns for as long as the pipe asks for them."""
    import torch
    from speed import peak_mb

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    before = peak_mb()
    chances = 1 / torch.arange(1, n_labels + 1, dtype=torch.float64)
    counts = (chances * (10 * n_labels / chances.sum())).ceil().long()
    system = SYSTEMS[name](n_labels, counts, args)
    cumulative = counts.cumsum(0)
    batches = draw(cumulative, args)
    # What the first steps compile, allocate and touch is not what is compared.
    for _ in range(2):
        step(system, *next(batches))
    pipe.send(before)
    while True:
        try:
            seconds = pipe.recv()
        except EOFError:
            return
        pipe.send(turn(system, batches, seconds))


def draw(cumulative, args):
    import torch

    while True:
        hidden = torch.randn(args.batch_size, args.dim).mul_(args.dim**-0.5).requires_grad_()
        yield hidden, torch.searchsorted(cumulative, torch.randint(int(cumulative[-1]), (args.batch_size,)), right=True)


def turn(system, batches, seconds):
    """Return the milliseconds of every step's parts, and the most memory there was, in MB."""
    from speed import forget_peak, peak_mb

    forget_peak()
    times, spent = [], 0.0
    while len(times) < 2 or spent < seconds:
        times.append(step(system, *next(batches)))
        spent += sum(times[-1]) / 1e3
    return times, peak_mb()


def step(system, hidden, targets):
    """Return the milliseconds of its parts."""
    marks = [time.perf_counter()]
    loss = system.loss(hidden, targets)
    marks.append(time.perf_counter())
    loss.backward()
    marks.append(time.perf_counter())
    system.step()
    marks.append(time.perf_counter())
    return [1e3 * float(part) for part in np.diff(marks)]


def markdown(runs):
    ours = {run["labels"]: run["step_ms"] for run in runs if run["system"] == "slide"}
    header = ["labels", "system", "ms a step", *PARTS, "times slide's", "peak, MB"]
    rows = []
    for run in runs:
        ratio = run["step_ms"] / ours[run["labels"]] if ours else np.nan
        row = [f"{run['labels']:,}", run["system"], f"{run['step_ms']:,.2f}"]
        row += [f"{run[f'{part}_ms']:,.2f}" for part in PARTS]
        rows.append([*row, f"{ratio:,.2f}", f"{run['peak_mb']:,.0f}"])
    return table(header, rows, text=2)


if __name__ == "__main__":
    main()
