"""NeuronIndex: which neurons' weights are similar to a given hidden vector.

Owns the hash functions, the tables and the schedule by which the tables follow the weights as these change.
"""

import math
import time

import numpy as np

from slide.families import make_hasher
from slide.kernels import dtypes, tables
from slide.kernels.sampling import vanilla


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

    Attributes
    ----------
    rebuilds : int
        How often the tables were built.
    rebuild_seconds : float
        Time spent on it in all.
    """

    def __init__(self, table, lsh, rehash, seed, buffers):
        self.table = table
        self.rehash = rehash
        self.seed = seed
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, 0x15DE], dtype=np.uint64)))
        self.hasher = make_hasher(lsh, table.dim, table.n_rows, rng)
        n, n_buckets = table.n_rows, 1 << self.hasher.bucket_bits
        self.codes = buffers.array("index codes", (self.hasher.l, n), dtypes.CODE)
        self.offsets = buffers.array("index offsets", (self.hasher.l, n_buckets + 1), dtypes.INDEX)
        self.ids = buffers.array("index ids", (self.hasher.l, n), dtypes.INDEX)
        self.rebuilds = 0
        self.rebuild_seconds = 0.0
        self._built_at = None
        self._due = 0

    @staticmethod
    def bytes_needed(n, lsh, bucket_bits):
        """Return the bytes of the tables over `n` neurons, without making them."""
        return lsh.l * (2 * n + (1 << bucket_bits) + 1) * 4

    def rebuild(self, step, num_threads):
        """Bring the tables up to date with the weights.

        Only rows updated since the last time are hashed anew, unless most were.

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
        self.hasher.hash(self.table.weights, self.codes, num_threads, rows)
        tables.build(self.codes, self.offsets, self.ids, num_threads)
        self._built_at = step
        self._due = step + max(1, round(self.rehash.period * math.exp(self.rehash.decay * self.rebuilds)))
        self.rebuilds += 1
        self.rebuild_seconds += time.perf_counter() - start

    def rebuild_if_due(self, step, num_threads):
        """Call ``rebuild`` if the schedule says so after `step` steps."""
        if step >= self._due:
            self.rebuild(step, num_threads)

    def sample(self, hidden, forced_ptr, forced_ids, budget, iteration, out_ids, out_counts, num_threads):
        """Draw each sample's active set from the tables by vanilla sampling; see `slide.kernels.sampling.vanilla`.

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
        vanilla(
            codes,
            self.offsets,
            self.ids,
            forced_ptr,
            forced_ids,
            budget,
            self.seed,
            iteration,
            out_ids,
            out_counts,
            num_threads,
        )

    def statistics(self):
        """Return a dict that describes the tables: family, k, l, buckets, their occupancy, rebuilds and time spent."""
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
            "rebuilds": self.rebuilds,
            "rebuild_seconds": self.rebuild_seconds,
        }
