"""NeuronIndex: which neurons' weights are similar to a given vector.

Owns the hash functions, the tables and the schedule by which the tables follow the weights as these change.
"""

from __future__ import annotations

import time

import numpy as np

from slide.config import LSHConfig, RehashConfig, SamplingConfig
from slide.files.fields import read_count, read_figure
from slide.kernels import dtypes, tables
from slide.kernels.bfloat16 import blocks
from slide.kernels.rows import RowTable
from slide.lsh.families import make_hasher
from slide.lsh.policies import Query, make_policy
from slide.lsh.schedule import RehashSchedule
from slide.rows.activations import Activations, Ragged
from slide.rows.pairs import Pairs
from slide.system.buffers import Buffers

DRIFT_SAMPLE = 1024
"""Neurons whose bucket indices are looked at to measure drift."""


MOST_NEXT = 2**127
"""Beyond the step at which any schedule would build the tables again."""


class NeuronIndex:
    """Hash tables over the rows of a parameter table.

    Parameters
    ----------
    table : RowTable
        The neurons; must outlive the index.
    lsh : LSHConfig
    rehash : RehashConfig
    sampling : SamplingConfig
        The policy of ``sample``.
    seed : int
        Of the hash functions and of the sampling.
    buffers : Buffers
        Where the tables live.
    name : str
        Of the layer, for memory reports.

    Attributes
    ----------
    hasher : HashFamily
    codes : uint32 array [l, n]
        Every neuron's bucket in every table, when the tables were built.
    offsets : int32 array [l, n_buckets + 1]
    ids : int32 array [l, n or less]
        The tables; see `slide.kernels.tables`.
    rebuild_seconds : float
        Time spent on building tables and on measuring their drift.
    """

    def __init__(
        self,
        table: RowTable,
        lsh: LSHConfig,
        rehash: RehashConfig,
        sampling: SamplingConfig,
        seed: int,
        buffers: Buffers,
        *,
        name: str = "index",
    ):
        self.table = table
        self.lsh = lsh
        self.sampling = sampling
        self.schedule = RehashSchedule(rehash)
        self.seed = seed
        self._policy = make_policy(sampling)
        self._draw_functions(0)
        n, n_buckets, capacity = table.n_rows, 1 << self.hasher.bucket_bits, lsh.capacity or 0
        self.codes = buffers.array(f"{name} table codes", (self.hasher.l, n), dtypes.CODE, interleave=True)
        self.offsets = buffers.array(f"{name} table offsets", (self.hasher.l, n_buckets + 1), dtypes.INDEX)
        room = tables.room(n, n_buckets, capacity)
        self.ids = buffers.array(f"{name} table ids", (self.hasher.l, room), dtypes.INDEX, interleave=True)
        self._dropped = np.zeros(self.hasher.l, dtypes.OFFSET)
        self.rebuild_seconds = 0.0
        self._built_at: int | None = None

    def _draw_functions(self, generation):
        self._generation = generation
        rng = np.random.Generator(np.random.Philox(key=np.array([self.seed, generation], dtype=np.uint64)))
        self.hasher = make_hasher(self.lsh, self.table.dim, self.table.n_rows, rng)

    @property
    def rebuilds(self) -> int:
        """How often the tables were built."""
        return self.schedule.rebuilds

    @staticmethod
    def bytes_needed(n: int, lsh: LSHConfig, bucket_bits: int) -> int:
        """Return the bytes of the tables over `n` neurons, without making them."""
        n_buckets = 1 << bucket_bits
        return lsh.l * (n + tables.room(n, n_buckets, lsh.capacity or 0) + n_buckets + 1) * 4

    def rebuild(self, step: int, threads: int) -> None:
        """Bring the tables up to date with the weights.

        Only rows updated since the last time are hashed anew and moved, unless most were. A bucket with a capacity
        has forgotten whom it turned away, so tables with one are built anew from the codes.

        Parameters
        ----------
        step : int
            Optimizer steps taken so far.
        threads : int
        """
        start = time.perf_counter()
        if self.schedule.wants_new_functions:
            self._draw_functions(self.schedule.rebuilds)
            self._built_at = None
        rows = None
        if self._built_at is not None:
            changed = self.table.last_step > self._built_at
            if 2 * np.count_nonzero(changed) < len(changed):
                rows = np.flatnonzero(changed).astype(dtypes.INDEX)
        moves = rows is not None and not self.lsh.capacity
        old = np.take(self.codes, rows, axis=1) if moves else None
        self.hash_rows(self.codes, threads, rows)
        if moves:
            tables.update(rows, old, self.codes, self.offsets, self.ids, threads)
        else:
            self._build(threads)
        self._built_at = step
        self.schedule.built(step)
        self.rebuild_seconds += time.perf_counter() - start

    def _build(self, threads):
        """Build the tables from the codes."""
        tables.build(
            self.codes,
            self.offsets,
            self.ids,
            threads,
            capacity=self.lsh.capacity or 0,
            reservoir=self.lsh.insertion == "reservoir",
            seed=self.seed,
            dropped=self._dropped,
        )

    def state(self) -> dict:
        """Return what, with the codes, determines the tables and when and how they are built again: plain values.

        The tables are a function of the codes, and the hash functions of the seed and the `generation`.
        """
        facts = {"generation": self._generation, "built_at": self._built_at, "seconds": self.rebuild_seconds}
        return {**self.schedule.state(), **facts}

    def restore(self, state: dict, codes: np.ndarray | None, threads: int) -> None:
        """Go on from where another index of this configuration, over the same rows, stood.

        Parameters
        ----------
        state : dict
            What ``state`` returned.
        codes : uint32 array [l, n] or None
            None if no tables had been built.
        threads : int

        Raises
        ------
        KeyError, TypeError
            The state lacks something.
        ValueError
            It has something that is not a number, or a code is out of range.
        """
        rebuilds, next_ = read_count(state, "rebuilds"), read_count(state, "next", MOST_NEXT)
        built_at, seconds = read_count(state, "built_at", optional=True), read_figure(state, "seconds")
        self._draw_functions(read_count(state, "generation"))
        self.schedule.restore(rebuilds, next_)
        self._built_at, self.rebuild_seconds = built_at, seconds
        if codes is not None:
            self.codes[:] = codes
            self._build(threads)

    def reset(self) -> None:
        """Forget the tables, as if none had been built: the weights were set anew."""
        self._draw_functions(0)
        self.schedule = RehashSchedule(self.schedule.config)
        self.forget()

    def forget(self) -> None:
        """Take note that weights have changed other than by steps: the next rebuild hashes every neuron."""
        self._built_at = None

    def rebuild_if_due(self, step: int, threads: int) -> None:
        """Call ``rebuild`` if the schedule says so after `step` steps."""
        if self.schedule.due(step, lambda: self.drift(threads)):
            self.rebuild(step, threads)

    def drift(self, threads: int) -> float:
        """Return the share of bucket indices that the weights of today would change, on a sample of neurons.

        Parameters
        ----------
        threads : int
        """
        start = time.perf_counter()
        rng = np.random.Generator(np.random.Philox(key=np.array([self.seed, self.rebuilds], dtype=np.uint64)))
        rows = rng.integers(0, self.table.n_rows, DRIFT_SAMPLE)
        now = np.empty((self.hasher.l, DRIFT_SAMPLE), dtypes.CODE)
        self.hasher.hash(self.table.weights[rows], now, threads)
        share = float(np.mean(now != self.codes[:, rows]))
        self.rebuild_seconds += time.perf_counter() - start
        return share

    def hash_rows(self, out: np.ndarray, threads: int, rows: np.ndarray | None = None) -> None:
        """Hash the neurons' weights of today.

        Parameters
        ----------
        out : uint32 array [l, n]
            Written: every neuron's bucket in every table.
        threads : int
        rows : int32 array, optional
            Hash these neurons alone; the others' columns of `out` stay as they are.
        """
        weights = self.table.weights
        if isinstance(weights, np.ndarray):
            self.hasher.hash(weights, out, threads, rows)
            return
        for block in blocks((self.table.n_rows if rows is None else len(rows), self.table.dim)):
            places = block if rows is None else rows[block]
            codes = np.empty((self.hasher.l, block.stop - block.start), dtypes.CODE)
            self.hasher.hash(weights[places], codes, threads)
            out[:, places] = codes

    def hash(self, inputs: Activations, threads: int) -> np.ndarray:
        """Return the buckets of every sample, a uint32 array [l, samples].

        Parameters
        ----------
        inputs : Activations
        threads : int
        """
        if inputs.dense is not None:
            codes = np.empty((self.hasher.l, len(inputs.dense)), dtypes.CODE)
            self.hasher.hash(inputs.dense, codes, threads)
        else:
            columns = inputs.columns
            codes = np.empty((self.hasher.l, len(columns.begin)), dtypes.CODE)
            self.hasher.hash_sparse(columns.indptr, columns.flat, inputs.values, codes, threads)
        return codes

    def draw(self, pairs: Pairs, inputs: Activations, forced: Ragged, budget: int, iteration: int, threads: int) -> Ragged:
        """Draw every sample's active rows from the tables, into the memory of a layer's pairs.

        Parameters
        ----------
        pairs : Pairs
        inputs : Activations
            The samples.
        forced : Ragged
            Rows that are active in any case, from the first sample's first on without gaps.
        budget : int
            Number of rows per sample; forced rows count.
        iteration : int
            Keys the draws.
        threads : int
        """
        n, budget = len(forced.begin), min(budget, self.table.n_rows)
        capacity = max(budget, int(forced.lengths.max(initial=0)))
        ids = pairs.room("candidates", n, capacity)
        begin = np.arange(n, dtype=dtypes.OFFSET) * capacity
        counts = np.zeros(n, dtypes.OFFSET)
        self.sample(inputs, forced.indptr, forced.flat, budget, iteration, ids, counts, threads)
        return Ragged(ids.reshape(-1), begin, begin + counts)

    def sample(
        self,
        inputs: Activations,
        forced_ptr: np.ndarray,
        forced_ids: np.ndarray,
        budget: int,
        iteration: int,
        out_ids: np.ndarray,
        out_counts: np.ndarray,
        threads: int,
    ) -> None:
        """Draw each sample's active set from the tables by the configured policy; see `slide.lsh.policies`.

        Parameters
        ----------
        inputs : Activations
            The queries.
        forced_ptr, forced_ids : int64, int32 arrays
            Each sample's forced ids, in CSR form.
        budget : int
        iteration : int
            Keys the draws, with the seed.
        out_ids : int32 array [samples, capacity]
            Written.
        out_counts : int64 array [samples]
            Written.
        threads : int
        """
        query = Query(
            self.hash(inputs, threads),
            self.offsets,
            self.ids,
            self.table.n_rows,
            forced_ptr,
            forced_ids,
            budget,
            self.seed,
            iteration,
            out_ids,
            out_counts,
            threads,
        )
        self._policy(query, self.sampling)

    def collision_probability(self, query: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Return the probability that one hash code of a vector and of each neuron agrees, by the family's formula.

        Parameters
        ----------
        query : array [dim]
        rows : int array, optional
            Neurons to look at; by default all.

        Returns
        -------
        float64 array [rows]
        """
        weights = np.asarray(self.table.weights) if rows is None else self.table.weights[rows]
        return self.hasher.collision_probability(np.broadcast_to(query, weights.shape), weights)

    def inclusion_probability(self, query: np.ndarray, budget: int | None = None) -> np.ndarray:
        """Return each neuron's probability of being sampled for a vector by the configured policy.

        Over the draw of the hash functions and the policy's own draws, for tables that hold every neuron at today's
        weights; see `slide.lsh.probability.inclusion_probability` for what is exact and what is approximate.

        Parameters
        ----------
        query : array [dim]
        budget : int, optional
            Neurons taken at most.

        Returns
        -------
        float64 array [n]
        """
        from slide.lsh.probability import inclusion_probability  # which imports a large part of SciPy

        mixed = self.hasher.radix**self.hasher.k > 1 << self.hasher.bucket_bits
        return inclusion_probability(
            self.sampling.policy,
            self.collision_probability(query),
            self.hasher.k,
            self.hasher.l,
            budget=budget,
            min_tables=self.sampling.min_tables,
            bits=self.hasher.bucket_bits if mixed else None,
        )

    def statistics(self) -> dict:
        """Return a dict that describes the tables: family, k, l, buckets, occupancy, overflow, rebuilds and their time.

        Overflow is the share of neurons that a table turned away because their bucket was full, mean over tables.
        """
        sizes = np.diff(self.offsets, axis=1)
        used = sizes[sizes > 0]
        return {
            "family": self.lsh.family,
            "k": self.hasher.k,
            "l": self.hasher.l,
            "buckets": sizes.shape[1],
            "buckets_used": float(np.count_nonzero(sizes) / sizes.size),
            "bucket_mean": float(used.mean()) if used.size else 0.0,
            "bucket_max": int(sizes.max()),
            "overflow": float(self._dropped.mean() / max(self.table.n_rows, 1)),
            "rebuilds": self.rebuilds,
            "rebuild_seconds": self.rebuild_seconds,
        }
