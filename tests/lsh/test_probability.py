"""The sampler's probabilities against formulas written out, and against how often it takes a neuron."""

import itertools
import math

import numpy as np
import pytest

from slide.kernels import sampling, tables
from slide.lsh.probability import (
    bucket_probability,
    conditional_inclusion_probability,
    inclusion_probability,
    retrieval_probability,
    tables_to_budget,
    threshold_probability,
)

KERNELS = {"vanilla": sampling.vanilla, "topk": sampling.ranked, "threshold": sampling.ranked}


def within_three_errors(hits, trials, probability):
    return (
        np.abs(hits / trials - probability) <= 3 * np.sqrt(probability * (1 - probability) / trials) + 1e-12
    )


def run(policy, queries, offsets, ids, n, budget, *, seed=0, iteration=0, min_tables=2):
    samples = queries.shape[1]
    out, counts = np.empty((samples, budget), np.int32), np.empty(samples, np.int64)
    options = {"min_tables": min_tables} if policy == "threshold" else {}
    nobody = np.zeros(samples + 1, np.int64), np.zeros(0, np.int32)
    KERNELS[policy](queries, offsets, ids, n, *nobody, budget, seed, iteration, out, counts, 1, **options)
    return np.bincount(np.concatenate([out[s, : counts[s]] for s in range(samples)]), minlength=n)


def vectors_at(angles, dim, rng):
    """A unit query, and a vector at each angle from it; otherwise in random directions."""
    query = np.zeros(dim)
    query[0] = 1
    side = rng.standard_normal((len(angles), dim))
    side[:, 0] = 0
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    return query, np.cos(angles)[:, None] * query + np.sin(angles)[:, None] * side


def simhash(x, k, l, rng):  # noqa: E741
    """Codes [l, n] by fresh Gaussian hyperplanes, for which 1 - theta / pi is exact."""
    signs = x @ rng.standard_normal((x.shape[1], l * k)) > 0
    return (signs.reshape(len(x), l, k) @ (1 << np.arange(k))).T.astype(np.uint32)


def frequency_over_hash_functions(policy, angles, k, l, budget, trials, seed, *, dim=32, min_tables=2):  # noqa: E741
    rng = np.random.default_rng(seed)
    query, vectors = vectors_at(angles, dim, rng)
    hits, n = np.zeros(len(angles), int), len(angles)
    offsets, ids = np.empty((l, (1 << k) + 1), np.int32), np.empty((l, n), np.int32)
    for trial in range(trials):
        codes = simhash(np.vstack([vectors, query]), k, l, rng)
        tables.build(np.ascontiguousarray(codes[:, :-1]), offsets, ids, 1)
        queries = np.ascontiguousarray(codes[:, -1:])
        hits += run(policy, queries, offsets, ids, n, budget, iteration=trial, min_tables=min_tables)
    return hits


ANGLES = np.linspace(0.15, 2.2, 24)


@pytest.mark.parametrize(("policy", "seed"), [("vanilla", 0), ("topk", 1), ("threshold", 2)])
def test_frequency_over_fresh_hash_functions(policy, seed):
    k, l, trials = 4, 6, 4000  # noqa: E741
    hits = frequency_over_hash_functions(policy, ANGLES, k, l, len(ANGLES), trials, seed)
    probability = inclusion_probability(policy, 1 - ANGLES / np.pi, k, l)
    assert (within_three_errors(hits, trials, probability)).all()
    assert probability.min() < 0.1 and probability.max() > 0.9


@pytest.mark.parametrize(("policy", "seed"), [("vanilla", 3), ("topk", 4), ("threshold", 5)])
def test_mean_field_where_the_budget_cuts(policy, seed):
    # 1,500 neurons far away in random directions, and 25 from near to far.
    angles = np.concatenate([np.linspace(0.2, 1.3, 25), np.full(1475, 1.5)])
    k, l, budget, trials = 4, 12, 200, 1000  # noqa: E741
    hits = frequency_over_hash_functions(policy, angles, k, l, budget, trials, seed, dim=512)
    probability = inclusion_probability(policy, 1 - angles / np.pi, k, l, budget=budget)
    assert probability.sum() == pytest.approx(budget)
    error = np.sqrt(probability * (1 - probability) / trials)
    # The budget's cut moves with what the draw finds in all: the mean is off by a few percent.
    assert (np.abs(hits / trials - probability) <= 3 * error + 0.04).all()
    assert np.abs(hits / trials - probability).mean() < 0.02


def fixed_tables(l=5, n=60, n_buckets=4, seed=11):  # noqa: E741
    codes = np.random.default_rng(seed).integers(0, n_buckets, (l, n), dtype=np.uint32)
    offsets, ids = np.empty((l, n_buckets + 1), np.int32), np.empty((l, n), np.int32)
    tables.build(codes, offsets, ids, 1)
    query = codes[:, 0]
    return query, offsets, ids, [ids[t, offsets[t, b] : offsets[t, b + 1]] for t, b in enumerate(query)]


