"""How long do the exact five best labels take, here and as PyTorch's matrix product and top-k?

    python bench/peers/topk.py [--labels 670091] [--units 128] [--samples 1 16 64 256 1024] [--threads 2]

Random weights; the same hidden vectors for both, in turns. PyTorch scores 128 samples at a time: more would not fit the
caches, and all at once not the memory. Shown are medians, their ratio, and the share of labels that both chose alike.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import table

from slide.kernels.rows import RowTable
from slide.kernels.search import exact_topk
from slide.system.blas import one_blas_thread

K, BLOCK, REPEATS = 5, 128, 5
NOBODY = np.zeros(0, np.int64), np.zeros(0, np.int32)


def main():
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    rows = RowTable(args.labels, args.units, moments=2)
    rows.fill_uniform(0.1, 0, args.threads)
    weights = torch.from_numpy(np.ascontiguousarray(rows.weights))
    bias = torch.from_numpy(np.ascontiguousarray(rows.bias))
    found = [measure(args, rows, weights, bias, samples) for samples in args.samples]
    print(table(["samples", "slide, ms", "PyTorch, ms", "ratio", "labels alike, %"], found))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=670_091)
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 16, 64, 256, 1024])
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def measure(args, rows, weights, bias, samples):
    hidden = np.zeros((samples, rows.padded_dim), np.float32)
    hidden[:, : args.units] = np.random.default_rng(0).normal(size=(samples, args.units))
    ids, scores = np.empty((samples, K), np.int32), np.empty((samples, K), np.float32)
    batch = torch.from_numpy(np.ascontiguousarray(hidden[:, : args.units]))

    def ours():
        with one_blas_thread():
            exact_topk(rows, hidden, *NOBODY, ids, scores, args.threads)

    def theirs():
        with torch.no_grad():
            blocks = [torch.topk(torch.addmm(bias, block, weights.t()), K).indices for block in batch.split(BLOCK)]
            return torch.cat(blocks)

    seconds = {ours: [], theirs: []}
    for repeat in range(REPEATS + 1):
        for function, times in seconds.items():
            start = time.perf_counter()
            result = function()
            if repeat:
                times.append(time.perf_counter() - start)
    mine, other = (float(np.median(times)) for times in seconds.values())
    alike = float((result.numpy() == ids).mean())
    return [f"{samples:,}", f"{1e3 * mine:,.1f}", f"{1e3 * other:,.1f}", f"{mine / other:.2f}", f"{100 * alike:.1f}"]


if __name__ == "__main__":
    main()
