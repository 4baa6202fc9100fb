"""Losses whose neurons are in several places: the parts together give what one place does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slide.kernels.loss_parts import TERMS, largest_logits, softmax_gradients, softmax_terms
from slide.kernels.losses import ActiveSets, logistic_cross_entropy, softmax_cross_entropy
from slide.kernels.rows import RowTable

TOP, BEST, TOTAL, WANTED, MASS, ALL, STANDS_FOR = range(TERMS)
SAMPLES, SHARED, OWN = 5, 33, 4


def case(seed, weighted):
    """Logits of shared neurons and of each sample's own, and labels among both; a sample has none."""
    rng = np.random.default_rng(seed)
    labels = [rng.permutation(SHARED + OWN)[: rng.integers(1, 5)] for _ in range(SAMPLES - 1)] + [np.zeros(0, int)]
    logits = rng.normal(0, 3, (SAMPLES, SHARED + OWN)).astype(np.float32)
    target = [rng.random(len(places)).astype(np.float32) for places in labels]
    weight = (1 / rng.random(SHARED)).astype(np.float32) if weighted else None
    return logits, labels, target, weight


def arrays_of(logits, labels, target, columns):
    """The arrays of some neurons' active sets: the shared ones among them, each sample's own, its labels."""
    shared = np.ascontiguousarray(logits[:, [c for c in columns if c < SHARED]])
    own = np.ascontiguousarray(logits[:, [c for c in columns if c >= SHARED]])
    begin = np.arange(SAMPLES, dtype=np.int64) * own.shape[1]
    place = {column: i for i, column in enumerate(columns)}
    pairs_of = [zip(*both, strict=True) for both in zip(labels, target, strict=True)]
    mine = [[(place[p], t) for p, t in pairs if p in place] for pairs in pairs_of]
    ptr = np.cumsum([0, *map(len, mine)])
    flat = [pair for pairs in mine for pair in pairs]
    places = np.array([p for p, _ in flat], np.int32)
    targets = np.array([t for _, t in flat], np.float32)
    return [shared, shared.shape[1], own.reshape(-1).copy(), begin, begin + own.shape[1], ptr, places, targets]


def sets_of(arrays, weight, columns, smoothing):
    if weight is None:
        return ActiveSets(*arrays, smoothing=smoothing)
    mine = np.array([weight[c] for c in columns if c < SHARED], np.float32)
    return ActiveSets(*arrays, smoothing=smoothing, weight=mine, certain=certain_of(arrays))


def certain_of(arrays):
    """Labels among the shared neurons stand for themselves."""
    n_shared, ptr, places = arrays[1], arrays[5], arrays[6]
    kept = [[p for p in places[ptr[s] : ptr[s + 1]] if p < n_shared] for s in range(SAMPLES)]
    ends = np.cumsum([0, *map(len, kept)])
    return np.array([p for row in kept for p in row], np.int32), ends[:-1].copy(), ends[1:].copy()


def gradient_of(arrays, columns, out):
    out[:, [c for c in columns if c < SHARED]] = arrays[0]
    out[:, [c for c in columns if c >= SHARED]] = arrays[2].reshape(SAMPLES, -1)


def cuts(seed):
    """The neurons in two places, and a third that has none."""
    where = np.random.default_rng(seed).integers(0, 2, SHARED + OWN)
    # The kernels take as many own neurons of each sample as there are.
    return [np.flatnonzero(where == part).tolist() for part in range(2)] + [[]]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([0.0, 0.2]), st.integers(1, 2))
