"""NeuronIndex: which neurons' weights are similar to a given hidden vector.

Owns the hash functions, the tables and the schedule by which the tables follow the weights as these change.
"""

import math
import time

import numpy as np

from slide.config import SamplingConfig
from slide.families import FAMILIES
from slide.kernels import dtypes, tables
from slide.policies import POLICIES, Query


class NeuronIndex:
    """Hash tables over the rows of a parameter table.

    Parameters
    ----------
    table : RowTable
        The neurons; must outlive the index.
    lsh : LSHConfig
    rehash : RehashConfig
    seed : int
        Of the hash functions and of the sampling.
    buffers : Buffers
        Where the tables live.
    sampling : SamplingConfig, optional
        The policy of ``sample``; vanilla by default.

    Attributes
    ----------
    rebuilds : int
        How often the tables were built.
    rebuild_seconds : float
        Time spent on it in all.
    """

    def __init__(self, table, lsh, rehash, seed, buffers, *, sampling=None):
        self.table = table
        self.sampling = sampling or SamplingConfig()
        self.capacity = lsh.capacity or 0
        self.reservoir = lsh.insertion == "reservoir"
        self.rehash = rehash
        self.seed = seed
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, 0x15DE], dtype=np.uint64)))
        self.hasher = FAMILIES[lsh.family](lsh, table.dim, table.n_rows, rng)
        n, n_buckets = table.n_rows, 1 << self.hasher.bucket_bits
        self.codes = buffers.array("index codes", (self.hasher.l, n), dtypes.CODE)
        self.offsets = buffers.array("index offsets", (self.hasher.l, n_buckets + 1), dtypes.INDEX)
        self.ids = buffers.array(
            "index ids", (self.hasher.l, tables.room(n, n_buckets, self.capacity)), dtypes.INDEX
        )
        self._dropped = np.zeros(self.hasher.l, dtypes.OFFSET)
        self.rebuilds = 0
        self.rebuild_seconds = 0.0
        self._built_at = None
        self._due = 0

    @staticmethod
    def bytes_needed(n, lsh, bucket_bits):
        """Return the bytes of the tables over `n` neurons, without making them."""
        n_buckets = 1 << bucket_bits
        return lsh.l * (n + tables.room(n, n_buckets, lsh.capacity or 0) + n_buckets + 1) * 4

    def rebuild(self, step, num_threads):
        """Bring the tables up to date with the weights.

        Only rows updated since the last time are hashed anew and moved, unless most were. A bucket with a capacity
        has forgotten whom it turned away, so tables with one are built anew from the codes.

        Parameters
        ----------
        step : int
            Optimiser steps taken so far.
        num_threads : int
        """
        start = time.perf_counter()
        rows = None
        if self._built_at is not None:
            changed = self.table.last_step > self._built_at
            if 2 * np.count_nonzero(changed) < len(changed):
                rows = np.flatnonzero(changed).astype(dtypes.INDEX)
        moves = rows is not None and not self.capacity
        old = np.take(self.codes, rows, axis=1) if moves else None
        self.hasher.hash(self.table.weights, self.codes, num_threads, rows)
        if moves:
            tables.update(rows, old, self.codes, self.offsets, self.ids, num_threads)
        else:
            tables.build(
                self.codes,
                self.offsets,
                self.ids,
                num_threads,
                capacity=self.capacity,
                reservoir=self.reservoir,
                seed=self.seed,
                dropped=self._dropped,
            )
        self._built_at = step
        self._due = step + max(1, round(self.rehash.period * math.exp(self.rehash.decay * self.rebuilds)))
        self.rebuilds += 1
        self.rebuild_seconds += time.perf_counter() - start

    def rebuild_if_due(self, step, num_threads):
        """Call ``rebuild`` if the schedule says so after `step` steps."""
        if step >= self._due:
            self.rebuild(step, num_threads)

    def sample(self, hidden, forced_ptr, forced_ids, budget, iteration, out_ids, out_counts, num_threads):
        """Draw each sample's active set from the tables by the configured policy; see `slide.policies`.

        Parameters
        ----------
        hidden : float32 array [samples, >= dim]
            The queries.
        forced_ptr, forced_ids : arrays
            Each sample's labels, in CSR form.
        budget : int
        iteration : int
            Keys the draws, with the seed.
        out_ids : int32 array [samples, capacity]
        out_counts : int64 array [samples]
        num_threads : int
        """
        codes = np.empty((self.hasher.l, hidden.shape[0]), dtypes.CODE)
        self.hasher.hash(hidden, codes, num_threads)
        query = Query(
            codes,
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
            num_threads,
        )
        POLICIES[self.sampling.policy](query, self.sampling)

    def statistics(self):
        """Return a dict that describes the tables: family, k, l, buckets, occupancy, overflow and rebuilds.

        Overflow is the share of neurons that a table turned away because their bucket was full, mean over tables.
        """
        sizes = np.diff(self.offsets, axis=1)
        used = sizes[sizes > 0]
        return {
            "family": type(self.hasher).__name__,
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
