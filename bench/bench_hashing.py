"""Time to hash all neurons of Amazon-670K's output layer, and how close each family's collision rate is to its formula.

Run with::

    pytest bench/bench_hashing.py --benchmark-columns=min,median,rounds

With ``--benchmark-json=FILE``, ``extra_info`` has the vectors a second; for the collision rates it has the root mean
square of their z-scores, about 1 or less where the formula holds, and that of the deviation of one hasher's share of
agreeing codes from the formula, which is what a query meets, beside what independent functions would give.
"""

import numpy as np
import pytest

from slide.config import LSHConfig
from slide.kernels.parallel import resolve_threads
from slide.lsh.families import make_hasher

ROWS, DIM, TABLES = 670_091, 128, 50
FAMILIES = {
    "simhash-hadamard": {"family": "simhash", "k": 14, "projection": "hadamard"},
    "simhash-sparse": {"family": "simhash", "k": 14, "projection": "sparse"},
    "wta": {"family": "wta", "k": 5},
    "dwta": {"family": "dwta", "k": 5},
    "minhash": {"family": "minhash", "k": 4},
}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def weights():
    return np.random.default_rng(0).standard_normal((ROWS, DIM), dtype=np.float32)


def make(family, dim=DIM, seed=1, **fields):
    config = LSHConfig(**({"l": TABLES} | FAMILIES[family] | fields))
    return make_hasher(config, dim, ROWS, np.random.default_rng(seed))


@pytest.mark.parametrize("relu", [False, True], ids=["dense", "relu"])
@pytest.mark.parametrize("threads", sorted({1, resolve_threads()}))
def test_hash_all_neurons(benchmark, family, weights, threads, relu):
    hasher = make(family)
    x = np.maximum(weights, 0) if relu else weights
    out = np.zeros((TABLES, ROWS), np.uint32)
    benchmark.group = f"{ROWS:,} x {DIM}, {TABLES} tables"
    benchmark.pedantic(hasher.hash, (x, out, threads), rounds=5, warmup_rounds=1)
    benchmark.extra_info["vectors_per_second"] = ROWS / benchmark.stats.stats.min


@pytest.mark.parametrize("dim", [2_048, 135_909])
def test_hash_sparse_rows(benchmark, family, dim):
    """Samples of 75 features; the dense rotations are not for large dimensions."""
    if family == "simhash-hadamard" and dim > 100_000:
        pytest.skip("O(d log d) a sample whatever its features: take projection='sparse'")
    rng = np.random.default_rng(2)
    n, each = 10_000, 75
    indices = rng.integers(0, dim, n * each).astype(np.int32)
    values = rng.random(n * each, dtype=np.float32)
    indptr = np.arange(n + 1) * each
    # The sparse projections of the larger dimension are 127 MB for every 700 functions.
    tables = 10 if family == "simhash-sparse" and dim > 100_000 else TABLES
    hasher = make(family, dim, l=tables)
    out = np.zeros((tables, n), np.uint32)
    benchmark.group = f"{n:,} sparse samples of dimension {dim:,}"
    arguments = (indptr, indices, values, out, resolve_threads())
    benchmark.pedantic(hasher.hash_sparse, arguments, rounds=5, warmup_rounds=1)
    benchmark.extra_info["points_per_second"] = n / benchmark.stats.stats.min


def test_collision_rates(benchmark, family):
    """Time is that of hashing 40 vectors by 700 single functions."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 20, DIM))
    cosine = np.linspace(-0.9, 0.98, 20)[:, None]
    y = cosine * x + np.sqrt(1 - cosine**2) * y
    vectors = np.concatenate([x, y]).astype(np.float32)
    functions, hashers = 700, 50
    out = np.zeros((functions, len(vectors)), np.uint32)
    rates = []
    for seed in range(hashers):
        hasher = make(family, seed=seed, k=1, l=functions)
        hasher.hash(vectors, out, 1)
        rates.append((out[:, :20] == out[:, 20:]).mean(axis=0))
    p = hasher.collision_probability(vectors[:20], vectors[20:])
    error = np.sqrt(p * (1 - p) / (functions * hashers))
    benchmark.group = "collision rates"
    benchmark.extra_info["z_rms"] = float(np.sqrt(np.mean(((np.mean(rates, axis=0) - p) / error) ** 2)))
    benchmark.extra_info["deviation_rms"] = float(np.sqrt(np.mean((np.array(rates) - p) ** 2)))
    benchmark.extra_info["deviation_binomial"] = float(np.sqrt(np.mean(p * (1 - p) / functions)))
    benchmark(hasher.hash, vectors, out, 1)