def test_softmax(seed, weighted, smoothing, threads):
    logits, labels, target, weight = case(seed, weighted)
    whole = arrays_of(logits, labels, target, range(SHARED + OWN))
    loss, hit = np.zeros((2, SAMPLES), np.float32)
    softmax_cross_entropy(sets_of(whole, weight, range(SHARED + OWN), smoothing), 0.5, loss, hit, threads)
    expected, found = np.zeros((2, SAMPLES, SHARED + OWN), np.float32)
    gradient_of(whole, range(SHARED + OWN), expected)

    parts = [(columns, arrays_of(logits, labels, target, columns)) for columns in cuts(seed)]
    every_sets = [sets_of(arrays, weight, columns, smoothing) for columns, arrays in parts]
    terms = np.zeros((len(parts), SAMPLES, TERMS))
    for sets, out in zip(every_sets, terms, strict=True):
        softmax_terms(sets, out, threads)
    top = terms[:, :, TOP].max(axis=0)
    total = (terms[:, :, TOTAL] * np.exp(terms[:, :, TOP] - top)).sum(axis=0)
    wanted, mass, every, stands_for = terms[:, :, WANTED:].sum(axis=0).T
    own_loss = mass * (np.log(total) + top) - (1 - smoothing) * wanted
    if smoothing:
        own_loss -= smoothing * mass * every / stands_for
    np.testing.assert_allclose(own_loss, loss, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal((terms[:, :, BEST].max(axis=0) >= top)[:-1], hit[:-1])
    for (columns, arrays), sets, mine in zip(parts, every_sets, terms, strict=True):
        factor = (0.5 * mass * np.exp(mine[:, TOP] - top) / total).astype(np.float32)
        share = (0.5 * smoothing * mass / stands_for if smoothing else 0 * mass).astype(np.float32)
        softmax_gradients(sets, factor, share, 0.5, threads)
        gradient_of(arrays, columns, found)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([0.0, 0.01]))
def test_one_vs_all(seed, weighted, smoothing):
    logits, labels, target, weight = case(seed, weighted)
    whole = arrays_of(logits, labels, target, range(SHARED + OWN))
    loss, hit = np.zeros((2, SAMPLES), np.float32)
    logistic_cross_entropy(sets_of(whole, weight, range(SHARED + OWN), smoothing), 0.5, loss, hit, 1)
    expected, found = np.zeros((2, SAMPLES, SHARED + OWN), np.float32)
    gradient_of(whole, range(SHARED + OWN), expected)

    labelled = np.array([len(places) > 0 for places in labels], np.uint8)
    losses, largest = np.zeros(SAMPLES), []
    for columns in cuts(seed):
        arrays = arrays_of(logits, labels, target, columns)
        sets = sets_of(arrays, weight, columns, smoothing)
        largest.append(np.zeros((SAMPLES, 2)))
        largest_logits(sets, largest[-1])
        part, ignored = np.zeros((2, SAMPLES), np.float32)
        logistic_cross_entropy(sets, 0.5, part, ignored, 1, labelled=labelled)
        losses += part
        gradient_of(arrays, columns, found)
    np.testing.assert_allclose(losses, loss, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    top, best = np.max(largest, axis=0).T
    np.testing.assert_array_equal((best >= top)[:-1], hit[:-1])


def test_shapes_are_checked():
    sets = ActiveSets(*arrays_of(*case(0, False)[:3], range(SHARED + OWN)))
    for shape in [(SAMPLES, 2), (SAMPLES - 1, TERMS)]:
        with pytest.raises(ValueError, match=rf"terms must be \[5, 7\], got \[{shape[0]}, {shape[1]}\]"):
            softmax_terms(sets, np.zeros(shape), 1)
    for n, m in [(4, 5), (5, 6)]:
        with pytest.raises(ValueError, match=f"factor and share must have 5 entries each, got {n} and {m}"):
            softmax_gradients(sets, np.zeros(n, np.float32), np.zeros(m, np.float32), 1.0, 1)
    for shape in [(SAMPLES, 3), (SAMPLES + 1, 2)]:
        with pytest.raises(ValueError, match=rf"out must be \[5, 2\], got \[{shape[0]}, {shape[1]}\]"):
            largest_logits(sets, np.zeros(shape))
    loss, hit = np.zeros((2, SAMPLES), np.float32)
    with pytest.raises(ValueError, match="labelled must have 5 entries"):
        logistic_cross_entropy(sets, 1.0, loss, hit, 1, labelled=np.ones(2, np.uint8))


def test_a_loss_takes_nothing_but_sets():
    for loss, *rest in [(softmax_terms, np.zeros((0, TERMS)), 1), (largest_logits, np.zeros((0, 2)))]:
        with pytest.raises(TypeError, match="ActiveSets"):
            loss(None, *rest)


def test_some_rows_of_a_larger_table_have_its_weights():
    whole, every_third = RowTable(20, 9, moments=0), RowTable(6, 9, moments=0)
    whole.fill_uniform(0.5, 7, 1)
    every_third.fill_uniform(0.5, 7, 1, 2, 3)
    np.testing.assert_array_equal(every_third.weights, whole.weights[2::3])
