"""How close do the kernels come to what the machine can do? Its limits, measured, and each kernel's share of them.

    python bench/roofline.py [--threads 1 2] [--json]

Limits: reading 1 GB in order; reading and updating rows of 576 bytes (a row's header and 128 weights) and of 1,600
(Adam's moments as well) at random places of 670,091, in hugepages, with as many rows asked for ahead as is best;
updating rows of 1,600 bytes in ascending order, and three of 512 in a table each, as they could lie instead; and a
matrix product of 1,024 squared by BLAS; each at its fastest. Both are compiled: `slide.kernels.roofline`, and NumPy's
BLAS.

A kernel's least time is the larger of what its bytes take at these limits, every row that it touches counted once, and
of what its multiplications and additions take at the matrix product's rate; the share is that time over the measured
one. The shapes are Amazon-670K's: 128 samples, of 3,800 neurons each in the paper's mode, of 1,600 that they share in
the default mode. Medians of repetitions; about two minutes and 3 GB for one and two threads. ``SLIDE_BENCH_SCALE``
shrinks the tables, for a look whether all still runs: what fits the caches says nothing.
"""

import argparse
import json
import os
import time

import numpy as np
from common import table
from shapes import (
    ACTIVE,
    BATCH,
    FEATURES,
    LABELS,
    LABELS_PER_POINT,
    SHARED,
    UNITS,
    make_features,
    make_hidden,
    make_pairs,
    make_table,
)
from threadpoolctl import threadpool_limits

from slide.config import LSHConfig
from slide.kernels import dense, grouping, losses, optim, sampling, search, sparse, tables
from slide.kernels.memory import HugeBuffer
from slide.kernels.parallel import resolve_threads
from slide.kernels.roofline import read_rows, update_rows
from slide.lsh.families import make_hasher
from slide.system.blas import one_blas_thread

READ, WHOLE, PART = 576, 1600, 512
"""Bytes of a row's header and weights, of the row with Adam's moments, and of its weights or one moment alone."""
TABLES, BUCKET_BITS = 50, 13
SECONDS = float(os.environ.get("SLIDE_BENCH_SECONDS", "1"))
"""A figure is the median of as many calls as fit, three at least."""
NOTHING = np.zeros(0, np.float32)


def main():
    args = parse_arguments()
    found = []
    for threads in args.threads:
        machine = limits(threads)
        rows = [
            {"threads": threads, "kernel": name, **share(machine, *figures)}
            for name, *figures in kernels(threads)
        ]
        found.append((threads, machine, rows))
        if args.json:
            print(json.dumps({"threads": threads, "limits": machine}))
            print("\n".join(json.dumps(row) for row in rows), flush=True)
    if not args.json:
        print(limits_table(found))
        for threads, _, rows in found:
            print(f"\nOn {threads} thread{'s' * (threads > 1)}:\n\n{kernels_table(rows)}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, resolve_threads()}), metavar="N")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each thread count and kernel")
    return parser.parse_args()


