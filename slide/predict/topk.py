"""Prediction: from samples through the hidden layers to each sample's best labels.

Several threads may call everything here on one network at once: a call writes only to memory of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array, csr_matrix, issparse

from slide import metrics
from slide.config import LSHConfig
from slide.data.batches import Batch
from slide.kernels import dtypes
from slide.kernels.rows import RowTable
from slide.kernels.search import candidates_topk, exact_topk
from slide.kernels.sparse import take_rows
from slide.model.stack import LayerStack
from slide.predict.indexes import MODES, HashIndex, SearchIndexes, SketchIndex
from slide.predict.masks import Allowed, Exclusions, among, compact
from slide.system.blas import one_blas_thread

PREDICT_BLOCK = 4096
"""Number of samples whose hidden vectors are in memory at a time."""

BLOCK = 1024
"""Number of samples whose candidates are in memory at a time."""

WIDEN = 8
"""Limit on over-fetching: at most this many times the wanted candidates are requested to make up for labels that are
not allowed. If fewer than one label in `WIDEN` is allowed, all allowed labels are scored instead, which takes no longer
than to search a sketch."""

UNWEIGHTED = np.zeros(0, dtypes.VALUE)
FIRST = np.zeros(1, dtypes.OFFSET)


class Masks(NamedTuple):
    """Which labels may be predicted for some samples; `allowed` is None where all are that are not excluded."""

    excluded: Exclusions
    allowed: Allowed | None


class Block(NamedTuple):
    """Some consecutive samples whose best labels are to be found.

    Attributes
    ----------
    hidden : float32 array [n, padded_dim]
        Their hidden vectors.
    rows : slice
        Their rows in the masks.
    ids, scores : int32, float32 arrays [n, k]
        Written: the best labels and their scores.
    """

    hidden: np.ndarray
    rows: slice
    ids: np.ndarray
    scores: np.ndarray

    def part(self, first: int, stop: int) -> Block:
        """Return the samples from `first` to before `stop`."""
        some = slice(first, min(stop, len(self.hidden)))
        rows = slice(self.rows.start + some.start, self.rows.start + some.stop)
        return Block(self.hidden[some], rows, self.ids[some], self.scores[some])


class Finder(NamedTuple):
    """How the best rows of a table are found.

    Attributes
    ----------
    table : RowTable
        All its rows are up to date.
    mode : str
        One of `MODES`.
    searched : SketchIndex or HashIndex or None
        The index that the mode searches; None for ``"exact"``.
    candidates : int or None
        Number of rows that the index proposes per sample; None for its default.
    """

    table: RowTable
    mode: str
    searched: SketchIndex | HashIndex | None
    candidates: int | None
    threads: int

    @classmethod
    def of(
        cls,
        table: RowTable,
        mode: str,
        candidates: int | None,
        indexes: Callable[[str], SketchIndex | HashIndex],
        threads: int,
    ) -> Finder:
        """Return the finder of a mode; `indexes` returns the index of a mode other than ``"exact"``.

        Raises
        ------
        ValueError
            There is no such mode, or `candidates` is not positive.
        """
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        if candidates is not None and candidates < 1:
            raise ValueError(f"candidates must be 1 or more, got {candidates}")
        return cls(table, mode, None if mode == "exact" else indexes(mode), candidates, threads)

    def find(self, block: Block, masks: Masks) -> None:
        """Find the best rows for some consecutive hidden vectors."""
        table, index, allowed = self.table, self.searched, masks.allowed
        if self.mode == "lsh-votes":
            self._search(block, masks, self._by_votes)
        elif index is None and allowed is None:
            exact_topk(table, block.hidden, *masks.excluded.of(block.rows), block.ids, block.scores, self.threads)
        elif allowed is not None and (
            index is None or allowed.most(block.rows) <= max(self.candidates or 0, table.n_rows // WIDEN)
        ):
            allowed.topk(table, block.hidden, masks.excluded, block.rows, block.ids, block.scores, self.threads)
        else:
            self._search(block, masks, self._by_scores)

    def _search(
        self, block: Block, masks: Masks, choose: Callable[[Block, Exclusions, np.ndarray, np.ndarray], None]
    ) -> None:
        """Choose among the rows that the index proposes and that are allowed."""
        index, allowed = self.searched, masks.allowed
        assert index is not None
        wanted = max(self.candidates or index.default_candidates, block.ids.shape[1])
        if allowed is not None:
            wanted = min(WIDEN, -(-self.table.n_rows // max(1, allowed.most(block.rows)))) * wanted
        for first in range(0, len(block.hidden), BLOCK):
            part = block.part(first, first + BLOCK)
            found, counts = index.propose(part.hidden, masks.excluded.of(part.rows), wanted, self.threads)
            if allowed is not None:
                found, counts = allowed.filter(found, counts, part.rows)
            choose(part, masks.excluded, found, counts)

    def _by_scores(self, part: Block, excluded: Exclusions, found: np.ndarray, counts: np.ndarray) -> None:
        """Choose the candidates of the highest scores."""
        candidates_topk(
            self.table, part.hidden, found, counts, *excluded.of(part.rows), part.ids, part.scores, self.threads
        )

    def _by_votes(self, part: Block, excluded: Exclusions, found: np.ndarray, counts: np.ndarray) -> None:
        """Choose the candidates that are in the most hash tables; their scores are the numbers of tables."""
        banned, n_rows = excluded.rows(part.rows), self.table.n_rows
        if banned is not None:
            found, counts = compact(found, counts, ~among(found, banned, n_rows))
        # The index returns the candidates of most votes first: the best are among the first k.
        k = min(part.ids.shape[1], found.shape[1])
        there = np.arange(k) < counts[:, np.newaxis]
        found = np.where(there, found[:, :k], n_rows)
        assert isinstance(self.searched, HashIndex)
        votes = np.where(there, self.searched.votes(part.hidden, np.where(there, found, 0), self.threads), -np.inf)
        order = np.lexsort((found, -votes), axis=1)
        part.ids.fill(-1)
        part.scores.fill(-np.inf)
        found = np.where(there, found, -1)
        part.ids[:, :k] = np.take_along_axis(found, order, axis=1)
        part.scores[:, :k] = np.take_along_axis(votes, order, axis=1)


def predict(
    layers: LayerStack,
    X: csr_matrix | np.ndarray,
    k: int,
    *,
    exclude: csr_matrix | np.ndarray | None = None,
    allowed: ArrayLike | csr_matrix | None = None,
    mode: str = "exact",
    candidates: int | None = None,
    indexes: SearchIndexes | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return each sample's k best labels and their scores; see `Network.predict`.

    Modes other than ``"exact"`` need `indexes`, the search indexes of the layers.
    """
    made = SearchIndexes() if indexes is None else indexes
    finder = Finder.of(layers.output.table, mode, candidates, lambda name: made.get(name, layers), layers.threads)
    if k < 1:
        raise ValueError(f"k must be 1 or more, got {k}")
    layers.settle()
    if not issparse(X):
        X = np.asarray(X)
    single = X.ndim == 1
    samples: csr_matrix | Batch | None = _one_sample(layers, X)
    if samples is None:
        samples = layers.checked(X.reshape((1, -1)) if single else X)
    n = samples.n_samples if isinstance(samples, Batch) else samples.shape[0]
    excluded = Exclusions(_as_row(exclude, layers) if single else exclude, n)
    masks = Masks(excluded, None if allowed is None else Allowed(allowed, n, layers.n_labels))
    ids = np.empty((n, k), dtypes.INDEX)
    scores = np.empty((n, k), dtypes.VALUE)
    # A single sample is scored row by row, without BLAS, in less time than it takes to set the threads of BLAS.
    needs_blas = not isinstance(samples, Batch) or finder.searched is not None or len(layers.hidden) > 1
    with one_blas_thread() if needs_blas else nullcontext():
        for rows, hidden in _hidden_blocks(layers, samples):
            finder.find(Block(hidden, rows, ids[rows], scores[rows]), masks)
    return (ids[0], scores[0]) if single else (ids, scores)


