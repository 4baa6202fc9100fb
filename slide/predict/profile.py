"""What a mode of prediction is worth: its quality beside the exact prediction's, and how long both take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from scipy.sparse import csr_matrix

from slide import metrics

SINGLES, BATCH, REPEATS = 200, 256, 3
"""Samples predicted one by one; samples of a batch, and how often it is predicted."""

PERCENTILES = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99}


def timings(calls: dict[str, Callable[[csr_matrix], object]], X: csr_matrix) -> dict[str, dict[str, float]]:
    """Time predictions of single samples and of batches.

    The calls take turns, sample by sample, so that whatever else the machine does slows down all of them alike.

    Parameters
    ----------
    calls : dict of callable
        By name, what predicts the samples it is given.
    X : csr_matrix, shape (n, n_features)
        Samples, one or more; the first few hundred are used.

    Returns
    -------
    dict of dict
        By name: ``"p50_ms"``, ``"p90_ms"`` and ``"p99_ms"`` of the milliseconds that a single sample takes, and
        ``"points_per_second"`` in batches of `BATCH` samples, or as many as there are: the median batch's.
    """
    singles = [X[i] for i in range(min(SINGLES, X.shape[0]))]
    batch = X[:BATCH]
    for call in calls.values():
        # The first time is no measure: memory is touched, libraries are loaded.
        call(singles[0])
    one = {name: [] for name in calls}
    for x in singles:
        for name, call in calls.items():
            one[name].append(_seconds(call, x))
    many = {name: [] for name in calls}
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

    Returns
    -------
    dict of float
        Mean over the samples that have exact labels, as ``"recall@k"``; NaN if there are none.
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
    network,
    X: csr_matrix,
    Y: csr_matrix,
    mode: str,
    *,
    ks: Sequence[int] = (1, 3, 5),
    candidates: int | None = None,
    inv_propensity: np.ndarray | None = None,
    mask_inputs: bool = False,
) -> dict:
    """Measure a mode of prediction beside the exact one: what it finds, how good that is, and how long both take.

    Parameters
    ----------
    network : Network
        With the index that the mode searches.
    X : csr_matrix, shape (n, n_features)
        One sample or more.
    Y : csr_matrix, shape (n, n_labels)
    mode, candidates
        As for ``Network.predict``.
    ks, inv_propensity, mask_inputs
        As for ``Network.evaluate``.

    Returns
    -------
    dict
        ``"exact"`` and ``"sampled"``: dicts of the quality, as ``Network.evaluate`` returns it, and of what `timings`
        does. ``"recall"``: what `overlap` returns. ``"speedup"``: by the names of `timings`, how many times as fast
        the mode is.
    """
    calls = {}
    for name, how in (("exact", {}), ("sampled", {"mode": mode, "candidates": candidates})):
        calls[name] = lambda X, how=how: network.predict(X, max(ks), exclude=X if mask_inputs else None, **how)
    found = {name: call(X)[0] for name, call in calls.items()}
    times = timings(calls, X)
    exact, sampled = times["exact"], times["sampled"]
    report = {name: {**metrics.evaluate_topk(ids, Y, ks, inv_propensity), **times[name]} for name, ids in found.items()}
    speedup = {key: exact[key] / sampled[key] for key in PERCENTILES}
    speedup["points_per_second"] = sampled["points_per_second"] / exact["points_per_second"]
    return {**report, "recall": overlap(found["exact"], found["sampled"], ks), "speedup": speedup}


def _seconds(call, x):
    start = time.perf_counter()
    call(x)
    return time.perf_counter() - start
