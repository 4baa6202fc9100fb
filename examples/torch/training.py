"""What the examples share beside their output layer: their options, and the clock of a training run."""

import argparse
import json
import time

import numpy as np
import torch
from heads import HEADS


def options(doc, *, batch_size, lr):
    """Return a parser with the options that every example has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head", choices=HEADS, default="sampled", help="the output layer (default: sampled)")
    parser.add_argument("--seconds", type=float, default=60, help="train for so long (default: 60)")
    parser.add_argument("--steps", type=int, help="train for so many steps instead")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument("--batch-size", type=int, default=batch_size, help=f"default: {batch_size}")
    parser.add_argument("--dim", type=int, default=128, help="numbers in the vector that the head reads (default: 128)")
    parser.add_argument("--negatives", type=int, default=2048, help="labels drawn at every step (default: 2048)")
    parser.add_argument("--lr", type=float, default=lr, help=f"default: {lr}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="end with the result as a line of JSON")
    return parser


def parse(parser, arguments):
    """Read the options, and make PyTorch follow them."""
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    return args


def by_frequency(ids, n):
    """Number what ids count from 0 to n - 1 anew, by falling frequency.

    Returns the new number of each, int64 array [n], and how often each new number occurs, int64 tensor [n].
    """
    counts = np.bincount(ids, minlength=n)
    order = np.argsort(-counts, kind="stable")
    number = np.empty_like(order)
    number[order] = np.arange(n)
    return number, torch.from_numpy(counts[order])


class Clock:
    """The steps of a run, until its seconds or steps are over; counts the seconds in between alone."""

    def __init__(self, args, every=5.0):
        self.args, self.every = args, every
        self.step, self.seconds, self.losses = 0, 0.0, []

    def __iter__(self):
        shown, start = 0.0, time.perf_counter()
        while self.step < self.args.steps if self.args.steps is not None else self.seconds < self.args.seconds:
            yield self.step
            self.step += 1
            self.seconds = time.perf_counter() - start
            if self.seconds - shown >= self.every:
                shown = self.seconds
                mean = sum(self.losses) / len(self.losses)
                print(f"{self.seconds:5.0f} s, step {self.step:,}: loss {mean:.3f}", flush=True)
                self.losses.clear()

    def result(self, **figures):
        """Print what came of the run, and return it."""
        found = {"head": self.args.head, "steps": self.step, "seconds": round(self.seconds, 2), **figures}
        shown = {name: f"{value:,.4g}" if isinstance(value, float) else value for name, value in found.items()}
        print(", ".join(f"{name} {value}" for name, value in shown.items()))
        if self.args.json:
            print(json.dumps(found))
        return found