@pytest.mark.parametrize("budget", [7, 20, 33, 60])
@pytest.mark.parametrize("policy", KERNELS)
def test_frequency_given_the_tables(policy, budget):
    query, offsets, ids, buckets = fixed_tables()
    found, probability = conditional_inclusion_probability(policy, buckets, budget=budget)
    trials = 6000
    queries = np.ascontiguousarray(np.repeat(query[:, None], trials, axis=1))
    hits = run(policy, queries, offsets, ids, 60, budget, seed=budget)
    assert len(found) >= 20
    assert not np.delete(hits, found).any()
    assert within_three_errors(hits[found], trials, probability).all()
    assert probability.sum() <= budget + 1e-9
    if np.count_nonzero(probability) > budget:
        assert probability.sum() == pytest.approx(budget)


def test_vanilla_over_random_orders_is_near_all_orders():
    _, _, _, buckets = fixed_tables()
    _, exact = conditional_inclusion_probability("vanilla", buckets, budget=20)
    _, drawn = conditional_inclusion_probability(
        "vanilla", buckets, budget=20, orders=100, rng=np.random.default_rng(1)
    )
    assert not np.array_equal(drawn, exact)
    assert np.abs(drawn - exact).max() < 3 * 0.5 / math.sqrt(100)


@pytest.mark.parametrize("policy", KERNELS)
def test_nothing_found(policy):
    for buckets in ([], [[], []]):
        found, probability = conditional_inclusion_probability(policy, buckets, budget=3)
        assert found.size == probability.size == 0
    _, probability = conditional_inclusion_probability(policy, [[4, 5], [5]], budget=0)
    np.testing.assert_array_equal(probability, [0, 0])


def test_threshold_is_the_sum_over_sets_of_tables():
    q, l = 0.3, 5  # noqa: E741
    for m in range(l + 2):
        written_out = sum(
            q ** sum(which) * (1 - q) ** (l - sum(which))
            for which in itertools.product([0, 1], repeat=l)
            if sum(which) >= m
        )
        assert threshold_probability(q, 1, l, m) == pytest.approx(written_out)


def test_retrieval():
    p = np.array([0, 0.2, 0.9, 1])
    np.testing.assert_allclose(retrieval_probability(p, 3, 7), 1 - (1 - p**3) ** 7)
    np.testing.assert_allclose(retrieval_probability(p, 3, 7), threshold_probability(p, 3, 7, 1))
    assert retrieval_probability(1e-5, 4, 50) == pytest.approx(50e-20)
    np.testing.assert_array_equal(retrieval_probability(p, 3, 0.0), 0)


def test_accidental_collisions():
    assert bucket_probability(0.5, 3, bits=4) == pytest.approx(1 / 8 + 7 / 8 / 16)
    assert bucket_probability(0.0, 3, bits=4) == pytest.approx(1 / 16)
    assert bucket_probability(1.0, 3, bits=4) == 1
    assert retrieval_probability(0.0, 3, 2, bits=1) == pytest.approx(3 / 4)


def test_tables_to_budget():
    q = np.full(100, 0.1)
    assert tables_to_budget(q, 50, 10) == pytest.approx(1)
    assert tables_to_budget(q, 50, 5) == pytest.approx(0.5)
    assert tables_to_budget(q, 50, 10 + 4.5) == pytest.approx(1.5)
    assert tables_to_budget(q, 50, 0) == 0
    assert tables_to_budget(q, 50, 100) == 50


@pytest.mark.parametrize("policy", KERNELS)
@pytest.mark.parametrize("budget", [1, 10, 37, 1000])
def test_inclusion_sums_to_the_budget(policy, budget):
    p = np.random.default_rng(0).random(300)
    free = inclusion_probability(policy, p, 2, 8)
    cut = inclusion_probability(policy, p, 2, 8, budget=budget)
    assert cut.sum() == pytest.approx(min(budget, free.sum()))
    assert (cut <= free + 1e-12).all() and (cut >= 0).all()
    # The nearer a neuron, the more probable.
    assert (np.diff(cut[np.argsort(p)]) >= -1e-12).all()


def test_refusals():
    with pytest.raises(ValueError, match=r"0\.\.1"):
        bucket_probability([0.5, 1.5], 2)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        bucket_probability(np.nan, 2)
    with pytest.raises(ValueError, match="got 'best'"):
        inclusion_probability("best", [0.5], 2, 3)
    with pytest.raises(ValueError, match="got 'best'"):
        conditional_inclusion_probability("best", [[1]], budget=1)
