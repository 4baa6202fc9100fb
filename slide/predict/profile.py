"""Profile of a prediction mode: its quality and its times, compared with those of the exact mode."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from scipy.sparse import csr_matrix

from slide import metrics

SINGLES, BATCH, REPEATS = 200, 256, 3
"""Number of samples predicted one by one, number of samples in a batch, and how often that batch is predicted."""

PERCENTILES = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99}
"""Percentiles of the time per sample, by their keys in the report."""


class Predicts(Protocol):
    """A network that predicts in several modes: `slide.Network`."""

    def predict(
        self,
        X: csr_matrix,
        k: int = 5,
        *,
        exclude: csr_matrix | None = None,
        mode: str = "exact",
        candidates: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `slide.Network.predict`."""


def timings(calls: Mapping[str, Callable[[csr_matrix], object]], X: csr_matrix) -> dict[str, dict[str, float]]:
    """Time predictions of single samples and of batches.

    The calls take turns, sample by sample, so that other work of the machine slows down all of them alike.

    Parameters
    ----------
    calls : mapping of callable
        Functions that predict the samples they are given, by name.
    X : csr_matrix, shape (n, n_features)
        Samples, one or more; the first few hundred are used.

    Returns
    -------
    dict of dict
        By name: ``"p50_ms"``, ``"p90_ms"`` and ``"p99_ms"``, percentiles of the milliseconds a single sample takes,
        and ``"points_per_second"``, samples per second of the median batch. A batch has `BATCH` samples, or all
        if there are fewer.
    """
    singles = [X[i] for i in range(min(SINGLES, X.shape[0]))]
    batch = X[:BATCH]
    for call in calls.values():
        # Not timed: the first call touches memory and loads libraries.
        call(singles[0])
    one: dict[str, list[float]] = {name: [] for name in calls}
    for x in singles:
        for name, call in calls.items():
            one[name].append(_seconds(call, x))
    many: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(REPEATS):
        for name, call in calls.items():
            many[name].append(_seconds(call, batch))
    return {
        name: {
            **{key: float(1e3 * np.percentile(one[name], p)) for key, p in PERCENTILES.items()},
            "points_per_second": float(batch.shape[0] / np.median(many[name])),
        }
        for name in calls
    }


def overlap(exact: np.ndarray, found: np.ndarray, ks: Sequence[int]) -> dict[str, float]:
    """Return the share of the exact prediction's k best labels that another prediction has among its own k best.

    Parameters
    ----------
    exact, found : int array [n, max(ks) or more]
        Best first, -1 for none.
    ks : sequence of int
        Numbers of best labels.

    Returns
    -------
    dict of float
        ``"recall@k"`` by k: the mean over the samples that have exact labels, NaN if none has.
    """
    shares = {}
    for k in ks:
        a, b = exact[:, :k], found[:, :k]
        there = (a[:, :, np.newaxis] == b[:, np.newaxis, :]).any(axis=2) & (a >= 0)
        counts = np.count_nonzero(a >= 0, axis=1)
        known = counts > 0
        hits = np.count_nonzero(there, axis=1)[known] / counts[known]
        shares[f"recall@{k}"] = float(hits.mean()) if hits.size else float("nan")
    return shares


def compare_with_exact(
    network: Predicts,
    X: csr_matrix,
    Y: csr_matrix,
    mode: str,
    *,
    ks: Sequence[int] = (1, 3, 5),
    candidates: int | None = None,
    inv_propensity: np.ndarray | None = None,
    mask_inputs: bool = False,
) -> dict:
    """Compare a prediction mode with the exact one: what it finds, how good that is, and how long both take.

    Parameters
    ----------
    network : Network
        With the index that the mode searches.
    X : csr_matrix, shape (n, n_features)
        One sample or more.
    Y : csr_matrix, shape (n, n_labels)
        Their labels.
    mode, candidates
        As for ``Network.predict``.
    ks, inv_propensity, mask_inputs
        As for ``Network.evaluate``.

    Returns
    -------
    dict
        ``"exact"`` and ``"sampled"``: dicts with the quality, as ``Network.evaluate`` returns it, and the times, as
        `timings` returns them. ``"recall"``: what `overlap` returns. ``"speedup"``: how many times as fast the mode is,
        by the keys of `timings`.
    """

    def call(mode: str, candidates: int | None) -> Callable[[csr_matrix], tuple[np.ndarray, np.ndarray]]:
        return lambda X: network.predict(
            X, max(ks), exclude=X if mask_inputs else None, mode=mode, candidates=candidates
        )

    calls = {"exact": call("exact", None), "sampled": call(mode, candidates)}
    found = {name: call(X)[0] for name, call in calls.items()}
    times = timings(calls, X)
    exact, sampled = times["exact"], times["sampled"]
    report = {name: {**metrics.evaluate_topk(ids, Y, ks, inv_propensity), **times[name]} for name, ids in found.items()}
    speedup = {key: exact[key] / sampled[key] for key in PERCENTILES}
    speedup["points_per_second"] = sampled["points_per_second"] / exact["points_per_second"]
    return {**report, "recall": overlap(found["exact"], found["sampled"], ks), "speedup": speedup}


def _seconds(call: Callable[[csr_matrix], object], x: csr_matrix) -> float:
    start = time.perf_counter()
    call(x)
    return time.perf_counter() - start
