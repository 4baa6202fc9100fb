"""Prediction without scoring every label: a search index proposes candidates, whose rows are then scored exactly.

An index is made for a trained output layer and read by any number of threads. It is of no use once the layer's weights
have changed: the network that owns it then refuses it.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from slide.config import LSHConfig, RehashConfig, SamplingConfig
from slide.kernels import dtypes
from slide.kernels.rows import RowTable
from slide.kernels.search import exact_topk, sketch_topk
from slide.kernels.sketch import Sketch
from slide.lsh.index import NeuronIndex
from slide.rows.activations import Activations
from slide.system.buffers import Buffers

ROW_BLOCK = 1 << 16
"""Rows that are projected at a time."""

RIDGE = 1e-3
"""Of the queries' second moments, the share that is the same in every direction: some may be missing in a sample."""

COVERED = 10
"""Best rows of a query that coverage counts."""

MEASURED = 1024
"""Queries that coverage is measured on, at most."""

MODES = ("exact", "sketch", "lsh", "lsh-votes")
"""Ways to predict: score every label; search its sketch, or look it up in hash tables, and score what that proposes;
count in how many hash tables it is found, and score none."""

INDEXES = ("sketch", "lsh")
"""Kinds of index."""

NOBODY = np.zeros(0, dtypes.OFFSET), np.zeros(0, dtypes.INDEX)


class SketchIndex:
    """Every row in few dimensions of seven bits each, all of which are scanned for a sample's candidates.

    The dimensions are those that the scores of given queries vary in most: with the queries' second moments M and the
    rows' covariance C, the leading eigenvectors of ``M^1/2 C M^1/2``. A rotation at random spreads what they hold
    evenly over the dimensions, so that rounding costs each the same. Unlike hashing or clustering this does not need
    the best rows to be near each other, which those of a hundred thousand rare labels are not.

    Parameters
    ----------
    table : RowTable
    queries : float32 array [n, padded_dim]
        Hidden vectors like those to come, one or more.
    dims : int
        More find more for the same number of candidates, and take longer.
    coverage : float
        Above 0, at most 1. Below 1 only the rows of the highest mean scores over the queries are in the sketch, of
        which there are as many as hold this share of the queries' best rows; others are never found. Where labels
        are of very different frequency a few hold most of the best.
    seed : int
    threads : int

    Attributes
    ----------
    n_rows : int
        In the sketch.
    nbytes : int

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
        # Where each row stands in the sketch, -1 if nowhere; None if all do, in order.
        self._place_of = None
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
            # What all rows share moves a sample's scores alike.
            np.matmul(weights[self._rows[block]] - mean, of_rows, out=projected[block])
        self._table = table
        self._sketch = Sketch(projected, np.ascontiguousarray(table.bias[self._rows]))

    @property
    def nbytes(self) -> int:
        """Memory of the index."""
        places = 0 if self._place_of is None else self._place_of.nbytes
        return self._sketch.nbytes + self._of_queries.nbytes + self._rows.nbytes + places

    def propose(self, hidden, exclusions, candidates, threads):
        """Return each sample's candidates, to be scored by their rows.

        Parameters
        ----------
        hidden : float32 array [n, padded_dim]
        exclusions : pair of arrays
            See ``exact_topk``.
        candidates : int
            Of a sample, at most.
        threads : int

        Returns
        -------
        found : int32 array [n, any]
        counts : int64 array [n]
            A sample has the first so many of its row; behind them there may be any.
        """
        found = np.empty((len(hidden), min(candidates, self.n_rows)), dtypes.INDEX)
        rough = np.empty(found.shape, dtypes.VALUE)
        sketch_topk(self._sketch, hidden @ self._of_queries, *self._places(exclusions), found, rough, threads)
        counts = np.count_nonzero(found >= 0, axis=1).astype(dtypes.OFFSET)
        return np.take(self._rows, found, out=found, mode="clip"), counts

    def _places(self, exclusions):
        """Where excluded rows stand in the sketch, ascending for every sample."""
        ptr, ids = exclusions
        if self._place_of is None or not len(ptr):
            return exclusions
        # Ids past the last row are nobody's.
        places = np.where(ids < len(self._place_of), self._place_of[np.minimum(ids, len(self._place_of) - 1)], -1)
        here = places >= 0
        samples = np.repeat(np.arange(len(ptr) - 1), np.diff(ptr))[here]
        places = places[here]
        order = np.lexsort((places, samples))
        return np.append(0, np.cumsum(here, dtype=dtypes.OFFSET))[ptr], places[order]


class HashIndex:
    """Hash tables over every row; those that share most buckets with a sample are its candidates.

    Parameters
    ----------
    table : RowTable
    lsh : LSHConfig
    seed : int
    threads : int

    Attributes
    ----------
    nbytes : int
    """

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
        """Memory of the index."""
        return sum(buffer["bytes"] for buffer in self._buffers.report())

    def propose(self, hidden, exclusions, candidates, threads):
        """Return each sample's candidates, excluded ones too, those that most tables hold first; see ``SketchIndex``."""
        n = len(hidden)
        budget = min(candidates, self._table.n_rows)
        found = np.empty((n, budget), dtypes.INDEX)
        counts = np.empty(n, dtypes.OFFSET)
        signal, nothing = Activations(hidden, None, None), np.zeros(n + 1, dtypes.OFFSET)
        self._index.sample(signal, nothing, NOBODY[1], budget, 0, found, counts, threads)
        return found, counts

    def votes(self, hidden, found, threads):
        """Return in how many tables each sample has the bucket of some rows.

        Parameters
        ----------
        hidden : float32 array [n, padded_dim]
        found : int array [n, m]
            The rows.
        threads : int

        Returns
        -------
        int array [n, m]
        """
        queries = self._index.hash(Activations(hidden, None, None), threads)
        return np.count_nonzero(self._index.codes[:, found] == queries[:, :, np.newaxis], axis=0)


