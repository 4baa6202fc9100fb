"""NeuronIndex: which neurons' weights are similar to a given hidden vector.

Owns the hash functions, the tables and the schedule by which the tables follow the weights as these change.
"""

import time

import numpy as np

from slide.families import make_hasher
from slide.kernels import dtypes, tables
from slide.kernels.sampling import vanilla
from slide.schedule import RehashSchedule


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
    name : str
        Of the layer, for memory reports.

    Attributes
    ----------
    rebuild_seconds : float
        Time spent on building tables and on measuring their drift.
    """

    def __init__(self, table, lsh, rehash, seed, buffers, *, name="index"):
        self.table = table
        self.lsh = lsh
        self.schedule = RehashSchedule(rehash)
        self.seed = seed
        self._draw_functions(0)
        n, n_buckets = table.n_rows, 1 << self.hasher.bucket_bits
        self.codes = buffers.array(f"{name} table codes", (self.hasher.l, n), dtypes.CODE)
        self.offsets = buffers.array(f"{name} table offsets", (self.hasher.l, n_buckets + 1), dtypes.INDEX)
        self.ids = buffers.array(f"{name} table ids", (self.hasher.l, n), dtypes.INDEX)
        self.rebuild_seconds = 0.0
        self._built_at: int | None = None

    def _draw_functions(self, generation):
        rng = np.random.Generator(np.random.Philox(key=np.array([self.seed, generation], dtype=np.uint64)))
        self.hasher = make_hasher(self.lsh, self.table.dim, self.table.n_rows, rng)

    @property
    def rebuilds(self):
        """How often the tables were built."""
        return self.schedule.rebuilds

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
        if self.schedule.wants_new_functions:
            self._draw_functions(self.schedule.rebuilds)
            self._built_at = None
        if self._built_at is not None:
            changed = self.table.last_step > self._built_at
            if 2 * np.count_nonzero(changed) < len(changed):
                rows = np.flatnonzero(changed).astype(dtypes.INDEX)
        self.hasher.hash(self.table.weights, self.codes, num_threads, rows)
        tables.build(self.codes, self.offsets, self.ids, num_threads)
        self._built_at = step
        self.schedule.built(step)
        self.rebuild_seconds += time.perf_counter() - start

    def rebuild_if_due(self, step, num_threads):
        """Call ``rebuild`` if the schedule says so after `step` steps."""
        if self.schedule.due(step, lambda: self.drift(num_threads)):
            self.rebuild(step, num_threads)

    def drift(self, num_threads, sample=1024):
        """Return the share of bucket indices that the weights of today would change, on a sample of neurons.

        Parameters
        ----------
        num_threads : int
        sample : int
            Neurons looked at, drawn anew after each rebuild.
        """
        start = time.perf_counter()
        rng = np.random.Generator(np.random.Philox(key=np.array([self.seed, self.rebuilds], dtype=np.uint64)))
        rows = rng.integers(0, self.table.n_rows, sample)
        now = np.empty((self.hasher.l, sample), dtypes.CODE)
        self.hasher.hash(self.table.weights[rows], now, num_threads)
        share = float(np.mean(now != self.codes[:, rows]))
        self.rebuild_seconds += time.perf_counter() - start
        return share

    def sample(self, signal, forced_ptr, forced_ids, budget, iteration, out_ids, out_counts, num_threads):
        """Draw each sample's active set from the tables by vanilla sampling; see `slide.kernels.sampling.vanilla`.

        Parameters
        ----------
        signal : Signal
            The queries.
        forced_ptr, forced_ids : arrays
            Each sample's forced ids, in CSR form.
        budget : int
        iteration : int
            Keys the draws, with the seed.
        out_ids : int32 array [samples, capacity]
        out_counts : int64 array [samples]
        num_threads : int
        """
        codes = np.empty((self.hasher.l, len(out_counts)), dtypes.CODE)
        if signal.dense is not None:
            self.hasher.hash(signal.dense, codes, num_threads)
        else:
            columns = signal.columns
            indptr = np.append(columns.begin, columns.end[-1:])
            self.hasher.hash_sparse(indptr, columns.flat, signal.values, codes, num_threads)
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
