"""How probable it is that a neuron becomes active, for each sampling policy.

Two kinds of chance are kept apart.

Over the draw of the hash functions
    `bucket_probability`, `retrieval_probability`, `threshold_probability` and `inclusion_probability` start
    from the per-code collision probabilities p of the neurons with the query (for SimHash ``1 - theta /
    pi``). Tables are independent of one another, and the policy's own draws are averaged over.
Given the tables
    `conditional_inclusion_probability` starts from what is in the query's buckets; only the policy's own
    draws are left: the order of the tables and the place a bucket is read from, or how ties are broken.

Labels are active with probability 1: leave them out of the neurons, and their number out of the budget. The
formulas are those of the SLIDE paper (Chen et al., MLSys 2020), but for its vanilla sampling, printed there
as ``(p**k)**tau * (1 - p**k)**(L - tau)``: that is the probability of one particular set of tau tables and no
others.
"""

import itertools
import math
from bisect import bisect_left

import numpy as np

# Not scipy.stats, which takes longer to import than everything else that `import slide` does.
from scipy.special import bdtrc, betaln, xlog1py, xlogy

__all__ = [
    "bucket_probability",
    "conditional_inclusion_probability",
    "inclusion_probability",
    "retrieval_probability",
    "tables_to_budget",
    "threshold_probability",
]


