"""How probable it is that a neuron becomes active, for each sampling policy.

There are two kinds of chance.

Over the draw of the hash functions
    `bucket_probability`, `retrieval_probability`, `threshold_probability` and `inclusion_probability` start from p, the
    probability that one code of a neuron agrees with that of the query (``1 - theta / pi`` for SimHash). Tables are
    independent of one another. The policy's own draws are averaged over.
Given the tables
    `conditional_inclusion_probability` starts from what is in the query's buckets. Only the policy's own draws are
    left: the order of the tables and the place where a bucket is read first, or how ties are broken.

Labels are active with probability 1: leave them out of the neurons, and their number out of the budget. The formulas
are those of the SLIDE paper (Chen et al., MLSys 2020), except for vanilla sampling. The paper prints it as
``(p**k)**tau * (1 - p**k)**(L - tau)``, which is the probability of one particular set of tau tables and no others.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

# scipy.stats has these too, but takes longer to import than the rest of `import slide`.
from scipy.special import bdtrc, betaln, xlog1py, xlogy

__all__ = [
    "bucket_probability",
    "conditional_inclusion_probability",
    "inclusion_probability",
    "retrieval_probability",
    "tables_to_budget",
    "threshold_probability",
]


def bucket_probability(p: ArrayLike, k: int, *, bits: int | None = None) -> np.ndarray:
    """Return the probability that a neuron shares the query's bucket in one table.

    Parameters
    ----------
    p : float or float array
        Probability that one code agrees.
    k : int
        Number of codes in a bucket index, which are drawn independently.
    bits : int, optional
        Bits of the bucket index, if the concatenated codes are longer and mixed down to it. Different codes then lead
        to the same bucket with probability ``2**-bits``, if the mixing is as good as random. Default: different codes
        lead to different buckets.

    Returns
    -------
    float64 array of the shape of `p`
        ``p**k``, or ``p**k + (1 - p**k) * 2**-bits``.

    Raises
    ------
    ValueError
        A probability is outside [0, 1].
    """
    p = np.asarray(p, np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("collision probabilities must lie in 0..1")
    joint = p**k
    return joint if bits is None else joint + (1 - joint) * 2.0**-bits


def retrieval_probability(
    p: ArrayLike, k: int, tables: float | np.ndarray, *, bits: int | None = None
) -> np.ndarray:
    """Return the probability that a neuron is in at least one of the query's buckets.

    It is ``1 - (1 - q)**tables``, where q is `bucket_probability`.

    Parameters
    ----------
    p, k, bits
        As for `bucket_probability`.
    tables : float or float array
        Number of tables probed (tau in the paper), which must not depend on where the neuron is; see
        `tables_to_budget`.

    Returns
    -------
    float64 array
        Probabilities over the draw of the hash functions.
    """
    # expm1 and log1p keep the tiny probabilities that most neurons have.
    return -np.expm1(xlog1py(tables, -bucket_probability(p, k, bits=bits)))


def threshold_probability(
    p: ArrayLike, k: int, tables: int, min_tables: int, *, bits: int | None = None
) -> np.ndarray:
    """Return the probability that a neuron is in `min_tables` or more of the query's buckets.

    It is the binomial tail ``sum_{i >= m} C(L, i) q**i (1 - q)**(L - i)``, where q is `bucket_probability`.

    Parameters
    ----------
    p, k, bits
        As for `bucket_probability`.
    tables : int
        Number of tables probed (L in the paper).
    min_tables : int
        Number of tables that a neuron must be found in (m in the paper).

    Returns
    -------
    float64 array
        Probabilities over the draw of the hash functions.
    """
    return bdtrc(min_tables - 1, tables, bucket_probability(p, k, bits=bits))


def tables_to_budget(q: ArrayLike, tables: int, budget: float) -> float:
    """Return how many tables vanilla sampling reads until the budget is used up, in the mean-field approximation.

    The number of different neurons in tau tables is replaced by its mean, ``sum_j 1 - (1 - q_j)**tau``. The last table
    is read in part.

    Parameters
    ----------
    q : float array [n]
        `bucket_probability` of each neuron.
    tables : int
        Number of tables of the index.
    budget : float
        Number of different neurons wanted.

    Returns
    -------
    float
        Number of tables, from 0 to `tables`.
    """
    q = np.asarray(q, np.float64)

    def found(tau: int) -> float:
        return float(retrieval_probability(q, 1, tau).sum())

    if found(tables) <= budget:
        return float(tables)
    whole = bisect_left(range(tables), budget, key=lambda tau: found(tau + 1))
    before = found(whole)
    return whole + max(0.0, budget - before) / (found(whole + 1) - before)


def inclusion_probability(
    policy: str,
    p: ArrayLike,
    k: int,
    tables: int,
    *,
    budget: int | None = None,
    min_tables: int = 2,
    bits: int | None = None,
) -> np.ndarray:
    """Return each neuron's probability of being active, over the draw of the hash functions and the policy's draws.

    It is exact without a budget, or if the budget holds all that is found: ``"vanilla"`` and ``"topk"`` then have
    `retrieval_probability`, ``"threshold"`` has `threshold_probability`. If the budget cuts, the probability of a
    neuron depends on the others that are found, and sums over these are replaced by their means. The approximation adds
    up to the budget. It becomes exact as n grows, if neurons collide with the query nearly independently:

    - vanilla reads `tables_to_budget` tables, the last one in part;
    - topk and threshold keep all neurons that are in more than c tables, and such a share of those in exactly c tables
      that the expected number of kept ones is the budget.

    Parameters
    ----------
    policy : str
        ``"vanilla"``, ``"topk"`` or ``"threshold"``.
    p : float array [n]
        Probability that one code of each neuron agrees with that of the query.
    k, bits
        As for `bucket_probability`.
    tables : int
        Number of tables of the index.
    budget : int, optional
        Largest number of neurons taken. Default: no limit.
    min_tables : int
        Policy ``"threshold"`` only: number of tables that a neuron must be found in. Default: 2.

    Returns
    -------
    float64 array [n]
        Probabilities.

    Raises
    ------
    ValueError
        `policy` is none of the three.
    """
    q = np.atleast_1d(bucket_probability(p, k, bits=bits))
    if policy == "vanilla":
        if budget is None:
            return retrieval_probability(q, 1, tables)
        tau = tables_to_budget(q, tables, budget)
        whole = math.floor(tau)
        below, above = retrieval_probability(q, 1, whole), retrieval_probability(q, 1, whole + 1)
        return below + (tau - whole) * (above - below)
    if policy not in ("topk", "threshold"):
        raise ValueError(f"policy must be 'vanilla', 'topk' or 'threshold', got {policy!r}")
    least = 1 if policy == "topk" else min_tables
    probability = bdtrc(least - 1, tables, q)
    if budget is None or probability.sum() <= budget:
        return probability
    # The cut is at the largest number of tables c for which the neurons in c or more tables exceed the budget.
    beyond = bisect_left(range(least, tables + 1), True, key=lambda c: float(bdtrc(c - 1, tables, q).sum()) <= budget)
    cut = least + beyond - 1
    above = bdtrc(cut, tables, q)
    at = np.exp(xlogy(cut, q) + xlog1py(tables - cut, -q) - betaln(cut + 1, tables - cut + 1)) / (tables + 1)
    return above + at * ((budget - above.sum()) / at.sum())


def conditional_inclusion_probability(
    policy: str,
    buckets: Sequence[ArrayLike],
    *,
    budget: int,
    min_tables: int = 2,
    orders: int = 1000,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability that each neuron found becomes active, given what is in the query's buckets.

    The probability is over the policy's own draws alone. For ``"topk"`` and ``"threshold"`` it is exact: 0 or 1, except
    for neurons in exactly as many tables as the budget cuts through, which divide the rest of the budget evenly. For
    ``"vanilla"`` the average over the places where buckets are read first is exact. So is the average over the orders
    of the tables, if there are no more than `orders` of them. If there are more, it is taken over `orders` random ones,
    with a standard error of 0.5 / sqrt(orders) or less.

    If fewer neurons than the budget are certain, ``fill="uniform"`` divides the rest of the budget evenly among the
    neurons that have probability 0 here and those that were not found.

    Parameters
    ----------
    policy : str
        ``"vanilla"``, ``"topk"`` or ``"threshold"``.
    buckets : sequence of int arrays
        Ids in the query's bucket of each table, in the table's order, without labels.
    budget : int
        Largest number of neurons taken.
    min_tables : int
        Policy ``"threshold"`` only: number of tables that a neuron must be found in. Default: 2.
    orders : int
        Policy ``"vanilla"`` only: largest number of orders of the tables that are averaged over. Default: 1000.
    rng : numpy.random.Generator, optional
        Policy ``"vanilla"`` only: draws the orders. Default: a generator with seed 0.

    Returns
    -------
    ids : int64 array
        The neurons found, ascending.
    probability : float64 array
        Their probabilities.

    Raises
    ------
    ValueError
        `policy` is none of the three.
    """
    found = [np.asarray(bucket) for bucket in buckets]
    everything = np.concatenate([*found, np.zeros(0, np.int64)]).astype(np.int64)
    ids, place, counts = np.unique(everything, return_inverse=True, return_counts=True)
    if policy == "vanilla":
        places = np.split(place, np.cumsum([len(bucket) for bucket in found])[:-1]) if found else []
        return ids, _vanilla_given_tables(places, len(ids), budget, orders, rng or np.random.default_rng(0))
    if policy not in ("topk", "threshold"):
        raise ValueError(f"policy must be 'vanilla', 'topk' or 'threshold', got {policy!r}")
    eligible = counts >= (1 if policy == "topk" else min_tables)
    probability = eligible.astype(np.float64)
    if np.count_nonzero(eligible) > budget:
        cut = np.sort(counts[eligible])[::-1][max(budget - 1, 0)]
        probability[counts < cut] = 0
        at = counts == cut
        probability[at] = (budget - np.count_nonzero(counts > cut)) / np.count_nonzero(at)
    return ids, probability


def _vanilla_given_tables(
    buckets: Sequence[np.ndarray], n: int, budget: int, orders: int, rng: np.random.Generator
) -> np.ndarray:
    """Return each id's probability, as a mean over the orders of the tables and over the places read first.

    The ids are below n.
    """
    tables = len(buckets)
    exact = tables <= 12 and math.factorial(tables) <= orders
    total = np.zeros(n)
    drawn = itertools.permutations(range(tables)) if exact else (rng.permutation(tables) for _ in range(orders))
    for order in drawn:
        seen = np.zeros(n, bool)
        room = budget
        for t in order:
            at = np.flatnonzero(~seen[buckets[t]])
            new = buckets[t][at]
            if len(new) > room:
                # A new id is taken if the reading starts after the place of the new id `room` before it.
                total[new] += (at - np.roll(at, room)) % len(buckets[t]) / len(buckets[t]) if room else 0
                break
            total[new] += 1
            seen[new] = True
            room -= len(new)
    return total / (math.factorial(tables) if exact else orders)
