"""The cost of filling hash tables and of looking neurons up in them."""

import statistics
import time

import numpy as np

from slide.config import LSHConfig, RehashConfig, SamplingConfig
from slide.kernels import tables
from slide.kernels.rows import RowTable
from slide.lsh.index import NeuronIndex
from slide.rows.activations import Activations
from slide.system.buffers import Buffers

DIM, CAPACITY, SAMPLES, ROUNDS = 128, 128, 128, 5
POLICIES = {"vanilla": "vanilla", "threshold": "hard threshold", "topk": "top-K"}


def insertion(neurons, threads):
    """Medians in seconds, by what a full bucket keeps: hashing alone, inserting alone."""
    table = _table(neurons, threads)
    tables_of = {kind: LSHConfig(k=9, l=50, capacity=CAPACITY, insertion=kind) for kind in ("reservoir", "fifo")}
    kinds = {kind: _index(table, threads, lsh, SamplingConfig()) for kind, lsh in tables_of.items()}
    times = {kind: {"hashing": [], "inserting": []} for kind in kinds}
    for _ in range(ROUNDS):
        for kind, index in kinds.items():
            start = time.perf_counter()
            index.hasher.hash(table.weights, index.codes, threads, None)
            times[kind]["hashing"].append(time.perf_counter() - start)
            arrays, reservoir = (index.codes, index.offsets, index.ids), kind == "reservoir"
            start = time.perf_counter()
            tables.build(*arrays, threads, capacity=CAPACITY, reservoir=reservoir, seed=1)
            times[kind]["inserting"].append(time.perf_counter() - start)
    return {kind: {what: statistics.median(found) for what, found in one.items()} for kind, one in times.items()}


def sampling(neurons, budgets, threads):
    """Medians in seconds a sample, by policy and budget."""
    table = _table(neurons, threads)
    rng = np.random.default_rng(0)
    inputs = Activations.of_vectors(np.abs(rng.standard_normal((SAMPLES, DIM))).astype(np.float32))
    nobody = np.zeros(SAMPLES + 1, np.int64), np.zeros(0, np.int32)
    indices = {policy: _index(table, threads, LSHConfig(k=9, l=50), SamplingConfig(policy)) for policy in POLICIES}
    found = {policy: {} for policy in POLICIES}
    for budget in budgets:
        ids, counts = np.empty((SAMPLES, budget), np.int32), np.zeros(SAMPLES, np.int64)
        times = {policy: [] for policy in POLICIES}
        for step in range(ROUNDS):
            for policy, index in indices.items():
                start = time.perf_counter()
                index.sample(inputs, *nobody, budget, step, ids, counts, threads)
                times[policy].append((time.perf_counter() - start) / SAMPLES)
        for policy, seconds in times.items():
            found[policy][budget] = statistics.median(seconds)
    return found


def _table(neurons, threads):
    table = RowTable(neurons, DIM, moments=0, name="neurons")
    table.fill_uniform(1.0, 1, threads)
    return table


def _index(table, threads, lsh, policy):
    index = NeuronIndex(table, lsh, RehashConfig(), policy, 1, Buffers())
    index.rebuild(1, threads)
    return index
