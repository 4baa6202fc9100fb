"""Cost of the hash tables at the size of Amazon-670K: rebuilding them, and sampling from them.

    python -m pytest bench/bench_index.py --benchmark-columns=min,median,rounds

A rebuild hashes 670,091 neurons of 128 weights into 50 tables, after all of them, 5 % or 1 % have changed, by
half a standard deviation of each weight. The tables take 4 bytes for each code, id and bucket: 134 MB + 134
MB, and 3 MB at 2^14 buckets, 26 MB at 2^17, the default for codes that have more combinations.

A query is a batch of 128 samples, hashed and sampled on one thread with 50 probes and about 3,000 candidates each;
`extra_info` has the microseconds a sample and the candidates found.
"""

import dataclasses
import itertools

import numpy as np
import pytest

from slide.config import LSHConfig, RehashConfig, SamplingConfig
from slide.kernels.parallel import resolve_threads
from slide.kernels.rows import RowTable
from slide.kernels.tables import batch_probe
from slide.lsh.index import NeuronIndex
from slide.lsh.policies import POLICIES, Query
from slide.system.buffers import Buffers

NEURONS, DIM, TABLES, SAMPLES, CANDIDATES = 670_091, 128, 50, 128, 3000

FAMILIES = {
    "simhash": LSHConfig("simhash", k=14, l=TABLES),
    "wta": LSHConfig("wta", k=5, l=TABLES),
    "dwta": LSHConfig("dwta", k=5, l=TABLES),
    "minhash": LSHConfig("minhash", k=2, l=TABLES),
}


@pytest.fixture(scope="module")
def neurons():
    table = RowTable(NEURONS, DIM, moments=0, name="neurons", hugepages=True)
    table.fill_uniform(1.0, 1, resolve_threads())
    return table


def make_index(table, lsh):
    index = NeuronIndex(table, lsh, RehashConfig(), SamplingConfig(), 1, Buffers())
    table.last_step[:] = 0
    index.rebuild(1, resolve_threads())
    return index


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("changed", [1.0, 0.05, 0.01])
def test_rebuild(benchmark, neurons, family, changed):
    index = make_index(neurons, FAMILIES[family])
    rng = np.random.default_rng(0)
    step = 1

    def change():
        nonlocal step
        step += 1
        rows = np.flatnonzero(rng.random(NEURONS) < changed)
        if changed < 1:
            neurons.weights[rows, :DIM] += rng.normal(0, 0.3, (len(rows), DIM))
        neurons.last_step[rows] = step
        return (step, resolve_threads()), {}

    benchmark.pedantic(index.rebuild, setup=change, rounds=7)
    bucket_bits = index.hasher.bucket_bits
    benchmark.extra_info["megabytes"] = (
        NeuronIndex.bytes_needed(NEURONS, FAMILIES[family], bucket_bits) // 10**6
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("budget", [256, 3000])
def test_query(benchmark, neurons, family, policy, budget):
    # Buckets of 60 neurons, as many as 2^13 buckets hold at a capacity of 60.
    lsh = dataclasses.replace(FAMILIES[family], bucket_bits=13, capacity=CANDIDATES // TABLES, insertion="reservoir")
    index = make_index(neurons, lsh)
    rng = np.random.default_rng(0)
    # As many batches as it takes for a batch's buckets to have left the cache when it comes round again.
    batches = [rng.uniform(-1, 1, (SAMPLES, DIM)).astype(np.float32) for _ in range(20)]
    nobody = np.zeros(SAMPLES + 1, np.int64), np.zeros(0, np.int32)
    codes = np.empty((TABLES, SAMPLES), np.uint32)
    out, counts = np.empty((SAMPLES, budget), np.int32), np.empty(SAMPLES, np.int64)
    config = SamplingConfig(policy)
    rounds = itertools.cycle(batches)

    def hash_and_sample(x):
        index.hasher.hash(x, codes, 1)
        query = Query(codes, index.offsets, index.ids, NEURONS, *nobody, budget, 0, 0, out, counts, 1)
        POLICIES[policy](query, config)

    benchmark.pedantic(hash_and_sample, setup=lambda: ((next(rounds),), {}), rounds=60)
    found = np.diff(batch_probe(codes, index.offsets, index.ids, SAMPLES, 1)[0])
    benchmark.extra_info["candidates"] = round(float(found.mean()))
    benchmark.extra_info["microseconds_a_sample"] = round(benchmark.stats.stats.median / SAMPLES * 1e6, 1)