def evaluate(
    layers: LayerStack,
    X: csr_matrix | np.ndarray,
    Y: csr_matrix | np.ndarray,
    *,
    ks: Iterable[int] = (1, 3, 5),
    inv_propensity: np.ndarray | None = None,
    mask_inputs: bool = False,
    mode: str = "exact",
    candidates: int | None = None,
    indexes: SearchIndexes | None = None,
) -> dict[str, float]:
    """Return P@k, nDCG@k, R@k and, given propensities, PSP@k of the prediction; see `Network.evaluate`."""
    ks = tuple(ks)
    if Y.shape[1] != layers.n_labels:
        raise ValueError(f"Y has {Y.shape[1]:,} labels, the network {layers.n_labels:,}")
    exclude = X if mask_inputs else None
    ids, _ = predict(layers, X, max(ks), exclude=exclude, mode=mode, candidates=candidates, indexes=indexes)
    return metrics.evaluate_topk(ids, Y, ks, inv_propensity)


def build_index(
    layers: LayerStack, mode: str, X: csr_matrix | np.ndarray | None, dims: int, coverage: float, lsh: LSHConfig | None
) -> SketchIndex | HashIndex:
    """Return the index that `Network.build_search_index` keeps."""
    table, seed, threads = layers.output.table, layers.config.seed, layers.threads
    if mode != "sketch":
        return HashIndex(table, lsh or layers.config.output.lsh, seed=seed, threads=threads)
    if X is None or not X.shape[0]:
        raise ValueError("a sketch needs X, samples like those to predict: a few thousand of the training samples do")
    queries = layers.layer_inputs(X)[-1].vectors
    return SketchIndex(table, queries, dims=dims, coverage=coverage, seed=seed, threads=threads)


