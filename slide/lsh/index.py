"""NeuronIndex: it finds the neurons whose weights are similar to a vector.

An index owns the hash functions, the tables, and the schedule by which the tables follow the changing weights.
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
from slide.system.random import philox

DRIFT_SAMPLE = 1024
"""Number of neurons whose bucket indices are compared to measure drift."""

MOST_NEXT = 2**127
"""Upper limit of the step of the next rebuild, which no schedule reaches."""


class NeuronIndex:
    """Hash tables over the rows of a parameter table.

    Parameters
    ----------
    table : RowTable
        The neurons' weights.
    lsh : LSHConfig
        Hash family and size of the tables.
    rehash : RehashConfig
        When the tables are rebuilt.
    sampling : SamplingConfig
        The policy of ``sample``.
    seed : int
        Seed of the hash functions and of the sampling.
    buffers : Buffers
        Owner of the tables' memory.
    name : str
        Name of the layer in memory reports. Default: ``"index"``.

    Attributes
    ----------
    hasher : HashFamily
        The hash functions.
    codes : uint32 array [l, n]
        Bucket of each neuron in each table at the last rebuild.
    offsets, ids : int32 arrays [l, n_buckets + 1] and [l, n or less]
        The tables; see `slide.kernels.tables`.
    rebuild_seconds : float
        Seconds spent on building tables and on measuring their drift.
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

    def _draw_functions(self, generation: int) -> None:
        self._generation = generation
        rng = philox(self.seed, generation)
        self.hasher = make_hasher(self.lsh, self.table.dim, self.table.n_rows, rng)

    @property
    def rebuilds(self) -> int:
        """Number of times that the tables were built."""
        return self.schedule.rebuilds

    @staticmethod
    def bytes_needed(n: int, lsh: LSHConfig, bucket_bits: int) -> int:
        """Return the bytes of tables, without making them.

        Parameters
        ----------
        n : int
            Number of neurons.
        lsh : LSHConfig
            Settings of the tables.
        bucket_bits : int
            Bits of a bucket index, as the hasher has them.
        """
        n_buckets = 1 << bucket_bits
        return lsh.l * (n + tables.room(n, n_buckets, lsh.capacity or 0) + n_buckets + 1) * 4

    def rebuild(self, step: int, threads: int) -> None:
        """Bring the tables up to date with the weights.

        Only neurons whose weights changed since the last rebuild are hashed again and moved, unless most have changed.
        Tables with a capacity are built anew from all codes: a full bucket does not know which neurons it left out.

        Parameters
        ----------
        step : int
            Number of optimizer steps taken so far.
        threads : int
            Number of threads.
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
        if rows is None or self.lsh.capacity:
            self.hash_rows(self.codes, threads, rows)
            self._build(threads)
        else:
            old = np.take(self.codes, rows, axis=1)
            self.hash_rows(self.codes, threads, rows)
            tables.update(rows, old, self.codes, self.offsets, self.ids, threads)
        self._built_at = step
        self.schedule.built(step)
        self.rebuild_seconds += time.perf_counter() - start

    def _build(self, threads: int) -> None:
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
        """Return, as plain values, what ``restore`` needs to go on, together with the codes.

        The tables follow from the codes, and the hash functions from the seed and the generation.
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
            Codes of the other index; None if it had built no tables.
        threads : int
            Number of threads.

        Raises
        ------
        KeyError, TypeError
            `state` lacks a value, or is not a dict.
        ValueError
            A value is not a number in its range, or a code is out of range.
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
        """Forget tables and schedule, as if no tables had been built yet."""
        self._draw_functions(0)
        self.schedule = RehashSchedule(self.schedule.config)
        self.forget()

    def forget(self) -> None:
        """Have the next rebuild hash every neuron, because weights have changed other than by training steps."""
        self._built_at = None

    def rebuild_if_due(self, step: int, threads: int) -> None:
        """Call ``rebuild`` if the schedule asks for it after `step` steps.

        Parameters
        ----------
        step : int
            Number of optimizer steps taken so far.
        threads : int
            Number of threads.
        """
        if self.schedule.due(step, lambda: self.drift(threads)):
            self.rebuild(step, threads)

    def drift(self, threads: int) -> float:
        """Return the share of bucket indices that have changed since the last rebuild, measured on random neurons.

        Parameters
        ----------
        threads : int
            Number of threads.
        """
        start = time.perf_counter()
        rng = philox(self.seed, self.rebuilds)
        rows = rng.integers(0, self.table.n_rows, DRIFT_SAMPLE)
        now = np.empty((self.hasher.l, DRIFT_SAMPLE), dtypes.CODE)
        self.hasher.hash(self.table.weights[rows], now, threads)
        share = float(np.mean(now != self.codes[:, rows]))
        self.rebuild_seconds += time.perf_counter() - start
        return share

    def hash_rows(self, out: np.ndarray, threads: int, rows: np.ndarray | None = None) -> None:
        """Hash the neurons' current weights.

        Parameters
        ----------
        out : uint32 array [l, n]
            Written: the bucket of each neuron in each table.
        threads : int
            Number of threads.
        rows : int32 array, optional
            Neurons to hash; other columns of `out` stay as they are. Default: all neurons.
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
        """Return the bucket of each sample in each table.

        Parameters
        ----------
        inputs : Activations
            The samples, as the layer reads them.
        threads : int
            Number of threads.

        Returns
        -------
        uint32 array [l, samples]
            Bucket indices.
        """
        if inputs.dense is not None:
            codes = np.empty((self.hasher.l, len(inputs.dense)), dtypes.CODE)
            self.hasher.hash(inputs.dense, codes, threads)
        else:
            columns, values = inputs.entries
            codes = np.empty((self.hasher.l, len(columns.begin)), dtypes.CODE)
            self.hasher.hash_sparse(columns.indptr, columns.flat, values, codes, threads)
        return codes

    def draw(
        self, pairs: Pairs, inputs: Activations, forced: Ragged, budget: int, iteration: int, threads: int
    ) -> Ragged:
        """Draw each sample's active neurons from the tables, into the memory of a layer's pairs.

        Parameters
        ----------
        pairs : Pairs
            The layer's pairs.
        inputs : Activations
            The samples, as the layer reads them.
        forced : Ragged
            Neurons that are active in any case, from place 0 on and without gaps between the samples.
        budget : int
            Largest number of neurons of a sample; forced ones count, and only they may be more.
        iteration : int
            Key of the draws, with the seed.
        threads : int
            Number of threads.

        Returns
        -------
        Ragged
            Active neurons of each sample, its forced ones first; valid until the next call.
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
        """Draw each sample's active set from the tables by the configured policy.

        Parameters
        ----------
        inputs : Activations
            The samples, as the layer reads them.
        forced_ptr, forced_ids, budget, iteration, out_ids, out_counts, threads
            As in `slide.Query`.
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
        """Return the probability that one hash code of a vector agrees with that of each neuron.

        Parameters
        ----------
        query : float array [dim]
            The vector.
        rows : int array, optional
            Neurons to compare with. Default: all neurons.

        Returns
        -------
        float64 array [rows]
            Probabilities by the formula of the hash family.
        """
        weights = np.asarray(self.table.weights) if rows is None else self.table.weights[rows]
        return self.hasher.collision_probability(np.broadcast_to(query, weights.shape), weights)

    def inclusion_probability(self, query: np.ndarray, budget: int | None = None) -> np.ndarray:
        """Return each neuron's probability of being sampled for a vector by the configured policy.

        The probability is over the draw of the hash functions and the policy's own draws, for tables that hold every
        neuron at its current weights. `slide.lsh.probability.inclusion_probability` says what is exact and what is
        approximate.

        Parameters
        ----------
        query : float array [dim]
            The vector.
        budget : int, optional
            Largest number of neurons taken. Default: no limit.

        Returns
        -------
        float64 array [n]
            Probabilities.
        """
        from slide.lsh.probability import inclusion_probability  # here because it imports a large part of SciPy

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
        """Return a dict that describes the tables.

        Returns
        -------
        dict
            ``family``, ``k``, ``l``; ``buckets`` of a table; ``buckets_used``, the share of buckets that are not empty;
            ``bucket_mean`` and ``bucket_max``, the neurons in those; ``overflow``, the share of neurons that a table
            left out because their bucket was full, as a mean over the tables; ``rebuilds`` and ``rebuild_seconds``.
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