def limits(threads):
    """Return the machine's limits: bytes a second by kind, and the product's operations a second."""
    found = {"stream": 0.0}
    for row in (READ, WHOLE):
        buffer = HugeBuffer(LABELS * row, name="rows", hugepages=True)
        rows = buffer.array((LABELS, row // 8), np.uint64)
        rows[:] = 1
        visited = np.random.default_rng(0).permutation(LABELS).astype(np.int32)[: 1 << 18]
        amount = len(visited) * row
        found[f"read {row}"] = amount / at_best(read_rows, rows, visited, threads, ahead=(0, 2, 4, 8))
        # Every line is read, and written back.
        found[f"update {row}"] = 2 * amount / at_best(update_rows, rows, visited, threads, ahead=(0, 2, 4, 8))
        pages = np.frombuffer(buffer, np.uint64)[: LABELS * row // 4096 * 512].reshape(-1, 512)
        in_order = np.arange(len(pages), dtype=np.int32)
        found["stream"] = pages.nbytes / at_best(read_rows, pages, in_order, threads, ahead=(0,))
    found["ascending, whole"] = ascending([WHOLE], threads)
    found["ascending, apart"] = ascending([PART] * 3, threads)
    n = 1024
    a = np.random.default_rng(0).standard_normal((n, n), np.float32)
    with threadpool_limits(threads, user_api="blas"):
        found["product"] = 2 * n**3 / min(times(lambda: a @ a))
    return found


def ascending(sizes, threads):
    """Return bytes a second of updating rows in ascending order, as kernels do, in a table for each of the sizes."""
    visited = np.sort(np.random.default_rng(0).permutation(LABELS).astype(np.int32)[: 1 << 18])
    seconds = 0.0
    for size in sizes:
        buffer = HugeBuffer(LABELS * size, name="rows", hugepages=True)
        rows = buffer.array((LABELS, size // 8), np.uint64)
        rows[:] = 1
        seconds += at_best(update_rows, rows, visited, threads, ahead=(0, 2, 4, 8))
    return 2 * len(visited) * sum(sizes) / seconds


def at_best(visit, rows, ids, threads, *, ahead):
    """Seconds that visiting the rows takes at least."""
    return min(min(times(lambda n=n: visit(rows, ids, n, threads), SECONDS / 8)) for n in ahead)


def median(function):
    """Seconds of a call, in the middle of as many as fit."""
    return float(np.median(times(function)))


def times(function, seconds=SECONDS):
    """Seconds of each of some calls, after one that does not count."""
    function()
    found, begin = [], time.perf_counter()
    while len(found) < 3 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return found


def share(machine, traffic, operations, seconds):
    """Return a kernel's figures; `traffic` are bytes by the kind of limit."""
    memory = sum(amount / machine[kind] for kind, amount in traffic.items())
    arithmetic = operations / machine["product"]
    least, total = max(memory, arithmetic), sum(traffic.values())
    return {
        "ms": 1e3 * seconds,
        "megabytes": total / 1e6,
        "gigabytes_a_second": total / seconds / 1e9,
        "gigaflops": operations / seconds / 1e9,
        "limit": "product" if arithmetic > memory else max(traffic, key=lambda kind: traffic[kind] / machine[kind]),
        "least_ms": 1e3 * least,
        "share": least / seconds,
    }


def kernels(threads):
    """Yield (name, bytes by kind of limit, operations, seconds) for each kernel."""
    rng = np.random.default_rng(0)
    neurons, features = make_table(LABELS, threads=threads), make_table(FEATURES, seed=2, threads=threads)
    with one_blas_thread():
        yield from of_the_input(rng, features, threads)
        yield from of_the_papers_mode(rng, neurons, threads)
        yield from of_the_default_mode(rng, neurons, threads)


def of_the_input(rng, features, threads):
    indptr, ids, values = make_features(rng)
    bias, out, dout = np.zeros(UNITS, np.float32), np.empty((BATCH, UNITS), np.float32), make_hidden(rng)
    used, pairs = len(np.unique(ids)), len(ids)
    seconds = median(lambda: sparse.spmm(features, indptr, ids, values, bias, True, out, threads))
    yield "input: SpMM", {f"read {READ}": used * READ, "stream": pairs * 8}, 2 * pairs * UNITS, seconds
    groups, rule = grouping.PairGroups(pairs), optim.adam(1e-3, 0.9, 0.999, 1e-8, 1)
    groups.group(ids, indptr[:-1], indptr[1:], FEATURES)
    seconds = median(lambda: optim.step_groups(features, groups, values, dout, None, rule, threads))
    yield "input: step", {f"update {WHOLE}": 2 * used * WHOLE, "stream": pairs * 12}, 2 * pairs * UNITS, seconds


def of_the_papers_mode(rng, neurons, threads):
    hasher = make_hasher(LSHConfig(k=BUCKET_BITS, l=TABLES), UNITS, LABELS, rng)
    codes = np.empty((TABLES, LABELS), np.uint32)
    seconds = median(lambda: hasher.hash(neurons.weights, codes, threads))
    yield "lsh: hash all neurons", {f"read {READ}": LABELS * READ, "stream": codes.nbytes}, 0, seconds
    offsets = np.empty((TABLES, (1 << hasher.bucket_bits) + 1), np.int32)
    entries = np.empty((TABLES, LABELS), np.int32)
    seconds = median(lambda: tables.build(codes, offsets, entries, threads))
    yield "lsh: build tables", {"stream": codes.nbytes + entries.nbytes}, 0, seconds

    hidden, queries = make_hidden(rng), np.empty((TABLES, BATCH), np.uint32)
    seconds = median(lambda: hasher.hash(hidden, queries, threads))
    yield "lsh: hash the batch", {"stream": hidden.nbytes + queries.nbytes}, 0, seconds
    found, counts = np.empty((BATCH, ACTIVE), np.int32), np.empty(BATCH, np.int64)
    nobody = np.zeros(BATCH + 1, np.int64), np.zeros(0, np.int32)
    arguments = (queries, offsets, entries, LABELS, *nobody, ACTIVE, 0, 0, found, counts, threads)
    seconds = median(lambda: sampling.vanilla(*arguments))
    # A bucket's beginning is somewhere else, and so are its entries.
    amount = 4 * int(counts.sum()) + 128 * TABLES * BATCH
    yield "lsh: probe", {f"read {READ}": amount}, 0, seconds

    ids, begin, end = make_pairs(rng, ACTIVE, LABELS)
    pairs, rows = len(ids), len(np.unique(ids))
    groups, out = grouping.PairGroups(pairs), np.empty(pairs, np.float32)
    seconds = median(lambda: groups.group(ids, begin, end, LABELS, threads))
    yield "lsh: group", {"stream": 12 * pairs + 12 * rows}, 0, seconds
    seconds = median(lambda: sparse.sddmm(neurons, groups, hidden, out, threads))
    traffic = {f"read {READ}": rows * READ, "stream": 12 * pairs}
    yield "lsh: SDDMM", traffic, 2 * pairs * UNITS, seconds
    gradient, rule = sparse.SampleGradient(BATCH, UNITS), optim.adam(1e-3, 0.9, 0.999, 1e-8, 1)
    deltas = (0.01 * rng.standard_normal(pairs)).astype(np.float32)

    def step():
        gradient.clear()
        optim.step_groups(neurons, groups, deltas, hidden, gradient, rule, threads)

    seconds = median(step)
    traffic = {f"update {WHOLE}": 2 * rows * WHOLE, "stream": 12 * pairs}
    yield "lsh: step", traffic, 4 * pairs * UNITS, seconds


def of_the_default_mode(rng, neurons, threads):
    ids = np.unique(rng.integers(0, LABELS, SHARED).astype(np.int32))
    n, hidden = len(ids), make_hidden(rng)
    logits = np.empty((BATCH, n), np.float32)
    seconds = median(lambda: dense.shared_logits(neurons, ids, NOTHING, hidden, logits, threads))
    product = 2 * BATCH * n * UNITS
    yield "default: shared logits", {f"read {READ}": n * READ, "stream": logits.nbytes}, product, seconds

    label_ptr = np.arange(BATCH + 1, dtype=np.int64) * LABELS_PER_POINT
    places = np.tile(np.arange(LABELS_PER_POINT, dtype=np.int32), BATCH)
    empty, weight = np.zeros(BATCH, np.int64), np.full(n, 3, np.float32)
    arrays = (logits, n, NOTHING, empty, empty, label_ptr, places, np.ones(len(places), np.float32))
    room = np.empty(BATCH, np.float32), np.empty(BATCH, np.float32)
    certain = (places, label_ptr[:-1].copy(), label_ptr[1:].copy())
    start = logits.copy()

    def loss():
        np.copyto(logits, start)
        sets = losses.ActiveSets(*arrays, weight=weight, certain=certain)
        losses.logistic_cross_entropy(sets, 1 / BATCH, *room, threads)

    yield "default: loss", {"stream": 2 * logits.nbytes}, 0, median(loss) - median(lambda: np.copyto(logits, start))
    gradient, rule = sparse.SampleGradient(BATCH, UNITS), optim.adam(1e-3, 0.9, 0.999, 1e-8, 1)
    logits *= 0.01

    def step():
        gradient.clear()
        dense.shared_step(neurons, ids, logits, hidden, gradient, rule, threads)

    traffic = {f"update {WHOLE}": 2 * n * WHOLE, "stream": logits.nbytes}
    yield "default: shared step", traffic, 2 * product, median(step)
    found, scores = np.empty((BATCH, 5), np.int32), np.empty((BATCH, 5), np.float32)
    none = np.zeros(0, np.int64), np.zeros(0, np.int32)
    seconds = median(lambda: search.exact_topk(neurons, hidden, *none, found, scores, threads))
    yield "exact top-k", {f"read {READ}": LABELS * READ}, 2 * BATCH * LABELS * UNITS, seconds


def limits_table(found):
    header = ["threads", *(f"{kind} B, GB/s" if kind[-1].isdigit() else f"{kind}, GB/s" for kind in found[0][1])]
    header[-1] = "product, GFLOP/s"
    return table(header, [[threads, *(f"{v / 1e9:,.1f}" for v in machine.values())] for threads, machine, _ in found])


def kernels_table(rows):
    header = ["kernel", "limit", "MB", "ms", "GB/s", "GFLOP/s", "least, ms", "share, %"]
    return table(
        header,
        [
            [
                row["kernel"],
                row["limit"],
                f"{row['megabytes']:,.1f}",
                f"{row['ms']:,.2f}",
                f"{row['gigabytes_a_second']:,.1f}",
                f"{row['gigaflops']:,.1f}",
                f"{row['least_ms']:,.2f}",
                f"{100 * row['share']:,.0f}",
            ]
            for row in rows
        ],
        text=2,
    )


if __name__ == "__main__":
    main()