def _hidden_blocks(layers: LayerStack, samples: csr_matrix | Batch) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the hidden vectors of one block of samples after another; those of a single sample that is a batch."""
    if isinstance(samples, Batch):
        yield slice(0, 1), layers.hidden_of(samples)
        return
    n = samples.shape[0]
    reader = layers.reader(samples, None, min(PREDICT_BLOCK, max(n, 1)))
    for first in range(0, n, PREDICT_BLOCK):
        rows = slice(first, min(n, first + PREDICT_BLOCK))
        yield rows, layers.hidden_of(reader.read(np.arange(rows.start, rows.stop, dtype=dtypes.OFFSET)))


def _one_sample(layers: LayerStack, x: np.ndarray | csr_matrix | csr_array) -> Batch | None:
    """Return a single valid sample as a batch, without the general checks of matrices.

    Those checks take a tenth of a millisecond, as long as scoring some thousand labels. The result is None if `x` is
    not a single sample, or if the general checks would change or refuse it.
    """
    if type(x) is csr_matrix or type(x) is csr_array:
        if x.shape != (1, layers.n_features) or x.data.dtype != dtypes.VALUE:
            return None
        indices: np.ndarray = x.indices
        values, indptr = x.data, x.indptr
        if len(indptr) != 2 or indptr[0] or not indptr[1] == len(indices) == len(values):
            return None
        if len(indices) and not (
            indices[0] >= 0 and indices[-1] < layers.n_features and (indices[1:] > indices[:-1]).all()
        ):
            return None
    elif isinstance(x, np.ndarray) and x.shape == (layers.n_features,) and x.dtype.kind in "biuf":
        # NumPy searches truth values several times as fast as numbers.
        indices = np.flatnonzero(x != 0)
        with np.errstate(over="ignore"):
            values = x[indices].astype(dtypes.VALUE)
    else:
        return None
    if not np.isfinite(values).all():
        return None
    n = len(indices)
    ends = np.array([0, n], dtypes.OFFSET)
    indices = indices.astype(dtypes.INDEX, copy=False)
    weights = UNWEIGHTED if layers.feature_weights is None else layers.feature_weights
    out_indices, out_values = np.empty(n, dtypes.INDEX), np.empty(n, dtypes.VALUE)
    take_rows(ends, indices, values, weights, FIRST, layers.config.normalize, ends.copy(), out_indices, out_values)
    return Batch(ends, out_indices, out_values, np.zeros(2, dtypes.OFFSET), out_indices[:0])


def _as_row(exclude: csr_matrix | np.ndarray | None, layers: LayerStack) -> csr_matrix | np.ndarray | None:
    """Return the exclusions of a single sample as a matrix of one row."""
    if exclude is None or issparse(exclude) or np.ndim(exclude) != 1:
        return exclude
    if len(exclude) not in (layers.n_labels, layers.n_features):
        raise ValueError(
            f"exclude in one dimension must have an entry for each of the {layers.n_labels:,} labels, or the "
            f"{layers.n_features:,} features, not zero where a label must not be predicted; it has "
            f"{len(exclude):,}. For label ids make a sparse matrix of one row"
        )
    return csr_matrix(exclude)
