"""How well a layer's hash tables find the neurons of highest logit: recall against exact search, occupancy, cost.

`diagnose` makes an `IndexDiagnosis` from some queries. `slide.lsh.tuning` uses its parts (`exact_top`, `draw`,
`recall`) as well.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from slide.config import SamplingConfig
from slide.files.tables import table as text_table
from slide.kernels import dtypes, hashing, tables
from slide.kernels.rows import RowTable
from slide.kernels.search import exact_topk
from slide.lsh.families import HashFamily
from slide.lsh.index import NeuronIndex
from slide.lsh.policies import Query, make_policy
from slide.rows.activations import Activations, Ragged
from slide.system.blas import one_blas_thread

REPEATS = 3
"""Number of times that a speed is measured; the fastest counts."""

BLOCK_IDS = 1 << 24
"""Number of candidates in memory at a time, when all buckets of all queries are read."""

CODES_TRIED = 1 << 22
"""Largest number of combinations of hash codes that are tried in search of unreachable buckets."""


@dataclass(frozen=True)
class Retrieval:
    """What the queries retrieve.

    Attributes
    ----------
    budget : int or None
        Largest number of neurons that a query takes; None if it takes all that its buckets hold.
    recall : float
        Share of the exact top neurons that are retrieved, from 0 to 1.
    mean, p5, p95 : float
        Number of neurons retrieved: mean, 5th and 95th percentile over the queries.
    microseconds : float
        Time per query, without hashing.
    """

    budget: int | None
    recall: float
    mean: float
    p5: float
    p95: float
    microseconds: float


@dataclass(frozen=True)
class IndexDiagnosis:
    """The state of one layer's hash tables; ``str()`` of it is a report.

    Attributes
    ----------
    family, policy : str
        Hash family and sampling policy.
    k, l : int
        Number of hash codes in a bucket index; number of tables.
    neurons, dim : int
        Number of neurons and dimension of their weights.
    buckets : int
        Number of buckets of a hash table.
    queries, top : int
        Number of queries measured, and of exact top neurons to be found for each.
    threads : int
        Number of threads for all times.
    chosen : Retrieval
        Retrieval at the layer's budget.
    budgets : tuple of Retrieval
        Retrieval at other budgets, ascending.
    found : Retrieval
        What the query's buckets hold in all tables together, which is the most that any policy can retrieve.
    occupancy : tuple of int
        Number of buckets by size: entry 0 counts empty ones, entry i those with ``2**(i - 1)`` to ``2**i - 1`` neurons.
    empty : float
        Share of empty buckets.
    dropped : float
        Share of neurons that a table left out because their bucket was full.
    unreachable : int or None
        Number of buckets of a table that no combination of hash codes leads to; None if unknown.
    drift : float
        Share of bucket indices that have changed since the tables were built.
    hash_microseconds : float
        Time to hash a query.
    rebuild_ms : float
        Time in milliseconds to hash all neurons and to build all tables.
    table_bytes : int
        Bytes of the tables.
    """

    family: str
    policy: str
    k: int
    l: int  # noqa: E741
    neurons: int
    dim: int
    buckets: int
    queries: int
    top: int
    threads: int
    chosen: Retrieval
    budgets: tuple[Retrieval, ...]
    found: Retrieval
    occupancy: tuple[int, ...]
    empty: float
    dropped: float
    unreachable: int | None
    drift: float
    hash_microseconds: float
    rebuild_ms: float
    table_bytes: int

    def to_dict(self) -> dict:
        """Return the fields as plain values for JSON, by name."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        unreachable = "unknown" if self.unreachable is None else f"{self.unreachable:,}"
        facts = {
            "tables": f"{self.l} of {self.buckets:,} buckets, {self.family} with k = {self.k}, "
            f"{self.table_bytes / 2**20:,.1f} MiB",
            "neurons": f"{self.neurons:,} of {self.dim:,} dimensions",
            "buckets": f"{self.empty:.1%} empty, {unreachable} unreachable; by size: {self._sizes()}",
            "dropped": f"{self.dropped:.2%} of the neurons, because of full buckets",
            "drift": f"{self.drift:.2%} of the bucket indices have changed since the last rebuild",
            "rebuild": f"{self.rebuild_ms:,.1f} ms",
            "hashing": f"{self.hash_microseconds:,.1f} us per query",
        }
        head = ("budget", f"recall@{self.top}", "neurons", "p5", "p95", "us/query", "")
        lines = [f"{name + ':':10}{text}" for name, text in facts.items()]
        lines.append(f"policy:   {self.policy}; {self.queries:,} queries; threads: {self.threads}")
        rows = [
            (f"{one.budget:,}", *_cells(one), "  <- layer" if one is self.chosen else "")
            for one in sorted((self.chosen, *self.budgets), key=lambda one: one.budget or 0)
        ]
        rows.append(("all found", *_cells(self.found), ""))
        lines.append(text_table(head, rows, align="rrrrrrl", widths=(*(6 * [12]), 0), gap=""))
        return "\n".join(line.rstrip() for line in lines)

    def _sizes(self) -> str:
        # Each class of sizes begins at a power of two and ends below the next.
        return ", ".join(f"{1 << i >> 1:,}+: {count:,}" for i, count in enumerate(self.occupancy) if count and i)