class Versioned(Protocol):
    """What has weights, and counts their changes: a `slide.model.stack.LayerStack`, or a PyTorch layer.

    Attributes
    ----------
    step : int
        Training steps so far.
    weights_version : int
        Counts how often weights have changed other than by training steps.
    """

    @property
    def step(self) -> int:
        """Return the number of training steps so far."""

    @property
    def weights_version(self) -> int:
        """Return how often weights have changed other than by training steps."""


class SearchIndexes:
    """The search indexes of one network, and the weights that they were made of.

    A reader sees an index complete or not at all.
    """

    def __init__(self) -> None:
        self._made: dict[str, tuple[SketchIndex | HashIndex, int, int]] = {}

    def add(self, mode: str, index: SketchIndex | HashIndex, owner: Versioned) -> None:
        """Keep an index that was made of the weights as they are.

        Parameters
        ----------
        mode : str
        index : SketchIndex or HashIndex
        owner : Versioned
            Whose weights these are.
        """
        self._made[index_of(mode)] = index, owner.step, owner.weights_version

    def get(self, mode: str, owner: Versioned) -> SketchIndex | HashIndex:
        """Return the index of a mode.

        Raises
        ------
        RuntimeError
            There is none, or the weights have changed since.
        """
        name = index_of(mode)
        found = self._made.get(name)
        if found is not None and found[2] != owner.weights_version:
            # Nothing can be predicted with it any more.
            self._made.pop(name, None)
            found = None
        if found is None:
            raise RuntimeError(f"mode {mode!r} needs an index of the weights: call build_search_index({name!r}, ...)")
        index, made_at, _ = found
        if made_at != owner.step:
            raise RuntimeError(
                f"the {name} index is of the weights after step {made_at:,}, and the network has trained to step "
                f"{owner.step:,}: call build_search_index({name!r}, ...) again"
            )
        return index


def index_of(mode: str) -> str:
    """Return the name of the index that a mode searches."""
    return "lsh" if mode == "lsh-votes" else mode


def _scanned(table, queries, coverage, seed, threads):
    """Return the rows of the highest mean scores that hold a share of the queries' best, all in order if it is 1."""
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


def _moments(weights):
    """Mean and covariance of the rows, in double precision."""
    n, dim = weights.shape
    total, squares = np.zeros(dim), np.zeros((dim, dim))
    for first in range(0, n, ROW_BLOCK):
        block = np.ascontiguousarray(weights[first : first + ROW_BLOCK])
        total += block.sum(axis=0, dtype=np.float64)
        squares += block.T @ block
    mean = total / n
    return mean.astype(dtypes.VALUE), squares / n - np.outer(mean, mean)
