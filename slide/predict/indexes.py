"""Prediction without scoring every label: a search index proposes candidates, whose rows are then scored exactly.

An index is made from the weights of a trained output layer, and any number of threads may read it. Once those weights
have changed, the network that owns the index refuses to use it.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from slide.config import LSHConfig, RehashConfig, SamplingConfig
from slide.kernels import dtypes
from slide.kernels.bfloat16 import BFloat16View
from slide.kernels.rows import RowTable
from slide.kernels.search import exact_topk, sketch_topk
from slide.kernels.sketch import Sketch
from slide.lsh.index import NeuronIndex
from slide.rows.activations import Activations
from slide.system.buffers import Buffers

ROW_BLOCK = 1 << 16
"""Number of rows that are projected at a time."""

RIDGE = 1e-3
"""What is added to the queries' second moments in every direction, relative to their mean: the given queries may lack
some directions."""

COVERED = 10
"""Number of best rows per query that coverage counts."""

MEASURED = 1024
"""Largest number of queries on which coverage is measured."""

MODES = ("exact", "sketch", "lsh", "lsh-votes")
"""Ways to predict: score every label; score the labels that a search of a sketch, or a lookup in hash tables, proposes;
or score none and count in how many hash tables a label is found."""

INDEXES = ("sketch", "lsh")
"""Kinds of search index."""

NOBODY = np.zeros(0, dtypes.OFFSET), np.zeros(0, dtypes.INDEX)
"""Exclusions in the form that ``exact_topk`` reads, where no label is excluded."""


class SketchIndex:
    """A sketch of every row: few dimensions of seven bits each. A search scans all of it for a sample's candidates.

    The dimensions are those in which the scores of the given queries vary most: the leading eigenvectors of
    ``M^1/2 C M^1/2``, where M are the second moments of the queries and C is the covariance of the rows. A random
    rotation spreads the variance evenly over the dimensions, so that rounding costs each of them the same. Unlike
    hashing or clustering, this works although a sample's best rows are not near each other, as those of a hundred
    thousand rare labels are not.

    Parameters
    ----------
    queries : float32 array [n, padded_dim]
        Hidden vectors like those to come, one or more.
    dims : int
        Number of dimensions. With more, as many candidates hold more of the best labels, and a search takes longer.
    coverage : float
        Share of the queries' best rows that the sketch holds, above 0 and at most 1. Below 1 the sketch has only as
        many rows as this takes, those of the highest mean scores over the queries; other rows are never found. Where
        some labels are much more frequent than others, a few rows hold most of the best.

    Attributes
    ----------
    n_rows : int
        Number of rows in the sketch.

    Raises
    ------
    ValueError
        `dims` is not positive, or `coverage` is out of range.
    """

    default_candidates = 1024

    def __init__(
        self,
        table: RowTable,
        queries: np.ndarray,
        *,
        dims: int = 64,
        coverage: float = 1.0,
        seed: int = 0,
        threads: int = 1,
    ):
        if dims < 1:
            raise ValueError(f"dims must be 1 or more, got {dims}")
        if not 0 < coverage <= 1:
            raise ValueError(f"coverage must be above 0 and at most 1, got {coverage:g}")
        # Place of each row in the sketch, -1 if it is not there; None if all rows are there, in order.
        self._place_of: np.ndarray | None = None
        self._rows = _scanned(table, queries, coverage, seed, threads)
        if coverage < 1:
            self._place_of = np.full(table.n_rows, -1, dtypes.INDEX)
            self._place_of[self._rows] = np.arange(len(self._rows), dtype=dtypes.INDEX)
        weights, dim = table.weights, table.dim
        dims = min(dims, dim)
        queries = np.asarray(queries[:, :dim], np.float64)
        mean, covariance = _moments(weights)
        moments = queries.T @ queries / len(queries)
        moments += (RIDGE * np.trace(moments) / dim + np.finfo(float).tiny) * np.eye(dim)
        values, vectors = np.linalg.eigh(moments)
        root = (vectors * np.sqrt(values)) @ vectors.T
        _, leading = np.linalg.eigh(root @ covariance @ root)
        rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(dims, dims)))
        leading = leading[:, -dims:] @ rotation
        self._of_queries = np.zeros((table.padded_dim, dims), dtypes.VALUE)
        self._of_queries[:dim] = np.linalg.solve(root, leading)
        of_rows = (root @ leading).astype(dtypes.VALUE)
        self.n_rows = len(self._rows)
        projected = np.empty((self.n_rows, dims), dtypes.VALUE)
        for first in range(0, self.n_rows, ROW_BLOCK):
            block = slice(first, first + ROW_BLOCK)
            # The mean row moves all scores of a sample alike: it does not change which are best.
            np.matmul(weights[self._rows[block]] - mean, of_rows, out=projected[block])
        self._table = table
        self._sketch = Sketch(projected, np.ascontiguousarray(table.bias[self._rows]))

    @property
    def nbytes(self) -> int:
        """Memory of the index, in bytes."""
        places = 0 if self._place_of is None else self._place_of.nbytes
        return self._sketch.nbytes + self._of_queries.nbytes + self._rows.nbytes + places

    def propose(
        self, hidden: np.ndarray, exclusions: tuple[np.ndarray, np.ndarray], candidates: int, threads: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return each sample's candidates, whose rows are to be scored.

        Parameters
        ----------
        hidden : float32 array [n, padded_dim]
        exclusions : pair of arrays
            See ``exact_topk``.
        candidates : int
            Largest number of candidates per sample.

        Returns
        -------
        found : int32 array [n, any]
            Candidates.
        counts : int64 array [n]
            Number of candidates per sample; entries of `found` behind them have no meaning.
        """
        found = np.empty((len(hidden), min(candidates, self.n_rows)), dtypes.INDEX)
        rough = np.empty(found.shape, dtypes.VALUE)
        sketch_topk(self._sketch, hidden @ self._of_queries, *self._places(exclusions), found, rough, threads)
        counts = np.count_nonzero(found >= 0, axis=1).astype(dtypes.OFFSET)
        return np.take(self._rows, found, out=found, mode="clip"), counts

    def _places(self, exclusions: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of excluded rows in the sketch, ascending for every sample."""
        ptr, ids = exclusions
        if self._place_of is None or not len(ptr):
            return exclusions
        # Ids past the last row belong to no label.
        places = np.where(ids < len(self._place_of), self._place_of[np.minimum(ids, len(self._place_of) - 1)], -1)
        here = places >= 0
        samples = np.repeat(np.arange(len(ptr) - 1), np.diff(ptr))[here]
        places = places[here]
        order = np.lexsort((places, samples))
        return np.append(0, np.cumsum(here, dtype=dtypes.OFFSET))[ptr], places[order]


class HashIndex:
    """Hash tables over every row; the rows that share the most buckets with a sample are its candidates."""

    default_candidates = 4096

    def __init__(self, table: RowTable, lsh: LSHConfig, *, seed: int = 0, threads: int = 1):
        self._table = table
        self._buffers = Buffers()
        self._index = NeuronIndex(
            table, lsh, RehashConfig(), SamplingConfig(policy="topk", fill="none"), seed, self._buffers
        )
        self._index.rebuild(0, threads)

    @property
    def nbytes(self) -> int:
        """Memory of the index, in bytes."""
        return sum(buffer["bytes"] for buffer in self._buffers.report())

    def propose(
        self, hidden: np.ndarray, exclusions: tuple[np.ndarray, np.ndarray], candidates: int, threads: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `SketchIndex.propose`; excluded rows are returned too, and rows that most tables propose come first."""
        n = len(hidden)
        budget = min(candidates, self._table.n_rows)
        found = np.empty((n, budget), dtypes.INDEX)
        counts = np.empty(n, dtypes.OFFSET)
        inputs, no_labels = Activations.of_vectors(hidden), np.zeros(n + 1, dtypes.OFFSET)
        self._index.sample(inputs, no_labels, NOBODY[1], budget, 0, found, counts, threads)
        return found, counts

    def votes(self, hidden: np.ndarray, found: np.ndarray, threads: int) -> np.ndarray:
        """Return in how many tables each sample is in the same bucket as its rows `found` [n, m], as int [n, m]."""
        queries = self._index.hash(Activations.of_vectors(hidden), threads)
        return np.count_nonzero(self._index.codes[:, found] == queries[:, :, np.newaxis], axis=0)


class Versioned(Protocol):
    """An owner of weights that counts their changes: a `slide.model.stack.LayerStack`, or a PyTorch layer."""

    @property
    def step(self) -> int:
        """Return the number of training steps so far."""

    @property
    def weights_version(self) -> int:
        """Return how often weights have changed other than by training steps."""


class SearchIndexes:
    """The search indexes of one network, and which state of its weights each was made from.

    A reader sees a complete index or none.
    """

    def __init__(self) -> None:
        self._made: dict[str, tuple[SketchIndex | HashIndex, int, int]] = {}

    def add(self, mode: str, index: SketchIndex | HashIndex, owner: Versioned) -> None:
        """Keep an index that was made from the owner's weights as they are now."""
        self._made[index_of(mode)] = index, owner.step, owner.weights_version

    def get(self, mode: str, owner: Versioned) -> SketchIndex | HashIndex:
        """Return the index of a mode; RuntimeError if there is none, or if the weights have changed since."""
        name = index_of(mode)
        found = self._made.get(name)
        if found is not None and found[2] != owner.weights_version:
            # The index is of no use any more: free its memory.
            self._made.pop(name, None)
            found = None
        if found is None:
            raise RuntimeError(f"mode {mode!r} needs an index of the weights: call build_search_index({name!r}, ...)")
        index, made_at, _ = found
        if made_at != owner.step:
            raise RuntimeError(
                f"the {name} index was made from the weights after step {made_at:,}, and the network has trained to "
                f"step {owner.step:,} since: call build_search_index({name!r}, ...) again"
            )
        return index


def index_of(mode: str) -> str:
    """Return the name of the index that a mode searches."""
    return "lsh" if mode == "lsh-votes" else mode


def _scanned(table: RowTable, queries: np.ndarray, coverage: float, seed: int, threads: int) -> np.ndarray:
    """Return the rows of the highest mean scores that hold `coverage` of the queries' best; all, in order, for 1."""
    everyone = np.arange(table.n_rows, dtype=dtypes.INDEX)
    if coverage == 1:
        return everyone
    score = table.bias + (table.weights @ queries[:, : table.dim].mean(axis=0))
    rows = np.argsort(-score, kind="stable").astype(dtypes.INDEX)
    some = queries[np.random.default_rng(seed).permutation(len(queries))[:MEASURED]]
    best = np.empty((len(some), min(COVERED, table.n_rows)), dtypes.INDEX)
    exact_topk(table, some, *NOBODY, best, np.empty(best.shape, dtypes.VALUE), threads)
    places = np.empty_like(rows)
    places[rows] = everyone
    deepest = np.sort(places[best], axis=None)[math.ceil(coverage * best.size) - 1]
    return rows[: deepest + 1]


def _moments(weights: np.ndarray | BFloat16View) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of the rows (float32) and their covariance, computed in double precision."""
    n, dim = weights.shape
    total, squares = np.zeros(dim), np.zeros((dim, dim))
    for first in range(0, n, ROW_BLOCK):
        block = np.ascontiguousarray(weights[first : first + ROW_BLOCK])
        total += block.sum(axis=0, dtype=np.float64)
        squares += block.T @ block
    mean = total / n
    return mean.astype(dtypes.VALUE), squares / n - np.outer(mean, mean)