def _cells(one: Retrieval) -> tuple[str, ...]:
    counts = (f"{value:,.0f}" for value in (one.mean, one.p5, one.p95))
    return (f"{one.recall:.1%}", *counts, f"{one.microseconds:,.1f}")


def diagnose(
    index: NeuronIndex,
    queries: Activations | np.ndarray,
    *,
    budget: int,
    budgets: Sequence[int] | None = None,
    top: int = 10,
    threads: int = 1,
) -> IndexDiagnosis:
    """Measure how well an index serves some queries.

    The index is not changed. A second set of tables is in memory meanwhile.

    Parameters
    ----------
    index : NeuronIndex
        An index whose tables have been built.
    queries : Activations or float32 array [n, dim]
        What the layer reads; a few hundred hidden vectors are enough.
    budget : int
        Largest number of neurons that a query takes in the layer.
    budgets : sequence of int, optional
        Other budgets to measure. Default: from an eighth of `budget` to eight times as many.
    top : int
        Number of best neurons, by inner product and bias, that are to be found. Default: 10.
    threads : int
        Number of threads. Default: 1.

    Returns
    -------
    IndexDiagnosis
        The figures; ``print`` it for a report.

    Raises
    ------
    RuntimeError
        The tables have not been built.
    ValueError
        There are no queries, they have another dimension, or a number is not positive.
    """
    if not index.rebuilds:
        raise RuntimeError("the hash tables have not been built yet: call rebuild() first")
    neurons = index.table.n_rows
    inputs = as_signal(queries, index.table)
    budget = min(budget, neurons)
    if budgets is None:
        budgets = [budget * 2**i // 8 for i in range(7)]
    budgets = sorted({min(other, neurons) for other in budgets} - {0, budget})
    if min(budget, top, *budgets) < 1:
        raise ValueError(f"budgets and top must be positive, got {budget}, {budgets} and {top}")
    exact = exact_top(index.table, inputs, min(top, neurons), threads)
    codes = index.hash(inputs, threads)

    def retrieval(budget: int) -> Retrieval:
        found = draw(index, codes, index.sampling, budget, threads, repeats=REPEATS)
        return _retrieval(budget, recall(found, exact), found.counts, found.seconds)

    sizes = np.diff(index.offsets, axis=1)
    drift, rebuild_seconds = _rebuild_aside(index, threads)
    return IndexDiagnosis(
        family=index.lsh.family,
        policy=index.sampling.policy,
        k=index.hasher.k,
        l=index.hasher.l,
        neurons=neurons,
        dim=index.table.dim,
        buckets=sizes.shape[1],
        queries=len(exact),
        top=exact.shape[1],
        threads=threads,
        chosen=retrieval(budget),
        budgets=tuple(retrieval(other) for other in budgets),
        found=_everything(index, codes, exact, threads),
        occupancy=tuple(np.bincount(np.frexp(sizes.ravel())[1]).tolist()),
        empty=float(np.mean(sizes == 0)),
        dropped=index.statistics()["overflow"],
        unreachable=unreachable_buckets(index.hasher),
        drift=drift,
        hash_microseconds=1e6 * fastest(lambda: index.hash(inputs, threads)) / len(exact),
        rebuild_ms=1e3 * rebuild_seconds,
        table_bytes=index.codes.nbytes + index.offsets.nbytes + index.ids.nbytes,
    )


class Draws(NamedTuple):
    """Active sets of some queries.

    Attributes
    ----------
    ids : int32 array [queries, budget]
        Neurons of each query, then -1.
    counts : int64 array [queries]
        Number of neurons of each query.
    seconds : float
        Time to draw all of them.
    """

    ids: np.ndarray
    counts: np.ndarray
    seconds: float


def draw(
    index: NeuronIndex,
    codes: np.ndarray,
    sampling: SamplingConfig,
    budget: int,
    threads: int,
    *,
    l: int | None = None,  # noqa: E741
    repeats: int = 1,
) -> Draws:
    """Draw the active sets of queries without labels.

    Parameters
    ----------
    index : NeuronIndex
        The tables.
    codes : uint32 array [l, queries]
        Buckets of the queries, from ``index.hash``.
    sampling : SamplingConfig
        The policy, which may differ from the index's own.
    budget : int
        Largest number of neurons of a query.
    threads : int
        Number of threads.
    l : int, optional
        Number of tables to use, the first ones. Default: all.
    repeats : int
        Number of times to draw; the fastest counts.
    """
    l = index.hasher.l if l is None else l  # noqa: E741
    n, capacity = codes.shape[1], min(budget, index.table.n_rows)
    ids, counts = np.empty((n, capacity), dtypes.INDEX), np.zeros(n, dtypes.OFFSET)
    query = Query(
        codes[:l],
        index.offsets[:l],
        index.ids[:l],
        index.table.n_rows,
        np.zeros(n + 1, dtypes.OFFSET),
        np.zeros(0, dtypes.INDEX),
        capacity,
        index.seed,
        0,
        ids,
        counts,
        threads,
    )
    policy = make_policy(sampling)
    seconds = fastest(lambda: policy(query, sampling), repeats)
    ids[np.arange(capacity) >= counts[:, None]] = -1
    return Draws(ids, counts, seconds)


def recall(draws: Draws, exact: np.ndarray) -> float:
    """Return the share of the exact top neurons, an int32 array [queries, k], that are in the active sets."""
    return float(_hits(draws.ids, exact).mean())


def _hits(ids: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Return which of the exact neurons are among a query's, a bool array [queries, k]."""
    return np.stack([(ids == column[:, None]).any(axis=1) for column in exact.T], axis=1)


def exact_top(table: RowTable, inputs: Activations, k: int, threads: int) -> np.ndarray:
    """Return the `k` neurons of highest logit for each query, an int32 array [queries, k], best first."""
    if inputs.dense is None:
        columns, values = inputs.entries
        features: csr_matrix = csr_matrix(
            (values, columns.flat, columns.indptr), shape=(len(columns.begin), table.dim)
        )
        logits = features @ np.asarray(table.weights).T + table.bias
        return np.argsort(-logits, axis=1, kind="stable")[:, :k].astype(dtypes.INDEX)
    n = len(inputs.dense)
    ids, scores = np.empty((n, k), dtypes.INDEX), np.empty((n, k), dtypes.VALUE)
    nobody = np.zeros(0, dtypes.OFFSET), np.zeros(0, dtypes.INDEX)
    with one_blas_thread():
        exact_topk(table, inputs.dense, *nobody, ids, scores, threads)
    return ids


def as_signal(queries: Activations | np.ndarray, table: RowTable) -> Activations:
    """Return queries, Activations or a float32 array [n, dim], as the layer of a table reads them.

    Raises
    ------
    ValueError
        There are no queries, or they have another dimension.
    """
    if isinstance(queries, Activations):
        inputs = queries
    else:
        queries = np.asarray(queries, dtypes.VALUE)
        if queries.ndim != 2 or queries.shape[1] not in (table.dim, table.padded_dim):
            raise ValueError(f"queries must be [n, {table.dim}], got {list(queries.shape)}")
        padded = np.zeros((len(queries), table.padded_dim), dtypes.VALUE)
        padded[:, : table.dim] = queries[:, : table.dim]
        inputs = Activations.of_vectors(padded)
    if not inputs.n_samples:
        raise ValueError("there are no queries to measure with")
    return inputs


def take(inputs: Activations, rows: np.ndarray) -> Activations:
    """Return some samples, by their numbers."""
    if inputs.dense is not None:
        return Activations.of_vectors(np.ascontiguousarray(inputs.dense[rows]))
    columns, values = inputs.entries
    some = Ragged(columns.flat, columns.begin[rows], columns.end[rows])
    _, places = some.places()
    ends = np.cumsum(some.lengths)
    return Activations.of_features(Ragged(columns.flat[places], ends - some.lengths, ends), values[places])


def fastest(function: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the seconds that a function takes, the fastest of some calls: disturbances only slow a call down."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def unreachable_buckets(hasher: HashFamily) -> int | None:
    """Return how many buckets of a table no combination of hash codes leads to, or None if that is unknown.

    Combinations are tried until every bucket is reached or none is left. The answer is unknown if the family does not
    say how many values its codes have, or if `CODES_TRIED` combinations are not enough.
    """
    radix = getattr(hasher, "radix", getattr(hasher, "n_codes", None))
    if radix is None:
        return None
    combiner = hashing.CodeCombiner(hasher.k, 1, radix, hasher.bucket_bits)
    reached = np.zeros(1 << hasher.bucket_bits, bool)
    total, block = radix**hasher.k, 1 << 16
    weights = radix ** np.arange(hasher.k - 1, -1, -1, dtype=np.int64)
    for first in range(0, min(total, CODES_TRIED), block):
        numbers = np.arange(first, min(first + block, total))
        codes = (numbers[:, None] // weights % radix).astype(dtypes.INDEX)
        buckets = np.empty((1, len(numbers)), dtypes.CODE)
        combiner.combine(codes, buckets)
        reached[buckets[0]] = True
        if reached.all():
            return 0
    return int(np.count_nonzero(~reached)) if total <= CODES_TRIED else None


def _retrieval(budget: int | None, share: float, counts: np.ndarray, seconds: float) -> Retrieval:
    p5, p95 = np.percentile(counts, (5, 95))
    return Retrieval(budget, share, float(counts.mean()), float(p5), float(p95), 1e6 * seconds / len(counts))


def _everything(index: NeuronIndex, codes: np.ndarray, exact: np.ndarray, threads: int) -> Retrieval:
    """Return what the queries' buckets hold in all tables."""
    rows = np.arange(index.hasher.l)[:, None]
    most = int((index.offsets[rows, codes + 1] - index.offsets[rows, codes]).sum(axis=0).max())
    budget = max(1, min(most, index.table.n_rows))
    size = max(1, BLOCK_IDS // budget)
    every = SamplingConfig(policy="topk")
    counts, hits, seconds = [], [], 0.0
    for first in range(0, len(exact), size):
        block = np.ascontiguousarray(codes[:, first : first + size])
        found = draw(index, block, every, budget, threads)
        counts.append(found.counts)
        hits.append(_hits(found.ids, exact[first : first + size]))
        seconds += found.seconds
    return _retrieval(None, float(np.concatenate(hits).mean()), np.concatenate(counts), seconds)


def _rebuild_aside(index: NeuronIndex, threads: int) -> tuple[float, float]:
    """Build tables of the current weights elsewhere; return the share of changed bucket indices and the seconds."""
    codes, offsets, ids = (np.empty_like(array) for array in (index.codes, index.offsets, index.ids))
    start = time.perf_counter()
    index.hash_rows(codes, threads)
    tables.build(
        codes,
        offsets,
        ids,
        threads,
        capacity=index.lsh.capacity or 0,
        reservoir=index.lsh.insertion == "reservoir",
        seed=index.seed,
    )
    seconds = time.perf_counter() - start
    return float(np.mean(codes != index.codes)), seconds