def bucket_probability(p, k, *, bits=None):
    """Return the probability that a neuron shares the query's bucket in one table.

    Parameters
    ----------
    p : float or float array
        Probability that one code agrees.
    k : int
        Codes in a bucket index, drawn independently.
    bits : int, optional
        Of the bucket index where the concatenated codes are longer and mixed down to it: codes that differ
        then share a bucket by accident, with probability ``2**-bits`` if the mixing is as good as random. By
        default no two do.

    Returns
    -------
    float64 array of p's shape
        ``p**k``, or ``p**k + (1 - p**k) * 2**-bits``.

    Raises
    ------
    ValueError
        A p is outside [0, 1].
    """
    p = np.asarray(p, np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("collision probabilities must lie in 0..1")
    joint = p**k
    return joint if bits is None else joint + (1 - joint) * 2.0**-bits


def retrieval_probability(p, k, tables, *, bits=None):
    """Return the probability that a neuron is in at least one of the query's buckets, over hash functions.

    ``1 - (1 - q)**tables`` with q of `bucket_probability`.

    Parameters
    ----------
    p, k, bits
        As of `bucket_probability`.
    tables : float or float array
        Tables probed (tau in the paper). Their number must not depend on where the neuron is; see
        `tables_to_budget`.

    Returns
    -------
    float64 array
    """
    # expm1 and log1p keep the tiny probabilities that most neurons have.
    return -np.expm1(xlog1py(tables, -bucket_probability(p, k, bits=bits)))


def threshold_probability(p, k, tables, min_tables, *, bits=None):
    """Return the probability that a neuron is in `min_tables` or more of the query's buckets.

    The binomial tail ``sum_{i >= m} C(L, i) q**i (1 - q)**(L - i)`` with q of `bucket_probability`.

    Parameters
    ----------
    p, k, bits
        As of `bucket_probability`.
    tables : int
        Tables probed (L in the paper).
    min_tables : int
        m in the paper.

    Returns
    -------
    float64 array
    """
    return bdtrc(min_tables - 1, tables, bucket_probability(p, k, bits=bits))


def tables_to_budget(q, tables, budget):
    """Return how many tables vanilla sampling reads until the budget is met, in the mean-field approximation.

    The number of different neurons in tau tables is replaced by its mean, ``sum_j 1 - (1 - q_j)**tau``; the
    last table is read in part.

    Parameters
    ----------
    q : float array [n]
        Every neuron's `bucket_probability`.
    tables : int
        Tables there are.
    budget : float
        Different neurons wanted.

    Returns
    -------
    float
        From 0 to `tables`.
    """
    q = np.asarray(q, np.float64)

    def found(tau):
        return float(retrieval_probability(q, 1, tau).sum())

    if found(tables) <= budget:
        return float(tables)
    whole = bisect_left(range(tables), budget, key=lambda tau: found(tau + 1))
    before = found(whole)
    return whole + max(0.0, budget - before) / (found(whole + 1) - before)


def inclusion_probability(policy, p, k, tables, *, budget=None, min_tables=2, bits=None):
    """Return every neuron's probability of being active, over the hash functions and the policy's draws.

    Exact without a budget, or where the budget holds all that is found: ``"vanilla"`` and ``"topk"`` then are
    `retrieval_probability`, ``"threshold"`` is `threshold_probability`. Where the budget cuts, a neuron's
    chance depends on what else is found, and sums over the other neurons are replaced by their means. The
    approximation sums to the budget and grows exact as n does, if neurons collide with the query nearly
    independently:

    - vanilla reads `tables_to_budget` tables, of which the last in part;
    - topk and threshold keep all neurons above a number of tables c, and of those in exactly c such a share
      that the expected number of kept ones is the budget.

    Parameters
    ----------
    policy : str
        ``"vanilla"``, ``"topk"`` or ``"threshold"``.
    p : float array [n]
        Every neuron's probability that one code agrees with the query's.
    k, bits
        As of `bucket_probability`.
    tables : int
        Tables there are.
    budget : int, optional
        Neurons taken at most.
    min_tables : int
        Threshold only.

    Returns
    -------
    float64 array [n]

    Raises
    ------
    ValueError
        The policy is none of the three.
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
    # The cut is at the most tables c for which those found in c or more still exceed the budget.
    beyond = bisect_left(
        range(least, tables + 1), True, key=lambda c: float(bdtrc(c - 1, tables, q).sum()) <= budget
    )
    cut = least + beyond - 1
    above = bdtrc(cut, tables, q)
    at = np.exp(xlogy(cut, q) + xlog1py(tables - cut, -q) - betaln(cut + 1, tables - cut + 1)) / (tables + 1)
    return above + at * ((budget - above.sum()) / at.sum())


def conditional_inclusion_probability(policy, buckets, *, budget, min_tables=2, orders=1000, rng=None):
    """Return the probability that each neuron found becomes active, given what is in the query's buckets.

    Over the policy's own draws alone. Exact for ``"topk"`` and ``"threshold"``: 0 or 1, but for the neurons
    found in just as many tables as the budget cuts through, which share what is left of it evenly. For
    ``"vanilla"`` the place a bucket is read from is averaged over exactly, and the order of the tables
    exactly where there are at most `orders` orders; otherwise over that many random ones, with a standard
    error of at most ``0.5 / sqrt(orders)``.

    Where fewer neurons than the budget are certain, ``fill="uniform"`` shares what is left of it evenly among
    all those that have probability 0 here and those that were not found.

    Parameters
    ----------
    policy : str
        ``"vanilla"``, ``"topk"`` or ``"threshold"``.
    buckets : sequence of int arrays
        The ids in the query's bucket of every table, as the table has them, labels left out.
    budget : int
        Neurons taken at most.
    min_tables : int
        Threshold only.
    orders : int
        Vanilla only: the most orders of the tables looked at.
    rng : numpy.random.Generator, optional
        Vanilla only: draws the orders; by default one seeded with 0.

    Returns
    -------
    ids : int array
        The neurons found, ascending.
    probability : float64 array

    Raises
    ------
    ValueError
        The policy is none of the three.
    """
    buckets = [np.asarray(bucket) for bucket in buckets]
    everything = np.concatenate([*buckets, np.zeros(0, np.int64)]).astype(np.int64)
    ids, place, counts = np.unique(everything, return_inverse=True, return_counts=True)
    if policy == "vanilla":
        places = np.split(place, np.cumsum([len(bucket) for bucket in buckets])[:-1]) if buckets else []
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


def _vanilla_given_tables(buckets, n, budget, orders, rng):
    """Mean over table orders of the probability over the places that buckets are read from; ids below n."""
    tables = len(buckets)
    exact = tables <= 12 and math.factorial(tables) <= orders
    total = np.zeros(n)
    drawn = (
        itertools.permutations(range(tables)) if exact else (rng.permutation(tables) for _ in range(orders))
    )
    for order in drawn:
        seen = np.zeros(n, bool)
        room = budget
        for t in order:
            at = np.flatnonzero(~seen[buckets[t]])
            new = buckets[t][at]
            if len(new) > room:
                # Read from any place after that of the new id `room` before it, an id is among the first.
                total[new] += (at - np.roll(at, room)) % len(buckets[t]) / len(buckets[t]) if room else 0
                break
            total[new] += 1
            seen[new] = True
            room -= len(new)
    return total / (math.factorial(tables) if exact else orders)
